"""A local server that speaks the OpenAI-style protocol of NVIDIA's reward model and misbehaves on demand.

Its reward is a function of the dialogue alone.
"""

import hashlib
import json
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from support.faulty_server import AnyFault, FaultyHandler, FaultyServer, running

Messages = list[dict[str, str]]
MODEL = "nvidia/llama-3.1-nemotron-70b-reward"


def reward(messages: Messages) -> float:
    """The server's reward for a dialogue: some number of sixteenths, as bf16 gives."""
    digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).digest()
    return (int.from_bytes(digest[:2], "big") % 1000 - 500) / 16


@dataclass
class Fault(AnyFault):
    """What to do instead of a good answer; ``only_if`` is asked about the response."""

    content: Any = None
    """What the message says in an otherwise good answer."""


class RewardServer(FaultyServer[Fault]):
    """The server; ``asked`` is what it was asked."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.asked: list[Messages] = []
        self.authorizations: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(FaultyHandler):
    server: RewardServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body["messages"])
            self.server.authorizations.add(self.headers["Authorization"])
            fault = self.server.next_fault(body["messages"][-1]["content"]) or Fault()
        time.sleep(fault.delay)
        good = self.path == "/v1/chat/completions" and body["model"] == MODEL
        status = fault.status if good or fault.status != 200 else 404
        said = f"reward:{reward(body['messages'])}" if fault.content is None else fault.content
        answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
        if status != 200:
            answer = {"detail": f"server says {status} to {self.headers['Authorization']}"}
        content = json.dumps(answer).encode() if fault.body is None else fault.body
        self.send(status, content, fault.headers, fault.cut_off)


def running_server() -> AbstractContextManager[RewardServer]:
    """A server on a free port of this machine."""
    return running(RewardServer())
