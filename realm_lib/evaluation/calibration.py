"""From reward differences to probabilities, and how far those can be trusted."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.evaluation.resampling import Floats, bootstrap_over_posts


def confidences(margins: ArrayLike, scale: float) -> Floats:
    """The probability of the predicted side for ``margins`` [pairs] of rewards, in [1/2, 1].

    From the size of the margin, so that swapping A and B gives the same number to the last bit.
    """
    from scipy.special import expit

    result: Floats = expit(scale * np.abs(np.asarray(margins, dtype=np.float64)))
    return result


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Mean distance between how sure a reward is and how often it is right, in [0, 1].

    ``confidence`` [pairs] is the probability of the predicted side, so that it does not matter which response is
    called A; ``correct`` [pairs] is 1, 0 or 1/2 for a tie. ECE of Naeini et al. (2015) and Guo et al.
    (arXiv 1706.04599) with bins of equal mass; equal confidences share a bin, so there may be fewer than ``bins``.
    """
    table = calibration_bins(np.asarray(confidence, float), np.asarray(correct, float), bins)
    return float((table["pairs"] * (table["predicted"] - table["observed"]).abs()).sum() / table["pairs"].sum())


def calibration_interval(
    confidence: ArrayLike,
    correct: ArrayLike,
    post_ids: ArrayLike,
    *,
    bins: int = 10,
    resamples: int = 10_000,
    seed: int = 42,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The interval (low, high) of :func:`expected_calibration_error`, and the error that chance alone would give.

    Posts are resampled with the bins held. A mean of absolute values is never 0, however well calibrated a reward is,
    and resampling adds that chance a second time, so that a percentile interval would hardly ever reach a true error
    of 0. The found error differs from the true one by the error of the bins' noise alone at most (triangle
    inequality): the lower end is the found error less that noise's own upper quantile, cut at 0. The upper end is the
    percentile, which the bias makes a safe one. The third number is the noise's mean: what chance alone would give.
    One post, whose noise nobody can see, gives 0 to 1, and all of the error may be chance.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    bin_of = calibration_places(sure, bins)
    gaps = np.zeros((len(sure), int(bin_of.max()) + 1))
    gaps[np.arange(len(sure)), bin_of] = sure - right
    drawn = bootstrap_over_posts(gaps, post_ids, resamples=resamples, seed=seed)
    error = float(np.abs(drawn.means).sum())
    if len(np.unique(np.asarray(post_ids))) == 1:
        return 0.0, 1.0, error
    noise = np.abs(drawn.resampled - drawn.means).sum(axis=1)
    largest_noise = float(np.quantile(noise, (1 + level) / 2))
    high = float(np.quantile(np.abs(drawn.resampled).sum(axis=1), (1 + level) / 2))
    return max(0.0, error - largest_noise), min(1.0, max(error, high)), float(noise.mean())


def calibration_bins(confidence: Floats, correct: Floats, bins: int) -> pd.DataFrame:
    """Bins of equal mass of ``confidence`` [pairs]: mean predicted, mean observed, and pairs; equal values together."""
    frame = pd.DataFrame({"predicted": confidence, "observed": correct, "pairs": 1})
    grouped = frame.groupby(calibration_places(confidence, bins))
    return grouped.agg({"predicted": "mean", "observed": "mean", "pairs": "sum"}).reset_index(drop=True)


def calibration_places(confidence: Floats, bins: int) -> NDArray[np.intp]:
    """The bin of equal mass that each pair of ``confidence`` [pairs] falls in, counted from 0."""
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
    return np.searchsorted(edges[1:-1], confidence, side="right")
