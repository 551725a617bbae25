"""The loss of DPO and its margins in float64, apart from any trainer: what training is checked against.

The implicit reward of a response is beta times the log-ratio of policy and reference (Rafailov et al., arXiv
2305.18290, equation 5); DPO is the Bradley-Terry loss on it (equation 7).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def implicit_rewards(
    log_probs: Sequence[NDArray[np.floating]], reference: Sequence[NDArray[np.floating]], beta: float
) -> Floats:
    """beta (log pi(y|x) - log pi_ref(y|x)) of each response, [n], from the log-probabilities of its tokens."""
    sums = [np.asarray(own, dtype=np.float64).sum() for own in log_probs]
    others = [np.asarray(other, dtype=np.float64).sum() for other in reference]
    rewards: Floats = beta * (np.array(sums, dtype=np.float64) - np.array(others, dtype=np.float64))
    return rewards


def dpo_losses(
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid",
    beta: float = 0.1,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
) -> Floats:
    """The loss of each pair, [n], from the implicit rewards (:func:`implicit_rewards`) of both responses, each [n].

    sigmoid: -log sigmoid(m) with m = chosen - rejected (arXiv 2305.18290). hinge: max(0, 1 - m) (SLiC, arXiv
    2305.10425). ipo: (d - 1 / (2 beta))^2, where d is the difference of the log-ratios a token (arXiv 2310.12036,
    equation 17, averaged over tokens as TRL does); it needs both lengths in tokens.
    """
    first, second = np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)
    if loss_type == "ipo":
        if chosen_lengths is None or rejected_lengths is None:
            raise ValueError("loss_type ipo averages over tokens: give chosen_lengths and rejected_lengths")
        a_token = first / np.asarray(chosen_lengths) - second / np.asarray(rejected_lengths)
        ipo: Floats = (a_token / beta - 1 / (2 * beta)) ** 2
        return ipo
    margins = first - second
    losses: Floats = np.logaddexp(0.0, -margins) if loss_type == "sigmoid" else np.maximum(0.0, 1 - margins)
    return losses
