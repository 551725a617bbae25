"""A local server that speaks the REST protocol of Gemini's embedding API and misbehaves on demand.

Its vectors are a function of model, text, task type and dimensions alone. As at Google's, a content of several parts
gets one vector.
"""

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

Vectors = list[list[float]]
MODELS = ("gemini-embedding-001", "gemini-embedding-2", "gemini-embedding-2-preview")


@lru_cache(maxsize=20000)
def vector(text: str, task_type: str | None, dimensions: int) -> tuple[float, ...]:
    """The server's vector for a text: pseudo-random, and of length 3, so that a client must normalise it.

    A model that takes no task type has its own name in the place of one.
    """
    digest = hashlib.sha256(f"{task_type}|{text}".encode()).digest()
    row = np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(dimensions)
    return tuple((3 * row / np.linalg.norm(row)).round(6).tolist())


def unit_vector(text: str, task_type: str | None, dimensions: int) -> np.ndarray[Any, Any]:
    """What a client should make of it, float64."""
    row = np.array(vector(text, task_type, dimensions))
    return row / np.linalg.norm(row)


@dataclass
class Fault(AnyFault):
    """What to do instead of a good answer; ``only_if`` is asked about the request's texts."""

    change: Callable[[Vectors], Vectors] | None = None
    """What becomes of the vectors of an otherwise good answer."""


@dataclass
class Request:
    """A request as it came."""

    at: float
    path: str
    headers: dict[str, str]
    texts: list[str]
    task_types: set[str | None]
    dimensions: set[int | None]
    faulty: bool


class GeminiServer(FaultyServer[Fault]):
    """The server; ``requests`` is what it was asked."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.requests: list[Request] = []
        self.latency = 0.0
        self.most_at_once = 0
        self.at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def answered(self) -> list[str]:
        """Texts that got a good answer, one entry an answer."""
        return [text for request in self.requests if not request.faulty for text in request.texts]


class _Handler(FaultyHandler):
    server: GeminiServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, _, method = self.path.removeprefix("/v1beta/models/").partition("?")[0].partition(":")
        asked = body["requests"] if method == "batchEmbedContents" else [body]
        texts = ["".join(part["text"] for part in one["content"]["parts"]) for one in asked]
        types = [one.get("taskType") for one in asked]
        # google-generativeai's protobuf sends an enumeration as its number.
        names = {1: "RETRIEVAL_QUERY", 2: "RETRIEVAL_DOCUMENT", 3: "SEMANTIC_SIMILARITY", 6: "QUESTION_ANSWERING"}
        types = [names.get(kind, kind) or None for kind in types]
        sizes = [one.get("outputDimensionality") for one in asked]
        with self.server.lock:
            fault = self.server.next_fault(texts)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            self.server.requests.append(
                Request(time.monotonic(), self.path, dict(self.headers), texts, set(types), set(sizes), bool(fault))
            )
        try:
            time.sleep(self.server.latency)
            self._answer(model, method, texts, types, sizes, fault or Fault())
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def do_GET(self) -> None:
        """Where a redirect would lead."""
        self.server.requests.append(Request(time.monotonic(), self.path, dict(self.headers), [], set(), set(), True))
        self.send(200, b"{}", {})

    def _answer(
        self, model: str, method: str, texts: list[str], types: list[Any], sizes: list[Any], fault: Fault
    ) -> None:
        time.sleep(fault.delay)
        status = fault.status
        if status == 200 and (model not in MODELS or method != "batchEmbedContents"):
            status = 404
        if status == 200 and model != MODELS[0] and any(types):
            status = 400
        if status == 200 and (len(texts) > 100 or not all(texts)):
            status = 400
        if status != 200:
            said = {"error": {"code": status, "message": f"server says {status}", "status": f"STATUS_{status}"}}
            self.send(status, fault.body or json.dumps(said).encode(), fault.headers)
            return
        types = [kind if model == MODELS[0] else model for kind in types]
        vectors = [list(vector(text, kind, size or 3072)) for text, kind, size in zip(texts, types, sizes, strict=True)]
        if fault.change:
            vectors = fault.change(vectors)
        content = fault.body or json.dumps({"embeddings": [{"values": row} for row in vectors]}).encode()
        self.send(200, content, fault.headers, cut_off=fault.cut_off)


def running_server() -> AbstractContextManager[GeminiServer]:
    """A server on a free port of this machine."""
    return running(GeminiServer())
