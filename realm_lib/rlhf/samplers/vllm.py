"""Responses by a server of vLLM's, which is given the policy's weights before each rollout.

Weights are known by what they are: their name ends in a digest of all that is trained. So weights of another training,
of a killed one, or of an earlier step never pass for the policy's, and a server that has them is not sent them again.
"""

import hashlib
import math
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch

from realm_lib.config.rollouts import VLLMParams
from realm_lib.models.hosted import LONGEST_MESSAGE, RemoteError, ask_all
from realm_lib.rlhf.errors import SamplerError
from realm_lib.rlhf.policies import Policy, check_prompts, response_of, save_policy
from realm_lib.rlhf.samplers.sampler import Drawn, Weights
from realm_lib.rlhf.samplers.vllm_server import VLLMServer


class VLLMSampler:
    """One request a response, with its own seed, spread over the servers.

    A policy with a LoRA adapter is handed over as its adapter, another one as all its weights. What a server draws from
    a seed is repeated by the same server, and is not what :class:`LocalSampler` draws from it.
    """

    needs_weights = True

    def __init__(self, params: VLLMParams, label: str, folder: Path) -> None:
        self.params, self._prefix = params, f"realm-{label}-"
        self._folder = folder.resolve() / f".{self._prefix}weights"
        self._servers = [VLLMServer(url, params) for url in params.urls]
        self._held: dict[str, str] = {}
        """The last weights that each server was given by this process."""
        self._base = params.model

    def synchronise(self, policy: Policy, step: int, weights: Weights = None) -> str:
        """Hand the weights over to each server that does not have them; what they replace is forgotten."""
        version = f"{self._prefix}{step}-{_digest(policy, weights)}"
        by_adapter = hasattr(policy.model, "peft_config")
        try:
            for server in self._servers:
                if by_adapter:
                    self._give_adapter(server, policy, version, weights)
                else:
                    self._give_weights(server, policy, version, weights)
        except RemoteError as error:
            raise SamplerError(f"the weights after update {step} could not be handed over: {error}") from error
        for old in self._folder.iterdir() if self._folder.is_dir() else ():
            if old.name != version:
                shutil.rmtree(old)
        return version

    def sample(
        self,
        policy: Policy,
        prompt_ids: Sequence[Sequence[int]],
        *,
        version: str,
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        batch_size: int,  # noqa: ARG002
        thinking: Literal["keep", "strip"] = "keep",
    ) -> list[Drawn]:
        """As :meth:`Sampler.sample`; how many rows share a batch is the server's own decision.

        Raises :class:`SamplerError` for an answer that is not exactly one response: whole, of the prompt that was
        asked, with a log-probability for each token, ended by a token that ends the policy's responses.
        """
        check_prompts(policy, prompt_ids, seeds, max_new_tokens)
        try:
            model = version if hasattr(policy.model, "peft_config") else self._base_model()
            common = {
                "model": model,
                "max_tokens": max_new_tokens,
                "temperature": temperature,
                "n": 1,
                # The model's generation_config would fill in what is not said.
                **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
                **{"presence_penalty": 0.0, "frequency_penalty": 0.0},
                "stop_token_ids": sorted(policy.end_ids),
                "logprobs": 0,  # of the sampled token alone
                "return_token_ids": True,
            }
            drawn: dict[int, Drawn] = {}

            def ask(row: tuple[Sequence[int], int], stopped: threading.Event) -> Any:
                prompt, seed = row
                server = self._servers[seed % len(self._servers)]
                return server.complete({**common, "prompt": list(prompt), "seed": seed}, stopped)

            rows = list(zip(prompt_ids, seeds, strict=True))
            for index, content in ask_all(rows, ask, max_in_flight=self.params.max_in_flight, expected=(RemoteError,)):
                if isinstance(content, RemoteError):
                    raise content
                try:
                    drawn[index] = _read(policy, content, prompt_ids[index], max_new_tokens, thinking)
                except (KeyError, IndexError, TypeError, ValueError) as error:
                    said = str(content)[:LONGEST_MESSAGE]
                    raise SamplerError(
                        f"the answer to prompt {index} cannot be used: {type(error).__name__}: {error}: {said}"
                    ) from None
        except RemoteError as error:
            raise SamplerError(f"the rollout by {version} failed: {error}") from error
        return [drawn[index] for index in range(len(prompt_ids))]

    def _give_adapter(self, server: VLLMServer, policy: Policy, version: str, weights: Weights) -> None:
        listed = server.models()
        if version not in listed:
            server.load_adapter(version, self._saved(policy, version, weights))
        for old in listed:
            if old.startswith(self._prefix) and old != version:
                server.unload_adapter(old)

    def _give_weights(self, server: VLLMServer, policy: Policy, version: str, weights: Weights) -> None:
        noted = server.weight_version()
        if version != (self._held.get(server.url) if noted is None else noted):
            server.reload_weights(self._saved(policy, version, weights), version)
            self._held[server.url] = version

    def _saved(self, policy: Policy, version: str, weights: Weights) -> PurePosixPath | Path:
        """The folder of these weights, as the server sees it; they are written where they are not there yet."""
        folder = self._folder / version
        if not folder.is_dir():
            save_policy(policy, folder, weights=weights)
        if self.params.folder_at_server is None:
            return folder
        return PurePosixPath(self.params.folder_at_server) / self._folder.name / version

    def _base_model(self) -> str:
        if self._base is None:
            listed = self._servers[0].models()
            if not listed:
                raise self._servers[0].unreadable(listed)
            self._base = listed[0]
        return self._base


def _digest(policy: Policy, weights: Weights) -> str:
    """Of all weights that are trained; ``weights`` are those of a policy that is cut over processes."""
    digest = hashlib.sha256()
    for name, value in policy.model.named_parameters():
        if value.requires_grad:
            flat = (value.detach() if weights is None else weights[name]).contiguous().flatten().view(torch.uint8)
            digest.update(name.encode() + flat.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(
    policy: Policy, content: Any, prompt_ids: Sequence[int], max_new_tokens: int, thinking: Literal["keep", "strip"]
) -> Drawn:
    """The response in a completion's JSON. Raises KeyError and its like where the JSON is of another form."""
    (choice,) = content["choices"]
    ids, log_probs, finish = choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"]
    echoed = choice.get("prompt_token_ids")
    if echoed is not None and list(echoed) != list(prompt_ids):
        raise ValueError("it answers another prompt: the server changed the tokens")
    if not ids or not all(isinstance(token, int) and token >= 0 for token in ids):
        raise ValueError("token_ids are not tokens: does this version know return_token_ids?")
    if len(log_probs) != len(ids) or not all(isinstance(value, float | int) for value in log_probs):
        raise ValueError(f"{len(log_probs)} log-probabilities for {len(ids)} tokens")
    numbers = np.array(log_probs, dtype=np.float64)
    if not all(math.isfinite(value) and value <= 1e-3 for value in numbers):
        raise ValueError("log-probabilities must be finite and not above 0: see --logprobs-mode")
    response = response_of(policy, prompt_ids, ids, thinking)
    if (finish, response.ended) not in {("stop", True), ("length", False)}:
        raise ValueError(f"finish_reason {finish!r} after token {ids[-1]}: responses end by {sorted(policy.end_ids)}")
    if not response.ended and len(ids) != max_new_tokens:
        raise ValueError(f"cut after {len(ids)} of {max_new_tokens} tokens: raise the server's --max-model-len")
    return Drawn(response.ids, response.text, response.ended, numbers)
