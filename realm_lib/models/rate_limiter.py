"""Keeping to what a service allows a minute, and what the requests of a run know of each other."""

import threading
import time
from collections import deque

_MINUTE = 60.0


class Cancelled(RuntimeError):
    """A request that was given up before it was sent, because another one failed for good."""


class _Allowance:
    """So many of something a minute, spaced evenly: after ``n`` of them nothing goes for ``n`` / ``per_minute``.

    Even spacing alone would let a large amount follow a small one at once, and the minute of both hold more than is
    allowed; so what went in the last minute is counted too. An amount over a whole minute's allowance goes alone.
    """

    def __init__(self, per_minute: int | None) -> None:
        self.per_minute = per_minute
        self._next = 0.0
        self._gone: deque[tuple[float, int]] = deque()
        self._sum = 0

    def earliest(self, after: float, amount: int) -> float:
        """When ``amount`` may go, at or after the time ``after``."""
        if self.per_minute is None:
            return after
        turn = max(after, self._next)
        while self._gone and (self._gone[0][0] + _MINUTE <= turn or self._sum + amount > self.per_minute):
            at, gone = self._gone.popleft()
            self._sum -= gone
            turn = max(turn, at + _MINUTE)
        return turn

    def take(self, at: float, amount: int) -> None:
        """Let ``amount`` go at the time ``at``."""
        if self.per_minute is not None:
            self._next = at + amount * _MINUTE / self.per_minute
            self._gone.append((at, amount))
            self._sum += amount


class RateLimiter:
    """Spaces requests evenly, so that no minute holds more requests or tokens than allowed. For many threads.

    Each request is given a time of its own: 60 s / requests_per_minute after the one before, and 60 s * the tokens of
    that one / tokens_per_minute. Time in which nobody asked is not made up for by a burst.
    """

    def __init__(self, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        self._requests = _Allowance(requests_per_minute)
        self._tokens = _Allowance(tokens_per_minute)
        self._lock = threading.Lock()
        self._held_until = 0.0
        self._answers = 0

    def acquire(self, tokens: int = 0, cancelled: threading.Event | None = None, requests: int = 1) -> None:
        """Wait until a request of ``tokens`` may be sent. Raises :class:`Cancelled` when the event is set first.

        ``requests`` is as how many requests the service counts it.
        """
        cancelled = cancelled or threading.Event()
        while True:
            with self._lock:
                turn = self._requests.earliest(max(time.monotonic(), self._held_until), requests)
                turn = self._tokens.earliest(turn, tokens)
                self._requests.take(turn, requests)
                self._tokens.take(turn, tokens)
            if cancelled.wait(turn - time.monotonic()):
                raise Cancelled("another request failed for good")
            with self._lock:
                if time.monotonic() >= self._held_until:
                    return

    def hold(self, seconds: float) -> None:
        """Let no request go for ``seconds``, those that wait for their turn included: the service asked for a pause."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    @property
    def answers(self) -> int:
        """How many requests were answered: by it one that was told to wait sees whether others get through."""
        with self._lock:
            return self._answers

    def answered(self) -> None:
        """Count an answer."""
        with self._lock:
            self._answers += 1
