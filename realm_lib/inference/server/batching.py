"""Concurrent requests gathered into batches, computed by one thread; equal texts computed once."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from realm_lib.inference.server.faults import describe_fault
from realm_lib.inference.server.limits import Limits

log = logging.getLogger("realm_lib.inference.server")

Pair = tuple[str, str]


class QueueFullError(RuntimeError):
    """More responses wait for an answer than the queue holds."""


class ClosedError(RuntimeError):
    """The server is stopping and takes no more."""


class TimedOutError(RuntimeError):
    """No answer in time; ``started`` says whether the computing had begun."""

    def __init__(self, started: bool) -> None:
        super().__init__("no answer in time")
        self.started = started


@dataclass(eq=False)
class _Entry:
    """A distinct text, and how many requests wait for it."""

    future: "asyncio.Future[object]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    waiters: int = 0
    started: bool = False


class MicroBatcher:
    """A queue of (prompt, response), bounded by their number, and the one worker that empties it in batches.

    ``compute(prompts, responses)`` gives for each either its result or an exception as a value. It runs in one thread,
    so that models are never entered twice at once. A text that already waits, or is being computed, is not computed
    again, nor is one of the last ``limits.remembered`` that were answered: trainers send a text again when an answer is
    late, and a response stands in several pairs. Errors are not remembered. Results go by text, so a mix-up of two
    requests is not possible by order.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[str], Sequence[str]], Sequence[object]],
        limits: Limits,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._compute = compute
        self._limits = limits
        self._on_batch = on_batch
        self._entries: dict[Pair, _Entry] = {}  # in order of arrival: those under way, then those that wait
        self._answered: OrderedDict[bytes, object] = OrderedDict()
        self._new = asyncio.Event()
        self._closed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reward")
        self.waiting = 0
        """Responses accepted and not yet answered, equal ones counted each."""

    async def submit(self, pairs: Sequence[Pair]) -> list[object]:
        """The result of each pair, in order.

        Raises :class:`QueueFullError`, :class:`ClosedError`, and :class:`TimedOutError` after ``limits.timeout``; what
        nobody waits for any more leaves the queue.
        """
        if self._closed:
            raise ClosedError("the server is stopping")
        known = {pair: self._recall(pair) for pair in pairs}
        asked = [pair for pair in pairs if known[pair] is None]
        if self.waiting + len(asked) > self._limits.queue:
            raise QueueFullError(f"{self.waiting} responses wait, the queue holds {self._limits.queue}")
        if asked:
            known |= await self._computed(asked)
        return [known[pair] for pair in pairs]

    async def _computed(self, pairs: Sequence[Pair]) -> dict[Pair, object]:
        self.waiting += len(pairs)
        entries = [self._entries.setdefault(pair, _Entry()) for pair in pairs]
        for entry in entries:
            entry.waiters += 1
        self._new.set()
        try:
            _, late = await asyncio.wait({entry.future for entry in entries}, timeout=self._limits.timeout)
            if late:
                raise TimedOutError(all(entry.started for entry in entries))
            return {pair: entry.future.result() for pair, entry in zip(pairs, entries, strict=True)}
        finally:
            self.waiting -= len(pairs)
            for pair, entry in zip(pairs, entries, strict=True):
                entry.waiters -= 1
                if not (entry.waiters or entry.started):
                    self._entries.pop(pair, None)

    def _recall(self, pair: Pair) -> object | None:
        key = _digest(pair)
        if key in self._answered:
            self._answered.move_to_end(key)
        return self._answered.get(key)

    async def run(self) -> None:
        """Compute batches until :meth:`close`, and then what is left; the server runs this as a task."""
        try:
            while True:
                await self._new.wait()
                if not self._entries:
                    if self._closed:
                        return
                    self._new.clear()
                    continue
                if len(self._entries) < self._limits.batch and not self._closed:
                    await asyncio.sleep(self._limits.wait)
                await self._compute_batch(list(islice(self._entries.items(), self._limits.batch)))
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _compute_batch(self, batch: list[tuple[Pair, _Entry]]) -> None:
        if not batch:
            return
        for _, entry in batch:
            entry.started = True
        self._on_batch(len(batch))
        prompts, responses = zip(*(pair for pair, _ in batch), strict=True)
        results: Sequence[object]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._pool, self._compute, prompts, responses)
        except Exception as error:
            log.error("a batch failed: %s", describe_fault(error))
            results = [error] * len(batch)
        for (pair, entry), result in zip(batch, results, strict=True):
            del self._entries[pair]
            entry.future.set_result(result)
            if not isinstance(result, Exception):
                self._answered[_digest(pair)] = result
        while len(self._answered) > self._limits.remembered:
            self._answered.popitem(last=False)

    def close(self) -> None:
        """Take no more; :meth:`run` ends when everything that was accepted is answered."""
        self._closed = True
        self._new.set()


def _digest(pair: Pair) -> bytes:
    prompt, response = (text.encode("utf-8", "surrogatepass") for text in pair)
    return hashlib.sha256(b"%d:%b%b" % (len(prompt), prompt, response)).digest()
