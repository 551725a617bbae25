"""The weighted sum: what a combiner begins from, and the baseline that it is judged by."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.reward.combiner.pairs import FEATURES, CombinerError, check_features, chosen_and_rejected, mean_and_std

Floats = NDArray[np.float64]

_RIDGE = 0.5  # of one pair: sklearn's default (C = 1) on pairs that stand in both orders


def fit_weights(differences: Floats, not_negative: Sequence[int] = ()) -> Floats:
    """Weights [features] of the logistic regression on ``differences`` [pairs, features], chosen less rejected.

    Without an intercept this is the Bradley-Terry model with a linear reward (Bradley & Terry 1952). Weights of the
    features ``not_negative`` that came out negative are 0, and the others are fitted without them.
    """
    from sklearn.linear_model import LogisticRegression

    weights = np.zeros(differences.shape[1])
    used = np.arange(differences.shape[1])
    while used.size:
        # Each pair in both orders: the labels hold both classes whatever their order in the data. sklearn's default
        # ridge (C = 1) stays: it matters only for a handful of pairs, where it keeps separable ones finite.
        model = LogisticRegression(fit_intercept=False, solver="newton-cholesky", tol=1e-8)
        both_orders = np.concatenate([differences[:, used], -differences[:, used]])
        model.fit(both_orders, np.repeat([1, 0], len(differences)))
        weights[used] = model.coef_[0]
        negative = [place for place in used if place in not_negative and weights[place] < 0]
        if not negative:
            break
        weights[negative] = 0
        used = np.setdiff1d(used, negative)
    return weights


def draw_weights(differences: Floats, weights: Floats, members: int, seed: int) -> Floats:
    """Weights for each of ``members`` [members, features], as far apart as the pairs leave them uncertain.

    Normal draws around ``weights``, with the covariance of Laplace's approximation: the inverse Hessian of the log-loss
    of ``differences`` [pairs, features]. They are moved to have ``weights`` as their mean, and each feature's scaled to
    have the posterior's standard deviation, for a few draws miss both. One member gets ``weights``.
    """
    if members == 1:
        return weights[None]
    wins = 1 / (1 + np.exp(-differences @ weights))
    hessian = (differences * (wins * (1 - wins))[:, None]).T @ differences + _RIDGE * np.eye(len(weights))
    covariance = np.linalg.inv(hessian)
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
        weights = fit_weights((chosen - rejected).astype(np.float64) / self._std)
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
