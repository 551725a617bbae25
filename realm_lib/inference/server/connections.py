"""Connections that wait for a request: each has its time, and the one that waits longest gives way to a new one.

uvicorn counts sockets and waits for ever for the end of a head: whoever holds some connections open, and sends nothing,
would be all that is served.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from realm_lib.inference.server.limits import Limits

_PIECE = 2**15
"""Bytes read at once: of the smallest chunks (HTTP's, a byte each), what takes some 30 ms to read."""


class Connection(H11Protocol):
    """A connection under the limits ``connections`` and ``head``."""

    def __init__(self, limits: Limits, **settings: Any) -> None:
        super().__init__(**settings)
        self.limits = limits
        self.silent_since: float | None = None
        """When it began to wait for a request; None while one is under way."""
        self._begun = False
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, in the place of the one that has been silent for longest where there are too many."""
        if hasattr(transport, "max_size"):  # asyncio's own
            transport.max_size = _PIECE
        super().connection_made(transport)
        self._wait(self.limits.head)
        if len(self.connections) > self.limits.connections:
            silent = [one for one in self.connections if isinstance(one, Connection) and one.silent_since is not None]
            longest = min(silent, key=lambda one: one.silent_since or 0.0)
            self.connections.discard(longest)  # now: many may be taken before the loop gets to closing one
            longest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on. From the first byte of a head its time runs, however many others follow."""
        if self.silent_since is not None and not self._begun:
            self._begun = True
            self._set_deadline(self.limits.head)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request, as long as uvicorn keeps a connection; or for the answer to be taken."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request had come already
            idle = 0 if self.transport.is_closing() else self.timeout_keep_alive
            self._wait(idle + self.limits.head)

    def pause_writing(self) -> None:
        """More of an answer is left to send than the system takes: there is a time for that too."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.head, self.transport.abort)

    def resume_writing(self) -> None:
        """It is taken."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._stop_waiting()

    def shutdown(self) -> None:
        """Close it, or after the request under way; an answer that nobody takes does not hold up the stop."""
        super().shutdown()
        if self.silent_since is not None:
            self._set_deadline(self.limits.head)

    def _wait(self, seconds: float) -> None:
        self.silent_since, self._begun = self.loop.time(), False
        self._set_deadline(seconds)

    def _set_deadline(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        self.silent_since = None
        if self._deadline is not None:
            self._deadline.cancel()
