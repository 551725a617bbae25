"""Comparing a run with a reference, number by number: what differs by more than another machine's rounding moves."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_lib.config.text import read_yaml
from realm_lib.runs.files import atomic_path
from realm_lib.runs.numbers import Leaf, from_scale, read_leaves, to_scale, why_not_compared
from realm_lib.runs.reading import MissingStepError, read_text
from realm_lib.runs.run import Run
from realm_lib.runs.spread import Spread, is_number, measure_spread, read_spread, words

SPREAD = "spread.json"
"""The file of a reference's folder that its tolerances are made from."""

_OWN = ("run.name", "run.output_dir", "run.threads", "run.jobs", "data.preprocessing.cache_dir")
"""Parameters that say where a run lies and on how many cores it ran, not what it is."""


@dataclass(frozen=True)
class Row:
    """One value of the reference beside this run's."""

    file: str
    key: str
    reference: Any
    here: Any
    difference: float | None = None  # of numbers
    tolerance: float | None = None  # in the direction of the difference
    used: float = 0.0  # the difference as a share of the tolerance; more than 1 is outside
    outside: bool = False
    why: str = ""  # why it is not compared, or how it differs where it is no number

    @property
    def is_compared(self) -> bool:
        """Whether it counts: a row that does not says why."""
        return self.outside or not self.why

    @property
    def verdict(self) -> str:
        """``same``, ``within``, ``OUTSIDE``, or ``not compared``, with the reason where there is one."""
        if not self.is_compared:
            return f"not compared: {self.why}"
        if self.outside:
            return f"OUTSIDE: {self.why}" if self.why else "OUTSIDE"
        return "within" if self.difference else "same"


@dataclass(frozen=True)
class Verification:
    """Everything that was compared, and how many runs the tolerances come from (1: none were measured)."""

    rows: list[Row]
    runs: int

    @property
    def outside(self) -> list[Row]:
        """What does not reproduce."""
        return [row for row in self.rows if row.outside]


def verify(run: Path, reference: Path, spread: Spread | None = None) -> Verification:
    """Compare a run's parameters and metrics with a reference's.

    Tolerances are from ``spread``, by default the reference's ``spread.json``. Parameters and texts must be equal, and
    counts that moved in none of the measured runs; other numbers may differ by
    :meth:`realm_lib.runs.spread.Spread.tolerance`. A text's numbers are left out, since they are compared themselves.
    Metrics that only the run has are no matter. Raises :class:`MissingStepError` when either folder has no parameters
    or no metrics.
    """
    for folder in (run, reference):
        Run.existing(folder)
    paths = sorted((reference / "metrics").glob("*.json"))
    if not paths:
        raise MissingStepError(f"{reference}: no metrics to compare with")
    spread = read_spread(reference / SPREAD) if spread is None else spread
    rows = list(_parameters(run, reference))
    for path in paths:
        own = run / "metrics" / path.name
        if not own.exists():
            raise MissingStepError(f"{own} is missing: run the notebook that writes it")
        here, there = read_leaves(own), read_leaves(path)
        rows += [_compared(name, here.get(name), there.get(name), spread) for name in {**there, **here}]
    return Verification(rows, spread.runs)


def leave_one_out(runs: Sequence[Path]) -> dict[Path, Verification]:
    """Each of three runs or more against the first of the others, with tolerances from the others' spread."""
    found = {}
    for run in runs:
        others = [other for other in runs if other != run]
        found[run] = verify(run, others[0], measure_spread(others))
    return found


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write every row as CSV: file, key, reference, here, difference, tolerance, verdict."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "key", "reference", "here", "difference", "tolerance", "verdict"])
        for row in rows:
            cells = [row.file, row.key, row.reference, row.here, row.difference, row.tolerance, row.verdict]
            writer.writerow(["" if cell is None else cell for cell in cells])


def _parameters(run: Path, reference: Path) -> Iterator[Row]:
    own, other = _params(run), _params(reference)
    for key in sorted({*own, *other}):
        same = key in own and key in other and own[key] == other[key]
        yield Row("params.yaml", key, other.get(key), own.get(key), outside=not same, why="" if same else "another")


def _compared(name: str, here: Leaf | None, reference: Leaf | None, spread: Spread) -> Row:
    file, key = name.split(": ", 1)
    if here is None or reference is None:
        there, own = (None if leaf is None else leaf.value for leaf in (reference, here))
        return Row(file, key, there, own, outside=True, why="missing here" if here is None else "not in the reference")
    own, other = here.value, reference.value
    if why := why_not_compared(key):
        return Row(file, key, other, own, why=why)
    if type(own) is not type(other):
        return Row(file, key, other, own, outside=True, why="of another type")
    if is_number(other):
        return _number(here, reference, spread)
    same = own == other or (isinstance(own, str) and (words(own) == words(other) or spread.knows(name, own)))
    return Row(file, key, other, own, outside=not same, why="" if same else "other words")


def _number(here: Leaf, reference: Leaf, spread: Spread) -> Row:
    kind, own, other = reference.kind, here.value, reference.value
    allowed, at = spread.tolerance(reference), to_scale(kind, other)
    apart = abs(to_scale(kind, own) - at)
    within = apart <= allowed  # false for NaN
    end = from_scale(kind, at + allowed), from_scale(kind, at - allowed)
    tolerance = max(end) - other if own >= other else other - min(end)
    used = apart / allowed if allowed else (0.0 if within else math.inf)
    return Row(reference.file, reference.key, other, own, own - other, tolerance, used, not within)


def _params(folder: Path) -> dict[str, Any]:
    path = folder / "params.yaml"
    content = _flat(read_yaml(read_text(path), f"{path}:"))
    return {key: value for key, value in content.items() if key not in _OWN}


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted path."""
    if not isinstance(content, Mapping | list):
        return {prefix: content}
    leaves: dict[str, Any] = {}
    for name, child in content.items() if isinstance(content, Mapping) else enumerate(content):
        leaves |= _flat(child, f"{prefix}.{name}" if prefix else str(name))
    return leaves
