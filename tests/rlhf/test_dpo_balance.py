"""Pairs balanced in length: what holds for any pairs, and against every choice there is where there are few."""

import itertools
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dpo_run import make_params
from support.ppo_run import PROMPTS, letters, make_policy

from realm_lib.rlhf.dpo.balance import (
    UNMATCHED,
    balance_length,
    best_at_equal_length,
    length_difference,
    matched_in_length,
    token_differences,
)
from realm_lib.rlhf.dpo.training import make_pairs

pytestmark = pytest.mark.slow

PAIR = st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(0, 40), st.integers(0, 8))
"""Prompt, tokens of chosen and rejected, margin (few values: ties)."""
PAIRS = st.lists(PAIR, min_size=1, max_size=40)


def table_of(pairs: list[tuple[int, int, int, int]]) -> pd.DataFrame:
    rows = [
        {
            "prompt": f"prompt {prompt}",
            "chosen": f"chosen {number}",
            "rejected": f"rejected {number}",
            "chosen_ids": [1] * a,
            "rejected_ids": [1] * b,
            "margin": margin / 4,
        }
        for number, (prompt, a, b, margin) in enumerate(pairs)
    ]
    return pd.DataFrame(rows)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.booleans(), st.randoms(use_true_random=False))
def test_a_subset_in_its_order_whatever_the_order_of_rows(
    pairs: list[tuple[int, int, int, int]], one_a_prompt: bool, rng: random.Random
) -> None:
    table = table_of(pairs)
    kept, dropped = balance_length(table, one_a_prompt=one_a_prompt)
    places = [table["chosen"].tolist().index(text) for text in kept["chosen"]]
    assert places == sorted(set(places))
    pd.testing.assert_frame_equal(kept, table.iloc[places].reset_index(drop=True))
    order = list(range(len(table)))
    rng.shuffle(order)
    again, dropped_again = balance_length(table.iloc[order].reset_index(drop=True), one_a_prompt=one_a_prompt)
    assert (set(again["chosen"]), dropped_again) == (set(kept["chosen"]), dropped)
    if one_a_prompt:
        assert kept["prompt"].is_unique
    assert len(kept) + dropped.get(UNMATCHED, 0) == (table["prompt"].nunique() if one_a_prompt else len(table))
    left = token_differences(kept)
    assert (left > 0).sum() == (left < 0).sum()


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_matched_pairs_are_as_many_of_both_kinds_and_of_like_size(pairs: list[tuple[int, int, int, int]]) -> None:
    table = table_of(pairs)
    lengths = token_differences(table)
    kept = matched_in_length(table["margin"], lengths)
    left = lengths[kept]
    assert (left > 0).sum() == (left < 0).sum()
    assert (left == 0).sum() == (lengths == 0).sum()
    assert (left != 0).any() == ((lengths > 0).any() and (lengths < 0).any())
    sizes = [sorted(abs(left[left * sign > 0])) for sign in (1, -1)]
    if len(sizes[0]) == 1:
        every = [abs(a + b) for a in lengths[lengths > 0] for b in lengths[lengths < 0]]
        near = 0.25 * max(sizes[0] + sizes[1])
        assert abs(left.sum()) <= max(min(every), near), "the nearest, or two of one bin"
    elif sizes[0]:
        assert all(max(a, b) <= 1.25 * min(a, b) for a, b in zip(*sizes, strict=True))
        assert abs(left.mean()) <= np.abs(left).mean() / 9 + 1e-9
    # The largest margins: of a kind, nobody left out in a bin is better than one who stays.
    bins = np.floor(np.log(np.maximum(abs(lengths), 1)) / np.log(1.25))
    both = set(bins[lengths > 0]) & set(bins[lengths < 0])
    for index in set(range(len(lengths))) - set(kept):
        if bins[index] not in both:
            continue
        alike = [k for k in kept if bins[k] == bins[index] and np.sign(lengths[k]) == np.sign(lengths[index])]
        assert all(table["margin"][k] >= table["margin"][index] for k in alike)


@settings(max_examples=60, deadline=None)
@given(st.lists(PAIR, min_size=1, max_size=9))
def test_one_pair_a_prompt_has_the_largest_margins_at_its_length(pairs: list[tuple[int, int, int, int]]) -> None:
    """Against every choice: of the same lengths none has larger margins, nor any that is further from free."""
    table = table_of(pairs)
    lengths, margins = token_differences(table), table["margin"].to_numpy()
    prompts = table["prompt"].to_numpy()
    groups = [np.flatnonzero(prompts == name) for name in sorted(set(prompts))]
    choices = [list(choice) for choice in itertools.product(*groups)]
    totals = np.array([lengths[choice].sum() for choice in choices])
    gains = np.array([margins[choice].sum() for choice in choices])
    kept = best_at_equal_length(prompts, margins, lengths)
    total, gain = lengths[kept].sum(), margins[kept].sum()
    assert gain == gains[totals == total].max()
    free = sum(lengths[max(group, key=lambda index: (margins[index], -index))] for group in groups)
    if free > 0:
        assert gain == gains[totals <= total].max()
    if free < 0:
        assert gain == gains[totals >= total].max()
    step = max(np.ptp(lengths[group]) for group in groups)
    if totals.min() <= 0 <= totals.max():
        assert abs(total) <= step, "at most one prompt's step is left"
    else:
        assert abs(total) == abs(totals).min(), "the nearest to 0 that there is"


def test_a_reward_that_likes_length_gives_pairs_that_do_not() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for prompt in range(300):
        lengths = rng.integers(5, 60, 4)
        rewards = rng.normal(size=4) + 0.03 * lengths
        rows += [(prompt, lengths[a], lengths[b], 4 * (rewards[a] - rewards[b]))
                 for a, b in itertools.permutations(range(4), 2) if rewards[a] > rewards[b]]  # fmt: skip
    table = table_of(rows)
    best = table.loc[table.groupby("prompt")["margin"].idxmax()]
    assert token_differences(best).mean() > 10
    kept, _ = balance_length(table, one_a_prompt=True)
    assert len(kept) > 220
    assert abs(token_differences(kept).mean()) < 1.0
    assert kept["margin"].mean() > 0.8 * best["margin"].mean()
    matched, dropped = balance_length(table, one_a_prompt=False)
    assert abs(token_differences(matched).mean()) < 1.0
    assert len(matched) > 0.4 * len(table)
    assert dropped == {UNMATCHED: len(table) - len(matched)}


def test_no_pairs_and_pairs_of_one_kind() -> None:
    empty = table_of([(0, 1, 2, 3)]).iloc[:0]
    assert balance_length(empty, one_a_prompt=True)[0].empty
    only_longer = table_of([(0, 5, 2, 3), (1, 9, 2, 3), (1, 4, 2, 1)])
    kept, dropped = balance_length(only_longer, one_a_prompt=False)
    assert kept.empty
    assert dropped == {UNMATCHED: 3}
    lengths, margins = token_differences(only_longer), only_longer["margin"]
    assert best_at_equal_length(only_longer["prompt"], margins, lengths).tolist() == [0, 2], "the least that can be"
    assert balance_length(only_longer, one_a_prompt=True)[1] == {UNMATCHED: 2}
    assert balance_length(only_longer.drop(columns="margin"), one_a_prompt=False)[1] == {UNMATCHED: 3}


def test_the_difference_of_lengths_before_training() -> None:
    table = table_of([(0, 6, 2, 1), (1, 3, 3, 1), (2, 1, 3, 1)])
    table["chosen"], table["rejected"] = ["abcd", "ab", "a"], ["a", "b", "cde"]
    assert length_difference(table) == pytest.approx(
        {
            "tokens": 2 / 3,
            "characters": 7 / 3 - 5 / 3,
            "tokens_share": (2 / 3) / 3,
            "characters_share": (2 / 3) / 2,
            "longer": 0.5,
        }
    )
    with pytest.raises(ValueError, match="there are no pairs"):
        length_difference(table.iloc[:0])


def test_pairs_are_balanced_by_parameter(tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "policy")
    plain, balanced = (
        make_pairs(make_params(folder, samples_per_prompt=6, balance_length=on), letters, PROMPTS)
        for on in (False, True)
    )
    assert token_differences(plain.table).mean() > 0.5
    assert abs(token_differences(balanced.table).mean()) < 0.5
    assert len(balanced) + balanced.dropped[UNMATCHED] == len(plain)
    assert balanced.table["prompt"].is_unique
    assert set(balanced.table["prompt"]) <= set(plain.table["prompt"])
    assert (balanced.table["margin"] > 0).all()

    rows = [(f"Q{n}?", "yeast makes gas in the dough", "no idea") for n in range(6)]
    rows += [(f"Q{n}?", "no idea", "yeast makes gas in the dough") for n in range(6, 9)]
    people = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    found = make_pairs(make_params(folder, pairs="human", balance_length=True), letters, people)
    assert token_differences(found.table).sum() == 0
    assert (len(found), found.asked, found.dropped) == (6, 9, {UNMATCHED: 3})
