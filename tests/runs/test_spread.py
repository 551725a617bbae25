"""How far runs lie apart: what is kept of it, and what it allows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realm_lib.runs.numbers import Leaf
from realm_lib.runs.run import MissingStepError
from realm_lib.runs.spread import (
    FLIPPED,
    KindSpread,
    Spread,
    measure_spread,
    read_spread,
    words,
    write_spread,
)


def write_runs(folder: Path, *metrics: Any) -> list[Path]:
    runs = [folder / f"run{index}" for index in range(len(metrics))]
    for run, content in zip(runs, metrics, strict=True):
        (run / "metrics").mkdir(parents=True)
        (run / "metrics" / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    return runs


def leaf(key: str, value: float, pairs: int | None = None) -> Leaf:
    return Leaf("evaluation.json", key, f"evaluation.json: {key}", value, pairs)


def test_the_largest_difference_between_any_two_runs_is_kept_by_kind(tmp_path: Path) -> None:
    contents = [{"rewards": {"a": {"log_loss": a}, "b": {"log_loss": b}}} for a, b in ((1, 5.0), (1, 5.5), (1, 4.75))]
    spread = measure_spread(write_runs(tmp_path, *contents))
    assert spread == Spread(3, {"evaluation.json: rewards.*.log_loss": KindSpread(1, 0.75)}, {})


def test_groups_are_pooled_by_the_root_of_their_pairs(tmp_path: Path) -> None:
    contents = [
        {"by_domain": {name: {"pairs": n, "realm": {"accuracy": 0.5 + x}} for name, n in (("x", 100), ("y", 400))}}
        for x in (0.0, 0.02)
    ]
    (kind,) = measure_spread(write_runs(tmp_path, *contents)).kinds.values()
    assert kind.numbers == 2
    assert kind.largest == pytest.approx(0.02 * 20)


def test_timings_have_no_spread(tmp_path: Path) -> None:
    assert measure_spread(write_runs(tmp_path, {"seconds": 1.0}, {"seconds": 2.0})).kinds == {}


def test_texts_are_kept_where_their_words_differ(tmp_path: Path) -> None:
    texts = ("It wins 3 of 4 pairs.", "It wins 1 of 4 pairs.", "It loses 3 of 4 pairs.")
    spread = measure_spread(write_runs(tmp_path, *({"verdict": text, "judge": "gold"} for text in texts)))
    name = "evaluation.json: verdict"
    assert list(spread.texts) == [name]
    assert spread.knows(name, "It loses 2 of 7 pairs.")
    assert not spread.knows(name, "It draws 2 of 7 pairs.")
    assert not spread.knows("evaluation.json: judge", "realm")


def test_words_are_what_is_left_without_numbers_and_their_plurals() -> None:
    assert words("On 2,000 pairs +7.7 points (-0.2 to 3).") == words("On 1 pair -1 point (+10 to -3.5).")
    assert words("better") != words("worse")


def test_a_tolerance_is_four_times_the_spread_and_two_flipped_pairs() -> None:
    number = leaf("rewards.a.accuracy", 0.7, 400)
    spread = Spread(6, {number.kind: KindSpread(1, 0.2)})
    assert spread.tolerance(number) == pytest.approx(4 * 0.2 / 20 + FLIPPED / 400, abs=1.1e-5)


def test_what_did_not_move_is_allowed_two_flipped_pairs_or_rounding() -> None:
    spread = Spread(6)
    assert spread.tolerance(leaf("rewards.a.accuracy", 0.7, 400)) == pytest.approx(FLIPPED / 400, abs=1.1e-5)
    assert spread.tolerance(leaf("rewards.a.log_loss", 0.7, 400)) == pytest.approx(0, abs=1.1e-5)
    assert spread.tolerance(leaf("pairs", 2000, 2000)) == 0
    assert spread.tolerance(leaf("disagreements.*.pairs", 200, 200)) == FLIPPED


def test_without_a_spread_only_rounding_is_allowed() -> None:
    for key, value in (("rewards.a.accuracy", 0.7), ("disagreements.*.share", 0.1)):
        assert Spread().tolerance(leaf(key, value, 400)) <= 1.1e-5
    assert Spread().tolerance(leaf("disagreements.*.pairs", 200, 200)) == 0


def test_counts_that_moved_may_move_again() -> None:
    ties = leaf("rewards.trees.ties", 24, 2000)
    assert Spread(6, {ties.kind: KindSpread(1, 3.0)}).tolerance(ties) == 12 + FLIPPED


def test_a_spread_is_read_as_it_was_written(tmp_path: Path) -> None:
    spread = Spread(6, {"evaluation.json: x": KindSpread(2, 0.5)}, {"evaluation.json: verdict": ["a", "b"]})
    write_spread(tmp_path / "spread.json", spread)
    assert read_spread(tmp_path / "spread.json") == spread
    assert read_spread(tmp_path / "none.json") == Spread()


def test_a_spread_takes_two_finished_runs(tmp_path: Path) -> None:
    first, second = write_runs(tmp_path, {"x": 1.0}, {"x": 2.0})
    with pytest.raises(MissingStepError, match="two runs"):
        measure_spread([first])
    (second / "metrics" / "evaluation.json").unlink()
    with pytest.raises(MissingStepError, match=r"run1.*evaluation\.json"):
        measure_spread([first, second])
    with pytest.raises(MissingStepError, match="no metrics"):
        measure_spread([second, first])


@pytest.mark.parametrize("numbers", [1, 4])
def test_a_further_run_of_gaussian_numbers_is_inside(numbers: int) -> None:
    """The factor does what its comment says, counted on the tolerance itself."""
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((20_000, 7, numbers))
    known, new = draws[:, :6], draws[:, 6]
    largest = np.ptp(known, axis=1).max(axis=1)
    number = leaf("rewards.a.log_loss", 0.0)
    factor = Spread(6, {number.kind: KindSpread(numbers, 1.0)}).tolerance(number)
    outside = np.abs(new - known[:, 0]).max(axis=1) > factor * largest
    assert outside.mean() < 1 / 1500
