"""Which tokens are computed, and beside which: shared prefixes once, short texts behind one prefix, longest rows first.

The texts of one post begin with the same tokens. A :class:`Row` holds these once and then what each text adds; in the
model each text sees the shared tokens and its own and nothing else (:mod:`realm_lib.models.reward_models.forward`).
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np
from numpy.typing import NDArray

_LEAST_SHARED = 16
"""Tokens that a shared prefix must save: a template's opening is common to all texts, and masking has its price too."""
_ATTENTION_COST = 2.0
"""How much slower a number is computed in masked attention than in a matrix product: about 1 was measured on a CPU
(bench_scoring's model under a profiler); kernels of a GPU are said to lose more by the mask."""


@dataclass(frozen=True)
class Row:
    """One sequence for the model: ``shared`` tokens, then the ``own`` tokens of each text of ``indices``."""

    shared: Sequence[int]
    own: Sequence[Sequence[int]]
    indices: Sequence[int]

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.shared) + sum(map(len, self.own))


def common_prefix(texts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all ``texts`` have in common, their last ones left out: each text ends by itself."""
    columns = zip(*(text[:-1] for text in texts), strict=False)  # as far as the shortest goes
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, columns))


def plan_batches(
    texts: Sequence[Sequence[int]],
    groups: Sequence[Hashable],
    budget: int,
    *,
    attention_length: float | None,
    pass_cost: float = 64.0,
) -> list[list[Row]]:
    """The texts (token ids) in batches of rows, longest first, of at most ``budget`` tokens with padding each.

    ``groups`` says which texts may share a prefix (those of one post). ``attention_length`` is the length of a row at
    which the model's attention costs as many operations as all else; None for a model whose prefixes cannot be shared.
    ``pass_cost`` is what a pass through the model costs beside its tokens, in tokens.
    A row that is longer than the budget, which only a single text can be, is a batch by itself.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index in range(len(texts)):
        members[groups[index] if attention_length else index].append(index)
    rows = [row for indices in members.values() for row in _rows(texts, indices, budget, attention_length or 0.0)]
    rows.sort(key=lambda row: -row.length)
    ends = _best_cuts(np.array([row.length for row in rows], dtype=np.int64), budget, attention_length, pass_cost)
    return [rows[start:end] for start, end in pairwise([0, *ends])]


def _best_cuts(lengths: NDArray[np.int64], budget: int, attention_length: float | None, pass_cost: float) -> list[int]:
    """Where to cut rows of falling ``lengths`` into batches so that passes and padding together cost least.

    By dynamic programming over the last cut. Filling each batch up to the budget instead would pad short rows to the
    length of long ones: a tenth to a third of what is computed, for texts like SHP's.
    """
    padded = lengths.astype(np.float64)
    if attention_length:
        padded += _ATTENTION_COST * lengths**2 / attention_length
    least = np.zeros(len(lengths) + 1)
    cut_before = np.zeros(len(lengths) + 1, dtype=np.int64)
    first = 0  # the longest row that a batch up to here may begin with
    for end in range(1, len(lengths) + 1):
        while first < end - 1 and (end - first) * lengths[first] > budget:
            first += 1
        costs = least[first:end] + pass_cost + np.arange(end - first, 0, -1) * padded[first:end]
        cut_before[end] = first + int(costs.argmin())
        least[end] = costs.min()
    ends = [len(lengths)]
    while ends[0]:
        ends.insert(0, int(cut_before[ends[0]]))
    return ends[1:]


def _rows(texts: Sequence[Sequence[int]], indices: Sequence[int], budget: int, attention_length: float) -> list[Row]:
    shared = common_prefix([texts[index] for index in indices]) if len(indices) > 1 else 0
    if shared < _LEAST_SHARED:
        return [Row((), [texts[index]], [index]) for index in indices]
    order = sorted(indices, key=lambda index: -len(texts[index]))
    fewest = _best_number_of_rows(shared, [len(texts[index]) - shared for index in indices], attention_length)
    for number in range(fewest, len(order) + 1):
        bins: list[list[int]] = [[] for _ in range(number)]
        filled = [0] * number
        for index in order:
            emptiest = filled.index(min(filled))
            bins[emptiest].append(index)
            filled[emptiest] += len(texts[index]) - shared
        if shared + max(filled) <= budget:
            break
    return [
        Row(texts[row[0]][:shared], [texts[index][shared:] for index in row], row)
        if len(row) > 1
        else Row((), [texts[row[0]]], row)
        for row in bins
    ]


def _best_number_of_rows(shared: int, own: Sequence[int], attention_length: float) -> int:
    """Rows for the texts of one post: each one more computes the prefix again, each one less attends to more."""

    def cost(rows: int) -> float:
        length = shared + sum(own) / rows
        return rows * (length + _ATTENTION_COST * length**2 / attention_length)

    return min(range(1, len(own) + 1), key=cost)
