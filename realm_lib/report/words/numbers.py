"""Numbers within a sentence; shares and intervals look as they do in the evaluation's tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from realm_lib.evaluation.display import between, counted, interval, measured, percent, with_interval

__all__ = [
    "against_half",
    "between",
    "capital",
    "counted",
    "in_letters",
    "in_words",
    "interval",
    "is_sure",
    "listed",
    "measured",
    "p_value",
    "percent",
    "points",
    "with_interval",
]

Metrics = Mapping[str, Any]


_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def in_letters(count: int) -> str:
    """A small number as a word: ``three``; 10 and more in digits."""
    return _WORDS[count] if count < len(_WORDS) else f"{count:,}"


def points(difference: Metrics) -> str:
    """A difference in accuracy in percentage points: ``+6.8 points, +3.9 to +9.7``, and what Holm takes back of it."""
    low, high = difference["ci"]
    text = f"{100 * difference['value']:+.1f} points, {interval((low, high), '+.1f')}"
    taken_back = not (is_sure(difference) or low <= 0 <= high)
    return f"{text}, but {p_value(difference['p_holm'])} after correction" if taken_back else text


def in_words(difference: Metrics) -> str:
    """What a difference says: better, worse, or nothing; "not surely" where it falls to Holm's correction."""
    low, high = difference["ci"]
    if low <= 0 <= high:
        return "the data cannot tell"
    return ("better" if low > 0 else "worse") + ("" if is_sure(difference) else ", not surely")


def is_sure(difference: Metrics) -> bool:
    """Whether a difference stands after correction for all comparisons made, as far as it was tested."""
    return float(difference.get("p_holm", 0.0)) <= 0.05


def against_half(ci: Sequence[float], above: str, undecided: str, below: str) -> str:
    """The word for an interval of a share that lies wholly above one half, holds it, or lies wholly below it."""
    return above if ci[0] > 0.5 else below if ci[1] < 0.5 else undecided


def p_value(p: float) -> str:
    """``p = 0.002`` or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def capital(text: str) -> str:
    """``text`` as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """``a, b and c``"""
    return " and ".join([part for part in (", ".join(names[:-1]), *names[-1:]) if part])
