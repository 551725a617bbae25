"""A run against its reference, as lines for a terminal: a summary by file, what is outside, and what people look at."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realm_lib.evaluation.display import counted
from realm_lib.runs.verification import Row, Verification

_HEADLINES = (
    *(f"rewards.{name}.accuracy" for name in ("realm", "linear", "reward_model", "similarity", "length")),
    *(f"policies.{name}.win_rate" for name in ("best_of_4", "best_of_16", "ppo", "dpo")),
)


def summary(found: Verification) -> str:
    """A line for each file: how much was compared, how much is outside, and where most of a tolerance is used."""
    lines = [("file", "compared", "outside", "most of a tolerance used")]
    for file in dict.fromkeys(row.file for row in found.rows):
        rows = [row for row in found.rows if row.file == file and row.is_compared]
        most = max(rows, key=lambda row: row.used, default=None)
        used = f"{100 * most.used:.0f} % by {most.key}" if most is not None and most.used else ""
        lines.append((file, f"{len(rows):,}", f"{sum(row.outside for row in rows):,}", used))
    left_out = Counter(row.why for row in found.rows if not row.is_compared)
    said = [f"not compared, {why}: {counted(count, 'numbers')}" for why, count in left_out.items()]
    return "\n".join([_aligned(lines, numbers={1, 2}), *said])


def table(rows: Sequence[Row]) -> str:
    """Rows as they were compared, a line each: reference, here, difference, tolerance, verdict."""
    head = ("number", "reference", "here", "difference", "tolerance", "verdict")
    cells = [
        (
            f"{row.file.removesuffix('.json')}: {row.key}",
            *map(_cell, (row.reference, row.here)),
            "" if row.difference is None else f"{row.difference:+.4g}",
            _cell(row.tolerance),
            row.verdict,
        )
        for row in rows
    ]
    return _aligned([head, *cells], numbers={1, 2, 3, 4})


def headlines(found: Verification) -> list[Row]:
    """The accuracies and win rates that a reader looks at, as far as they were measured."""
    return [row for row in found.rows if row.key in _HEADLINES]


def conclusion(found: Verification, run: Path, reference: Path) -> str:
    """The last line: whether the run reproduces the reference, and what the tolerances are from."""
    if found.outside:
        return f"{run} does not reproduce {reference}: {counted(len(found.outside), 'values')} outside the tolerances"
    if found.runs < 2:
        return f"{run} reproduces {reference}: all equal to rounding (no spread was measured)"
    return (
        f"{run} reproduces {reference}: all within tolerances from {found.runs} runs on processors that round otherwise"
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _aligned(lines: Sequence[Sequence[str]], numbers: set[int]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
