"""One request to a service that answers OpenAI's route ``/embeddings``: OpenAI, vLLM, TEI, Ollama and many others.

They agree on ``model``, ``input`` and a list of vectors with their index; they differ in what else they take and in how
they say that something is wrong.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from realm_lib.config.base import Secret
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.models.embedders.vectors import EmbedderError
from realm_lib.models.hosted import RemoteError, Service
from realm_lib.models.quotas import Quota

_ENDPOINT = "https://api.openai.com/v1"
_REDIRECTED = "it sends elsewhere, which is not followed: look at embedding.api_endpoint"
_HINTS = {
    **dict.fromkeys((301, 302, 303, 307, 308), _REDIRECTED),
    400: "the request is not valid: a text over the model's limit, or a field that the service does not take",
    401: "the key is missing or not accepted: look at embedding.api_key",
    403: "the key may not use this: look at embedding.api_key",
    404: "no such model or no such address: look at embedding.model_id, and whether embedding.api_endpoint ends as the "
    "service wants it, mostly in /v1",
    413: "a text over the model's limit, or more texts than it takes at once: see embedding.max_tokens and batch_size",
    422: "a text over the model's limit, or more texts than it takes at once: see embedding.max_tokens and batch_size",
    429: "the limit of your account is reached: lower embedding.requests_per_minute or tokens_per_minute",
}
_USED_UP = "insufficient_quota"
"""OpenAI's code of a 429 that no waiting cures."""


class OpenAIService(Service):
    """A service of this protocol: its errors are read for what they say, whatever form they have."""

    def refusal(self, status: int, message: str, retry_after: str | None, quota: Quota | None = None) -> RemoteError:
        """See :class:`Service`; an account without credit is not asked again."""
        body = _parsed(message)
        error = super().refusal(status, _said(body) or message, retry_after, quota)
        if isinstance(body, dict) and isinstance(body.get("error"), dict) and _USED_UP in body["error"].values():
            error.retryable = False
        return error


class OpenAIClient:
    """Sends one request, once; ``secret`` is None for a server that is sent no key."""

    def __init__(self, params: EmbeddingParams, secret: Secret | None) -> None:
        address = (params.api_endpoint or _ENDPOINT).rstrip("/")
        self._service = OpenAIService("the service", _HINTS, secret)
        self._url = f"{address}/embeddings"
        self._body: Mapping[str, Any] = {"model": params.model_id}
        if params.encoding_format != "float":  # float is every service's default, and Voyage does not take the word
            self._body = {**self._body, "encoding_format": params.encoding_format}
        self._client = httpx.Client(timeout=params.timeout, follow_redirects=False)
        known = params.openai_model
        self.shortens = known and (params.dimensions or known.dimensions) < known.dimensions
        """Whether the model's own vectors are longer than those that are wanted; None: not known yet."""

    def embed(
        self, texts: Sequence[str], fields: Mapping[str, Any], dimensions: int | None
    ) -> list[NDArray[np.float64]]:
        """The vectors in the order of ``texts``, unchecked but for being numbers.

        ``fields`` are further ones of the request, ``dimensions`` what the service is asked to shorten its vectors to,
        None to leave them as they are. Raises :class:`realm_lib.models.hosted.RemoteError` when there is no answer or a
        refusal, and :class:`EmbedderError` for an answer that cannot be read or does not say which vector is whose.
        """
        body = {**self._body, "input": list(texts), **fields}
        if dimensions is not None:
            body["dimensions"] = dimensions
        content = self._service.request(self._client, "POST", self._url, body).content
        try:
            return _vectors(content, len(texts))
        except EmbedderError as error:
            raise EmbedderError(self._service.shown(str(error))) from None


def _vectors(content: bytes, texts: int) -> list[NDArray[np.float64]]:
    """The vectors of an answer to so many ``texts``, by their index."""
    body = _parsed(content)
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list) or not all(isinstance(row, dict) and "embedding" in row for row in data):
        said = _said(body) or content.decode(errors="replace")
        raise EmbedderError(f"the service's answer cannot be read: {said}")
    if len(data) != texts:
        raise EmbedderError(f"the service answered {len(data)} vectors to {texts} texts")
    if texts == 1:
        return [_vector(data[0]["embedding"])]
    indices = [row.get("index") for row in data]
    if any(type(index) is not int for index in indices) or set(indices) != set(range(texts)):
        raise EmbedderError(
            f"the service's answer does not say which vector is whose (index {indices[:8]} of {texts}): "
            "embedding.batch_size: 1 asks for each text alone"
        )
    ordered = sorted(data, key=lambda row: row["index"])
    return [_vector(row["embedding"]) for row in ordered]


def _vector(value: Any) -> NDArray[np.float64]:
    """A vector of a list of numbers or of base64 of little-endian float32, whichever of them was asked for.

    Several servers pass over ``encoding_format`` and answer lists.
    """
    if isinstance(value, str):
        try:
            content = base64.b64decode(value, validate=True)
            return np.frombuffer(content, dtype="<f4").astype(np.float64)
        except (binascii.Error, ValueError):
            raise EmbedderError(f"the service's answer cannot be read: no base64 of float32: {value!r}") from None
    try:
        numbers = np.array(value)
    except (ValueError, OverflowError):  # lists of several lengths, or an integer without end
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or numbers.dtype.kind not in "fi":
        raise EmbedderError(f"the service's answer cannot be read: no list of numbers: {str(value)!r}")
    return numbers.astype(np.float64)


def _parsed(content: str | bytes) -> Any:
    """JSON, or None for what is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _said(body: Any) -> str:
    """The words of an error, empty where there are none.

    OpenAI, vLLM, llama.cpp and newer Ollama: ``{"error": {"message": ...}}``; TEI's and Ollama's own routes:
    ``{"error": ...}``; older vLLM, TEI and Jina: ``{"message": ...}`` or ``{"detail": ...}``.
    """
    while isinstance(body, dict):
        body = next((body[name] for name in ("error", "message", "detail") if body.get(name)), None)
    if isinstance(body, list):
        return json.dumps(body)
    return body if isinstance(body, str) else ""
