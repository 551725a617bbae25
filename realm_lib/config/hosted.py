"""What the sections ``reward_model`` and ``embedding`` share: a model that may run at somebody's service."""

import re
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from realm_lib.config.base import SecretReference, Section

SAFE_ENDPOINT = re.compile(r"https://[^@\s]+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/[^@\s]*)?")
_PLAIN_ENDPOINT = re.compile(r"http://[^@\s]+")
_SERVER = re.compile(r"https?://[^@\s/]+(/[^@\s]*)?")


def check_servers(key: str, urls: Sequence[str], *, sends_key: bool) -> None:
    """Raise ValueError, naming ``key``, where one of ``urls`` is no address of a server of one's own, without /v1.

    With a key they are https, or on this machine.
    """
    for url in urls:
        if not _SERVER.fullmatch(url) or url.rstrip("/").endswith("/v1"):
            raise ValueError(f"{key}: {url!r} is not an address as http://127.0.0.1:8000, without /v1")
        if sends_key and not SAFE_ENDPOINT.fullmatch(url):
            raise ValueError(f"{key} must be https://HOST, or http:// with this machine's address: the key travels")


class HostedParams(Section):
    """Which model, and how its service is asked; models that run here need nothing below ``model_id``."""

    backend: str
    model_id: str
    api_key: SecretReference = None
    """Null means ``${GEMINI_API_KEY}`` for gemini, ``${NVIDIA_API_KEY}`` for nim, and for openai ``${OPENAI_API_KEY}``
    at OpenAI's own address, none at another and none for vllm: a key goes only where it is named for."""
    api_endpoint: str | None = None
    """Another address than the service's own, as ``https://proxy.example``; for openai and nim with its path, as
    ``http://127.0.0.1:8080/v1``."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """What your account allows; null sets no limit."""
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 8
    """Requests at once; for vllm at each of its endpoints, and a request is the responses to one prompt."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds to wait for an answer."""
    max_attempts: Annotated[int, Field(ge=1)] = 6
    """How often one request is tried."""
    retry_wait: Annotated[float, Field(gt=0)] = 1.0
    """The first wait between two tries is up to so many seconds; later ones double, up to a minute."""

    def sends_key(self) -> bool:
        """Whether requests to the service hold a key."""
        return True

    @model_validator(mode="after")
    def _key_travels_safely(self) -> Self:
        if self.api_endpoint is None or SAFE_ENDPOINT.fullmatch(self.api_endpoint):
            return self
        if self.sends_key() or not _PLAIN_ENDPOINT.fullmatch(self.api_endpoint):
            raise ValueError(
                "api_endpoint must be https://HOST, or http:// with this machine's 127.0.0.1 or localhost: the key "
                "travels with every request"
            )
        return self
