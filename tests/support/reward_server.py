"""A local server that speaks the OpenAI-style protocol of NVIDIA's reward model and misbehaves on demand.

Its reward is a function of the dialogue alone. Faults are served in the order in which they were queued, one a
request; a fault that stays is served for ever.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Messages = list[dict[str, str]]
MODEL = "nvidia/llama-3.1-nemotron-70b-reward"


def reward(messages: Messages) -> float:
    """The server's reward for a dialogue: some number of sixteenths, as bf16 gives."""
    digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).digest()
    return (int.from_bytes(digest[:2], "big") % 1000 - 500) / 16


@dataclass
class Fault:
    """What to do instead of a good answer. ``only_if`` picks the requests that it is for, by the response."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content: Any = None
    """What the message says in an otherwise good answer."""
    delay: float = 0.0
    cut_off: bool = False
    """Close the connection in the middle of the answer."""
    stays: bool = False
    only_if: Callable[[str], bool] = bool


class RewardServer(ThreadingHTTPServer):
    """The server; ``asked`` is what it was asked, ``faults`` what it will do wrong."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[Messages] = []
        self.authorizations: set[str | None] = set()
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next_fault(self, response: str) -> Fault:
        for fault in self.faults:
            if fault.only_if(response):
                if not fault.stays:
                    self.faults.remove(fault)
                return fault
        return Fault()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up closes its connections; that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RewardServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body["messages"])
            self.server.authorizations.add(self.headers["Authorization"])
            fault = self.server.next_fault(body["messages"][-1]["content"])
        time.sleep(fault.delay)
        good = self.path == "/v1/chat/completions" and body["model"] == MODEL
        status = fault.status if good or fault.status != 200 else 404
        said = f"reward:{reward(body['messages'])}" if fault.content is None else fault.content
        answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
        if status != 200:
            answer = {"detail": f"server says {status} to {self.headers['Authorization']}"}
        content = json.dumps(answer).encode() if fault.body is None else fault.body
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **fault.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault.cut_off else content)
        if fault.cut_off:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def running_server() -> Iterator[RewardServer]:
    """A server on a free port of this machine."""
    with RewardServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
