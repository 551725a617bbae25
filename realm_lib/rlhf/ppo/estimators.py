"""PPO's formulas, each in the few lines that compute it, with its source.

Shapes: [b, t] is a rollout of b responses padded to t tokens on either side, ``mask`` true at its real tokens; [n] are
the real tokens of some responses, one after another.

Sources: Schulman et al., "Proximal Policy Optimization Algorithms" (arXiv 1707.06347); Schulman et al., "High-
Dimensional Continuous Control Using Generalized Advantage Estimation" (1506.02438); Ziegler et al., "Fine-Tuning
Language Models from Human Preferences" (1909.08593); Huang et al., "The N+ Implementation Details of RLHF with PPO"
(2403.17031); Ahmadian et al., "Back to Basics" (2402.14740); Wang et al., "Transforming and Combining Rewards for
Aligning Large Language Models" (2402.00742).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from realm_lib.rlhf.errors import PPOError


def token_rewards(
    scores: Tensor, log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, kl_coefficient: float
) -> Tensor:
    """Reward of each token, [b, t]: minus the coefficient times its log-ratio to the reference.

    The last token also gets its response's one of ``scores`` [b]. Ziegler et al., equation 2, spread over tokens as
    their code does and Huang et al. describe.
    """
    rewards = -kl_coefficient * (log_probs - reference_log_probs) * mask
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (places * mask).argmax(dim=1)
    rewards[torch.arange(len(rewards), device=mask.device), last] += scores.to(rewards.dtype)
    return rewards


def leave_one_out(scores: Tensor, group: int) -> Tensor:
    """Each of ``scores`` [b] less the mean of the others of its group of ``group`` neighbours; as they are for 1.

    The baseline of RLOO (Ahmadian et al., arXiv 2402.14740, equation 8): unbiased, since no response is in its own. It
    also takes off what a prompt is worth, which a Bradley-Terry reward leaves open.
    """
    if group == 1:
        return scores
    grouped = scores.reshape(-1, group)
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (group - 1)
    return (grouped - others).flatten()


def transformed(rewards: Tensor, kind: str, group: int, references: Tensor | None) -> Tensor:
    """What training makes of ``rewards`` [b], by ``rlhf.ppo.reward_transform``: none, centred or log_sigmoid.

    ``group`` neighbours answer one prompt; ``references`` [b] are what the start's responses to it get. Without them
    the neighbours are the reference. ``centred`` takes their common mean off, which :func:`leave_one_out` does not see
    (taking off the others' mean first would count each difference group / (group - 1) times). ``log_sigmoid`` compares
    with the others' mean, since a mean that holds a reward's own noise would draw every difference towards zero. It is
    log sigmoid(r - reference): Wang et al., arXiv 2402.00742.
    """
    if kind == "none":
        return rewards
    if references is not None:
        differences = rewards - references
    elif kind == "centred":
        grouped = rewards.reshape(-1, group)
        differences = (grouped - grouped.mean(dim=1, keepdim=True)).flatten()
    else:
        differences = leave_one_out(rewards, group)
    return differences if kind == "centred" else torch.nn.functional.logsigmoid(differences)


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, each [b, t] and 0 outside ``mask``.

    A_t = d_t + gamma lambda A_{t+1} with d_t = r_t + gamma V_{t+1} - V_t, and V = 0 after the last token, where the
    episode is over; the return is A_t + V_t. Schulman et al. 2015, equations 11 to 16.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    following = rewards.new_zeros(len(rewards))
    next_value = rewards.new_zeros(len(rewards))
    for place in reversed(range(rewards.shape[1])):
        error = rewards[:, place] + gamma * next_value - values[:, place]
        following = (error + gamma * gae_lambda * following) * mask[:, place]
        advantages[:, place] = following
        next_value = values[:, place]
    return advantages, (advantages + values) * mask


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the true places of ``mask``: every real token counts the same, however long its response."""
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor, *, keep_mean: bool = False) -> Tensor:
    """``values`` with unit variance over ``mask``, and mean zero unless ``keep_mean``; 0 outside.

    The variance is the unbiased one, with 1e-8 added under the root. Huang et al. whiten advantages so, and
    optionally rewards, the mean kept: shifting it would reward or punish length. Raises :class:`PPOError` for fewer
    than two tokens, which have no variance.
    """
    count = int(mask.sum())
    if count < 2:
        raise PPOError(f"cannot whiten {count} tokens: raise batch_size")
    mean = masked_mean(values, mask)
    variance = ((values - mean) ** 2 * mask).sum() / (count - 1)
    whitened = (values - mean) / torch.sqrt(variance + 1e-8)
    return (whitened + mean if keep_mean else whitened) * mask


def clipped_policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Loss of each token, [n]: minus the smaller of ratio * A and clip(ratio, 1 - c, 1 + c) * A.

    Schulman et al. 2017, equation 7. The gradient is zero where the clipped term is the smaller one.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """Loss of each token, [n]: half the larger squared error of V and of V kept within ``clip_range`` of its old value.

    As in OpenAI's baselines and Huang et al.; ``None`` does not clip.
    """
    error = (values - returns) ** 2
    if clip_range is None:
        return 0.5 * error
    kept = old_values + torch.clamp(values - old_values, -clip_range, clip_range)
    return 0.5 * torch.maximum(error, (kept - returns) ** 2)


def approximate_kl(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """KL(old || new) of each token, [n], as ratio - 1 - log ratio: unbiased and never below 0 (Schulman 2020)."""
    log_ratio = log_probs - old_log_probs
    return torch.expm1(log_ratio) - log_ratio


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float | None:
    """1 - Var(returns - values) / Var(returns) over ``mask``: 1 is perfect, 0 no better than a constant.

    None where the returns are all the same.
    """
    kept_returns, kept_errors = returns[mask.bool()].double(), (returns - values)[mask.bool()].double()
    spread = float(kept_returns.var(correction=0))
    return 1 - float(kept_errors.var(correction=0)) / spread if spread > 0 else None


@dataclass
class KLController:
    """The weight of the KL in the reward, fixed, or steered towards ``target`` nats a response.

    Ziegler et al., section 2.2: the coefficient is multiplied by 1 + e * episodes / horizon with
    e = clip(KL / target - 1, -0.2, 0.2).
    """

    coefficient: float
    target: float | None
    horizon: int

    def update(self, kl: float, episodes: int) -> None:
        """Adapt the coefficient after ``episodes`` responses of mean ``kl``."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * episodes / self.horizon


@dataclass
class RunningScale:
    """The standard deviation of all numbers seen so far, by Welford's update (Chan et al. 1979 for batches)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared differences from the mean."""

    def update(self, values: Tensor) -> None:
        """Take in ``values`` [n]."""
        values = values.double()
        count, mean = len(values), float(values.mean())
        total = self.count + count
        shift = mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + shift * shift * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def scale(self) -> float:
        """What to divide by: the standard deviation, or 1 while it is 0."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return deviation if deviation > 0 else 1.0

    @classmethod
    def restored(cls, state: Mapping[str, float]) -> "RunningScale":
        """From ``vars`` of another one, as a checkpoint holds them."""
        return cls(int(state["count"]), float(state["mean"]), float(state["squares"]))
