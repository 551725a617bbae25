"""The one number that makes the differences of a reward log-odds."""

import math

import numpy as np
from numpy.typing import ArrayLike

_PRIOR_DEVIATION = 0.3
"""Of the logarithm of :func:`likely_scale`, before any pair is seen."""


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


def likely_scale(margins: ArrayLike) -> float:
    """:func:`fit_scale` of rewards that a log-loss has trained, drawn towards 1 as far as few pairs leave it open.

    The most likely value where its logarithm was normal around 0 with a deviation of 0.3, and the pairs' likelihood is
    normal too: the fitted logarithm times 0.09 / (0.09 + its squared standard error). 0 where the fitted one is.
    """
    from scipy.special import expit

    m = np.asarray(margins, dtype=np.float64)
    scale = fit_scale(m)
    if scale == 0:
        return 0.0
    sure = expit(scale * m)
    information = float((sure * (1 - sure) * (scale * m) ** 2).sum())  # of the logarithm
    return math.exp(math.log(scale) / (1 + 1 / (_PRIOR_DEVIATION**2 * information)))
