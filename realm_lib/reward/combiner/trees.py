"""How far any function of both responses' features could get: gradient-boosted trees on the pair."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.feature_models import FEATURES
from realm_lib.reward.combiner.pairs import CombinerError, chosen_and_rejected, feature_matrix

_MOST_TREES = 400


class TreePreference:
    """Gradient-boosted trees that see both responses' features and their differences at once.

    Freer than any reward: what it prefers need not be transitive, nor smooth. Where it does no better than the
    combiner, there is little left in the features to learn. Every pair is trained on in both orders, and the
    margin is (f(a, b) - f(b, a)) / 2, so that swapping the responses changes its sign and nothing else. Trees by
    scikit-learn's HistGradientBoostingClassifier; how many is chosen by the log-loss on validation pairs.
    """

    def __init__(self, features: Sequence[str] = FEATURES) -> None:
        self.features = tuple(features)
        self._model: Any = None
        self._trees = 0

    def fit(self, train: pd.DataFrame, validation: pd.DataFrame) -> Self:
        """Fit to the pairs of ``train``; raises :class:`CombinerError` as :meth:`Combiner.fit` does."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        chosen, rejected = chosen_and_rejected(train, self.features)
        validation_chosen, validation_rejected = chosen_and_rejected(validation, self.features)
        if not (len(chosen) and len(validation_chosen)):
            raise CombinerError("trees need training pairs and validation pairs")
        model = HistGradientBoostingClassifier(
            max_iter=_MOST_TREES, learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=40, early_stopping=False
        )
        inputs = np.concatenate([_joined(chosen, rejected), _joined(rejected, chosen)])
        model.fit(inputs, np.repeat([1, 0], len(chosen)))
        in_order = model.staged_decision_function(_joined(validation_chosen, validation_rejected))
        swapped = model.staged_decision_function(_joined(validation_rejected, validation_chosen))
        losses = [np.logaddexp(0, (after - before) / 2).mean() for before, after in zip(in_order, swapped, strict=True)]
        self._trees, self._model = 1 + int(np.argmin(losses)), model
        return self

    def margin(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """Log-odds that A is preferred, for pairs like those of training, float64 [pairs].

        Raises :class:`CombinerError` before ``fit``, and as :func:`feature_matrix` does.
        """
        if self._model is None:
            raise CombinerError("this TreePreference is not trained: call fit first")
        a, b = feature_matrix(features, self.features)
        return (self._at_best(a, b) - self._at_best(b, a)) / 2

    def _at_best(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
        stages = self._model.staged_decision_function(_joined(first, second))
        result: NDArray[np.float64] = next(stage for number, stage in enumerate(stages, 1) if number == self._trees)
        return result


def _joined(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([first, second, first - second], axis=1)
