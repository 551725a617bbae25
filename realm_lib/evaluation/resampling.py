"""How sure a mean over pairs is, when the pairs of one post belong together: bootstrap and permutations.

How resamples become the ends of an interval is in :mod:`realm_lib.evaluation.intervals`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.evaluation.intervals import (
    difference_interval,
    effective_posts,
    expanded_interval,
    resample_variance,
    share_interval,
)

Floats = NDArray[np.float64]

_ROUNDING = 1e-9  # a weighted mean of shares may be above 1 in its last bits
_CELLS = 2_000_000  # resamples x posts held at once: 16 MB an array, whatever the number of resamples


class EvaluationError(ValueError):
    """Features or rewards that cannot be judged; the message names the reward, the column or the row."""


@dataclass(frozen=True)
class Bootstrap:
    """Means over pairs with their intervals, each [k], and the resampled means [resamples, k]."""

    means: Floats
    lows: Floats
    highs: Floats
    resampled: Floats
    posts: float
    """How many posts of one size would say as much: :func:`effective_posts`."""
    pairs: int
    confidence: float

    def interval(self, column: int = 0) -> list[float]:
        """The ends of one mean's interval, as metrics hold them."""
        return [float(self.lows[column]), float(self.highs[column])]

    def interval_of(self, resampled: Floats) -> list[float]:
        """The ends of the interval of a number that was computed from each row of ``resampled``: [resamples].

        Resamples in which there is no such number (NaN) do not count.
        """
        return expanded_interval(resampled, self.posts, self.confidence)

    def share_interval_of(self, share: float, resampled: Floats) -> list[float]:
        """The same of a share between 0 and 1, which is ``share`` on the pairs themselves: :func:`share_interval`."""
        return share_interval(share, resample_variance(resampled, self.posts), self.posts, self.confidence)

    def share_difference(self, left: int, right: int) -> list[float]:
        """The ends of the interval of mean ``left`` less mean ``right``, two shares: :func:`difference_interval`."""
        variance = resample_variance(self.resampled[:, left] - self.resampled[:, right], self.posts)
        difference = float(self.means[left] - self.means[right])
        return difference_interval(difference, variance, self.pairs, self.posts, self.confidence)


def bootstrap_over_posts(
    values: ArrayLike,
    post_ids: ArrayLike,
    *,
    shares: bool = False,
    resamples: int = 10_000,
    seed: int = 42,
    confidence: float = 0.95,
) -> Bootstrap:
    """Means of ``values`` [pairs, k] (or [pairs]) over pairs, with intervals from resampling whole posts.

    The cluster bootstrap (Davison and Hinkley 1997, section 3.8): posts are drawn with replacement, and the statistic
    is the ratio of the drawn posts' sums to their numbers of pairs. All columns meet the same draws, so
    ``resampled[:, i] - resampled[:, j]`` is a paired difference. Intervals are :func:`expanded_interval`'s; with
    ``shares``, for values that all lie in [0, 1], :func:`share_interval`'s.

    Raises :class:`EvaluationError` for no pairs, shapes that differ, values that are not finite, and shares that are
    none.
    """
    table, sums, sizes = _sums_by_post(values, post_ids)
    check_resampling(resamples, confidence)
    if shares and not ((table > -_ROUNDING) & (table < 1 + _ROUNDING)).all():
        raise EvaluationError(f"shares lie between 0 and 1, these go from {table.min():g} to {table.max():g}")
    posts = len(sizes)
    columns = np.column_stack([sums, sizes])
    totals = np.empty((resamples, columns.shape[1]))
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // posts)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        # Counts of a multinomial draw: numpy's own draws a binomial a post, five times slower.
        drawn = rng.integers(0, posts, size=(count, posts)) + np.arange(count)[:, None] * posts
        counts = np.bincount(drawn.ravel(), minlength=count * posts).reshape(count, posts)
        totals[start : start + count] = counts.astype(np.float64) @ columns
    means, resampled, alike = table.mean(axis=0), totals[:, :-1] / totals[:, -1:], effective_posts(sizes)
    if shares:
        variances = [resample_variance(column, alike) for column in resampled.T]
        ends = [share_interval(*mean, alike, confidence) for mean in zip(means.tolist(), variances, strict=True)]
    else:
        ends = [expanded_interval(column, alike, confidence) for column in resampled.T]
    lows, highs = np.array(ends).T
    return Bootstrap(means, lows, highs, resampled, alike, len(table), confidence)


def permutation_p_value(
    differences: ArrayLike, post_ids: ArrayLike, *, resamples: int = 10_000, seed: int = 42
) -> float:
    """Two-sided p-value of "these paired ``differences`` [pairs] have mean 0", by flipping the signs of whole posts.

    Under the null the two rewards could be exchanged within a post. The observed signs count as one of the flips, so
    that the test is exact at any number of them and p is never 0 (Phipson and Smyth, arXiv 1603.05766).
    """
    _, sums, _ = _sums_by_post(differences, post_ids)
    check_resampling(resamples, 0.95)
    moved = sums[sums[:, 0] != 0, 0]
    if moved.size == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    observed = abs(moved.sum())
    tolerance = 1e-12 * np.abs(moved).sum()  # sums taken in another order differ in their last bits
    as_large = 0
    chunk = max(1, _CELLS // moved.size)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        bits = np.unpackbits(rng.integers(0, 256, size=(count, -(-moved.size // 8)), dtype=np.uint8), axis=1)
        flipped = bits[:, : moved.size].astype(np.float64) @ moved
        as_large += int((np.abs(moved.sum() - 2 * flipped) >= observed - tolerance).sum())
    return (1 + as_large) / (1 + resamples)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) adjusted p-values, by name: calling all below 0.05 real errs anywhere with 5 % probability at most.

    The smallest of m p-values is multiplied by m, the next by m - 1, and none is below the one before.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for index, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - index) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def detectable_difference(resampled: ArrayLike, confidence: float = 0.95, power: float = 0.8) -> float:
    """The true difference that a test at this confidence would find with probability ``power``.

    (z of the two-sided test + z of the power) standard errors (Cohen 1988), the error from the resampled differences.
    """
    from scipy.special import ndtri

    error = float(np.std(np.asarray(resampled, dtype=np.float64)))
    return float(ndtri((1 + confidence) / 2) + ndtri(power)) * error


def check_resampling(resamples: int, confidence: float) -> None:
    """Refuse options that give no interval."""
    if resamples < 1:
        raise EvaluationError(f"resamples must be at least 1, got {resamples}")
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence must lie between 0 and 1, as 0.95, got {confidence}")


def _sums_by_post(values: ArrayLike, post_ids: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """``values`` as [pairs, k], their sums by post [posts, k] and the posts' numbers of pairs [posts]."""
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    codes, posts = pd.factorize(np.asarray(post_ids))
    if table.ndim != 2 or len(table) != len(codes):
        raise EvaluationError(f"values of shape {table.shape} do not go with {len(codes)} post ids")
    if len(table) == 0:
        raise EvaluationError("there are no pairs to resample")
    if not np.isfinite(table).all():
        raise EvaluationError(f"values of row {int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])} are not finite")
    if (codes < 0).any():
        raise EvaluationError(f"the post id of row {int(np.argmin(codes))} is missing")
    sums: Floats = np.column_stack([np.bincount(codes, weights=column, minlength=len(posts)) for column in table.T])
    sizes: Floats = np.bincount(codes, minlength=len(posts)).astype(np.float64)
    return table, sums, sizes
