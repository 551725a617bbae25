"""The one number that makes the differences of a reward log-odds."""

import math

import numpy as np
from numpy.typing import ArrayLike


def fit_scale(margins: ArrayLike) -> float:
    """The factor s >= 0 for which sigmoid(s * margin) has the least log-loss on pairs of a validation split.

    ``margins`` [pairs] are reward(chosen) - reward(rejected). Raw rewards are on any scale; this one number makes
    their probabilities comparable (temperature scaling, Guo et al. arXiv 1706.04599). A reward no better than chance
    gets 0, so p = 1/2. The loss of pairs that are all ordered rightly falls for ever as s grows: s stops where the
    median margin gets p = (n + 1) / (n + 2), the rule of succession that Platt (1999) uses for the same reason.
    Raises ValueError without margins, and for one that is not finite.
    """
    m = np.asarray(margins, dtype=np.float64)
    if m.ndim != 1 or m.size == 0:
        raise ValueError(f"fit_scale: expected the margins of at least one pair, got shape {m.shape}")
    if not np.isfinite(m).all():
        raise ValueError(f"fit_scale: the margin of row {int(np.flatnonzero(~np.isfinite(m))[0])} is not finite")
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
