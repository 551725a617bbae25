"""What the local servers that stand in for hosted models share: they misbehave on demand, and are quiet about it.

Faults are served in the order in which they were queued, one a request; a fault that stays is served for ever.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, TypeVar


@dataclass
class AnyFault:
    """What to do instead of a good answer. ``only_if`` picks the requests that it is for, by what they ask about."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """The whole body, in place of an error's or an answer's."""
    delay: float = 0.0
    cut_off: bool = False
    """Close the connection in the middle of the answer."""
    stays: bool = False
    only_if: Callable[[Any], bool] = bool


FaultT = TypeVar("FaultT", bound=AnyFault)


class FaultyServer(ThreadingHTTPServer, Generic[FaultT]):
    """A server on a free port of this machine; ``faults`` is what it will do wrong."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.faults: list[FaultT] = []
        self.lock = threading.Lock()

    def next_fault(self, asked: Any) -> FaultT | None:
        """The first fault for a request about ``asked``; call it with the lock held."""
        for fault in self.faults:
            if fault.only_if(asked):
                if not fault.stays:
                    self.faults.remove(fault)
                return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up or was killed closes its connections; that is no news."""


class FaultyHandler(BaseHTTPRequestHandler):
    """Sends an answer, or half of it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def send(self, status: int, content: bytes, headers: dict[str, str], cut_off: bool = False) -> None:
        """Answer with ``content``; its half and an end of the connection where it is cut off."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut_off else content)
        if cut_off:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


ServerT = TypeVar("ServerT", bound=ThreadingHTTPServer)


@contextmanager
def running(server: ServerT) -> Iterator[ServerT]:
    """``server``, answering until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
