"""Numbers as text for tables."""

from collections.abc import Sequence

__all__ = []


def _counted(count: int, things: str) -> str:
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(ci: Sequence[float], brackets: bool = True) -> str:
    text = f"{100 * ci[0]:.1f} to {100 * ci[1]:.1f}"
    return f"({text})" if brackets else text
