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

from realm_lib.config.rollouts import VLLMParams
from realm_lib.models.hosted import RemoteError
from realm_lib.models.vllm_client import VLLMClient

_HINTS = {
    400: "the server does not take this request: are its version and its --max-model-len right?",
    401: "the key is not accepted: look at rlhf.ppo.vllm.api_key",
    404: "no such model or address: is this vLLM's own server, with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and "
    "--enable-lora for an adapter, or VLLM_SERVER_DEV_MODE=1 for all weights?",
}
_NOT_FOUND = 404


class VLLMServer(VLLMClient):
    """One address of a server. Each method asks as often as the parameters allow and raises RemoteError."""

    def __init__(self, url: str, params: VLLMParams) -> None:
        super().__init__(url, params, _HINTS)
        self.params = params

    def models(self) -> list[str]:
        """What may stand as ``model`` of a completion: the base model first, then adapters."""
        return [str(card["id"]) for card in self.cards()]

    def load_adapter(self, name: str, path: PurePath) -> None:
        """Load the adapter in the folder ``path``, as the server sees it."""
        try:
            self.ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
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
        self.ask("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(path)}})
        self.ask("POST", "/reset_prefix_cache")
        self._unless_missing("POST", "/update_weight_version", {"new_version": version})

    def weight_version(self) -> str | None:
        """The version that was last noted; None where the server does not know of versions."""
        told = self._unless_missing("GET", "/weight_info")
        if told is None:
            return None
        content = self.json(told)
        if not isinstance(content, dict) or "weight_version" not in content:
            raise self.unreadable(content)
        return str(content["weight_version"])

    def complete(self, request: Mapping[str, Any], cancelled: threading.Event) -> Any:
        """The JSON that answers a completion, unread."""
        return self.json(self.ask("POST", "/v1/completions", request, cancelled))

    def _unless_missing(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response | None:
        try:
            return self.ask(method, path, body)
        except RemoteError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
