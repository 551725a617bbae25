"""Responses by transformers' continuous batching: a row that ends makes room for the next one at once.

It keeps keys and values in pages and packs all rows into one sequence, which is made for a GPU with flash attention;
on a CPU it works and gains nothing. All rows draw from one generator, so that a response depends on which rows share
its batch: a rollout repeats itself on the same machine with the same prompts, but not one prompt alone, not with
another number of processes, and answers to watched prompts before and after are not drawn from the same numbers.
"""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from realm_lib.rlhf.errors import SamplerError
from realm_lib.rlhf.policies import Policy, check_prompts, response_of
from realm_lib.rlhf.samplers.sampler import Drawn, Weights
from realm_lib.runs.seeds import derive_seed

_PAGE = 256
"""Tokens of a page: flash attention's kernels take multiples of it."""
_PACKED = 4096
"""Tokens of all rows in one forward pass, at most: longer prompts are read in parts."""


class ContinuousSampler:
    """:meth:`transformers.GenerationMixin.generate_batch` on the policy's own weights."""

    needs_weights = False

    def synchronise(self, policy: Policy, step: int, weights: Weights = None) -> str:  # noqa: ARG002
        """Nothing to do: the weights are the policy's."""
        return ""

    def sample(
        self,
        policy: Policy,
        prompt_ids: Sequence[Sequence[int]],
        *,
        version: str,  # noqa: ARG002
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        batch_size: int,
        thinking: Literal["keep", "strip"] = "keep",
    ) -> list[Drawn]:
        """As :meth:`Sampler.sample`, ``batch_size`` rows at once; all ``seeds`` together make the generator's seed."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        check_prompts(policy, prompt_ids, seeds, max_new_tokens)
        model = policy.model
        pages = -(-(max(map(len, prompt_ids)) + max_new_tokens) // _PAGE)
        rows = min(batch_size, len(prompt_ids))
        chance = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
        drawing = GenerationConfig(
            do_sample=temperature > 0,
            **chance,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(policy.end_ids),
            pad_token_id=policy.tokenizer.pad_token_id,
        )
        batching = ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=2 * rows * pages,  # layers of two kinds of attention take blocks of their own
            max_batch_tokens=_PACKED,
            max_requests_per_batch=rows,
            return_logprobs=True,
            auto_switch_to_flash=model.dtype != torch.float32,  # whose kernels take half precision only
            seed=derive_seed(0, "continuous", *seeds),
        )
        was_training = model.training
        model.eval()
        try:
            with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), _quiet():
                answers = model.generate_batch(
                    [list(row) for row in prompt_ids], generation_config=drawing, continuous_batching_config=batching
                )
        finally:
            model.train(was_training)
        found = list(answers.values())
        failed = [answer.error or "no token" for answer in found if answer.error or not answer.generated_tokens]
        if failed or len(found) != len(prompt_ids):
            reason = failed[0] if failed else f"{len(found)} responses to {len(prompt_ids)} prompts"
            raise SamplerError(
                f"continuous batching failed: {reason}. Lower rlhf.sampling.batch_size, or take rlhf.ppo.sampler local"
            )
        drawn = []
        for prompt, answer in zip(prompt_ids, found, strict=True):
            response = response_of(policy, prompt, [int(token) for token in answer.generated_tokens], thinking)
            drawn.append(Drawn(response.ids, response.text, response.ended, np.array(answer.logprobs)))
        return drawn


class _quiet:
    """Without transformers' lines about each batch; its errors are raised here."""

    _log = logging.getLogger("transformers.generation.continuous_batching")

    def __enter__(self) -> None:
        self._before = self._log.level
        self._log.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self._log.setLevel(self._before)
