"""The baseline: the best linear combination of the two features."""

from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.reward.combiner.pairs import FEATURES, CombinerError, check_features, chosen_and_rejected, mean_and_std


class LinearCombiner:
    """Logistic regression on the difference of two responses' standardised features.

    Without an intercept this is the Bradley-Terry model with a linear reward (Bradley & Terry 1952). With it the
    evaluation asks whether the network learned more than two weights.
    """

    def __init__(self) -> None:
        self.coefficients: dict[str, float] = {}
        """Log-odds for one standard deviation of each feature; empty before ``fit``."""
        self._mean = np.zeros(len(FEATURES), dtype=np.float32)
        self._std = np.ones(len(FEATURES), dtype=np.float32)

    def fit(self, train: pd.DataFrame) -> Self:
        """Fit to the pairs of ``train``; raises :class:`CombinerError` as :meth:`Combiner.fit` does."""
        from sklearn.linear_model import LogisticRegression

        chosen, rejected = chosen_and_rejected(train)
        self._mean, self._std = mean_and_std(chosen, rejected)
        difference = (chosen - rejected).astype(np.float64) / self._std
        # Each pair in both orders: the labels hold both classes whatever their order in the data. sklearn's default
        # ridge (C = 1) stays: it matters only for a handful of pairs, where it keeps separable ones finite.
        model = LogisticRegression(fit_intercept=False)
        model.fit(np.concatenate([difference, -difference]), np.repeat([1, 0], len(difference)))
        self.coefficients = dict(zip(FEATURES, model.coef_[0].tolist(), strict=True))
        return self

    def reward(self, features: ArrayLike) -> NDArray[np.float32]:
        """The rewards of responses with ``features`` [n, 2], float32 [n].

        Raises :class:`CombinerError` before ``fit``, and for features of another shape or not finite.
        """
        if not self.coefficients:
            raise CombinerError("this LinearCombiner is not trained: call fit first")
        standardised = (check_features(features).astype(np.float64) - self._mean) / self._std
        rewards: NDArray[np.float64] = standardised @ np.array([self.coefficients[name] for name in FEATURES])
        return rewards.astype(np.float32)
