"""vLLM's HTTP server as a client sees it: completions by token ids, adapters at runtime, weights read from a folder.

What is asked here is what vLLM's documentation and sources describe at the end of 2026 (versions 0.2x to 0.3x): the
OpenAI-style ``/v1/completions`` with vLLM's own fields, as ``return_token_ids``; ``/v1/load_lora_adapter`` and
``/v1/unload_lora_adapter``, there with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``; and, with
``VLLM_SERVER_DEV_MODE=1``, ``/collective_rpc``, ``/reset_prefix_cache``, ``/update_weight_version``, ``/weight_info``
(the last two in newer versions). The documentation shows ``reload_weights`` by ``/collective_rpc``; that it takes
``weights_path`` is said by vLLM's issues and others' clients only. All of it was tested against a stand-in that speaks
this protocol, never against vLLM itself.
"""

import threading
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import httpx

from realm_lib.config.base import Secret
from realm_lib.config.rollouts import VLLMParams
from realm_lib.models.hosted import RemoteError, Service, with_retries
from realm_lib.models.rate_limiter import RateLimiter

_HINTS = {
    400: "the server does not take this request: are its version and its --max-model-len right?",
    401: "the key is not accepted: look at rlhf.ppo.vllm.api_key",
    404: "no such model or address: is this vLLM's own server, with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and "
    "--enable-lora for an adapter, or VLLM_SERVER_DEV_MODE=1 for all weights?",
}
_NOT_FOUND = 404


class VLLMServer:
    """One address of a server. Each method asks as often as the parameters allow and raises RemoteError."""

    def __init__(self, url: str, params: VLLMParams) -> None:
        self.url, self.params = url.rstrip("/"), params
        secret = None if params.api_key is None else Secret(params.api_key)
        if secret is not None:
            secret.reveal()  # a key that is not set is said now, not after the first rollout's prompts
        self._service = Service(f"vLLM at {self.url}", _HINTS, secret)
        self._limiter = RateLimiter()
        self._client = httpx.Client(
            timeout=params.timeout,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=params.max_in_flight),
        )

    def models(self) -> list[str]:
        """What may stand as ``model`` of a completion: the base model first, then adapters."""
        listed = self._json(self._ask("GET", "/v1/models"))
        try:
            return [str(model["id"]) for model in listed["data"]]
        except (TypeError, KeyError):
            raise self.unreadable(listed) from None

    def load_adapter(self, name: str, path: PurePath) -> None:
        """Load the adapter in the folder ``path``, as the server sees it."""
        try:
            self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        except RemoteError:
            # Of an answer that was lost the server did its part: the next try is refused, since the name is taken.
            if name not in self.models():
                raise

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; nothing happens where the server has none of that name."""
        self._unless_missing("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def reload_weights(self, path: PurePath, version: str) -> None:
        """Read all weights from the folder ``path``, drop what was cached under the old ones, note ``version``."""
        # The server would go on from keys and values that the old weights made.
        self._ask("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(path)}})
        self._ask("POST", "/reset_prefix_cache")
        self._unless_missing("POST", "/update_weight_version", {"new_version": version})

    def weight_version(self) -> str | None:
        """The version that was last noted; None where the server does not know of versions."""
        told = self._unless_missing("GET", "/weight_info")
        if told is None:
            return None
        content = self._json(told)
        if not isinstance(content, dict) or "weight_version" not in content:
            raise self.unreadable(content)
        return str(content["weight_version"])

    def complete(self, request: Mapping[str, Any], cancelled: threading.Event) -> Any:
        """The JSON that answers a completion, unread."""
        return self._json(self._ask("POST", "/v1/completions", request, cancelled))

    def unreadable(self, content: Any) -> RemoteError:
        """An answer that is not of the protocol; asking again will not help."""
        return RemoteError(
            f"{self._service.name} gave an answer that cannot be read: {self._service.shown(str(content))}"
        )

    def _unless_missing(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response | None:
        try:
            return self._ask(method, path, body)
        except RemoteError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise self.unreadable(answer.text) from None

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        cancelled: threading.Event | None = None,
    ) -> httpx.Response:
        return with_retries(
            lambda: self._service.request(self._client, method, self.url + path, body),
            limiter=self._limiter,
            max_attempts=self.params.max_attempts,
            first_wait=self.params.retry_wait,
            cancelled=cancelled,
        )
