"""Rows of like length together, and as many of them at once as memory holds."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from realm_lib.rlhf.errors import PolicyError
from realm_lib.runs.memory import MemoryShort, halving

_Found = TypeVar("_Found")


def alike(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices of rows of like length, longest first, ``batch_size`` at a time."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def alike_within_memory(
    lengths: Sequence[int],
    batch_size: int,
    work: Callable[[list[int]], _Found],
    what: str,
    fits: dict[str, int] | None = None,
    *,
    in_step: bool = False,
) -> Iterator[tuple[list[int], _Found]]:
    """Batches as :func:`alike` makes them, and what ``work`` says of each; smaller ones where memory runs out.

    A batch that does not fit is tried again with half of its rows, and no later one is larger; ``work`` must say the
    same of a row in any batch. ``fits`` keeps the size for the next call, under ``what``, which names the work in the
    log. Processes that work ``in_step`` take batches of one size: none is made smaller. Raises :class:`PolicyError`
    where a single row does not fit, and in step where a batch does not.
    """
    (order,) = alike(lengths, max(1, len(lengths))) if lengths else ([],)
    fits = {} if fits is None else fits
    start = 0
    while start < len(order):
        most = min(batch_size, fits.get(what, batch_size), len(order) - start)
        try:
            found, size = halving(most, partial(_of_first, work, order[start : start + most]), what, in_step=in_step)
        except MemoryShort as error:
            if in_step:
                raise PolicyError(
                    f"{what}: {most} rows at once take more memory than there is. Processes that share weights work in "
                    "step, and none can take fewer rows by itself: lower rlhf.sampling.batch_size"
                ) from error
            raise PolicyError(
                f"{what}: row {order[start]} with {lengths[order[start]]} tokens alone takes more memory than there "
                "is: lower max_prompt_tokens or max_new_tokens"
            ) from error
        if size < most:
            fits[what] = size
        yield order[start : start + size], found
        start += size


def _of_first(work: Callable[[list[int]], _Found], order: list[int], count: int) -> _Found:
    return work(order[:count])
