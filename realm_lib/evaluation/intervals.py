"""From resamples of posts to intervals that hold the truth as often as they say, with few posts too.

The plain percentile interval takes the posts at hand for all there are. It is too narrow by sqrt((G - 1) / G) for G
posts, takes the quantile of a normal distribution where that of Student's t belongs, and has no width at all where
every post says the same. What each of the three intervals here covers is in docs/measurements.md.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_NONE = 1e-24  # a variance that is rounding alone


def effective_posts(sizes: ArrayLike) -> float:
    """(sum of sizes)^2 / sum of squares: how many posts of one size vary as much as posts of ``sizes`` [posts] pairs.

    The number of posts where all have as many pairs, fewer else (Kish 1965; Carter, Schnepel and Steigerwald 2017).
    """
    pairs = np.asarray(sizes, dtype=np.float64)
    return float(pairs.sum() ** 2 / (pairs**2).sum())


def student_quantile(posts: float, confidence: float) -> float:
    """The two-sided quantile of Student's t with ``posts`` - 1 degrees of freedom, and with one at least."""
    from scipy.special import stdtrit

    return float(stdtrit(max(posts - 1, 1.0), (1 + confidence) / 2))


def resample_variance(resampled: Floats, posts: float) -> float:
    """The variance of the number whose resamples these are [resamples], times G / (G - 1) for G ``posts``.

    Resampling G posts gives the variance with the divisor G, as numpy's does. NaN is left out.
    """
    spread = float(np.nanvar(resampled))
    return spread * posts / (posts - 1) if posts > 1 else spread


def expanded_interval(resampled: Floats, posts: float, confidence: float) -> list[float]:
    """The ends of the central interval of the finite ones of ``resampled`` [resamples], taken farther out.

    The expanded percentile interval (Hesterberg, arXiv 1411.5279): the tails are
    Phi(-t sqrt(G / (G - 1))), so that for means it is as wide as Student's. G is :func:`effective_posts`, t
    :func:`student_quantile`. One post has no width, whatever the quantile.
    """
    from scipy.special import ndtr

    finite = resampled[np.isfinite(resampled)]
    widened = student_quantile(posts, confidence) * (math.sqrt(posts / (posts - 1)) if posts > 1 else 1.0)
    tail = float(ndtr(-widened))
    return [float(end) for end in np.quantile(finite, [tail, 1 - tail])]


def share_interval(share: float, variance: float, posts: float, confidence: float) -> list[float]:
    """Wilson's interval of a ``share`` in [0, 1] whose estimate has this ``variance`` over posts; inside [0, 1].

    It counts as the share of s (1 - s) / variance independent observations, as surveys do (Korn and Graubard 1998;
    Dean and Pagano 2015), with the quantile of Student's t. A percentile interval ends too soon near 0 and 1. Where
    no post differs from another the variance says nothing: then a post is one observation, with the normal quantile.
    """
    share = min(max(share, 0.0), 1.0)
    if variance < _NONE:
        return wilson(share, posts, confidence)
    return _wilson(share, max(share * (1 - share), _NONE) / variance, student_quantile(posts, confidence))


def difference_interval(difference: float, variance: float, pairs: int, posts: float, confidence: float) -> list[float]:
    """Student's interval of a ``difference`` of two shares of the same pairs, whose estimate has this ``variance``.

    Two further pairs, one won by either side, enter the variance and not the value (after Agresti and Min 2005):
    else two rewards that part in few pairs would seem to differ by exactly what those few say. One post is one
    observation: Wilson's interval of (1 + difference) / 2. The ends stay in [-1, 1].
    """
    if posts <= 1:
        return [2 * end - 1 for end in wilson((1 + difference) / 2, 1, confidence)]
    half = student_quantile(posts, confidence) * math.sqrt(variance + 1 / pairs**2)
    return [max(-1.0, difference - half), min(1.0, difference + half)]


def wilson(share: float, count: float, confidence: float) -> list[float]:
    """Wilson's score interval (1927) of a share of ``count`` observations."""
    from scipy.special import ndtri

    return _wilson(share, count, float(ndtri((1 + confidence) / 2)))


def _wilson(share: float, count: float, z: float) -> list[float]:
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    # Rounding may leave the share itself a last bit outside.
    return [max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))]
