"""A local server that speaks /predict of ``realm serve`` and misbehaves on demand; its reward counts letters."""

import json
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from support.faulty_server import AnyFault, FaultyHandler, FaultyServer, running

MODELS = {"reward_model": "letters@1", "embedding": "none", "combiner": "2", "realm_lib": "0"}


def numbers(prompt: str, response: str) -> dict[str, Any]:
    """The reward of a response and its parts."""
    score = float(len(response))
    return {
        "reward": score - len(prompt) / 16,
        "spread": score / 8,
        "score": score,
        "similarity": 0.5,
        "outside": len(prompt) > 999,
        "signals": {},
    }


@dataclass
class Fault(AnyFault):
    """What to do instead of a good answer; ``only_if`` is asked about the number of responses."""

    models: dict[str, str] | None = None
    """Those of an otherwise good answer."""


class PredictServer(FaultyServer[Fault]):
    """The server; ``asked`` is the responses of each request."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.asked: list[list[str]] = []
        self.authorizations: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(FaultyHandler):
    server: PredictServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body["response"])
            self.server.authorizations.add(self.headers["Authorization"])
            fault = self.server.next_fault(len(body["response"])) or Fault()
        time.sleep(fault.delay)
        status = fault.status if self.path == "/predict" or fault.status != 200 else 404
        results = [
            {**numbers(*texts), "models": fault.models or MODELS}
            for texts in zip(body["prompt"], body["response"], strict=True)
        ]
        answer: dict[str, Any] = {"rewards": [result["reward"] for result in results], "results": results}
        if status != 200:
            answer = {"detail": f"server says {status} to {self.headers['Authorization']}"}
        content = json.dumps(answer).encode() if fault.body is None else fault.body
        self.send(status, content, fault.headers, fault.cut_off)


def running_predict_server() -> AbstractContextManager[PredictServer]:
    """A server on a free port of this machine."""
    return running(PredictServer())
