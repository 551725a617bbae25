"""A run against a reference: what counts as reproduced, and what does not."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realm_lib.runs.run import MissingStepError
from realm_lib.runs.verification import compare_runs

PARAMS = {
    "run": {"name": "one", "output_dir": "outputs", "seed": 42},
    "data": {"domains": ["askvet"], "preprocessing": {"cache_dir": "outputs/.cache", "batch_size": 256}},
    "model": {"hidden_dims": [64, 32]},
}
EVALUATION = {
    "pairs": 200,
    "rewards": {"realm": {"accuracy": 0.7, "ci": [0.6, 0.8], "ties": 0}},
    "differences": {"realm - length": {"value": 0.1, "p_value": 0.2}},
    "by_domain": {"askvet": {"pairs": 50, "realm": {"accuracy": 0.7}}},
    "length_split": {"longer_chosen": {"pairs": 100, "realm": {"accuracy": 0.7}}},
    "ceiling": {"accuracy": 0.75},
    "verdict": "REALM ranks 70.0 % rightly.",
    "note": None,
}
COMBINER = {"best_epoch": 7, "validation_loss": 0.6, "seconds": 3.2}


def write_run(folder: Path, params: Any = PARAMS, **metrics: Any) -> Path:
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for name, content in {"evaluation": EVALUATION, "combiner": COMBINER, **metrics}.items():
        (folder / "metrics" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of ``content`` in which the value at a path with slashes is another."""
    result = copy.deepcopy(content)
    *parents, last = path.split("/")
    target: Any = result
    for parent in parents:
        target = target[parent]
    target[int(last) if isinstance(target, list) else last] = value
    return result


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_run(tmp_path / "reference")


def test_equal_runs_differ_in_nothing(tmp_path: Path, reference: Path) -> None:
    assert compare_runs(write_run(tmp_path / "run"), reference) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rewards/realm/accuracy", 0.719),
        ("rewards/realm/ci/1", 0.785),
        ("differences/realm - length/p_value", 0.29),
        ("by_domain/askvet/realm/accuracy", 0.61),
        ("length_split/longer_chosen/realm/accuracy", 0.729),
        ("verdict", "REALM ranks 71.9 % rightly."),
    ],
)
def test_what_rounding_explains_is_no_difference(tmp_path: Path, reference: Path, path: str, value: Any) -> None:
    assert compare_runs(write_run(tmp_path / "run", evaluation=changed(EVALUATION, path, value)), reference) == []


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("rewards/realm/accuracy", 0.721, "rewards.realm.accuracy"),
        ("rewards/realm/accuracy", 0.679, "rewards.realm.accuracy"),
        ("rewards/realm/ci/1", 0.83, "rewards.realm.ci.1"),
        ("differences/realm - length/p_value", 0.31, "differences.realm - length.p_value"),
        ("by_domain/askvet/realm/accuracy", 0.81, "by_domain.askvet.realm.accuracy"),
        ("length_split/longer_chosen/realm/accuracy", 0.731, "length_split.longer_chosen.realm.accuracy"),
        ("ceiling/accuracy", 0.77001, "ceiling.accuracy"),
        ("ceiling/accuracy", None, "ceiling.accuracy"),
        ("ceiling/accuracy", "0.75", "ceiling.accuracy"),
        ("note", 0.0, "note"),
        # Counts are exact, however small the difference, in the groups with a wide tolerance too.
        ("pairs", 201, "pairs"),
        ("rewards/realm/ties", 1, "rewards.realm.ties"),
        ("by_domain/askvet/pairs", 51, "by_domain.askvet.pairs"),
    ],
)
def test_what_is_beyond_is_named_with_both_values(
    tmp_path: Path, reference: Path, path: str, value: Any, key: str
) -> None:
    (line,) = compare_runs(write_run(tmp_path / "run", evaluation=changed(EVALUATION, path, value)), reference)
    assert line.startswith(f"metrics/evaluation.json: {key} is {value}, was ")


def test_a_nan_is_a_difference(tmp_path: Path, reference: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=changed(EVALUATION, "ceiling/accuracy", float("nan")))
    assert len(compare_runs(run, reference)) == 1


def test_seconds_and_the_best_epoch_are_not_compared(tmp_path: Path, reference: Path) -> None:
    run = write_run(tmp_path / "run", combiner={**COMBINER, "best_epoch": 9, "seconds": 300.0})
    assert compare_runs(run, reference) == []


def test_a_field_too_many_or_too_few_is_a_difference(tmp_path: Path, reference: Path) -> None:
    fewer = {key: value for key, value in COMBINER.items() if key != "validation_loss"}
    assert len(compare_runs(write_run(tmp_path / "fewer", combiner=fewer), reference)) == 1
    assert len(compare_runs(write_run(tmp_path / "more", combiner={**COMBINER, "new": 0.5}), reference)) == 1


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("run/name", "two", True),
        ("run/output_dir", "elsewhere", True),
        ("data/preprocessing/cache_dir", "elsewhere", True),
        ("run/seed", 43, False),
        ("data/domains", ["askvet", "askbaking"], False),
        ("data/domains", None, False),
        ("data/preprocessing/batch_size", 255, False),
        ("model/hidden_dims", [32, 64], False),
    ],
)
def test_parameters_are_equal_but_for_where_a_run_lies(
    tmp_path: Path, reference: Path, path: str, value: Any, same: bool
) -> None:
    lines = compare_runs(write_run(tmp_path / "run", params=changed(PARAMS, path, value)), reference)
    assert (lines == []) is same
    assert all(line.startswith(f"params.yaml: {path.replace('/', '.')}") for line in lines)


@pytest.mark.parametrize(
    "damage",
    [
        lambda run, _: (run / "metrics" / "combiner.json").unlink(),
        lambda run, _: (run / "params.yaml").unlink(),
        lambda run, _: shutil.rmtree(run),
        lambda _, reference: (reference / "params.yaml").unlink(),
        lambda _, reference: shutil.rmtree(reference / "metrics"),
        lambda _, reference: shutil.rmtree(reference),
    ],
    ids=["no metrics file", "no params", "no run", "no params of the reference", "no metrics", "no reference"],
)
def test_what_is_missing_is_an_error_that_names_it(
    tmp_path: Path, reference: Path, damage: Callable[[Path, Path], None]
) -> None:
    run = write_run(tmp_path / "run")
    damage(run, reference)
    with pytest.raises(MissingStepError, match=str(tmp_path)):
        compare_runs(run, reference)


def test_metrics_that_only_the_run_has_are_no_matter(tmp_path: Path, reference: Path) -> None:
    """A later version may measure more than the reference did."""
    assert compare_runs(write_run(tmp_path / "run", ppo={"kl": 0.1}), reference) == []


def test_only_counts_that_rounding_moves_may_differ_a_little(tmp_path: Path) -> None:
    measured = {
        "rewards": {"realm": {"ties": 0}, "trees": {"ties": 24}},
        "disagreements": {"realm - linear": {"pairs": 195}},
    }
    wanted = write_run(tmp_path / "wanted", measured=measured)
    for path, value, reproduced in (
        ("rewards/trees/ties", 34, True),
        ("rewards/trees/ties", 35, False),
        ("rewards/realm/ties", 1, False),
        ("disagreements/realm - linear/pairs", 214, True),
        ("disagreements/realm - linear/pairs", 215, False),
    ):
        run = write_run(tmp_path / "run", measured=changed(measured, path, value))
        assert (compare_runs(run, wanted) == []) is reproduced, (path, value)
