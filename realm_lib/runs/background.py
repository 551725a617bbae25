"""Work in a process of its own, while the notebook goes on."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_background(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> "Future[_T]":
    """Start ``function`` in a process of its own; ``result()`` of what is returned waits for it and gives its result.

    The function, a module's own, its arguments and its result are pickled. What it raises, ``result()`` raises.
    The process ends with this one, however that ends.
    """
    executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    future = executor.submit(function, *arguments, **options)
    executor.shutdown(wait=False)
    return future


def timed(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> tuple[_T, float]:
    """What ``function`` gives, and the seconds that it took."""
    start = time.monotonic()
    return function(*arguments, **options), time.monotonic() - start


def _end_with_parent() -> None:
    """A worker of a pool waits for work for ever when its parent was killed."""

    def wait() -> None:
        parent: Any = multiprocessing.parent_process()
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
