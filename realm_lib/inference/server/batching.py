"""Concurrent requests gathered into batches, computed by one thread; equal texts once, and every client in its turn."""

import asyncio
import hashlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

from realm_lib.inference.server.faults import describe_fault
from realm_lib.inference.server.limits import Limits
from realm_lib.inference.server.turns import Turns

log = logging.getLogger("realm_lib.inference.server")

Pair = tuple[str, str]


_OF_A_TEXT = 100
"""What a text costs beside its characters, in characters: the template, and its part of a pass."""


class QueueFullError(RuntimeError):
    """More responses wait for an answer than the queue holds."""


class ClosedError(RuntimeError):
    """The server is stopping: it takes no more, or did not get to what it had taken."""


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

    A batch is bounded by the number of its texts and by their characters. Half of it is taken by turns, of whoever has
    had least (:class:`Turns`): a client's one response is in the next batch however many of another wait. The other
    half is what has waited longest: a large request takes at most twice as long as if it were first come, first served,
    and does not run out of its time because small ones keep coming. What is not asked for any more leaves.
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
        self._turns: Turns[Pair] = Turns()
        self._of_clients: Counter[Hashable] = Counter()  # what each has of ``waiting``
        self._answered: OrderedDict[bytes, object] = OrderedDict()
        self._new = asyncio.Event()
        self._closed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reward")
        self.waiting = 0
        """Responses accepted and not yet answered, equal ones counted each."""

    async def submit(self, pairs: Sequence[Pair], client: Hashable = None) -> list[object]:
        """The result of each pair, in order, for ``client``.

        Raises :class:`QueueFullError`, :class:`ClosedError`, and :class:`TimedOutError` after ``limits.timeout``; what
        nobody waits for any more leaves the queue. A full queue still takes a request of a client of which nothing
        waits, until twice as many wait: no client can fill it for the others.
        """
        if self._closed:
            raise ClosedError("the server is stopping")
        known = {pair: self._recall(pair) for pair in pairs}
        asked = [pair for pair in pairs if known[pair] is None]
        before = self.waiting if self._of_clients[client] else max(0, self.waiting - self._limits.queue)
        if asked and before + len(asked) > self._limits.queue:
            raise QueueFullError(f"{self.waiting} responses wait, the queue holds {self._limits.queue}")
        if asked:
            known |= await self._computed(asked, client)
        return [known[pair] for pair in pairs]

    async def _computed(self, pairs: Sequence[Pair], client: Hashable) -> dict[Pair, object]:
        self.waiting += len(pairs)
        self._of_clients[client] += len(pairs)
        entries = {pair: self._entries.setdefault(pair, _Entry()) for pair in dict.fromkeys(pairs)}
        request = object()
        self._turns.add(client, request, [(pair, _cost(pair)) for pair in entries])
        for entry in entries.values():
            entry.waiters += 1
        self._new.set()
        try:
            _, late = await asyncio.wait({entry.future for entry in entries.values()}, timeout=self._limits.timeout)
            if late:
                raise TimedOutError(all(entry.started for entry in entries.values()))
            return {pair: entry.future.result() for pair, entry in entries.items()}
        finally:
            self.waiting -= len(pairs)
            self._of_clients[client] -= len(pairs)
            if not self._of_clients[client]:
                del self._of_clients[client]
            self._turns.drop(client, request)
            for pair, entry in entries.items():
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
                await self._compute_batch(self._next_batch())
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _next_batch(self) -> list[Pair]:
        batch = self._filled(self._by_turns(), (self._limits.batch + 1) // 2)
        return batch + self._filled(iter(self._entries), self._limits.batch - len(batch), known=batch)

    def _by_turns(self) -> Iterator[Pair]:
        taken: set[Pair] = set()
        while (pair := self._turns.take(lambda one: one in self._entries and one not in taken)) is not None:
            taken.add(pair)
            yield pair

    def _filled(self, order: Iterator[Pair], most: int, known: Sequence[Pair] = ()) -> list[Pair]:
        """The first of ``order`` but ``known``, at most so many, and until half of the characters are reached."""
        chosen: dict[Pair, None] = {}
        characters = 0
        prompts = {prompt for prompt, _ in known}  # what is computed once counts once
        passed = set(known)
        while len(chosen) < most and characters < self._limits.batch_characters / 2:
            pair = next(order, None)
            if pair is None:
                break
            if pair in passed:
                continue
            characters += _cost(pair) - (len(pair[0]) if pair[0] in prompts else 0)
            prompts.add(pair[0])
            chosen[pair] = None
        return list(chosen)

    async def _compute_batch(self, batch: Sequence[Pair]) -> None:
        if not batch:
            return
        entries = {pair: self._entries[pair] for pair in batch}
        for entry in entries.values():
            entry.started = True
        self._on_batch(len(batch))
        prompts, responses = zip(*batch, strict=True)
        results: Sequence[object]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._pool, self._compute, prompts, responses)
        except Exception as error:
            log.error("a batch failed: %s", describe_fault(error))
            results = [error] * len(batch)
        for (pair, entry), result in zip(entries.items(), results, strict=True):
            del self._entries[pair]
            entry.future.set_result(result)
            if not isinstance(result, Exception):
                self._answered[_digest(pair)] = result
        while len(self._answered) > self._limits.remembered:
            self._answered.popitem(last=False)

    def close(self, within: float | None = None) -> None:
        """Take no more; :meth:`run` ends when everything that was accepted is answered.

        After ``within`` seconds what is not being computed is answered with :class:`ClosedError`.
        """
        self._closed = True
        self._new.set()
        if within is not None:
            asyncio.get_running_loop().call_later(within, self._give_up)

    def _give_up(self) -> None:
        for pair, entry in list(self._entries.items()):
            if not entry.started:
                del self._entries[pair]
                entry.future.set_result(ClosedError("the server is stopping"))


def _cost(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1]) + _OF_A_TEXT


def _digest(pair: Pair) -> bytes:
    prompt, response = pair
    return hashlib.sha256(_digest_of_prompt(prompt) + response.encode("utf-8", "surrogatepass")).digest()


@lru_cache(maxsize=8)  # that of 256 responses is often one, and may be long: the event loop waits for this
def _digest_of_prompt(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
