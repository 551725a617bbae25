"""A local server that speaks vLLM's protocol and misbehaves on demand: a tiny model drawn from by our own sampling.

It knows what vLLM knows and no more: the base model by its name, adapters that it was told to load, weights that it was
told to read. It draws from the seed of a request with ``realm_lib.rlhf.policies.sample``, in its own copy of the model,
so that a training on its rollouts can be compared with one that samples for itself.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from realm_lib.rlhf.policies import Policy, response_log_probs, sample
from support.faulty_server import AnyFault, FaultyHandler, FaultyServer, running

BASE = "tiny/base"


@dataclass
class Fault(AnyFault):
    """What to do instead of a good answer; ``only_if`` is asked about the path."""

    change: Any = None
    """Applied to the JSON of an otherwise good answer."""


class VLLMStandIn(FaultyServer[Fault]):
    """The server; ``log`` holds paths and bodies in their order, ``key`` is what clients must send."""

    def __init__(self, base: Path, *, key: str = "", versions: bool = True) -> None:
        super().__init__(_Handler)
        self.key, self.versions = key, versions
        self.dead = False
        """A server that is gone: it takes connections, as a proxy before it would, and closes them."""
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.base = base
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.restart()

    def restart(self) -> None:
        """As a server that was started again: it has forgotten what it was given."""
        self.weights: Any = AutoModelForCausalLM.from_pretrained(self.base).eval()
        self.adapters: dict[str, Any] = {}
        self.version: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def posted(self, path: str) -> list[dict[str, Any]]:
        """The bodies that were posted to ``path``."""
        return [body for asked, body in self.log if asked == path]

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON."""
        known: dict[str, Callable[[dict[str, Any]], tuple[int, Any]]] = {
            "/v1/models": self._models,
            "/v1/load_lora_adapter": self._load,
            "/v1/unload_lora_adapter": self._unload,
            "/collective_rpc": self._reload,
            "/reset_prefix_cache": lambda _: (200, {"success": True}),
            "/v1/completions": self._complete,
        }
        if self.versions:
            known |= {"/update_weight_version": self._note, "/weight_info": self._told}
        return known[path](body) if path in known else (404, {"detail": "Not Found"})

    def _models(self, _: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"data": [{"id": name} for name in (BASE, *self.adapters)]}

    def _unload(self, body: dict[str, Any]) -> tuple[int, Any]:
        return (200, "removed") if self.adapters.pop(body["lora_name"], None) else (404, "no such adapter")

    def _reload(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert body["method"] == "reload_weights"
        self.weights = AutoModelForCausalLM.from_pretrained(Path(body["kwargs"]["weights_path"])).eval()
        self.version = None
        return 200, {"results": [None]}

    def _note(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.version = body["new_version"]
        return 200, {"success": True, "new_version": self.version}

    def _told(self, _: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"weight_version": self.version}

    def _load(self, body: dict[str, Any]) -> tuple[int, Any]:
        from peft import PeftModel

        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        if not (folder / "adapter_model.safetensors").is_file():
            return 404, {"error": {"message": f"No adapter found for '{folder}'"}}
        base = AutoModelForCausalLM.from_pretrained(self.base)
        self.adapters[name] = PeftModel.from_pretrained(base, str(folder)).eval()
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        model = self.weights if body["model"] == BASE else self.adapters.get(body["model"])
        if model is None:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        policy, prompt, temperature = Policy(model, self.tokenizer), body["prompt"], body["temperature"]
        assert (body["n"], body["top_p"], body["top_k"], body["return_token_ids"]) == (1, 1.0, 0, True)
        assert set(body["stop_token_ids"]) == policy.end_ids
        (response,) = sample(
            policy,
            [prompt],
            max_new_tokens=body["max_tokens"],
            temperature=temperature,
            seeds=[body["seed"]],
            batch_size=1,
        )
        (log_probs,) = response_log_probs(model, [prompt], [response.ids], temperature=temperature)
        choice = {
            "index": 0,
            "text": response.text,
            "token_ids": response.ids,
            "prompt_token_ids": prompt,
            "logprobs": {"token_logprobs": [float(value) for value in log_probs]},
            "finish_reason": "stop" if response.ended else "length",
        }
        return 200, {"object": "text_completion", "model": body["model"], "choices": [choice]}


class _Handler(FaultyHandler):
    server: VLLMStandIn

    def do_GET(self) -> None:
        self._do({})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._do(json.loads(content) if content else {})

    def _do(self, body: dict[str, Any]) -> None:
        server = self.server
        with server.lock:  # one model, one thread
            if server.dead:
                self.close_connection = True
                return
            server.log.append((self.path, body))
            fault = server.next_fault(self.path) or Fault()
            time.sleep(fault.delay)
            status, answer = fault.status, {"error": {"message": "so it was asked for"}}
            if server.key and self.headers["Authorization"] != f"Bearer {server.key}":
                status, answer = 401, {"error": f"not {self.headers['Authorization']}"}
            elif status == 200:
                torch.set_num_threads(1)
                status, answer = server.answer(self.path, body)
            if server.dead:
                self.close_connection = True
                return
        if fault.change is not None:
            fault.change(answer)
        self.send(
            status, json.dumps(answer).encode() if fault.body is None else fault.body, fault.headers, fault.cut_off
        )


def running_vllm(base: Path, **options: Any) -> AbstractContextManager[VLLMStandIn]:
    """A server of the model in the folder ``base`` on a free port of this machine."""
    return running(VLLMStandIn(base, **options))
