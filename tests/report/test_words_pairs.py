"""Pairs of responses in words."""

import pandas as pd
import pytest

from realm_lib.report.words.pairs import (
    agreement,
    pair_lengths,
    pairs_made,
    preferred,
    worst_pairs,
)
from realm_lib.rlhf.dpo.pairs import PreferencePairs


@pytest.mark.parametrize(
    ("rewards", "probability", "readers", "said"),
    [
        ((1.0, 1.0), 0.5, 0, "Both get the same reward."),
        ((1.0, 2.0), 0.5, 0, "Which would be preferred cannot be said: on validation pairs the reward was no better"),
        ((1.0, 2.0), 0.2, None, "Response B would be preferred with 80 % probability."),
        ((2.0, 1.0), 0.7, 0, "with 70 % probability. Readers preferred A: the reward is right."),
        ((2.0, 1.0), 0.7, 1, "with 70 % probability. Readers preferred B: the reward is wrong."),
    ],
)
def test_the_preferred_response_is_named(
    rewards: tuple[float, float], probability: float, readers: int | None, said: str
) -> None:
    text = preferred(rewards, probability, readers)
    assert said in text
    assert ("Readers" in text) == ("Readers" in said)


def test_pairs_made_are_counted_with_what_was_left_out() -> None:
    table = pd.DataFrame({"prompt": ["a", "b"]})
    assert pairs_made(PreferencePairs(table, "on_policy", 2)) == "2 pairs from 2 prompts."
    dropped = {"repeated pairs": 1200, "longer than 9 tokens": 1}
    assert pairs_made(PreferencePairs(table[:1], "human", 1202, dropped)) == (
        "1 pair from 1,202 human pairs; left out: 1,200: repeated pairs; 1: longer than 9 tokens."
    )


@pytest.mark.parametrize(
    ("tokens", "characters", "share", "said", "warned"),
    [
        (
            15.24,
            67.4,
            0.402,
            "15.2 more tokens (40.2 % of the mean) and 67 more characters than rejected ones; the one",
            "are longer",
        ),
        (
            -8.0,
            -30.0,
            -0.2,
            "8.0 fewer tokens (20.0 % of the mean) and 30 fewer characters than rejected",
            "are shorter",
        ),
        (0.4, 1.0, 0.01, "0.4 more tokens (1.0 % of the mean) and 1 more character than rejected ones", None),
    ],
)
def test_a_difference_of_lengths_is_told_and_a_large_one_warned_of(
    tokens: float, characters: float, share: float, said: str, warned: str | None
) -> None:
    shares = {"tokens_share": share, "characters_share": share}
    text = pair_lengths({"tokens": tokens, "characters": characters, **shares, "longer": 0.77})
    assert said in text
    assert "of more tokens is chosen in 77.0 % of the pairs, equal ones counting half." in text
    assert ("DPO can learn this difference" in text) == (warned is not None)
    assert warned is None or warned in text


def test_agreement_is_told_with_whom() -> None:
    found = {"with": "gold", "pairs": 300, "share": 0.825, "ci": [0.788, 0.858]}
    said = "on **82.5 %** of 300 pairs (95 % interval over prompts 78.8 to 85.8)."
    assert agreement(found) == f"REALM's order agrees with the simulated truth {said}"
    assert agreement(found | {"with": "human label"}) == f"REALM's order agrees with the human label {said}"
    assert "nobody can say" in agreement(None)


def test_the_worst_pairs_are_quoted_and_harmless() -> None:
    per_pair = pd.DataFrame(
        {
            "pair_id": ["a", "b", "c"], "post_id": ["1", "2", "3"], "domain": "askvet", "labels": [1, 0, 1],
            "realm_A": [0.0, 1.0, 2.0], "realm_B": [1.0, -1.0, 0.0], "realm_p": [0.3, 0.9, 0.8],
            "realm_correct": [0.0, 0.0, 1.0],
        }
    )  # fmt: skip
    features = pd.DataFrame(
        {
            "pair_id": ["c", "b", "a"], "history": ["right", "two\nlines", "a <b>"],
            "human_ref_A": ["ra", "costs $5", "x" * 700], "human_ref_B": ["rb", "best", "short"],
        }
    )  # fmt: skip
    surest, next_one = worst_pairs(per_pair, features).split("\n\n---\n\n")
    assert surest == (
        "> **Post.** two lines\n>\n> **Chosen, reward -1.00.** best\n>\n> **Rejected, reward +1.00.** costs &#36;5"
    )
    assert "> **Post.** a &lt;b>" in next_one
    assert f"> **Chosen, reward +0.00.** {'x' * 600} ..." in next_one
    assert worst_pairs(per_pair, features, count=1) == surest
