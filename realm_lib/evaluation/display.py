"""Numbers as text, one way for the whole project: in tables, sentences, pages and figures."""

from collections.abc import Sequence


def counted(count: int, things: str) -> str:
    """``1,234 pairs``, ``1 pair``; ``things`` is the plural."""
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def percent(share: float) -> str:
    """0.6865 as ``68.7 %``."""
    return f"{100 * share:.1f} %"


def between(ci: Sequence[float], form: str = ".2f") -> str:
    """An interval in its own unit: ``0.12 to 0.15``."""
    return f"{ci[0]:{form}} to {ci[1]:{form}}"


def interval(ci: Sequence[float], form: str = ".1f") -> str:
    """An interval of shares in hundredths: ``65.8 to 71.4``; of differences, with "+.1f": ``+3.9 to +9.7``."""
    return between([100 * end for end in ci], form)


def with_interval(share: float, ci: Sequence[float]) -> str:
    """A share with its interval: ``68.7 % (65.8 to 71.4)``."""
    return f"{percent(share)} ({interval(ci)})"


def measured(value: float, ci: Sequence[float], form: str = "+.2f") -> str:
    """A value in its own unit with its interval: ``+0.12 (+0.08 to +0.15)``."""
    return f"{value:{form}} ({between(ci, form)})"
