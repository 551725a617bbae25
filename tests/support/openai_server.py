"""A local server that speaks OpenAI's embedding protocol and misbehaves on demand.

Its vectors are a function of the text as it was sent, the further fields and the dimensions alone.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from support.faulty_server import AnyFault, FaultyHandler, FaultyServer, running

Rows = list[dict[str, Any]]


@lru_cache(maxsize=20000)
def vector(text: str, dimensions: int, fields: str = "{}") -> tuple[float, ...]:
    """The server's vector for a text: pseudo-random, of length 3, and short enough for float32 to hold exactly."""
    digest = hashlib.sha256(f"{fields}|{text}".encode()).digest()
    row = np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(dimensions)
    return tuple((3 * row / np.linalg.norm(row)).astype(np.float32).astype(float).tolist())


def unit_vector(text: str, dimensions: int, **fields: Any) -> np.ndarray[Any, Any]:
    """What a client should make of it, float64."""
    row = np.array(vector(text, dimensions, json.dumps(fields, sort_keys=True)))
    return row / np.linalg.norm(row)


@dataclass
class Fault(AnyFault):
    """What to do instead of a good answer; ``only_if`` is asked about the request's texts."""

    change: Callable[[Rows], Rows] | None = None
    """What becomes of the rows of an otherwise good answer."""


@dataclass
class Request:
    """A request as it came."""

    at: float
    path: str
    headers: dict[str, str]
    texts: list[str]
    body: dict[str, Any]
    faulty: bool


class OpenAIServer(FaultyServer[Fault]):
    """The server of one model; ``requests`` is what it was asked."""

    def __init__(self, dimensions: int = 128, *, shortens: bool = True, base64_known: bool = True) -> None:
        """``shortens``: it knows the field ``dimensions``; others refuse it, as vLLM does."""
        super().__init__(_Handler)
        self.dimensions = dimensions
        self.shortens = shortens
        self.base64_known = base64_known
        self.max_characters: int | None = None
        """Longer texts are refused, in TEI's words."""
        self.requests: list[Request] = []
        self.latency = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def answered(self) -> list[str]:
        """Texts that got a good answer, one entry an answer."""
        return [text for request in self.requests if not request.faulty for text in request.texts]


class _Handler(FaultyHandler):
    server: OpenAIServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        with self.server.lock:
            fault = self.server.next_fault(texts)
            self.server.requests.append(
                Request(time.monotonic(), self.path, dict(self.headers), texts, body, bool(fault))
            )
        time.sleep(self.server.latency)
        self._answer(body, texts, fault or Fault())

    def do_GET(self) -> None:
        """Where a redirect would lead."""
        self.server.requests.append(Request(time.monotonic(), self.path, dict(self.headers), [], {}, True))
        self.send(200, b"{}", {})

    def _answer(self, body: dict[str, Any], texts: list[str], fault: Fault) -> None:
        time.sleep(fault.delay)
        status, said = fault.status, f"server says {fault.status}"
        most = self.server.max_characters
        if self.path != "/v1/embeddings":
            status, said = 404, "no such route"
        elif body.get("dimensions", self.server.dimensions) != self.server.dimensions and not self.server.shortens:
            status, said = 400, "the model does not support matryoshka representation"
        elif most is not None and max(map(len, texts)) > most:
            status, said = 413, "Input validation error: `inputs` must have less than 512 tokens. Given: 534"
        if status != 200:
            error = {"error": {"message": said, "type": "some_error", "param": None, "code": None}}
            self.send(status, fault.body or json.dumps(error).encode(), fault.headers)
            return
        fields = {key: body[key] for key in body.keys() - {"model", "input", "dimensions", "encoding_format"}}
        size = body.get("dimensions") or self.server.dimensions
        rows: Rows = []
        for index, text in enumerate(texts):
            values: Any = list(vector(text, size, json.dumps(fields, sort_keys=True)))
            if body.get("encoding_format") == "base64" and self.server.base64_known:
                values = base64.b64encode(np.array(values, dtype="<f4").tobytes()).decode()
            rows.append({"object": "embedding", "index": index, "embedding": values})
        if fault.change:
            rows = fault.change(rows)
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        answer = {"object": "list", "data": rows, "model": "another-name", "usage": usage}
        self.send(200, fault.body or json.dumps(answer).encode(), fault.headers, cut_off=fault.cut_off)


def running_server(dimensions: int = 128, **changes: bool) -> AbstractContextManager[OpenAIServer]:
    """A server on a free port of this machine."""
    return running(OpenAIServer(dimensions, **changes))
