"""What a model was trained on, beside its weights: what is written comes back, and what is missing is named or not."""

from pathlib import Path

import pytest

from realm_lib.config.base import ParamsError
from realm_lib.runs.run import MissingStepError, Run
from realm_lib.runs.trained_on import posts_behind, read_trained_on, write_trained_on
from realm_lib.runs.weights import TRAINED_ON, folder_digest


def test_what_is_written_comes_back_and_goes_with_the_model(tmp_path: Path) -> None:
    model = tmp_path / "run" / "models" / "policy_ppo"
    assert not model.exists()
    write_trained_on(model, ["b", "a", "b"])
    assert read_trained_on(model) == {"a", "b"} == posts_behind("run:models/policy_ppo", tmp_path / "run")
    model.rename(tmp_path / "elsewhere")
    assert posts_behind(str(tmp_path / "elsewhere")) == {"a", "b"}
    write_trained_on(tmp_path / "elsewhere", None)
    assert read_trained_on(tmp_path / "elsewhere") is None, "what another training had seen does not stay"


def test_the_identity_of_a_model_is_that_of_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = folder_digest(tmp_path)
    write_trained_on(tmp_path, ["a"])
    assert folder_digest(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"posts": null}', '{"posts": "abc"}', '{"posts": [1]}'])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / TRAINED_ON).write_text(text)
    with pytest.raises(ParamsError, match=r"trained_on\.json: .*train the model again"):
        read_trained_on(tmp_path)


def test_of_a_model_of_others_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "models" / "reward_model").mkdir(parents=True)
    assert posts_behind("infly/INF-ORM-Llama3.1-70B", tmp_path) is None
    assert posts_behind(str(tmp_path / "models" / "reward_model")) is None
    assert posts_behind("run:models/reward_model", tmp_path) is None, "no notebook of this run has trained it"
    assert posts_behind("run:models/reward_model") is None


@pytest.mark.parametrize(
    ("model", "metrics", "notebook"),
    [
        ("reward_model", "offline_models", "00_offline_models"),
        ("policy_sft", "offline_models", "00_offline_models"),
        ("combiner", "combiner", "02_combiner_training"),
        ("policy_ppo", "ppo", "04_ppo"),
        ("policy_dpo", "dpo", "05_dpo"),
    ],
)
def test_a_model_that_an_earlier_version_trained_names_its_notebook(
    tmp_path: Path, model: str, metrics: str, notebook: str
) -> None:
    (tmp_path / "models" / model).mkdir(parents=True)
    Run(tmp_path).write_metrics(metrics, {})
    with pytest.raises(MissingStepError, match=rf"earlier version.*run notebook {notebook} again"):
        posts_behind(f"run:models/{model}", tmp_path)
    write_trained_on(tmp_path / "models" / model, [])
    assert posts_behind(f"run:models/{model}", tmp_path) == frozenset()
