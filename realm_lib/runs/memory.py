"""Work that does not fit the memory there is: told from other failures, and done again in smaller parts."""

import gc
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")
_CPU_SAYS = ("not enough memory", "can't allocate memory")
"""How PyTorch's CPU allocator says it, with a plain RuntimeError."""


class MemoryShort(RuntimeError):
    """Work that cannot be made smaller and still takes more memory than there is."""


def within_memory(work: Callable[[], _Found]) -> _Found | None:
    """What ``work`` returns; None when there is not enough memory for it, which is then free again.

    Any other failure is raised as it is.
    """
    import torch

    try:
        return work()
    except torch.OutOfMemoryError:
        pass
    except RuntimeError as error:
        if not any(words in str(error) for words in _CPU_SAYS):
            raise
    # Only here, where the exception and with it the frames that hold the tensors are gone.
    release_memory()
    return None


def release_memory() -> None:
    """Give back what nothing refers to any more, a model's weights on a GPU among it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halving(size: int, work: Callable[[int], _Found], what: str, *, in_step: bool = False) -> tuple[_Found, int]:
    """What ``work(size)`` returns, and the size that fitted: half of ``size`` after each time that memory ran out.

    ``what`` names in the log what is counted and who can lower it. Work of several processes ``in_step``, which must
    do the same, is not tried again. Raises :class:`MemoryShort` where size 1, or in step ``size``, does not fit.
    """
    while (found := within_memory(partial(work, size))) is None:
        if size == 1 or in_step:
            raise MemoryShort(f"{what}: {'one alone' if size == 1 else size} takes more memory than there is")
        _log.warning("%s: out of memory with %d at once; going on with %d", what, size, size // 2)
        size //= 2
    return found, size
