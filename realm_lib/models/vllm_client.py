"""One address of vLLM's own HTTP server (``vllm serve``): requests with retries, and which models it says it serves."""

import threading
from collections.abc import Mapping
from typing import Any, Protocol

import httpx

from realm_lib.config.base import Secret
from realm_lib.models.hosted import RemoteError, Service, with_retries
from realm_lib.models.rate_limiter import RateLimiter


class Asking(Protocol):
    """The parameters of a section that say how a server is asked."""

    @property
    def api_key(self) -> str | None:
        """``${NAME}`` of the key that the server was started with, None for none."""

    @property
    def max_in_flight(self) -> int:
        """Requests at once."""

    @property
    def timeout(self) -> float:
        """Seconds to wait for an answer."""

    @property
    def max_attempts(self) -> int:
        """How often one request is tried."""

    @property
    def retry_wait(self) -> float:
        """Seconds, see :func:`realm_lib.models.hosted.with_retries`."""


class VLLMClient:
    """Asks as often as the parameters allow, from many threads; every method raises RemoteError.

    ``hints`` say by HTTP's status what a refusal may mean, in terms of the section that the address stands in.
    """

    def __init__(self, url: str, params: Asking, hints: Mapping[int, str]) -> None:
        self.url = url.rstrip("/")
        self._params = params
        secret = None if params.api_key is None else Secret(params.api_key)
        if secret is not None:
            secret.reveal()  # a key that is not set is said now, not after the first texts
        self._service = Service(f"vLLM at {self.url}", hints, secret)
        self._limiter = RateLimiter()
        self._client = httpx.Client(
            timeout=params.timeout,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=params.max_in_flight),
        )

    def cards(self) -> list[Mapping[str, Any]]:
        """What the server says of each model that a request may name: ``id``, ``root``, ``max_model_len``."""
        listed = self.json(self.ask("GET", "/v1/models"))
        cards = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(cards, list) or not all(isinstance(card, dict) and "id" in card for card in cards):
            raise self.unreadable(listed)
        return cards

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        cancelled: threading.Event | None = None,
    ) -> httpx.Response:
        """The answer to one request, if its status is 200."""
        return with_retries(
            lambda: self._service.request(self._client, method, self.url + path, body),
            limiter=self._limiter,
            max_attempts=self._params.max_attempts,
            first_wait=self._params.retry_wait,
            cancelled=cancelled,
        )

    def json(self, answer: httpx.Response) -> Any:
        """What ``answer`` holds."""
        try:
            return answer.json()
        except ValueError:
            raise self.unreadable(answer.text) from None

    def unreadable(self, content: Any) -> RemoteError:
        """An answer that is not of the protocol; asking again will not help."""
        return RemoteError(
            f"{self._service.name} gave an answer that cannot be read: {self._service.shown(str(content))}"
        )
