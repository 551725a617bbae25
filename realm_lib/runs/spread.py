"""How far runs of the same parameters lie apart on processors that round differently, and the tolerances this gives.

A processor adds numbers in its own order, so that the last digit of a sum is its own; training carries it on. How far
is measured: the same run is made under several settings of the processor's instructions and threads, and for each kind
of number the largest difference between any two of these runs is kept. A number of another run may differ from the
reference's by four times that, and by two pairs that rank the other way.
"""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from realm_lib.runs.files import write_json
from realm_lib.runs.numbers import Leaf, read_leaves, to_scale, why_not_compared
from realm_lib.runs.reading import MissingStepError, read_json

FLIPPED = 2
"""Pairs that may rank the other way in every group, whether the measured runs happened to flip one or not."""

ALLOWED = 4.0
"""How many times the largest difference is allowed. Simulated: of Gaussian numbers in six runs, a seventh is outside
once in 4,000 for a kind whose numbers move as one, so that all of the some 130 kinds are inside in 97 of 100 runs or
more. Where a kind's numbers move apart, its largest difference is known better, and a seventh is outside less often."""

_ROUNDING = 1e-5
"""Share of a number, or of one, that single precision moves where nothing is trained on it."""

_LAST_DIGITS = 1e-9
"""A difference below which a number did not move."""


@dataclass(frozen=True)
class KindSpread:
    """What the runs' numbers of one kind differ by."""

    numbers: int  # how many of this kind differ between any two runs
    largest: float  # the largest difference, on the kind's scale; of shares of n pairs, times the root of n


@dataclass(frozen=True)
class Spread:
    """Spreads by kind, and the words of texts that differ, by key; kinds that do not stand here did not move."""

    runs: int = 1
    kinds: Mapping[str, KindSpread] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def tolerance(self, leaf: Leaf) -> float:
        """What a number may differ by from ``leaf``, a reference's, on its kind's scale; counts that never moved: 0."""
        moved = self.kinds.get(leaf.kind)
        measured = ALLOWED * moved.largest * _unit(leaf) if moved else 0.0
        if isinstance(leaf.value, int):
            return math.floor(measured) + (FLIPPED if moved or (self.runs > 1 and leaf.is_measured_count) else 0)
        flipped = FLIPPED / leaf.pairs if leaf.is_share and leaf.pairs and self.runs > 1 else 0.0
        return measured + flipped + _ROUNDING * max(1.0, abs(float(leaf.value)))

    def knows(self, name: str, text: str) -> bool:
        """Whether one of the measured runs says ``text``, numbers aside, at ``name`` (``FILE: dotted.path``)."""
        return words(text) in self.texts.get(name, ())


def measure_spread(runs: Sequence[Path]) -> Spread:
    """The spread over finished runs of the same parameters.

    Raises :class:`MissingStepError` for fewer than two runs, and for a run that lacks metrics which the first one has.
    """
    if len(runs) < 2:
        raise MissingStepError("a spread takes two runs at least; five or more make good tolerances")
    largest: dict[str, float] = defaultdict(float)
    moved: dict[str, set[str]] = defaultdict(set)
    texts: dict[str, list[str]] = {}
    for name, leaves in _together(runs).items():
        values = [leaf.value for leaf in leaves]
        if why_not_compared(leaves[0].key):
            continue
        if all(is_number(value) for value in values):
            apart = max(_apart(one, other) for one, other in itertools.combinations(leaves, 2))
            if apart > _LAST_DIGITS:
                moved[leaves[0].kind].add(name)
                largest[leaves[0].kind] = max(largest[leaves[0].kind], apart)
        elif all(isinstance(value, str) for value in values) and len(said := {words(value) for value in values}) > 1:
            texts[name] = sorted(said)
    kinds = {kind: KindSpread(len(moved[kind]), largest[kind]) for kind in sorted(largest)}
    return Spread(len(runs), kinds, texts)


def write_spread(path: Path, spread: Spread) -> None:
    """Write a spread as JSON."""
    write_json(path, asdict(spread))


def read_spread(path: Path) -> Spread:
    """A spread as :func:`write_spread` wrote it; without a file that of a single run, in which nothing moved."""
    if not path.exists():
        return Spread()
    content = read_json(path)
    kinds = {kind: KindSpread(**entry) for kind, entry in content["kinds"].items()}
    return Spread(content["runs"], kinds, content["texts"])


def is_number(value: Any) -> bool:
    """Whether a leaf is measured or counted; flags, texts and what is missing are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def words(text: str) -> str:
    """``text`` with its numbers left out, and the plurals that hang on them."""
    return re.sub(r"(?<=# )(\w+?)s?\b", r"\1", re.sub(r"[-+]?\d[\d,.]*\d|[-+]?\d", "#", text))


def _together(runs: Sequence[Path]) -> dict[str, list[Leaf]]:
    """The leaves that every run has, by name."""
    read: list[dict[str, Leaf]] = []
    names = [path.name for path in sorted((runs[0] / "metrics").glob("*.json"))]
    if not names:
        raise MissingStepError(f"{runs[0]}: no metrics here")
    for run in runs:
        paths = [run / "metrics" / name for name in names]
        if missing := [path for path in paths if not path.exists()]:
            raise MissingStepError(f"{missing[0]} is missing: run the notebook that writes it")
        read.append({name: leaf for path in paths for name, leaf in read_leaves(path).items()})
    return {name: [leaves[name] for leaves in read] for name in read[0] if all(name in leaves for leaves in read)}


def _apart(one: Leaf, other: Leaf) -> float:
    return abs(to_scale(one.kind, one.value) - to_scale(other.kind, other.value)) / _unit(one)


def _unit(leaf: Leaf) -> float:
    """What differences of a kind are multiples of: a share of n pairs, of which few flip, moves with 1 / sqrt(n)."""
    return 1 / math.sqrt(leaf.pairs) if leaf.is_share and leaf.pairs else 1.0
