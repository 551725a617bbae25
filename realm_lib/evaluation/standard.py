"""The rewards that are always compared, trained on the features of notebook 01."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.data.lengths import counted, letter_count, word_count
from realm_lib.evaluation.resampling import EvaluationError, Floats
from realm_lib.reward.combiner import Combiner, LinearCombiner, TreePreference, feature_matrix
from realm_lib.reward.temperature import fit_scale

RewardOf = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Features [n, 2] (score, similarity) to rewards [n]."""

PairReward = Callable[[pd.DataFrame], Floats]
"""A table of pairs with their features to the rewards of A and B, [pairs, 2]."""

_ABLATIONS = {
    "realm_with_length": ("score", "similarity", "log_words"),
    "realm_without_score": ("similarity",),
    "realm_without_similarity": ("score",),
}


def standard_rewards(features: pd.DataFrame, **combined: RewardOf) -> dict[str, Floats]:
    """The rewards of A and B, each [pairs, 2]: those ``combined`` from the features, and the baselines.

    The baselines are each feature alone (reward_model, similarity) and the response's length in words (length) and in
    characters as a reader sees them (characters).
    """
    rewards = {name: _combined(reward_of) for name, reward_of in combined.items()} | _BASELINES
    return {name: of_pairs(features) for name, of_pairs in rewards.items()}


def fit_rewards(
    train: pd.DataFrame, validation: pd.DataFrame, combiner: Combiner, model: ModelParams, training: TrainingParams
) -> dict[str, PairReward]:
    """Every reward that REALM is compared with, trained where it needs to be on the pairs that trained ``combiner``.

    - realm: ``combiner``, as it is
    - reward_model, similarity, length, characters: no training
    - linear: logistic regression on both features
    - trees: boosted trees on both responses' features, freer than any reward could be
    - realm_with_length, realm_without_score, realm_without_similarity: the same network and training, with the
      logarithm of the number of words as a third feature, and without one of the two

    Raises what :meth:`Combiner.fit` raises. An ablation whose only feature is constant cannot be trained: it is an
    error too, for it says that an earlier step is broken.
    """
    linear = LinearCombiner().fit(train)
    trees = TreePreference().fit(train, validation)
    known = _with_words(train), _with_words(validation)
    ablations = {name: Combiner(model, names) for name, names in _ABLATIONS.items()}
    for ablation in ablations.values():
        ablation.fit(*known, training)

    def tree_rewards(features: pd.DataFrame) -> Floats:
        margins = trees.margin(features)  # of a preference that is not made of rewards: half for A, half against B
        return np.stack([margins / 2, -margins / 2], axis=1)

    def ablated(ablation: Combiner) -> PairReward:
        def rewards(features: pd.DataFrame) -> Floats:
            known = _with_words(features) if "log_words" in ablation.features else features
            sides = feature_matrix(known, ablation.features)
            return np.stack([ablation.reward(side) for side in sides], axis=1).astype(np.float64)

        return rewards

    return {
        "realm": _combined(combiner.reward),
        **_BASELINES,
        "linear": _combined(linear.reward),
        "trees": tree_rewards,
        **{name: ablated(ablation) for name, ablation in ablations.items()},
    }


def feature_ceiling(features: Mapping[str, pd.DataFrame], folds: int = 5) -> Floats | None:
    """Margins [pairs] on the test pairs of the best preference that both features allow; None unless simulated.

    The best is to prefer the response that wins with more than probability one half given the features. A Bradley-Terry
    reward, a polynomial of degree 4 in both, is fitted to the true probabilities of the simulator, free of the votes'
    noise, on all splits: on test pairs by folds of posts, so that no post judges itself. No reward that learns from
    votes has as much to learn from. Beside it, regression trees and other degrees came out the same within a point.
    """
    if any("gold_A" not in table for table in features.values()):
        return None
    test = features["test"]
    fold = pd.factorize(test["post_id"])[0] % folds
    margins = np.empty(len(test))
    for number in range(folds):
        held = fold == number
        if held.any():
            known = pd.concat([features["train"], features["validation"], test[~held]], ignore_index=True)
            margins[held] = _true_preference(known, test[held])
    return margins


def _true_preference(known: pd.DataFrame, asked: pd.DataFrame) -> Floats:
    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import PolynomialFeatures

    sides = [side.astype(np.float64) for side in feature_matrix(known)]
    pooled = np.concatenate(sides)
    mean, std = pooled.mean(axis=0), pooled.std(axis=0)
    powers = PolynomialFeatures(4, include_bias=False)

    def difference(a: Floats, b: Floats) -> Floats:
        # Beyond three deviations a polynomial runs away from what it has seen.
        of_a, of_b = (powers.fit_transform(np.clip((side - mean) / std, -3, 3)) for side in (a, b))
        result: Floats = of_a - of_b
        return result

    inputs = difference(*sides)
    wins = expit((known["gold_A"] - known["gold_B"]).to_numpy())
    model = LogisticRegression(fit_intercept=False, max_iter=2000)
    both = np.concatenate([inputs, inputs])
    model.fit(both, np.repeat([1, 0], len(inputs)), sample_weight=np.concatenate([wins, 1 - wins]))
    a, b = feature_matrix(asked)
    margins: Floats = difference(a.astype(np.float64), b.astype(np.float64)) @ model.coef_[0]
    return margins


def fit_scales(features: pd.DataFrame, rewards: Mapping[str, ArrayLike]) -> dict[str, float]:
    """:func:`fit_scale` of every reward, [pairs, 2], on the labels of ``features``: validation pairs, never test."""
    sign = np.where(features["labels"] == 1, 1.0, -1.0)
    return {name: fit_scale(sign * -np.diff(np.asarray(values), axis=1)[:, 0]) for name, values in rewards.items()}


def _combined(reward_of: RewardOf) -> PairReward:
    return lambda features: np.stack([reward_of(side) for side in feature_matrix(features)], axis=1).astype(np.float64)


def _length(count: Callable[[str], int]) -> PairReward:
    def lengths(features: pd.DataFrame) -> Floats:
        columns = ["human_ref_A", "human_ref_B"]
        if missing := [name for name in columns if name not in features]:
            raise EvaluationError(
                f"features lack the column {missing[0]!r}: without texts there is no length to compare"
            )
        return counted(count, features[columns].to_numpy().ravel()).reshape(-1, 2).astype(np.float64)

    return lengths


_BASELINES: dict[str, PairReward] = {
    "reward_model": _combined(lambda side: side[:, 0]),
    "similarity": _combined(lambda side: side[:, 1]),
    "length": _length(word_count),
    "characters": _length(letter_count),
}


def _with_words(features: pd.DataFrame) -> pd.DataFrame:
    a, b = np.log1p(_BASELINES["length"](features)).T
    return features.assign(log_words_A=a, log_words_B=b)
