"""The log-probability of every token of a response, and the divergence of two policies from it.

Rows are padded on the right here: under causal attention no real token sees the padding behind it, so that neither a
mask nor positions are needed. Only hidden states that predict a response's token go through the output layer, a block
of them at a time: no [rows, tokens, vocabulary] tensor is made, which for 64 responses of 512 tokens over a vocabulary
of 128,000 would take 17 GB.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from realm_lib.rlhf.errors import PolicyError
from realm_lib.rlhf.policies.batches import alike_within_memory

BLOCK = 2**27
"""Logits that are made at once: 512 MiB in float32."""


def backbone_of(model: Any) -> Any:
    """The decoder under the output layer; a LoRA adapter on it stays active."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return causal.base_model


def next_token_logits(model: Any, hidden: Tensor) -> Tensor:
    """Logits [n, vocabulary] of the tokens after hidden states [n, hidden], as the model's own forward makes them."""
    config = model.config.get_text_config()
    logits: Tensor = model.get_output_embeddings()(hidden)
    if scale := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scale
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = cap * torch.tanh(logits / cap)
    return logits


def in_blocks(model: Any, states: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Hidden states [n, hidden] and target tokens [n] in parts of so many rows as may become logits at once."""
    size = max(1, BLOCK // int(model.config.get_text_config().vocab_size))
    return zip(torch.split(states, size), torch.split(targets, size), strict=True)


@torch.no_grad()
def check_output_layer(model: Any) -> None:
    """Refuse a model whose logits are made in a way that :func:`next_token_logits` does not know."""
    ids = torch.arange(1, 5, device=model.device)[None]
    hidden = backbone_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    own = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(next_token_logits(model, hidden), own, rtol=1e-3, atol=1e-3):
        raise PolicyError(
            f"{type(model).__name__}: its logits are not its output layer's answer to the last hidden states alone"
        )


def pad_right(rows: Sequence[Sequence[int]], device: Any) -> Tensor:
    """Token ids, int64 [rows, longest], zeros behind."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)


@torch.inference_mode()
def response_log_probs(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    batch_size: int = 16,
) -> list[NDArray[np.float32]]:
    """Log-probabilities of each response's tokens under ``model`` at ``temperature``, float32 [its tokens] each.

    ``responses`` are token ids, as :class:`Response` holds them. Longest rows first, ``batch_size``
    rows at once, or as many as fit memory. Raises :class:`PolicyError` for an empty prompt or response.
    """
    if len(prompt_ids) != len(responses):
        raise PolicyError(f"{len(prompt_ids)} prompts but {len(responses)} responses")
    if temperature <= 0:
        raise PolicyError(f"temperature must be above 0 for log-probabilities, got {temperature}")
    for index, (prompt, response) in enumerate(zip(prompt_ids, responses, strict=True)):
        if not prompt or not response:
            raise PolicyError(f"row {index}: prompt and response need a token each")
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompt_ids, responses, strict=True)]
    log_probs: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(lengths)
    backbone = backbone_of(model)

    def of(indices: list[int]) -> list[NDArray[np.float32]]:
        prompts, answers = [prompt_ids[n] for n in indices], [responses[n] for n in indices]
        ids = pad_right([[*p, *r] for p, r in zip(prompts, answers, strict=True)], model.device)
        hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state
        before = places_before_responses(prompts, answers, ids.shape[1], model.device)
        targets = torch.tensor([token for answer in answers for token in answer], device=model.device)
        blocks = in_blocks(model, hidden.flatten(0, 1)[before], targets)
        chosen = torch.cat([log_probs_of(model, *block, temperature) for block in blocks])
        return [values.cpu().numpy() for values in torch.split(chosen, [len(answer) for answer in answers])]

    for indices, found in alike_within_memory(lengths, batch_size, of, "log-probabilities"):
        for index, values in zip(indices, found, strict=True):
            log_probs[index] = values
    return log_probs


def log_probs_of(model: Any, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Log-probability [n] of the tokens ``targets`` [n] after hidden ``states`` [n, hidden], in float32."""
    logits = next_token_logits(model, states).float() / temperature
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None]).squeeze(1)


def places_before_responses(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], width: int, device: Any
) -> Tensor:
    """Places, in the flattened [rows * width], of the states that predict each response's tokens, row after row."""
    rows = enumerate(zip(prompts, responses, strict=True))
    places = [torch.arange(len(response)) + row * width + len(prompt) - 1 for row, (prompt, response) in rows]
    return torch.cat(places).to(device)


@dataclass(frozen=True)
class SequenceKL:
    """Estimates of KL(policy || reference) over whole responses, in nats a response, from the policy's own samples."""

    k1: float
    """Mean of the log-ratio of the response: unbiased, of high variance, may come out below 0."""
    k1_error: float
    """Its standard error over responses; 0 for a single one."""
    k3: float
    """Mean of the sum over tokens of exp(-d) - 1 + d, where d is a token's log-ratio: each term is unbiased for its
    token's KL and never below 0, and the variance is lower where the two are close (Schulman, "Approximating KL
    divergence", 2020); dominated by rare tokens where they are far apart."""


def sequence_kl(log_probs: Sequence[NDArray[np.floating]], reference: Sequence[NDArray[np.floating]]) -> SequenceKL:
    """KL of the policy that sampled the responses from a reference; see :class:`SequenceKL` for what is biased.

    Both hold one array of token log-probabilities a response, from the policy and from the reference, at one
    temperature. Samples of another policy, or only a part of the samples chosen by reward, give neither estimate.
    """
    if not log_probs or len(log_probs) != len(reference):
        raise PolicyError(f"{len(log_probs)} responses under the policy, {len(reference)} under the reference")
    ratios = [
        np.asarray(own, dtype=np.float64) - np.asarray(other, dtype=np.float64)
        for own, other in zip(log_probs, reference, strict=True)
    ]
    sums = np.array([ratio.sum() for ratio in ratios])
    error = float(sums.std(ddof=1) / np.sqrt(len(sums))) if len(sums) > 1 else 0.0
    k3 = np.array([(np.expm1(-ratio) + ratio).sum() for ratio in ratios])
    return SequenceKL(float(sums.mean()), error, float(k3.mean()))
