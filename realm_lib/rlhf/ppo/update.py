"""The update that PPO is all about: a rollout to scores, advantages, and clipped steps on minibatches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realm_lib.config.rlhf import PPOParams, SamplingParams
from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.policies import local_part
from realm_lib.rlhf.policies.sharding import clip_gradients
from realm_lib.rlhf.ppo.actor_critic import ActorCritic
from realm_lib.rlhf.ppo.critic import fit_value_head
from realm_lib.rlhf.ppo.estimators import (
    KLController,
    RunningScale,
    approximate_kl,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    masked_mean,
)
from realm_lib.rlhf.ppo.importance import describe_sampler
from realm_lib.rlhf.ppo.monitor import describe
from realm_lib.rlhf.ppo.processes import Processes
from realm_lib.rlhf.ppo.references import transformed_rewards
from realm_lib.rlhf.ppo.rollout import Episode, Learnable, learnable
from realm_lib.runs.memory import MemoryShort, halving
from realm_lib.runs.seeds import derive_seed

_ADAM_EPS = 1e-5
"""Huang et al., arXiv 2403.17031: larger than PyTorch's 1e-8, as in the original code."""
_WATCHED = ("policy_loss", "value_loss", "clip_fraction", "approximate_kl")
"""What is summed over the tokens of a step to be watched, in this order."""


class Learner:
    """What changes the weights, and the numbers that it carries from one update to the next.

    These are the optimiser's moments, the weight of the KL (:attr:`kl`) and the scale of the rewards (:attr:`scale`).
    """

    def __init__(self, models: ActorCritic, params: PPOParams, sampling: SamplingParams, processes: Processes) -> None:
        self.models, self.params, self.sampling, self.processes = models, params, sampling, processes
        self._trained = list(models.trained_parameters().values())
        self.parameters = {name: local_part(value) for name, value in models.trained_parameters().items()}
        """What this process changes, by name: all that is trained, or its part of what is cut over processes."""
        count = len(models.policy_parameters())
        parts = list(self.parameters.values())
        groups = [{"params": parts[:count], "initial_lr": params.learning_rate}]
        if values := parts[count:]:
            groups.append({"params": values, "initial_lr": params.value_learning_rate or params.learning_rate})
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, eps=_ADAM_EPS, weight_decay=0.0, fused=True)
        self.kl = KLController(
            params.kl_coefficient, params.kl_target, params.kl_horizon or max(1, params.total_episodes // 10)
        )
        self.scale = RunningScale()
        self._most_rows: int | None = None  # of a part, as far as memory has shown

    def update(self, episodes: Sequence[Episode], step: int) -> dict[str, Any]:
        """Update number ``step``, counted from 0, from a rollout; returns its numbers.

        The learning rates fall linearly to zero. Every random number comes from the seed and ``step``.
        """
        params = self.params
        left = 1 - step / (params.total_episodes // params.batch_size)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * left
        coefficient = self.kl.coefficient
        data = learnable(episodes, self.scores(episodes), coefficient, params)
        if step < params.value_warmup:
            fit_value_head(self.models, episodes, data, self.sampling.batch_size, self.processes)
            watched = dict.fromkeys((*_WATCHED, "grad_norm"), 0.0)
        else:
            watched = self._epochs(episodes, data, step)
        seen = describe(episodes)
        self.kl.update(seen["kl"], len(episodes))
        return {
            **seen,
            **self._transformed(episodes),
            **describe_sampler(episodes, params),
            "kl_coefficient": coefficient,
            **watched,
            "value_error": float(masked_mean((data.returns - data.old_values) ** 2, data.mask)),
            "explained_variance": explained_variance(data.old_values, data.returns, data.mask),
            "learning_rate": params.learning_rate * left,
            "tokens": int(data.mask.sum()),
        }

    def _epochs(self, episodes: Sequence[Episode], data: Learnable, step: int) -> dict[str, float]:
        """``num_epochs`` passes of clipped steps over a rollout; the means of what is watched over all steps."""
        params = self.params
        sums = torch.zeros(len(_WATCHED), dtype=torch.float64)
        norms = []
        with self.models.training(), torch.enable_grad():
            for epoch in range(params.num_epochs):
                seed = derive_seed(params.seed, "ppo", "minibatches", step, epoch)
                order = np.random.default_rng(seed).permutation(len(episodes))
                for start in range(0, len(order), params.minibatch_size):
                    chosen = order[start : start + params.minibatch_size].tolist()
                    watched, norm = self._step(episodes, data, chosen, step)
                    sums += watched
                    norms.append(norm)
        means = zip(_WATCHED, (sums / len(norms)).tolist(), strict=True)
        return {**dict(means), "grad_norm": float(np.mean(norms))}

    def scores(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """What each response earns, [episodes]: penalised, transformed, scaled, less the penalty for a missing EOS.

        The first two are :func:`realm_lib.rlhf.ppo.references.transformed_rewards`. Scaling by the deviation of all
        rewards seen is OpenAI's baselines' (Engstrom et al., 2005.12729, section 3); a reward for responses without an
        EOS that is lower than others is the "EOS trick" of Huang et al. (2403.17031).
        """
        params = self.params
        scores = transformed_rewards(episodes, params, params.reward_transform)
        if params.reward_scaling:
            self.scale.update(torch.from_numpy(scores))
            scores = scores / self.scale.scale
        if params.missing_eos_penalty is not None:
            scores = scores - params.missing_eos_penalty * np.array([not episode.ended for episode in episodes])
        return scores

    def _transformed(self, episodes: Sequence[Episode]) -> dict[str, float]:
        kind = self.params.reward_transform
        return {} if kind == "none" else {"transformed": float(transformed_rewards(episodes, self.params, kind).mean())}

    def _step(self, episodes: Sequence[Episode], data: Learnable, chosen: list[int], step: int) -> tuple[Tensor, float]:
        """One optimiser step on a minibatch; means of what is watched over its tokens, and the gradient's norm.

        Every loss is divided by the tokens of the whole minibatch, so that how it is split, over accumulation and over
        processes, changes nothing.
        """
        params = self.params
        tokens = int(data.mask[chosen].sum())
        # Longest first: each part then holds rows of like length, and little padding.
        ordered = sorted(chosen, key=lambda n: (-len(episodes[n].prompt_ids) - len(episodes[n].response_ids), n))
        mine = self.processes.share(ordered)

        def accumulate(size: int) -> Tensor:
            """Gradients from zero: a part that ran out of memory may have left some of its own."""
            sums = torch.zeros(len(_WATCHED), dtype=torch.float64)
            for parameter in self._trained:
                parameter.grad = None
            for start in range(0, len(mine), size):
                part = list(mine[start : start + size])
                loss, watched = self._losses([episodes[n] for n in part], data, part)
                (loss / tokens).backward()  # type: ignore[no-untyped-call]
                sums += watched
            return sums

        size = len(mine) // params.gradient_accumulation
        try:
            rows = min(size, self._most_rows or size)
            in_step = self.processes.sharding is not None
            sums, self._most_rows = halving(rows, accumulate, "rows of a PPO part", in_step=in_step)
        except MemoryShort as error:
            raise PPOError(
                f"update {step + 1}: {error}: set rlhf.ppo.gradient_checkpointing, raise gradient_accumulation, or "
                "lower max_prompt_tokens or max_new_tokens"
            ) from error
        parts = list(self.parameters.values())
        # Gradients of what is cut have been summed by the passes themselves.
        self.processes.sum_gradients([value for value, part in zip(self._trained, parts, strict=True) if value is part])
        norm = clip_gradients(self._trained, params.max_grad_norm)
        if not np.isfinite(norm):
            raise PPOError(f"the gradient is {norm} at update {step + 1}: lower learning_rate")
        for value, part in zip(self._trained, parts, strict=True):
            part.grad = None if value.grad is None else local_part(value.grad)
        self.optimiser.step()
        return self.processes.sum(sums) / tokens, norm

    def _losses(self, episodes: Sequence[Episode], data: Learnable, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Sum of the loss over the rows' tokens, and the sums of what is watched, in the order of ``_WATCHED``.

        Schulman et al. (arXiv 1707.06347), equation 9: clipped objective, value error, entropy bonus.
        """
        params, models = self.params, self.models
        mask = data.mask[rows]

        def flat(values: Tensor) -> Tensor:
            return values[rows][mask].float().to(models.device)

        old, advantages = flat(data.old_log_probs), flat(data.advantages)
        tokens = models.evaluate(
            [episode.prompt_ids for episode in episodes],
            [episode.response_ids for episode in episodes],
            self.sampling.temperature,
            entropy=params.entropy_bonus > 0,
        )
        policy_losses = clipped_policy_loss(tokens.log_probs, old, advantages, params.clip_range)
        if data.importance is not None:
            policy_losses = policy_losses * flat(data.importance)
        policy_loss = policy_losses.sum()
        value_loss = clipped_value_loss(
            tokens.values, flat(data.old_values), flat(data.returns), params.value_clip_range
        ).sum()
        loss = policy_loss + params.value_coefficient * value_loss
        if tokens.entropies is not None:
            loss = loss - params.entropy_bonus * tokens.entropies.sum()
        with torch.no_grad():
            log_ratio = tokens.log_probs - old
            outside = (torch.exp(log_ratio) - 1).abs() > params.clip_range
            watched = [policy_loss, value_loss, outside.sum(), approximate_kl(tokens.log_probs, old).sum()]
            return loss, torch.stack([value.detach().double().cpu() for value in watched])
