"""How often one policy's answer beats another's to the same prompt: with intervals, and with length taken out.

A policy answers a prompt with one answer or with several that have weights, as best-of-n has: of N answers ranked by
the reward, the answer of rank i is the best of n drawn ones with a known probability (:func:`best_of_n_weights`).
What best-of-n gives for every n, and at what distance, is in :mod:`realm_lib.evaluation.best_of_n`.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from realm_lib.data.lengths import words_of
from realm_lib.evaluation.intervals import resample_variance, share_interval
from realm_lib.evaluation.resampling import Floats, bootstrap_over_posts

_RIDGE = 0.1
_NEWTON_STEPS = 50
_FEW = 5  # prompts' worth of pairs below which a side says too little
_CELLS = 1_000_000  # fits x differences held at once: 8 MB an array


@dataclass(frozen=True)
class Rate:
    """A share between 0 and 1 with its 95 % interval over prompts."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | list[float]]:
        """As metrics hold it."""
        return {"win_rate": self.value, "ci": [self.low, self.high]}


@dataclass(frozen=True)
class AtEqualLength:
    """The win rate at equal length, and what is known of it."""

    rate: Rate | None
    """None where too few answers are shorter, or too few longer, than the other policy's to tell."""
    longer: float
    """The share of comparisons in which the first policy's answer is the longer one."""
    shorter: float

    def to_dict(self) -> dict[str, float | list[float] | None]:
        """As metrics hold it."""
        rate = self.rate
        return {
            "length_controlled": None if rate is None else rate.value,
            "length_controlled_ci": None if rate is None else [rate.low, rate.high],
            "longer": self.longer,
            "shorter": self.shorter,
        }


def win_shares(
    scores: Floats, other: Floats, weights: Floats | None = None, other_weights: Floats | None = None
) -> Floats:
    """The share of each prompt's comparisons that the first policy wins, [prompts]; a tie is half a win.

    ``scores`` [prompts, a] and ``other`` [prompts, b] are the judge's, with weights of the same shapes whose rows sum
    to 1 (None: equal weights).
    """
    first = np.full_like(scores, 1 / scores.shape[1]) if weights is None else weights
    second = np.full_like(other, 1 / other.shape[1]) if other_weights is None else other_weights
    won = np.sign(scores[:, :, None] - other[:, None, :]) / 2 + 0.5
    shares: Floats = np.einsum("pab,pa,pb->p", won, first, second)
    return shares


def win_rate(shares: ArrayLike, *, resamples: int = 2000, seed: int = 42) -> Rate:
    """The mean of the win shares [prompts] of prompts, with an interval that resamples prompts.

    Prompts that were all won, or all lost, are so many observations of one share: :func:`share_interval`.
    """
    values = np.asarray(shares, dtype=np.float64)
    drawn = bootstrap_over_posts(values, np.arange(len(values)), shares=True, resamples=resamples, seed=seed)
    return Rate(float(drawn.means[0]), *drawn.interval())


def length_controlled_win_rate(
    shares: ArrayLike,
    lengths: ArrayLike,
    other_lengths: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    seed: int = 42,
) -> AtEqualLength:
    """The win rate that would be were both policies' answers equally long, after AlpacaEval 2 (arXiv 2404.04475).

    With s the share won (1, 0, or 1/2 for a tie) and d the difference of lengths of a pair of answers, the logistic
    regression

        P(win) = sigmoid(theta + phi tanh(d / sd(d)) + psi sign(d))

    is fitted to s by maximum likelihood with a ridge penalty of 0.1 (theta^2 + phi^2 + psi^2) / 2, which keeps it
    finite when one side always wins. AlpacaEval has no jump psi, and a further term, the difficulty of each
    instruction estimated over many models, which needs many models. Without the jump a judge that prefers whatever is
    longer, by however little, would seem to find the policy with the longer answers better. The rate is the mean of
    what the fit gives just above and just below d = 0, sigmoid(theta + psi) and sigmoid(theta - psi).

    The interval resamples prompts and fits again. Each of the two has :func:`share_interval`'s, with one further prompt
    of its side in the variance, and the two are put together as Zou and Donner (2008) do, which lets a side of few
    prompts be as uncertain as it is. A side of under five prompts (pairs of equal length count half on either) says too
    little: then there is no rate.

    Arrays are [prompts], or [prompts, pairs] where policies answer several times: then each answer is paired with each
    of the other policy's to the same prompt, and ``weights`` [prompts, pairs], whose rows sum to 1, say how much a pair
    counts (None: alike). One pair a prompt is the same question with more noise. Means of several lengths and shares
    are another: they understate a policy that wins at equal length, and vary more. Lengths are in any unit.
    """
    wins, longer, other = (_as_rows(values) for values in (shares, lengths, other_lengths))
    weight = np.full(wins.shape, 1 / wins.shape[1]) if weights is None else _as_rows(weights)
    difference = longer - other
    spread = np.sqrt(np.average((difference - np.average(difference, weights=weight)) ** 2, weights=weight))
    # Differences that are all the same say nothing of their slope.
    scaled = np.tanh(difference / spread) if spread > 0 else np.sign(difference)
    # Pairs of one difference are one observation to the fit; there are far fewer differences than pairs.
    rows, columns = np.nonzero(weight)
    differences, which = np.unique(scaled[rows, columns], return_inverse=True)
    counted, won = np.zeros((2, len(wins), len(differences)))
    np.add.at(counted, (rows, which), weight[rows, columns])
    np.add.at(won, (rows, which), (weight * wins)[rows, columns])
    prompts = len(wins)
    above, level, below = (
        float(counted[:, side].sum()) for side in (differences > 0, differences == 0, differences < 0)
    )
    prompts_by_side = np.array([above + level / 2, below + level / 2])
    if prompts_by_side.min() < _FEW:
        return AtEqualLength(None, above / prompts, below / prompts)
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(row, minlength=prompts) for row in rng.integers(0, prompts, (resamples, prompts))]
    counts = np.vstack([np.ones(prompts), *drawn])
    chunk = max(1, _CELLS // len(differences))
    sides = np.concatenate(
        [
            _rates_by_side(part @ won, part @ counted, differences)
            for part in (counts[start : start + chunk] for start in range(0, len(counts), chunk))
        ]
    )
    return AtEqualLength(_mean_of_sides(sides, prompts, prompts_by_side), above / prompts, below / prompts)


def _mean_of_sides(sides: Floats, prompts: int, counts: Floats) -> Rate:
    """The mean of both ``sides`` [1 + resamples, 2], found ones in the first row, of ``counts`` [2] prompts."""
    found, resampled = sides[0], sides[1:]
    further = 1 / counts**2
    variances = [resample_variance(column, prompts) + more for column, more in zip(resampled.T, further, strict=True)]
    ends = [share_interval(*side, 0.95) for side in zip(found.tolist(), variances, counts.tolist(), strict=True)]
    lows, highs = np.array(ends).T
    together = float(np.cov(resampled.T)[0, 1]) / math.sqrt(variances[0] * variances[1])

    def half(errors: Floats) -> float:
        return math.sqrt(max(0.0, float((errors**2).sum() + 2 * together * errors.prod()))) / 2

    mean = float(found.mean())
    return Rate(mean, max(0.0, mean - half(found - lows)), min(1.0, mean + half(highs - found)))


def _as_rows(values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table


def _rates_by_side(won: Floats, counted: Floats, longer: Floats) -> Floats:
    """sigmoid(theta + psi) and sigmoid(theta - psi) of a fit for each row of ``won`` and ``counted``: [fits, 2].

    ``counted`` [fits, differences] is how many pairs have the difference ``longer`` [differences], ``won`` how many of
    them were won. By Newton's method.
    """
    design = np.column_stack([np.ones_like(longer), longer, np.sign(longer)])
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(longer), 9)
    fits = np.zeros((len(won), 3))
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(fits @ design.T)))
        gradient = (counted * p - won) @ design + _RIDGE * fits
        curvature = ((counted * p * (1 - p)) @ squares).reshape(-1, 3, 3) + _RIDGE * np.eye(3)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        # Newton may overshoot where the curve is flat; a step of 2 in log-odds is never too small to get there.
        fits -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    rates: Floats = 1 / (1 + np.exp(-(fits[:, :1] + fits[:, 2:] * [[1.0, -1.0]])))
    return rates


def best_of_n_weights(rewards: ArrayLike, n: int) -> Floats:
    """The probability of each of a prompt's N answers to be the best of n of them drawn without replacement.

    ``rewards`` is [prompts, N]; so are the weights, whose rows sum to 1. With rank i (1 the lowest) it is
    C(i - 1, n - 1) / C(N, n), and tied answers share theirs. A weighted mean over the answers is an unbiased estimate
    of what best-of-n gives, of lower variance than one draw of n.
    """
    table = np.asarray(rewards, dtype=np.float64)
    drawn = table.shape[1]
    if not 1 <= n <= drawn:
        raise ValueError(f"best of {n} needs {n} answers to each prompt, there are {drawn}")
    by_rank = np.array([math.comb(rank, n - 1) / math.comb(drawn, n) for rank in range(drawn)])
    weights = np.empty_like(table)
    for row, values in zip(weights, table, strict=True):
        _, which, sizes = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        shared = np.array([by_rank[a:b].mean() for a, b in pairwise(ends)])
        row[:] = shared[which]
    return weights


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n nats: an upper bound on KL(best-of-n || policy), reached where no answers tie or repeat.

    Beirami et al., arXiv 2401.01879, show that the formula, long used as an equation, is a bound.
    """
    return math.log(n) - (n - 1) / n


def distinct_n(texts: list[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams in ``texts`` (Li et al., arXiv 1510.03055); 0 where there are none.

    It falls as texts grow in number and length: compare like with like.
    """
    grams = [
        tuple(words[start : start + n])
        for words in (words_of(text.casefold()) for text in texts)
        for start in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0
