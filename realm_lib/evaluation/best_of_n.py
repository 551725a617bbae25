"""What best-of-n gives at every distance from the start, and where another policy lies against that curve.

From N answers to a prompt every best-of-n up to N can be read (:func:`best_of_n_weights`), and each stands at a known
distance (:func:`best_of_n_kl`): a curve beside which a trained policy can be set at its own distance. Best-of-n comes
close to the most that any policy can win at its distance (arXiv 2406.00832), so the curve is a high bar.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from realm_lib.evaluation.resampling import Floats, bootstrap_over_posts
from realm_lib.evaluation.win_rates import best_of_n_kl, best_of_n_weights


@dataclass(frozen=True)
class AgainstCurve:
    """A policy's mean beside best-of-n's at one distance, with the 95 % interval of their difference over prompts."""

    curve: float
    difference: float
    """The policy's mean less the curve's."""
    low: float
    high: float

    def to_dict(self) -> dict[str, float | list[float]]:
        """As metrics hold it."""
        return {"curve": self.curve, "difference": self.difference, "ci": [self.low, self.high]}


def curve_weights(rewards: ArrayLike) -> Floats:
    """:func:`best_of_n_weights` of the answers' ``rewards`` [prompts, N] for n from 1 to N: [N, prompts, N]."""
    table = np.asarray(rewards, dtype=np.float64)
    return np.stack([best_of_n_weights(table, n) for n in range(1, table.shape[1] + 1)])


def curve_distances(answers: int) -> Floats:
    """The distances of best-of-n for n from 1 to ``answers`` in nats, [answers]: upper bounds, and the first is 0."""
    return np.array([best_of_n_kl(n) for n in range(1, answers + 1)])


def at_distance(curve: Floats, kl: ArrayLike) -> Floats:
    """The heights of curves [curves, N] at the distances ``kl`` [curves] in nats.

    Between two n the curve is straight over the square root of the distance, over which Gao et al. (arXiv 2210.10760)
    find it nearly straight. A distance below 0, as an estimate can be, counts as 0; one beyond the curve's end as its
    end.
    """
    roots = np.sqrt(curve_distances(curve.shape[1]))
    asked = np.sqrt(np.clip(np.asarray(kl, dtype=np.float64), 0, None))
    return np.array([np.interp(root, roots, heights) for root, heights in zip(asked, curve, strict=True)])


def against_curve(curve: Floats, values: Floats, log_ratios: Floats, *, resamples: int = 2000) -> AgainstCurve:
    """A policy's mean less what best-of-n has at the policy's distance.

    ``curve`` is best-of-n's value at each prompt for every n [prompts, N], ``values`` the policy's [prompts], and
    ``log_ratios`` the mean of its log-ratios to the start over its answers to each prompt [prompts], whose mean is its
    KL. The interval resamples prompts for all three together, so that it holds the noise of the distance too.
    """
    columns = np.column_stack([curve, values, log_ratios])
    drawn = bootstrap_over_posts(columns, np.arange(len(columns)), resamples=resamples)
    (height,) = at_distance(drawn.means[None, :-2], drawn.means[-1:])
    differences = drawn.resampled[:, -2] - at_distance(drawn.resampled[:, :-2], drawn.resampled[:, -1])
    low, high = drawn.interval_of(differences)
    return AgainstCurve(float(height), float(drawn.means[-2] - height), low, high)
