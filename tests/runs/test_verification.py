"""A run against a reference: what counts as reproduced, and what does not."""

import copy
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realm_lib.runs.run import MissingStepError
from realm_lib.runs.spread import KindSpread, Spread, write_spread
from realm_lib.runs.verification import SPREAD, Row, leave_one_out, verify, write_rows

PARAMS = {
    "run": {"name": "one", "output_dir": "outputs", "seed": 42, "threads": 1, "jobs": 1},
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
SPREADS = {
    "shares of pairs": KindSpread(8, 0.1),  # of 200 pairs: 4 * 0.1 / sqrt(200) + 2 / 200 = 0.0383; of 50: 0.0966
    "differences.*.p_value": KindSpread(8, 0.125),  # 0.5 standard scores about 1.28: 0.074 to 0.435
    "rewards.*.ties": KindSpread(1, 1),  # 4 * 1 + 2
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
    folder = write_run(tmp_path / "reference")
    kinds = {f"evaluation.json: {kind}": spread for kind, spread in SPREADS.items()}
    said = ["REALM ranks # % rightly.", "REALM ranks # % wrongly."]
    write_spread(folder / SPREAD, Spread(6, kinds, {"evaluation.json: verdict": said}))
    return folder


def outside(run: Path, reference: Path) -> list[tuple[str, str]]:
    return [(row.file, row.key) for row in verify(run, reference).outside]


def test_an_equal_run_reproduces(tmp_path: Path, reference: Path) -> None:
    found = verify(write_run(tmp_path / "run"), reference)
    assert found.outside == []
    assert found.runs == 6
    assert {row.verdict for row in found.rows} == {
        "same",
        "not compared: a timing",
        "not compared: where a flat curve happens to end",
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rewards/realm/accuracy", 0.7382),
        ("rewards/realm/accuracy", 0.6618),
        ("ceiling/accuracy", 0.7599),  # two of 200 pairs, though its kind did not move
        ("differences/realm - length/p_value", 0.43),
        ("differences/realm - length/p_value", 0.08),
        ("by_domain/askvet/realm/accuracy", 0.604),
        ("rewards/realm/ties", 6),
        ("verdict", "REALM ranks 71.9 % rightly."),
        ("verdict", "REALM ranks 48.9 % wrongly."),
    ],
)
def test_what_rounding_explains_is_within(tmp_path: Path, reference: Path, path: str, value: Any) -> None:
    run = write_run(tmp_path / "run", evaluation=changed(EVALUATION, path, value))
    assert outside(run, reference) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rewards/realm/accuracy", 0.7384),
        ("rewards/realm/accuracy", 0.6616),
        ("rewards/realm/ci/1", 0.8384),
        ("differences/realm - length/p_value", 0.44),
        ("differences/realm - length/p_value", 0.07),
        ("by_domain/askvet/realm/accuracy", 0.603),
        ("rewards/realm/ties", 7),
        ("ceiling/accuracy", 0.7602),
        ("ceiling/accuracy", None),
        ("ceiling/accuracy", "0.75"),
        ("ceiling/accuracy", True),
        ("ceiling/accuracy", 1),
        ("ceiling/accuracy", float("nan")),
        ("note", 0.0),
        ("verdict", "REALM ranks 70.0 % at random."),
        # Counts of what no model moves are exact.
        ("pairs", 201),
        ("by_domain/askvet/pairs", 51),
    ],
)
def test_what_is_beyond_is_outside(tmp_path: Path, reference: Path, path: str, value: Any) -> None:
    run = write_run(tmp_path / "run", evaluation=changed(EVALUATION, path, value))
    assert outside(run, reference) == [("evaluation.json", path.replace("/", "."))]


def test_a_row_holds_both_numbers_and_what_is_allowed(tmp_path: Path, reference: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=changed(EVALUATION, "rewards/realm/accuracy", 0.65))
    (row,) = verify(run, reference).outside
    assert (row.file, row.key, row.reference, row.here) == ("evaluation.json", "rewards.realm.accuracy", 0.7, 0.65)
    assert row.difference == pytest.approx(-0.05)
    assert row.tolerance == pytest.approx(0.03829, abs=2e-5)
    assert row.used == pytest.approx(0.05 / 0.03829, rel=1e-3)
    assert row.verdict == "OUTSIDE"


def test_the_tolerance_of_a_p_value_is_the_one_on_the_side_of_the_difference(tmp_path: Path, reference: Path) -> None:
    for index, (value, tolerance) in enumerate(((0.3, 0.235), (0.15, 0.126))):
        path = "differences/realm - length/p_value"
        run = write_run(tmp_path / str(index), evaluation=changed(EVALUATION, path, value))
        (row,) = [row for row in verify(run, reference).rows if row.key.endswith("p_value")]
        assert row.tolerance == pytest.approx(tolerance, abs=0.002)
        assert row.verdict == "within"


def test_without_a_spread_every_number_is_held_to_rounding(tmp_path: Path, reference: Path) -> None:
    (reference / SPREAD).unlink()
    for index, (value, same) in enumerate(((0.7 + 5e-6, True), (0.7 + 2e-5, False))):
        run = write_run(tmp_path / str(index), evaluation=changed(EVALUATION, "rewards/realm/accuracy", value))
        assert (outside(run, reference) == []) is same


def test_seconds_and_the_best_epoch_are_not_compared_and_said_so(tmp_path: Path, reference: Path) -> None:
    run = write_run(tmp_path / "run", combiner={**COMBINER, "best_epoch": 9, "seconds": 300.0})
    found = verify(run, reference)
    assert found.outside == []
    assert {row.key: row.why for row in found.rows if not row.is_compared} == {
        "seconds": "a timing",
        "best_epoch": "where a flat curve happens to end",
    }


def test_a_field_too_many_or_too_few_is_outside(tmp_path: Path, reference: Path) -> None:
    fewer = {key: value for key, value in COMBINER.items() if key != "validation_loss"}
    (row,) = verify(write_run(tmp_path / "fewer", combiner=fewer), reference).outside
    assert (row.key, row.verdict) == ("validation_loss", "OUTSIDE: missing here")
    (row,) = verify(write_run(tmp_path / "more", combiner={**COMBINER, "new": 0.5}), reference).outside
    assert (row.key, row.verdict) == ("new", "OUTSIDE: not in the reference")


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("run/name", "two", True),
        ("run/output_dir", "elsewhere", True),
        ("run/threads", 2, True),
        ("run/jobs", 2, True),
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
    found = outside(write_run(tmp_path / "run", params=changed(PARAMS, path, value)), reference)
    assert (found == []) is same
    assert all(file == "params.yaml" and key.startswith(path.replace("/", ".")) for file, key in found)


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
        verify(run, reference)


def test_metrics_that_only_the_run_has_are_no_matter(tmp_path: Path, reference: Path) -> None:
    """A later version may measure more than the reference did."""
    assert outside(write_run(tmp_path / "run", ppo={"kl": 0.1}), reference) == []


def test_a_run_that_the_others_do_not_explain_is_found_by_leaving_it_out(tmp_path: Path) -> None:
    accuracies = (0.7, 0.702, 0.699, 0.701, 0.8)
    runs = [
        write_run(tmp_path / str(index), evaluation=changed(EVALUATION, "rewards/realm/accuracy", accuracy))
        for index, accuracy in enumerate(accuracies)
    ]
    found = leave_one_out(runs)
    assert [len(found[run].outside) for run in runs] == [0, 0, 0, 0, 1]


def test_every_row_can_be_read_again(tmp_path: Path) -> None:
    rows = [
        Row("a.json", "x, y", 0.5, 0.75, 0.25, 0.5, 0.5),
        Row("a.json", "text", "a\nb", None, outside=True, why="gone"),
    ]
    write_rows(tmp_path / "verification.csv", rows)
    with (tmp_path / "verification.csv").open(newline="") as file:
        head, *cells = csv.reader(file)
    assert head == ["file", "key", "reference", "here", "difference", "tolerance", "verdict"]
    assert cells == [
        ["a.json", "x, y", "0.5", "0.75", "0.25", "0.5", "within"],
        ["a.json", "text", "a\nb", "", "", "", "OUTSIDE: gone"],
    ]
