"""Drawing responses: a batched loop over a key-value cache in which every row has random numbers of its own.

A row's numbers come from its own seed, and a token is the first at which the cumulated probabilities exceed the row's
number (inversion sampling). So a response is the same alone or in any batch, and the same after a restart, as far as
the model's own arithmetic is. Rows of one prompt share its first pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from realm_lib.rlhf.errors import PolicyError
from realm_lib.rlhf.policies.batches import alike_within_memory
from realm_lib.rlhf.policies.loading import Policy
from realm_lib.rlhf.policies.thinking import after_thinking

_SHRINK_BELOW = 0.75
"""Ended rows leave the batch when fewer than this share of it still write: each leaving copies the cache."""


@dataclass(frozen=True)
class Response:
    """A sampled response: its tokens (the end token included, where it ended), its text, whether it ended itself."""

    ids: list[int]
    text: str
    ended: bool


def sample(
    policy: Policy,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    batch_size: int,
    thinking: Literal["keep", "strip"] = "keep",
) -> list[Response]:
    """One response to each prompt, in the prompts' order; ``seeds`` holds one number a prompt.

    At temperature 0 the likeliest token is taken and seeds do not matter. Prompts of like length are sampled together,
    at most ``batch_size`` at once, or as many as fit memory; generation stops when all rows have ended. Where weights
    are cut over processes, each draws rows of its own, as many as the others, at the same time. ``thinking`` "strip"
    leaves out of the responses' texts, and not of their tokens, what
    :func:`realm_lib.rlhf.policies.thinking.after_thinking` leaves out.
    Raises :class:`PolicyError` for an empty prompt, one that leaves no room for the response in the model's context,
    and logits that are not finite.
    """
    check_prompts(policy, prompt_ids, seeds, max_new_tokens)

    def of(indices: list[int]) -> list[list[int]]:
        uniforms = np.stack([_uniforms(seeds[index], max_new_tokens) for index in indices])
        some = [prompt_ids[index] for index in indices]
        if policy.shards is None:
            with torch.inference_mode():
                return _generate(policy, some, uniforms, temperature)
        with torch.no_grad():  # weights gathered in inference mode could not be learned from later
            return policy.shards.run(lambda: _generate(policy, some, uniforms, temperature))

    drawn: list[list[int]] = [[] for _ in prompt_ids]
    was_training = policy.model.training
    policy.model.eval()
    try:
        lengths = [len(row) for row in prompt_ids]
        in_step = policy.shards is not None
        for indices, rows in alike_within_memory(lengths, batch_size, of, "sampling", policy.fits, in_step=in_step):
            for index, row in zip(indices, rows, strict=True):
                drawn[index] = row
    finally:
        policy.model.train(was_training)
    return [response_of(policy, prompt, ids, thinking) for prompt, ids in zip(prompt_ids, drawn, strict=True)]


def check_prompts(
    policy: Policy, prompt_ids: Sequence[Sequence[int]], seeds: Sequence[int], max_new_tokens: int
) -> None:
    """Raise :class:`PolicyError` for prompts that :func:`sample` could not answer, whoever draws the answers."""
    if len(seeds) != len(prompt_ids):
        raise PolicyError(f"{len(prompt_ids)} prompts but {len(seeds)} seeds: each row needs its own")
    for index, row in enumerate(prompt_ids):
        if not row:
            raise PolicyError(f"prompt {index} has no tokens")
        if policy.context is not None and len(row) + max_new_tokens > policy.context:
            raise PolicyError(
                f"prompt {index} has {len(row)} tokens; with {max_new_tokens} new ones that is more than the model's "
                f"context of {policy.context}: lower max_prompt_tokens or max_new_tokens"
            )


def _uniforms(seed: int, count: int) -> NDArray[np.float64]:
    """The row's own numbers in [0, 1); a longer response begins with those of a shorter one."""
    return np.random.Generator(np.random.Philox(seed)).random(count)


def _generate(
    policy: Policy, prompts: Sequence[Sequence[int]], uniforms: NDArray[np.float64], temperature: float
) -> list[list[int]]:
    """The tokens of each row, up to its end token; ``uniforms`` is [rows, max_new_tokens].

    Where weights are cut, each pass is one of all processes: who is done goes on, for nothing, until all are.
    """
    from realm_lib.rlhf.policies.cache import roomy_cache  # imports transformers, which takes seconds

    model, device = policy.model, policy.model.device
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    ids, mask = _pad_left(distinct, device)
    numbers = torch.from_numpy(uniforms).to(device)
    ends = torch.tensor(sorted(policy.end_ids), device=device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = roomy_cache(model)
    drawn: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))  # which prompt each row of the batch writes for
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for step in range(uniforms.shape[1]):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if step == 0 and len(distinct) < len(prompts):
            own = torch.tensor([distinct.index(tuple(prompt)) for prompt in prompts], device=device)
            cache.reorder_cache(own)  # batch_repeat_interleave and batch_select_indices are not known to all layers
            logits, positions, mask = (tensor[own] for tensor in (logits, positions, mask))
        tokens = _draw(logits, numbers[:, step], temperature)
        for row, token, writes in zip(rows.tolist(), tokens.tolist(), alive.tolist(), strict=True):
            if writes:
                drawn[row].append(token)
        alive &= ~torch.isin(tokens, ends)
        writing = int(alive.sum())
        if policy.shards is None:
            if writing == 0:
                break
        elif not policy.shards.any(writing > 0):
            break
        positions = positions[:, -1:] + 1
        if 0 < writing < _SHRINK_BELOW * len(rows):
            keep = alive.nonzero().squeeze(1)
            cache.reorder_cache(keep)
            tensors = (tokens, positions, mask, numbers, alive)
            tokens, positions, mask, numbers, alive = (tensor[keep] for tensor in tensors)
            rows = rows[keep.cpu()]
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return drawn


def _draw(logits: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    """One token a row of ``logits`` [rows, vocabulary], by inversion of the cumulated probabilities in float64."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    cumulated = probabilities.double().cumsum(dim=-1)
    if not bool(torch.isfinite(cumulated[:, -1]).all()):
        raise PolicyError("the policy's logits are not finite: its weights are broken, or dtype float16 overflows")
    thresholds = (uniforms * cumulated[:, -1])[:, None]
    return torch.searchsorted(cumulated, thresholds, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def _pad_left(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Token ids and mask, int64 [rows, longest]; the padding's id is never read, the mask hides it."""
    tokens = [torch.tensor(row) for row in rows]
    ids = pad_sequence(tokens, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True, padding_side="left")
    return ids.to(device), mask.to(device)


def response_of(policy: Policy, prompt: Sequence[int], ids: list[int], thinking: Literal["keep", "strip"]) -> Response:
    """The tokens ``ids`` (at least one) that ``policy`` answered to ``prompt``, as a response.

    ``thinking`` is that of :class:`realm_lib.config.rlhf.SamplingParams`.
    """
    ended = ids[-1] in policy.end_ids
    written = ids[:-1] if ended else ids
    if thinking == "strip":
        return Response(ids, after_thinking(policy.tokenizer, prompt, written), ended)
    return Response(ids, policy.tokenizer.decode(written, skip_special_tokens=True), ended)
