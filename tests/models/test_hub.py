"""What the hub says of a model before a download, asked over a real socket: a process of its own, for HF_ENDPOINT."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.faulty_server import running
from support.hub_server import TOKEN, HubServer

ASK = """
import sys
from realm_lib.models.hub import HubError, look_up
for name in sys.argv[1:]:
    name, _, revision = name.partition("@")
    try:
        print(look_up(name, revision or None).missing)
    except HubError as error:
        print(str(error).replace(chr(10), " "))
"""


def repository(folder: Path, name: str) -> int:
    """A model of the hub that is a configuration and weights; the bytes of both."""
    place = folder / "models" / name
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (place / "model.safetensors").write_bytes(bytes(200_000))
    (place / "pytorch_model.bin").write_bytes(bytes(300_000))
    return 200_000 + (place / "config.json").stat().st_size


def asked(home: Path, endpoint: str, *names: str, **more: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_what_may_be_read_and_how_much_is_missing_is_known_without_a_download(tmp_path: Path) -> None:
    size = repository(tmp_path, "an/open")
    repository(tmp_path, "a/gated")
    with running(HubServer(tmp_path, gated=("a/gated",))) as server:
        names = ("an/open", "a/gated", "not/there", "an/open@v9")
        free, gated, nothing, revision = asked(tmp_path / "home", server.url, *names)
        assert asked(tmp_path / "home", server.url, "a/gated", HF_TOKEN=TOKEN) == [str(size)]
        requests = list(server.asked)
    assert free == str(size)
    assert gated.startswith("a gated model: accept its licence")
    assert "no such model at the hub" in nothing
    assert "no such revision" in revision
    assert not [request for request in requests if request.startswith("GET") and "/api/" not in request], requests
    (offline,) = asked(tmp_path / "home", server.url, "an/open", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set: unset it" in offline
    (unreachable,) = asked(tmp_path / "home", server.url, "an/open")
    assert "not on this machine, and the hub cannot be reached" in unreachable


def test_a_model_that_lies_whole_in_the_cache_may_be_read_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realm_lib.models.hub import HubError, look_up

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--some--model"
    snapshot = home / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text("{}")
    index = {"weight_map": {"one": "model-00001-of-00002.safetensors", "two": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        look_up("some/model")
    (snapshot / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert look_up("some/model").missing == 0
