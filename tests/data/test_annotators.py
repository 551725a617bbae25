"""What becomes of pairs that several people judged."""

import itertools
import random
from collections import defaultdict

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.data.annotators import agreement, overruled, with_pair_ids

JUDGED = st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from(["xy", "yx", "xz"]), st.booleans()), max_size=14)
"""Post, the two responses as A and B, whether A is preferred."""


def pairs(rows: list[tuple[str, str, bool]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["post_id", "sides", "labels"]).astype({"labels": int})
    sides = {"human_ref_A": frame["sides"].str[:1], "human_ref_B": frame["sides"].str[1:]}
    return with_pair_ids(frame.drop(columns="sides").assign(history=frame["post_id"], **sides))


@given(JUDGED, st.randoms(use_true_random=False))
def test_most_annotators_decide_in_any_order(rows: list[tuple[str, str, bool]], rng: random.Random) -> None:
    votes = defaultdict(list)
    for post, sides, a_preferred in rows:
        votes[post, "".join(sorted(sides))].append(sides[0] if a_preferred else sides[1])
    expected = {}
    for pair, winners in votes.items():
        counts = sorted(((winners.count(side), side) for side in pair[1]), reverse=True)
        if counts[0][0] != counts[1][0]:
            expected[pair] = counts[0][1]
    tables = []
    for order in (rows, rng.sample(rows, len(rows))):
        frame = pairs(order)
        reasons = overruled(frame)
        kept = frame[reasons.isna()]
        winners = kept["human_ref_A"].where(kept["labels"] == 1, kept["human_ref_B"])
        names = zip(kept["post_id"], (kept["human_ref_A"] + kept["human_ref_B"]).map(sorted).str.join(""), strict=True)
        assert dict(zip(names, winners, strict=True)) == expected
        assert len(kept) == len(expected)
        assert (reasons == "annotators tied").sum() == sum(len(v) for k, v in votes.items() if k not in expected)
        assert (reasons == "outvoted by other annotators").sum() == sum(
            winner != expected[pair] for pair, winners in votes.items() if pair in expected for winner in winners
        )
        tables.append(kept.sort_values("pair_id").reset_index(drop=True))
    pd.testing.assert_frame_equal(*tables)


def test_white_space_is_no_other_response_and_case_is() -> None:
    frame = pd.DataFrame(
        {"post_id": "p", "history": "p", "human_ref_A": ["a b", "c", "A b"], "human_ref_B": ["c", " a\n\u200bb", "c"],
         "labels": [1, 0, 1]}
    )  # fmt: skip
    ids = with_pair_ids(frame)["pair_id"]
    assert ids[0] == ids[1] != ids[2]
    assert list(overruled(with_pair_ids(frame)).isna()) == [True, False, True]


def alpha_of(units: list[list[int]]) -> float:
    """Krippendorff's alpha of nominal values by its definition, over all pairs of values (Krippendorff 2011)."""
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(
        sum(a != b for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in units
    ) / len(values)  # fmt: skip
    expected = sum(a != b for a, b in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


def test_the_agreement_is_krippendorffs_where_neither_order_is_likelier() -> None:
    rng = random.Random(4)
    units = [[int(rng.random() < truth) for _ in range(rng.randint(1, 6))] for truth in (0.8, 0.2) * 400]
    rows = [(str(number), "xy", bool(value)) for number, unit in enumerate(units) for value in unit]
    found = agreement(pairs(rows))
    assert found is not None
    # Both orders of each pair: then the definition expects one half, but for its correction of small samples.
    both = units + [[1 - value for value in unit] for unit in units]
    assert found["alpha"] == pytest.approx(alpha_of(both), abs=1e-3)
    assert 0.3 < found["alpha"] < 0.42  # 1 - 2 (2 * 0.8 * 0.2) = 0.36


def test_agreement_is_told_of_pairs_judged_more_than_once() -> None:
    assert agreement(pairs([])) is None
    assert agreement(pairs([("p", "xy", True), ("q", "xy", True)])) is None
    same = agreement(pairs([("p", "xy", True), ("p", "yx", False), ("q", "xy", True)]))
    assert same == {"pairs": 1, "judgements": 2, "with_majority": 1.0, "alpha": 1.0}
    tied = agreement(pairs([("p", "xy", True), ("p", "xy", False)]))
    assert tied == {"pairs": 1, "judgements": 2, "with_majority": 0.5, "alpha": -1.0}
