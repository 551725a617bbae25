"""The numbers of a run: their kinds, of how many pairs they are, and the scales that they are compared on."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.runs.numbers import Leaf, from_scale, read_leaves, to_scale, why_not_compared

EVALUATION = {
    "pairs": 2000,
    "rewards": {name: {"accuracy": 0.7, "ci": [0.6, 0.8], "log_loss": 0.6} for name in ("realm", "linear", "length")},
    "by_domain": {"askhr": {"pairs": 140, "realm": {"accuracy": 0.6}, "length": {"accuracy": 0.5}}},
    "differences": {
        "realm - linear": {"p_value": 0.2},
        "realm - trees": {"value": 0.1},
        "realm - length": {"value": 0.2},
    },
    "disagreements": {"realm - linear": {"pairs": 195, "share": 0.1}},
    "dropped": {},
}


def leaves(folder: Path, name: str = "evaluation", content: Any = EVALUATION, **others: Any) -> dict[str, Leaf]:
    for file, text in {name: content, **others}.items():
        (folder / f"{file}.json").write_text(json.dumps(text), encoding="utf-8")
    return {leaf.key: leaf for leaf in read_leaves(folder / f"{name}.json").values()}


def kinds(folder: Path) -> dict[str, str]:
    return {key: leaf.kind.removeprefix("evaluation.json: ") for key, leaf in leaves(folder).items()}


def test_numbers_of_one_kind_stand_together_whatever_they_are_of(tmp_path: Path) -> None:
    found = kinds(tmp_path)
    assert found["rewards.realm.log_loss"] == found["rewards.linear.log_loss"] == "rewards.*.log_loss"
    assert found["differences.realm - linear.p_value"] == "differences.*.p_value"


def test_shares_of_pairs_are_one_kind_in_every_group(tmp_path: Path) -> None:
    found = kinds(tmp_path)
    shares = ("rewards.realm.accuracy", "rewards.linear.ci.1", "by_domain.askhr.realm.accuracy")
    assert {found[key] for key in (*shares, "disagreements.realm - linear.share")} == {"shares of pairs"}


def test_what_does_not_move_and_what_moves_most_is_a_kind_of_its_own(tmp_path: Path) -> None:
    found = kinds(tmp_path)
    assert found["rewards.length.log_loss"] == "rewards.length.log_loss"
    assert found["rewards.length.accuracy"] == found["by_domain.askhr.length.accuracy"] == "shares of pairs.length"
    assert found["differences.realm - trees.value"] == "shares of pairs.trees"
    # REALM moves in it.
    assert found["differences.realm - length.value"] == "shares of pairs"


def test_measures_that_move_together_share_a_kind(tmp_path: Path) -> None:
    found = leaves(tmp_path, "combiner", {"train_loss": 0.5, "validation_loss": 0.6})
    assert {leaf.kind for leaf in found.values()} == {"combiner.json: loss"}


def test_a_number_is_of_the_pairs_of_the_nearest_entry_that_counts_them(tmp_path: Path) -> None:
    found = leaves(tmp_path)
    assert found["rewards.realm.accuracy"].pairs == 2000
    assert found["by_domain.askhr.realm.accuracy"].pairs == 140
    assert found["by_domain.askhr.pairs"].pairs == 140


def test_the_combiner_s_accuracy_is_of_the_validation_pairs_that_notebook_01_counted(tmp_path: Path) -> None:
    features = {"splits": {"validation": {"pairs": 600}}}
    found = leaves(tmp_path, "combiner", {"validation_accuracy": 0.66, "validation_loss": 0.62}, features=features)
    assert found["validation_accuracy"].pairs == 600
    assert found["validation_accuracy"].is_share
    assert not found["validation_loss"].is_share


def test_shares_and_measured_counts_are_told_from_the_rest(tmp_path: Path) -> None:
    found = leaves(tmp_path)
    assert {key for key, leaf in found.items() if leaf.is_measured_count} == {
        "disagreements.realm - linear.pairs",
        "disagreements.realm - linear.share",
    }
    shares = {key for key, leaf in found.items() if leaf.is_share}
    assert "rewards.realm.ci.1" in shares
    assert not {"pairs", "rewards.realm.log_loss", "differences.realm - linear.p_value"} & shares


def test_what_is_empty_is_a_leaf_without_a_value(tmp_path: Path) -> None:
    assert leaves(tmp_path)["dropped"].value is None


def test_timings_are_not_compared_and_losses_are() -> None:
    assert why_not_compared("splits.train.seconds") == "a timing"
    assert why_not_compared("best_epoch") == "where a flat curve happens to end"
    assert why_not_compared("validation_loss") == ""


@given(st.floats(1e-4, 1.0))
def test_a_scale_can_be_left_again(value: float) -> None:
    for kind in ("a.p_value", "a.p_holm", "a.temperature", "a.accuracy"):
        assert from_scale(kind, to_scale(kind, value)) == pytest.approx(value, rel=1e-6)


@given(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
def test_a_smaller_p_value_is_a_larger_score(one: float, other: float) -> None:
    first, second = (to_scale("a.p_value", p) for p in (one, other))
    assert (first - second) * (other - one) >= 0


def test_p_values_are_standard_scores() -> None:
    """Of the normal distribution's tables."""
    assert to_scale("a.p_value", 0.05) == pytest.approx(1.959964, abs=1e-6)
    assert to_scale("a.p_value", 1.0) == 0.0
    assert from_scale("a.p_value", -0.5) == 1.0
    assert math.isfinite(to_scale("a.temperature", 0.0))


def test_a_file_without_numbers_has_no_leaves(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{}", encoding="utf-8")
    assert read_leaves(tmp_path / "evaluation.json") == {}
