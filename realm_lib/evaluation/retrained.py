"""How much of an accuracy is the luck of a training: the offline reward model trained again, and all that follows."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.training import ModelParams, OfflineRewardModelParams, TrainingParams
from realm_lib.models.offline import train_reward_model
from realm_lib.models.reward_models import build_scorer
from realm_lib.reward.combiner import FEATURES, Combiner, LinearCombiner, chosen_and_rejected
from realm_lib.runs.seeds import derive_seed

Features = Mapping[str, pd.DataFrame]
"""The features of train, validation and test."""


def retrained_features(
    features: Features,
    pairs: pd.DataFrame,
    offline: OfflineRewardModelParams,
    reward_model: RewardModelParams,
    *,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """``features`` with the scores of a reward model that is trained on ``pairs`` from ``seed``; it is not kept."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "reward_model"
        train_reward_model(pairs, offline, place, seed=seed, progress=False)
        scorer = build_scorer(reward_model.model_copy(update={"model_id": str(place)}))
    scores = {
        split: {
            f"score_{side}": scorer.score(table["history"].tolist(), table[f"human_ref_{side}"].tolist())
            for side in "AB"
        }
        for split, table in features.items()
    }
    return {split: table.assign(**scores[split]) for split, table in features.items()}


def retrained_spread(
    accuracies: Mapping[str, float],
    others: Sequence[Features],
    model: ModelParams,
    training: TrainingParams,
    names: Sequence[str] = FEATURES,
) -> dict[str, Any]:
    """Accuracies on the test pairs of this run and of ``others``, features of :func:`retrained_features`.

    ``accuracies`` are this run's, of reward_model, linear and realm. Beside each other reward model a weighted sum and
    a combiner are trained on its scores and the other features of ``names``, the combiner from another seed too.
    Returns {reward_model, linear, realm: [this run's, then the others'], sd: {of each, with n - 1}}.
    """
    found = {name: [float(accuracies[name])] for name in ("reward_model", "linear", "realm")}
    for number, features in enumerate(others, start=1):
        settings = training.model_copy(update={"seed": derive_seed(training.seed, "retrained", number)})
        combiner = Combiner(model, names)
        combiner.fit(features["train"], features["validation"], settings)
        linear = LinearCombiner(names).fit(features["train"])
        chosen, rejected = chosen_and_rejected(features["test"], names)
        score = names.index("score")
        margins = {
            "reward_model": chosen[:, score] - rejected[:, score],
            "linear": linear.reward(chosen) - linear.reward(rejected),
            "realm": combiner.reward(chosen) - combiner.reward(rejected),
        }
        for name, values in margins.items():
            found[name].append(float((1 + np.sign(values)).mean(dtype=np.float64) / 2))
    return {**found, "sd": {name: float(np.std(values, ddof=1)) for name, values in found.items()}}
