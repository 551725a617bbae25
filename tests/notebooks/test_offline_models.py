"""Notebook 00 trains what it is asked for, and tells of that alone."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.notebook_cells import NOTEBOOKS, ROOT, run_here
from support.probe_backbones import save_backbone
from support.project_copy import metrics

from realm_lib.config.profile import dump_yaml, load_params
from realm_lib.models.hidden_states import as_read
from realm_lib.models.reward_models import build_scorer

pytestmark = pytest.mark.slow


def run(folder: Path, offline_models: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("REALM_QUIET", "1")
    settings = {
        "run.output_dir": folder,
        "run.name": "run",
        "data.preprocessing.cache_dir": folder / "cache",
        "data.splits": "{train: 120, validation: 40, test: 10}",
        "data.reward_model_share": 0.5,
        "offline_models": offline_models,
        "reward_model.model_id": "some/model",
        "rlhf": "null",
    }
    params = load_params(ROOT / "params" / "test.yaml", [f"{key}={value}" for key, value in settings.items()])
    run_here(NOTEBOOKS[0], yaml.safe_load(dump_yaml(params)))
    return params


def test_a_probe_alone_with_its_judge(
    tmp_path: Path, tiny_tokenizer: Any, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = save_backbone(tmp_path / "backbone", tiny_tokenizer, tiny_config)
    probe = f"{{backbone: {backbone}, layers: [1, 2], max_length: 512, folds: 3, judge: true, dtype: bfloat16}}"
    params = run(tmp_path, f"{{reward_model: null, policy: null, probe: {probe}}}", monkeypatch)
    folder = tmp_path / "run"
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["judge", "probe"]
    found = metrics(folder, "offline_models")
    assert found.keys() == {"pairs", "posts", "validation_pairs", "probe", "rewards"}
    assert found["rewards"].keys() == {"probe", "length"}
    assert (folder / "figures" / "offline_probe.png").is_file()
    scores = [
        build_scorer(as_read(params.offline_models.probe, f"run:models/{name}"), folder).score(["Why?"], ["Yeast."])
        for name in ("probe", "judge")
    ]
    assert scores[0] != scores[1], "they learned from other pairs"


def test_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, "{reward_model: null, policy: null}", monkeypatch)
    assert not (tmp_path / "run" / "models").exists()
    assert metrics(tmp_path / "run", "offline_models").keys() == {"pairs", "posts", "validation_pairs"}
