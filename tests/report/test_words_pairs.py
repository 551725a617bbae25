"""Pairs of responses in words."""

from typing import Any

import pandas as pd
import pytest

from realm_lib.data.pairs import PairsReport
from realm_lib.report.words.pairs import (
    agreement,
    pair_lengths,
    pairs_judged,
    pairs_made,
    pairs_read,
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


NOTHING_ELSE = {"ids": None, "annotators": None, "other_ratios": None}


def test_pairs_of_a_file_are_counted() -> None:
    ties = {"pairs": 6, "first": [f"mine.jsonl row {n}" for n in (1, 3, 4, 5, 9)]}
    source = {"read": 30, "posts_cut": 2, "dropped": {"ties": ties}, "seen_in_training": 3} | NOTHING_ELSE
    text = pairs_judged("mine.jsonl", source, {"pairs": 23, "posts": 11})
    assert text == (
        "Read from mine.jsonl: 30 pairs. Judged: 23 pairs of 11 prompts. Left out: ties: 6 (mine.jsonl row 1, "
        "mine.jsonl row 3, mine.jsonl row 4, mine.jsonl row 5, mine.jsonl row 9 and more); post seen in training: 3. "
        "Cut to the run's limit: 2 prompts."
    )
    source |= {"seen_by": {"reward_model": 2, "combiner": 0, "policy_ppo": 1}, "not_known": "an/embedder"}
    text = pairs_judged("mine.jsonl", source, {"pairs": 23, "posts": 11})
    assert "post seen in training: 3 (reward model 2, policy ppo 1)." in text
    assert text.endswith(
        " Nothing is known of the posts that an/embedder was trained on: pairs of them may be among these."
    )
    assert "Left out" not in pairs_judged(
        "x", source | {"dropped": {}, "seen_in_training": 0}, {"pairs": 1, "posts": 1}
    )


def test_the_rows_of_each_split_are_told_of() -> None:
    def report(**changes: Any) -> PairsReport:
        dropped = {"votes too close": {"pairs": 7, "first": ["a row 1"]}}
        counts = {"read": 9, "kept": 2, "posts": 2, "posts_cut": 0}
        return PairsReport(source="local", simulated=False, **{"dropped": dropped, **counts, **changes})

    nothing = "No row is at fault, each post has one id, and no pair was judged more than once."
    assert pairs_read({"train": report(), "test": report(dropped={})}) == nothing
    ids = {
        "several_ids": {"posts": 1, "pairs": 2, "first": ["a row 2", "a row 5"]},
        "several_texts": {"ids": 2, "pairs": 9, "first": ["a row 3"]},
    }
    judged = {"pairs": 1, "judgements": 5, "with_majority": 0.8, "alpha": -0.001}
    dropped = {"votes too close": {"pairs": 7, "first": ["a row 1"]}, "empty text": {"pairs": 1, "first": ["a row 8"]}}
    ratios = {"pairs": 1, "first": ["a row 4"]}
    faulty = report(dropped=dropped, ids=ids, annotators=judged, other_ratios=ratios)
    assert pairs_read({"train": report(), "test": faulty}) == (
        "- **test**. Left out: empty text: 1 (a row 8). 1 post has several ids (a row 2, a row 5) and 2 ids have "
        "several texts (a row 3 and more): a post is known by its text. 1 pair was judged more than once: 80.0 % of "
        "these 5 judgements are the majority's (Krippendorff's alpha 0.00: 1 is full agreement, 0 is chance). 1 pair "
        "names a ratio that is not that of the votes, which are taken instead (a row 4)."
    )
    clean = {kind: entry | {"posts": 0, "ids": 0} for kind, entry in ids.items()}
    assert pairs_read({"train": report(ids=clean)}) == nothing


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
