"""The rewards that are always compared, trained on the features of notebook 01."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.data.lengths import counted, letter_count, word_count
from realm_lib.evaluation.parts import WITHOUT, alone
from realm_lib.evaluation.resampling import EvaluationError, Floats
from realm_lib.reward.combiner import FEATURES, Combiner, LinearCombiner, TreePreference, feature_matrix
from realm_lib.reward.effects import RewardOf
from realm_lib.reward.temperature import fit_scale

PairReward = Callable[[pd.DataFrame], Floats]
"""A table of pairs with their features to the rewards of A and B, [pairs, 2]."""

_WORDS = "log of words"  # no identifier, so that no signal can be called so
_TERMS = 70


def standard_rewards(
    features: pd.DataFrame, names: Sequence[str] = FEATURES, /, **combined: RewardOf
) -> dict[str, Floats]:
    """The rewards of A and B, each [pairs, 2]: those ``combined`` from the features ``names``, and the baselines.

    The baselines are each feature alone (:func:`alone` names them) and the response's length in words (length) and in
    characters as a reader sees them (characters).
    """
    rewards = {name: _combined(reward_of, names) for name, reward_of in combined.items()} | _baselines(names)
    return {name: of_pairs(features) for name, of_pairs in rewards.items()}


def fit_rewards(
    train: pd.DataFrame,
    validation: pd.DataFrame,
    combiner: Combiner,
    model: ModelParams,
    training: TrainingParams,
    *,
    with_length: bool = True,
) -> dict[str, PairReward]:
    """Every reward that REALM is compared with, trained where it needs to be on the pairs that trained ``combiner``.

    - realm: ``combiner``, as it is
    - reward_model, similarity, each signal by its name, length, characters: no training
    - linear: logistic regression on all features
    - trees: boosted trees on both responses' features, freer than any reward could be
    - realm_with_length: the same network and training, with the logarithm of the number of words as one more feature;
      not where ``with_length`` is False, since a signal is the length already
    - realm_without_NAME for each feature, where there are two or more: the same without it

    Raises what :meth:`Combiner.fit` raises. An ablation whose only feature is constant cannot be trained: it is an
    error too, for it says that an earlier step is broken.
    """
    names = combiner.features
    linear = LinearCombiner(names).fit(train)
    trees = TreePreference(names).fit(train, validation)
    ablations = {"realm_with_length": (*names, _WORDS)} if with_length else {}
    if len(names) > 1:
        ablations |= {f"{WITHOUT}{left_out}": tuple(name for name in names if name != left_out) for left_out in names}
    known = _with_words(train), _with_words(validation)
    trained = {name: Combiner(model, kept) for name, kept in ablations.items()}
    for ablation in trained.values():
        ablation.fit(*known, training)

    def tree_rewards(features: pd.DataFrame) -> Floats:
        margins = trees.margin(features)  # of a preference that is not made of rewards: half for A, half against B
        return np.stack([margins / 2, -margins / 2], axis=1)

    def ablated(ablation: Combiner) -> PairReward:
        of_features = _combined(ablation.reward, ablation.features)
        return lambda features: of_features(_with_words(features) if _WORDS in ablation.features else features)

    return {
        "realm": _combined(combiner.reward, names),
        **_baselines(names),
        "linear": _combined(linear.reward, names),
        "trees": tree_rewards,
        **{name: ablated(ablation) for name, ablation in trained.items()},
    }


def feature_ceiling(
    features: Mapping[str, pd.DataFrame], names: Sequence[str] = FEATURES, folds: int = 5
) -> Floats | None:
    """Margins [pairs] on the test pairs of the best preference that the features allow; None unless simulated.

    The best is to prefer the response that wins with more than probability one half given the features. A Bradley-Terry
    reward, a polynomial in all ``names``, is fitted to the true probabilities of the simulator, free of the votes'
    noise, on all splits: on test pairs by folds of posts, so that no post judges itself. No reward that learns from
    votes has as much to learn from. The degree is 4, less from five features on, where there would be over 70 terms.
    With two features, regression trees and other degrees came out the same within a point.
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
            margins[held] = _true_preference(known, test[held], names)
    return margins


def _true_preference(known: pd.DataFrame, asked: pd.DataFrame, names: Sequence[str]) -> Floats:
    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import PolynomialFeatures

    sides = [side.astype(np.float64) for side in feature_matrix(known, names)]
    pooled = np.concatenate(sides)
    mean, std = pooled.mean(axis=0), pooled.std(axis=0)
    degree = max(degree for degree in range(1, 5) if degree == 1 or math.comb(len(names) + degree, degree) <= _TERMS)
    powers = PolynomialFeatures(degree, include_bias=False)

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
    a, b = feature_matrix(asked, names)
    margins: Floats = difference(a.astype(np.float64), b.astype(np.float64)) @ model.coef_[0]
    return margins


def fit_scales(features: pd.DataFrame, rewards: Mapping[str, ArrayLike]) -> dict[str, float]:
    """:func:`fit_scale` of every reward, [pairs, 2], on the labels of ``features``: validation pairs, never test."""
    sign = np.where(features["labels"] == 1, 1.0, -1.0)
    return {name: fit_scale(sign * -np.diff(np.asarray(values), axis=1)[:, 0]) for name, values in rewards.items()}


def _combined(reward_of: RewardOf, names: Sequence[str]) -> PairReward:
    def rewards(features: pd.DataFrame) -> Floats:
        return np.stack([reward_of(side) for side in feature_matrix(features, names)], axis=1).astype(np.float64)

    return rewards


def _length(count: Callable[[str], int]) -> PairReward:
    def lengths(features: pd.DataFrame) -> Floats:
        columns = ["human_ref_A", "human_ref_B"]
        if missing := [name for name in columns if name not in features]:
            raise EvaluationError(
                f"features lack the column {missing[0]!r}: without texts there is no length to compare"
            )
        return np.stack([_of_each(count, features[name]) for name in columns], axis=1).astype(np.float64)

    return lengths


def _of_each(count: Callable[[str], int], texts: "pd.Series[str]") -> NDArray[np.int64]:
    """``count`` of each of ``texts``; only the distinct ones are made Python's, of which SHP has fewer."""
    which, distinct = pd.factorize(texts, use_na_sentinel=False)
    return counted(count, distinct)[which]


def _baselines(names: Sequence[str]) -> dict[str, PairReward]:
    features = {alone(name): _combined(lambda side: side[:, 0], [name]) for name in names}
    return features | {"length": _length(word_count), "characters": _length(letter_count)}


def _with_words(features: pd.DataFrame) -> pd.DataFrame:
    a, b = np.log1p(_length(word_count)(features)).T
    return features.assign(**{f"{_WORDS}_A": a, f"{_WORDS}_B": b})
