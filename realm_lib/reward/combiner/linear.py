"""The weighted sum: what a combiner begins from, and the baseline that it is judged by."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from realm_lib.config.feature_models import FEATURES
from realm_lib.reward.combiner.pairs import CombinerError, check_features, chosen_and_rejected, mean_and_std

Floats = NDArray[np.float64]

_MOST_STEPS = 100
_SMALLEST_STEP = 1e-12
_RIDGE = 0.5
"""What a squared weight costs beside the loss of one pair: it matters only for a handful of pairs, where it keeps
separable ones finite. On pairs that stand in both orders it is the default of sklearn's LogisticRegression."""


def logistic_regression(
    inputs: Floats, offset: Floats | float = 0.0, *, ridge: float = _RIDGE
) -> tuple[Floats, Floats]:
    """The coefficients [inputs] with the least log-loss, and its Hessian there [inputs, inputs].

    ``inputs`` [pairs, inputs] are those of the chosen response less those of the rejected one, ``offset`` [pairs] is a
    margin that is there already. Without an intercept this is the Bradley-Terry model with a linear reward (Bradley &
    Terry 1952). Newton's method with halved steps, to the last bits: sklearn would want each pair in both orders and
    knows no offset.
    """

    def loss(coefficients: Floats) -> float:
        margins = offset + inputs @ coefficients
        return float(np.logaddexp(0, -margins).sum() + ridge / 2 * coefficients @ coefficients)

    coefficients: Floats = np.zeros(inputs.shape[1])
    before = loss(coefficients)
    for _ in range(_MOST_STEPS):
        wrong = expit(-(offset + inputs @ coefficients))
        gradient = ridge * coefficients - wrong @ inputs
        hessian: Floats = (inputs * (wrong * (1 - wrong))[:, None]).T @ inputs
        hessian += ridge * np.eye(len(coefficients))
        step: Floats = np.linalg.solve(hessian, gradient)
        while (after := loss(coefficients - step)) > before and np.abs(step).max() > _SMALLEST_STEP:
            step = step / 2
        if np.abs(step).max() <= _SMALLEST_STEP:
            break
        coefficients, before = coefficients - step, after
    return coefficients, hessian


def fit_weights(differences: Floats, not_negative: Sequence[int] = ()) -> tuple[Floats, Floats]:
    """Weights [features] of the logistic regression on ``differences`` [pairs, features], and their covariance.

    Weights of the features ``not_negative`` that came out negative are 0, and the others are fitted without them. The
    covariance is that of Laplace's approximation, the inverse Hessian of the log-loss.
    """
    weights, hessian = logistic_regression(differences)
    covariance = np.linalg.inv(hessian).astype(np.float64)
    used = np.arange(len(weights))
    while negative := [place for place in not_negative if weights[place] < 0]:
        used = np.setdiff1d(used, negative)
        weights = np.zeros(len(weights))
        if used.size:
            weights[used], _ = logistic_regression(differences[:, used])
    return weights, covariance


def draw_weights(weights: Floats, covariance: Floats, members: int, seed: int) -> Floats:
    """Weights for each of ``members`` [members, features], as far apart as the pairs leave them uncertain.

    Normal draws that are moved to have ``weights`` as their mean, and scaled to have each feature's own standard
    deviation, for a few draws miss both. One member gets ``weights``.
    """
    if members == 1:
        return weights[None]
    draws = np.random.default_rng(seed).normal(size=(members, len(weights))) @ np.linalg.cholesky(covariance).T
    draws -= draws.mean(axis=0)
    result: Floats = weights + draws * np.sqrt(np.diag(covariance)) / draws.std(axis=0)
    return result


class LinearCombiner:
    """Logistic regression on the difference of two responses' standardised features.

    With it the evaluation asks whether the network learned more than weights.
    """

    def __init__(self, features: Sequence[str] = FEATURES) -> None:
        self.features = tuple(features)
        self.coefficients: dict[str, float] = {}
        """Log-odds for one standard deviation of each feature; empty before ``fit``."""
        self._mean = np.zeros(len(self.features), dtype=np.float32)
        self._std = np.ones(len(self.features), dtype=np.float32)

    def fit(self, train: pd.DataFrame) -> Self:
        """Fit to the pairs of ``train``; raises :class:`CombinerError` as :meth:`Combiner.fit` does."""
        chosen, rejected = chosen_and_rejected(train, self.features)
        self._mean, self._std = mean_and_std(chosen, rejected, self.features)
        weights, _ = fit_weights((chosen - rejected).astype(np.float64) / self._std)
        self.coefficients = dict(zip(self.features, weights.tolist(), strict=True))
        return self

    def reward(self, features: ArrayLike) -> NDArray[np.float32]:
        """The rewards of responses with ``features`` [n, features], float32 [n].

        Raises :class:`CombinerError` before ``fit``, and for features of another shape or not finite.
        """
        if not self.coefficients:
            raise CombinerError("this LinearCombiner is not trained: call fit first")
        standardised = (check_features(features, self.features).astype(np.float64) - self._mean) / self._std
        rewards: Floats = standardised @ np.array([self.coefficients[name] for name in self.features])
        return rewards.astype(np.float32)
