"""From reward differences to probabilities, and how far those can be trusted."""

import math

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from realm_lib.evaluation.resampling import EvaluationError, Floats

__all__ = ["calibration_bins", "confidences", "expected_calibration_error", "fit_scale"]


def fit_scale(margins: ArrayLike) -> float:
    """The factor s >= 0 for which sigmoid(s * margin) has the least log-loss on pairs of a validation split.

    ``margins`` [pairs] are reward(chosen) - reward(rejected). Raw rewards are on any scale; this one number makes
    their probabilities comparable (temperature scaling, Guo et al. arXiv 1706.04599). A reward no better than chance
    gets 0, so p = 1/2. The loss of pairs that are all ordered rightly falls for ever as s grows: s stops where the
    median margin gets p = (n + 1) / (n + 2), the rule of succession that Platt (1999) uses for the same reason.
    """
    m = np.asarray(margins, dtype=np.float64)
    if m.ndim != 1 or m.size == 0:
        raise EvaluationError(f"fit_scale: expected the margins of at least one pair, got shape {m.shape}")
    if not np.isfinite(m).all():
        raise EvaluationError(f"fit_scale: the margin of row {int(np.flatnonzero(~np.isfinite(m))[0])} is not finite")
    if m.mean() <= 0:
        return 0.0
    from scipy.optimize import brentq
    from scipy.special import expit

    unit = float(np.median(np.abs(m[m != 0])))
    z = m / unit

    def slope(scale: float) -> float:
        return -float(np.mean(z * expit(-scale * z)))

    largest = math.log(m.size + 1)
    if slope(largest) <= 0:
        return largest / unit
    return float(brentq(slope, 0.0, largest, xtol=1e-10)) / unit


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


def calibration_bins(confidence: Floats, correct: Floats, bins: int) -> pd.DataFrame:
    """Bins of equal mass of ``confidence`` [pairs]: mean predicted, mean observed, and pairs; equal values together."""
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
    place = np.searchsorted(edges[1:-1], confidence, side="right")
    frame = pd.DataFrame({"predicted": confidence, "observed": correct, "pairs": 1})
    return frame.groupby(place).agg({"predicted": "mean", "observed": "mean", "pairs": "sum"}).reset_index(drop=True)
