"""How many threads torch computes with."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

_MOST_WORKERS = 8
_LARGEST = 300_000_000
"""Weights of a model above which a pass keeps all cores at work by itself, and several at once take memory only."""

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


def take_threads(count: int) -> None:
    """Let torch compute with ``count`` threads here, and in the processes that are started from here.

    torch is not imported for it: where it comes later, it reads the environment.
    """
    os.environ["OMP_NUM_THREADS"] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of Python threads in each of which torch computes with one thread of its own."""
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        # torch keeps the number for each thread, and gives the last one set to threads that are new.
        torch.set_num_threads(before)


def workers(model: Any, largest: int = _LARGEST) -> int:
    """How many passes through ``model`` are best made at once, each with one thread: several where it is small, of
    ``largest`` weights at most.

    The threads of one operation wait for each other at its end, thousands of times a second: beside other work on the
    machine all wait for the one whose core is taken.
    """
    weights = sum(weight.numel() for weight in model.parameters())
    return min(cores(), _MOST_WORKERS) if model.device.type == "cpu" and weights <= largest else 1


def side_by_side(work: Callable[[_Item], _Found], items: Iterable[_Item], number: int) -> Iterator[_Found]:
    """What ``work`` makes of each item, in their order; ``number`` items at a time, each by one thread of torch's.

    With 1, one after another with as many threads as torch has. Who stops listening waits for those at work.
    """
    if number < 2:
        yield from map(work, items)
        return
    with one_thread_each(number) as pool:
        begun: deque[Future[_Found]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) > number:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for each in begun:
                each.cancel()
