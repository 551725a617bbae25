"""A rollout: responses sampled from the policy, what they are worth, and what PPO learns from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from realm_lib.config.rlhf import PPOParams, SamplingParams
from realm_lib.data.chats import Prompt
from realm_lib.rlhf.policies import alike_within_memory
from realm_lib.rlhf.ppo.actor_critic import ActorCritic, Ids
from realm_lib.rlhf.ppo.estimators import generalised_advantages, leave_one_out, token_rewards, whiten
from realm_lib.rlhf.ppo.importance import importance_weights
from realm_lib.rlhf.rewards import Judge, Reward, ask_all
from realm_lib.rlhf.samplers import LocalSampler, Sampler

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """A prompt that is to be answered once."""

    index: int
    """Among the prompts that the user gave."""
    prompt: Prompt
    ids: list[int]
    """Its tokens."""
    seed: int
    """Of the answer's random numbers."""


@dataclass
class Episode:
    """One prompt answered once, everything measured of it. Plain values: processes exchange them."""

    index: int
    """Of the prompt among those that the user gave."""
    prompt_ids: list[int]
    response_ids: list[int]
    text: str
    ended: bool
    log_probs: Floats
    """Of the response's tokens under the policy that sampled them, and below under the reference: [tokens] each."""
    reference_log_probs: Floats
    values: Floats
    entropy: float
    """Mean over the tokens, in nats."""
    told: dict[str, float] = field(default_factory=dict)
    """What the reward told: reward, floored (1 where that is ``rlhf.floor_reward``, and then there are no parts), its
    parts by their names; and each judge's number by its name."""
    reference: float | None = None
    """What the policy as it came gets for the prompt, as :meth:`worth` counts; with ``rlhf.ppo.reference_samples``."""
    sampler_log_probs: Floats | None = None
    """Of the response's tokens as the sampler told them, where it is not the policy itself: [tokens]."""

    @property
    def kl(self) -> float:
        """Log-ratio of the whole response to the reference: an unbiased estimate of the KL in nats, of any sign."""
        return float((self.log_probs - self.reference_log_probs).sum())

    @property
    def kl_k3(self) -> float:
        """The estimate that is never below 0; see :class:`realm_lib.rlhf.policies.SequenceKL`."""
        ratio = self.log_probs - self.reference_log_probs
        return float((np.expm1(-ratio) + ratio).sum())

    def worth(self, penalty: float) -> float:
        """Reward less ``penalty`` times its spread (Coste et al., arXiv 2310.02743)."""
        return self.told["reward"] - penalty * self.told.get("spread", 0.0)


@dataclass(frozen=True)
class Learnable:
    """A rollout as tensors, float64 [episodes, tokens] padded on the right."""

    mask: Tensor
    old_log_probs: Tensor
    old_values: Tensor
    advantages: Tensor
    """Whitened over all tokens of the rollout."""
    returns: Tensor
    importance: Tensor | None = None
    """Weight of each token's policy loss; None where all are 1."""


def play(
    models: ActorCritic,
    asked: Sequence[Asked],
    reward: Reward,
    judges: Mapping[str, Judge],
    sampling: SamplingParams,
    params: PPOParams,
    floor: float | None,
    clock: Callable[[str], Any],
    sampler: Sampler | None = None,
    version: str = "",
    agreed: Callable[[Callable[[], pd.DataFrame]], pd.DataFrame] = lambda work: work(),
) -> list[Episode]:
    """One episode for each of ``asked``, in their order.

    Generation (by ``sampler``, None is the policy itself, from the weights that it calls ``version``), one pass of the
    policy with its value head, one of the reference, one call of the reward and of each judge. ``floor`` is the reward
    of what cannot be scored (``rlhf.floor_reward``); ``clock(name)`` is a context that measures a part; ``agreed``
    is :meth:`realm_lib.rlhf.ppo.processes.Processes.agreed`. Raises
    :class:`RewardError` before anything is learned when an answer of reward or judge cannot be used.
    """
    if not asked:
        return []
    with clock("sampling"):
        responses = (sampler or LocalSampler()).sample(
            models.policy,
            [row.ids for row in asked],
            version=version,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seeds=[row.seed for row in asked],
            batch_size=sampling.batch_size,
            thinking=sampling.thinking,
        )
    prompts, indices = [row.prompt for row in asked], [row.index for row in asked]
    texts = [response.text for response in responses]
    with clock("reward"):
        penalised = params.reward_uncertainty_penalty > 0
        table = agreed(lambda: ask_all(reward, judges, prompts, texts, indices, needs_spread=penalised, floor=floor))
    told = table.to_dict("records")
    episodes: dict[int, Episode] = {}
    lengths = [len(row.ids) + len(response.ids) for row, response in zip(asked, responses, strict=True)]

    def passes(batch: list[int]) -> list[list[Floats]]:
        """Log-probabilities, the reference's, values and entropies of each row's tokens."""
        prompt_ids, response_ids = [asked[n].ids for n in batch], [responses[n].ids for n in batch]
        tokens = models.evaluate(prompt_ids, response_ids, sampling.temperature)
        reference = models.reference_log_probs(prompt_ids, response_ids, sampling.temperature)
        assert tokens.entropies is not None
        found = (tokens.log_probs, reference, tokens.values, tokens.entropies)
        return [_by_row(numbers, response_ids) for numbers in found]

    with clock("forward"), torch.no_grad():
        fits, in_step = models.policy.fits, models.policy.shards is not None
        batches = alike_within_memory(lengths, sampling.batch_size, passes, "forward passes", fits, in_step=in_step)
        for batch, (log_probs, reference_log_probs, values, entropies) in batches:
            for row, n in enumerate(batch):
                episodes[n] = Episode(
                    index=asked[n].index,
                    prompt_ids=asked[n].ids,
                    response_ids=responses[n].ids,
                    text=texts[n],
                    ended=responses[n].ended,
                    log_probs=log_probs[row],
                    reference_log_probs=reference_log_probs[row],
                    values=values[row],
                    entropy=float(entropies[row].mean()),
                    told={str(name): float(value) for name, value in told[n].items() if not np.isnan(value)},
                    sampler_log_probs=responses[n].log_probs,
                )
    return [episodes[n] for n in range(len(asked))]


def learnable(episodes: Sequence[Episode], scores: Floats, kl_coefficient: float, params: PPOParams) -> Learnable:
    """Rewards of tokens, advantages and returns of a rollout; ``scores`` is [episodes], what each response earned.

    ``samples_per_prompt`` episodes in a row answer one prompt.
    """
    log_probs, mask = padded([episode.log_probs for episode in episodes])
    reference, _ = padded([episode.reference_log_probs for episode in episodes])
    values, _ = padded([episode.values for episode in episodes])
    compared = leave_one_out(torch.from_numpy(scores), params.samples_per_prompt)
    rewards = token_rewards(compared, log_probs, reference, mask, kl_coefficient)
    if params.whiten_rewards:
        rewards = whiten(rewards, mask, keep_mean=True)
    advantages, returns = generalised_advantages(rewards, values, mask, params.gamma, params.gae_lambda)
    importance = importance_weights(episodes, params)
    weights = None if importance is None else padded(importance)[0]
    return Learnable(mask, log_probs, values, whiten(advantages, mask), returns, weights)


def padded(rows: Sequence[Floats]) -> tuple[Tensor, Tensor]:
    """Rows of unequal length as float64 [rows, longest] with zeros behind, and the mask of what is real."""
    width = max(map(len, rows))
    values = torch.zeros(len(rows), width, dtype=torch.float64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        values[index, : len(row)] = torch.from_numpy(row)
        mask[index, : len(row)] = True
    return values, mask


def _by_row(values: Tensor, responses: Ids) -> list[Floats]:
    """``values`` of all tokens [n] as one array a response."""
    rows = torch.split(values.double().cpu(), [len(response) for response in responses])
    return [row.numpy() for row in rows]
