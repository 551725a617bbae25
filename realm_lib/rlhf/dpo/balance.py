"""Pairs among which length says nothing: their chosen responses are, on average, as long as the rejected ones.

A reward that likes length a little chooses the longer response a lot: DPO sums over tokens, so that making every
response longer is its cheapest way to a margin (Park et al., "Disentangling Length from Quality in Direct Preference
Optimization", arXiv 2403.19159). Pairs that are balanced take that way away before the loss is ever asked.
"""

import hashlib
import json
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.data.lengths import counted, letter_count

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

UNMATCHED = "pairs with no partner whose length differs as much the other way"

_RATIO = 1.25  # two length differences match when the larger one is at most so many times the other
_HALVINGS = 100


def balance_length(table: pd.DataFrame, *, one_a_prompt: bool) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows of ``table`` (prompt, chosen, rejected, chosen_ids, rejected_ids, perhaps margin) balanced in length.

    As many pairs with a shorter chosen response as with a longer one stay, alike in size (:func:`matched_in_length`);
    with ``one_a_prompt``, of the pair of each prompt that :func:`best_at_equal_length` picks, which leaves little to
    take away. Lengths are in tokens, the terms of DPO's sum. Pairs without margins (people's) count alike. The rows
    kept stay in their order, and which they are does not depend on it. Also what was left out, by reason: pairs, which
    are prompts where each has one.
    """
    if table.empty:
        return table, {}
    differences = token_differences(table)
    margins = table["margin"].to_numpy(dtype=np.float64) if "margin" in table else np.ones(len(table))
    # Ties are broken by what the texts hash to: by row, or by the alphabet, some kind of text would be preferred.
    texts = table[["prompt", "chosen", "rejected"]].itertuples(index=False)
    order = np.argsort([hashlib.sha256(json.dumps(list(row)).encode()).hexdigest() for row in texts], kind="stable")
    if one_a_prompt:
        prompts = pd.factorize(table["prompt"], sort=True)[0]
        order = order[best_at_equal_length(prompts[order], margins[order], differences[order])]
    keep = order[matched_in_length(margins[order], differences[order])]
    left_out = len(order) - len(keep)
    return table.iloc[np.sort(keep)].reset_index(drop=True), {UNMATCHED: left_out} if left_out else {}


def token_differences(table: pd.DataFrame) -> Integers:
    """Tokens of the chosen response less tokens of the rejected one, of each pair, [n]."""
    return np.array(
        [len(a) - len(b) for a, b in zip(table["chosen_ids"], table["rejected_ids"], strict=True)], dtype=np.int64
    )


def length_difference(table: pd.DataFrame) -> dict[str, float]:
    """By how much chosen responses are longer than rejected ones; below 0: shorter. What DPO could learn from alone.

    Keys: tokens and characters, means over pairs; tokens_share and characters_share, the same over the mean length of
    all responses; longer, the share of pairs whose chosen response has more tokens (equal ones count half). Raises
    ValueError for no pairs.
    """
    if table.empty:
        raise ValueError("there are no pairs to compare the lengths of")
    tokens = token_differences(table)
    chosen, rejected = (float(counted(letter_count, table[side]).mean()) for side in ("chosen", "rejected"))
    every_token = (table["chosen_ids"].map(len) + table["rejected_ids"].map(len)).mean() / 2
    return {
        "tokens": float(tokens.mean()),
        "characters": chosen - rejected,
        "tokens_share": float(tokens.mean() / every_token),
        "characters_share": (chosen - rejected) / max(1.0, (chosen + rejected) / 2),
        "longer": float((np.sign(tokens) / 2 + 0.5).mean()),
    }


def best_at_equal_length(prompts: ArrayLike, margins: ArrayLike, differences: ArrayLike) -> Integers:
    """One pair of each prompt, as indices: the largest margins in sum among choices whose length differences cancel.

    All arrays are [n]: which prompt, the margin, the length difference. To maximise sum(margin) under
    sum(difference) = 0 with one pair of each prompt is a linear programme but for whole numbers; its Lagrangian takes

        argmax of margin - price * difference

    in each prompt, where one price a token holds for all. The sum of the chosen differences falls as the price rises,
    so that halving finds the price at which it passes 0; what is left of the sum is at most one prompt's step. Where no
    price reaches 0, as when every pair's chosen response is the longer one, the nearest to it is taken. Of equals in
    one prompt the first is taken.
    """
    groups, gains, lengths = (np.asarray(values) for values in (prompts, margins, differences))

    def pick(price: float) -> Integers:
        by_value = np.lexsort((np.arange(len(groups)), -(gains - price * lengths), groups))
        firsts = np.unique(groups[by_value], return_index=True)[1]
        return np.asarray(by_value[firsts], dtype=np.int64)

    def total(price: float) -> int:
        return int(lengths[pick(price)].sum())

    at_0 = total(0.0)
    if at_0 == 0:
        return pick(0.0)
    sign = math.copysign(1.0, at_0)
    low, high = 0.0, 1e-6
    while sign * total(sign * high) > 0 and high < 1e6:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if sign * total(sign * middle) > 0 else (low, middle)
    # Prompts that have like prices go over together: one after the other, until the sum is nearest to 0.
    before, after = pick(sign * low), pick(sign * high)
    changed = np.flatnonzero(before != after)
    steps = lengths[after[changed]] - lengths[before[changed]]
    sums = int(lengths[before].sum()) + np.concatenate([[0], np.cumsum(steps)])
    over = changed[: int(np.abs(sums).argmin())]
    before[over] = after[over]
    return before


def matched_in_length(margins: ArrayLike, differences: ArrayLike) -> Integers:
    """Indices, ascending, of as many pairs whose chosen response is the shorter one as pairs where it is the longer.

    ``margins`` and ``differences`` are [n]. Pairs of equal length all stay. The others fall into bins by the size of
    their difference, each a quarter wider than the one before, and of each bin as many of both kinds stay as there are
    of the rarer, those of the largest margins (the first of equals). The mean difference of what stays is then at
    most a ninth of the mean size of the differences. Where no bin has both kinds, the two pairs whose sizes are nearest
    stay, so that something does whenever both kinds exist.
    """
    gains, lengths = np.asarray(margins, dtype=np.float64), np.asarray(differences, dtype=np.int64)
    keep = lengths == 0
    sizes = np.abs(lengths)
    bins = np.floor(np.log(np.maximum(sizes, 1)) / math.log(_RATIO)).astype(np.int64)
    best_first = np.lexsort((np.arange(len(lengths)), -gains))
    for number in np.unique(bins[~keep]):
        inside = best_first[(bins[best_first] == number) & (lengths[best_first] != 0)]
        longer, shorter = inside[lengths[inside] > 0], inside[lengths[inside] < 0]
        both = min(len(longer), len(shorter))
        keep[longer[:both]] = keep[shorter[:both]] = True
    if not (keep & (lengths != 0)).any() and (lengths > 0).any() and (lengths < 0).any():
        keep[_nearest(best_first, lengths)] = True
    return np.flatnonzero(keep)


def _nearest(best_first: Integers, lengths: Integers) -> list[int]:
    """One pair of each kind with sizes as near as can be; of such the one of the larger margins."""
    longer, shorter = best_first[lengths[best_first] > 0], best_first[lengths[best_first] < 0]
    sizes = -lengths[shorter]
    rising = np.argsort(sizes, kind="stable")
    options: list[tuple[Any, ...]] = []
    for rank, index in enumerate(longer):
        place = int(np.searchsorted(sizes[rising], lengths[index]))
        for other in rising[max(0, place - 1) : place + 1]:
            options.append((abs(int(lengths[index] - sizes[other])), rank + int(other), index, shorter[other]))
    _, _, first, second = min(options)
    return [int(first), int(second)]
