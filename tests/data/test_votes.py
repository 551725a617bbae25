"""Votes and ratings beside the label."""

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.data.chats import PairsError
from realm_lib.data.votes import against_label, equal_numbers, other_ratios, vote_ratios

VOTES = st.none() | st.integers(-5, 9)


def pairs(*rows: tuple[Any, ...], columns: str = "score_A score_B labels") -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns.split()).assign(_file="a.jsonl")


@given(st.lists(st.tuples(VOTES, VOTES, st.sampled_from([0, 1])), min_size=1, max_size=8))
def test_a_label_goes_with_the_larger_number(rows: list[tuple[int | None, int | None, int]]) -> None:
    expected = [
        a is not None and b is not None and a != b and (label == 1) != (a > b)  # written out
        for a, b, label in rows
    ]
    decided = sum(a is not None and b is not None and a != b for a, b, _ in rows)
    frame = pairs(*rows)
    if sum(expected) >= 3 and sum(expected) > decided / 2:
        with pytest.raises(PairsError, match=r"a\.jsonl: \d+% of the labels contradict the votes; labels = 1"):
            against_label(frame, "votes")
    else:
        assert list(against_label(frame, "votes")) == expected
    assert list(equal_numbers(frame, "votes")) == [a is not None and a == b for a, b, _ in rows]


def test_ratings_are_their_own_measure() -> None:
    frame = pairs((1.5, 4.0, 1), (2, 2, 0), (3, 1, 1), columns="rating_A rating_B labels")
    assert list(against_label(frame, "ratings")) == [True, False, False]
    assert list(equal_numbers(frame, "ratings")) == [False, True, False]
    assert not against_label(frame, "votes").any()
    assert not equal_numbers(frame, "votes").any()
    assert vote_ratios(frame) is None
    with pytest.raises(PairsError, match=r"contradict the ratings; .* \(rating_A > rating_B\)"):
        against_label(pd.concat([frame[:1]] * 3), "ratings")


@pytest.mark.parametrize(
    ("a", "b", "own", "ratio"),
    [
        (8, 2, None, 4.0),
        (2, 8, 4.0, 4.0),
        (2, 8, 0.25, 4.0),
        (50, -3, None, math.inf),
        (0, 7, None, math.inf),
        (0, 3, 3.0, 3.0),
        (0, 3, 0.5, math.inf),
        (50, -3, 50 / -3, math.inf),
        (0, -3, 4.0, math.nan),
        (0, 0, None, math.nan),
        (None, 3, None, math.nan),
        (None, None, 2.5, 2.5),
    ],
)
def test_a_ratio_is_one_of_positive_votes(a: float, b: float, own: float | None, ratio: float) -> None:
    columns = "score_A score_B labels score_ratio"
    for frame in (pairs((a, b, 1, own), columns=columns), pairs((b, a, 0, own), columns=columns)):
        found = vote_ratios(frame)
        assert found is not None
        assert list(found) == pytest.approx([ratio], nan_ok=True)
    if own is None:
        without = vote_ratios(pairs((a, b, 1)))
        assert without is not None
        assert list(without) == pytest.approx([ratio], nan_ok=True)


def test_a_ratio_alone_is_taken_as_it_is() -> None:
    found = vote_ratios(pairs((2.5, 1), columns="score_ratio labels"))
    assert found is not None
    assert list(found) == [2.5]


def test_a_ratio_that_is_rounded_is_the_votes_and_another_is_not() -> None:
    columns = "score_A score_B labels score_ratio"
    frame = pairs(
        (7, 3, 1, 2.33), (7, 3, 1, 2.5), (7, 3, 1, 3 / 7), (0, -2, 1, 4), (7, 3, 1, None), (7, 0, 1, 7), columns=columns
    )
    ratios = vote_ratios(frame)
    assert ratios is not None
    assert list(other_ratios(frame, ratios)) == [False, True, True, True, False, False]
    assert not other_ratios(frame.drop(columns="score_ratio"), ratios).any()
