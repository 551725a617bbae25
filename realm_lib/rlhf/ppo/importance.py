"""A sampler that is not quite the policy: its log-probabilities against the policy's own, and what is made of them.

Two engines with the same weights differ by rounding and by kernels, which makes PPO slightly off-policy (Qi et al.,
arXiv 2510.26788). The ratio of a token is the probability under the policy over that under the sampler; a loss that is
weighted by it is unbiased, and one that is weighted by min(ratio, cap) has bounded variance and little bias (Ionides,
"Truncated Importance Sampling", 2008; V-trace's rho, Espeholt et al., arXiv 1802.01561).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.rollouts import RolloutParams

if TYPE_CHECKING:
    from realm_lib.rlhf.ppo.rollout import Episode

_FAR = 0.1
"""Nats a token between sampler and policy. Rounding of bfloat16 makes about a hundredth of it."""
_LARGEST = 50.0
"""A log-ratio beyond it has no finite exponential that is worth having."""


def importance_weights(episodes: Sequence["Episode"], params: RolloutParams) -> list[NDArray[np.float64]] | None:
    """The weight of each token's policy loss, an array [tokens] a response; None where there is nothing to correct.

    min(ratio, ``importance_cap``), the ratio being the token's or, with ``importance_level`` sequence, the product over
    its response. Numbers, not tensors: no gradient passes.
    """
    ratios = _ratios(episodes, params)
    if ratios is None or params.importance_cap is None:
        return None
    return [np.minimum(ratio, params.importance_cap) for ratio in ratios]


def describe_sampler(episodes: Sequence["Episode"], params: RolloutParams) -> dict[str, float]:
    """How far the sampler is from the policy over a rollout; empty where the policy samples itself.

    Keys: sampler_kl (nats a token, of the sampler from the policy, by the estimate that is never below 0), and of the
    ratios over tokens importance_mean, importance_max and importance_truncated (the share beyond the cap).
    """
    ratios = _ratios(episodes, params)
    if ratios is None:
        return {}
    flat, logs = np.concatenate(ratios), np.concatenate(_log_ratios(episodes))
    cap = np.inf if params.importance_cap is None else params.importance_cap
    return {
        "sampler_kl": float((np.expm1(logs) - logs).mean()),
        "importance_mean": float(flat.mean()),
        "importance_max": float(flat.max()),
        "importance_truncated": float((flat > cap).mean()),
    }


def sampler_warnings(row: Mapping[str, Any]) -> list[str]:
    """What the numbers of a step say about its sampler, in words; empty when it is the policy, or near it."""
    if row.get("sampler_kl", 0.0) <= _FAR:
        return []
    return [
        f"the sampler is not the policy: {row['sampler_kl']:.2g} nats a token lie between them; are the weights of the "
        "last update loaded, and does the server run with --logprobs-mode processed_logprobs?"
    ]


def _log_ratios(episodes: Sequence["Episode"]) -> list[NDArray[np.float64]]:
    """The policy's log-probability less the sampler's; 0 where a response's sampler told none."""
    return [
        np.clip(episode.log_probs - told, -_LARGEST, _LARGEST)
        if (told := episode.sampler_log_probs) is not None
        else np.zeros_like(episode.log_probs)
        for episode in episodes
    ]


def _ratios(episodes: Sequence["Episode"], params: RolloutParams) -> list[NDArray[np.float64]] | None:
    if all(episode.sampler_log_probs is None for episode in episodes):
        return None
    logs = _log_ratios(episodes)
    if params.importance_level == "sequence":
        logs = [np.full_like(log, np.clip(log.sum(), -_LARGEST, _LARGEST)) for log in logs]
    return [np.exp(log) for log in logs]
