"""The rewards that are always compared, on the features of notebook 01."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.combiner import feature_matrix
from realm_lib.evaluation.calibration import fit_scale

__all__ = ["fit_scales", "standard_rewards"]

RewardOf = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Features [n, 2] (score, similarity) to rewards [n]."""


def standard_rewards(features: pd.DataFrame, **combined: RewardOf) -> dict[str, NDArray[np.float64]]:
    """The rewards of A and B, each [pairs, 2]: those ``combined`` from the features, and the baselines.

    The baselines are each feature alone (reward_model, similarity) and the response's length in words.
    """
    a, b = feature_matrix(features)
    rewards = {name: np.stack([reward_of(a), reward_of(b)], axis=1) for name, reward_of in combined.items()}
    rewards["reward_model"], rewards["similarity"] = (np.stack([a[:, n], b[:, n]], axis=1) for n in (0, 1))
    rewards["length"] = np.stack(
        [features[f"human_ref_{side}"].map(lambda text: len(text.split())) for side in "AB"], axis=1
    )
    return {name: values.astype(np.float64) for name, values in rewards.items()}


def fit_scales(features: pd.DataFrame, rewards: Mapping[str, ArrayLike]) -> dict[str, float]:
    """:func:`fit_scale` of every reward, [pairs, 2], on the labels of ``features``: validation pairs, never test."""
    sign = np.where(features["labels"] == 1, 1.0, -1.0)
    return {name: fit_scale(sign * -np.diff(np.asarray(values), axis=1)[:, 0]) for name, values in rewards.items()}
