"""The table that every number is computed from: features and rewards, checked, one row a pair."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.data.lengths import counted, word_count
from realm_lib.data.pairs import bare_domain
from realm_lib.evaluation.resampling import EvaluationError, Floats

RESERVED_REWARDS = ("gold", "feature_ceiling", "pairs", "posts", "word_count", "score_ratio")
"""Names of what stands beside the rewards: none of them can have one."""


def check_features(features: pd.DataFrame) -> NDArray[np.int64]:
    """The labels, after every check of ``features``; raises :class:`EvaluationError`."""
    needed = ["post_id", "domain", "labels"]
    for name in ("gold", "human_ref"):
        if f"{name}_A" in features or f"{name}_B" in features:
            needed += [f"{name}_A", f"{name}_B"]
    if missing := [name for name in needed if name not in features]:
        raise EvaluationError(f"features lack the column {missing[0]!r}; they have: {', '.join(map(str, features))}")
    if len(features) == 0:
        raise EvaluationError("features hold no pairs: there is nothing to evaluate")
    for name in (column for column in needed if column not in ("labels", "gold_A", "gold_B")):
        if (empty := np.flatnonzero(features[name].isna())).size:
            raise EvaluationError(f"{name} of row {empty[0]} is missing")
    if (bad := np.flatnonzero(~features["labels"].isin([0, 1]))).size:
        value = features["labels"].iloc[bad[0]]
        raise EvaluationError(f"labels must be 1 (A preferred) or 0 (B preferred); row {bad[0]} has {value!r}")
    if (ids := _pair_ids(features)).duplicated().any():
        raise EvaluationError(f"two pairs have the pair_id {ids[ids.duplicated()][0]!r}")
    return features["labels"].to_numpy().astype(np.int64)


def check_reward(name: str, values: ArrayLike, features: pd.DataFrame) -> Floats:
    """The reward as float64 [pairs, 2]; the gold columns come through here too."""
    checked = np.asarray(values, dtype=np.float64)
    if checked.shape != (len(features), 2):
        raise EvaluationError(f"reward {name!r} has shape {checked.shape}; expected {(len(features), 2)}: A and B")
    if (bad := np.flatnonzero(~np.isfinite(checked).all(axis=1))).size:
        row = int(bad[0])
        raise EvaluationError(
            f"reward {name!r} is NaN or infinite in {bad.size} rows, the first is row {row} "
            f"(post {features['post_id'].iloc[row]}): {checked[row].tolist()}"
        )
    return checked


def check_scale(name: str, scales: Mapping[str, float]) -> float:
    """The scale of reward ``name``, a finite number >= 0; raises :class:`EvaluationError`."""
    if name in RESERVED_REWARDS:
        raise EvaluationError(
            f"a reward cannot be called {name!r}; these names are taken: {', '.join(RESERVED_REWARDS)}"
        )
    if name not in scales:
        raise EvaluationError(f"reward {name!r} has no scale: fit one with fit_scale on validation pairs")
    scale = float(scales[name])
    if not (math.isfinite(scale) and scale >= 0):
        raise EvaluationError(f"the scale of reward {name!r} must be a finite number >= 0, got {scale}")
    return scale


def make_per_pair(
    features: pd.DataFrame, labels: NDArray[np.int64], columns: Mapping[str, Floats], scales: Mapping[str, float]
) -> pd.DataFrame:
    """:attr:`realm_lib.evaluation.result.Evaluation.per_pair`, from rewards [pairs, 2] by name."""
    from scipy.special import expit

    content: dict[str, Any] = {
        "pair_id": _pair_ids(features).to_numpy(),
        "post_id": features["post_id"].to_numpy(),
        "domain": features["domain"].astype(str).map(bare_domain).to_numpy(),
        "labels": labels,
    }
    for side in "AB" if "human_ref_A" in features else "":
        content[f"word_count_{side}"] = counted(word_count, features[f"human_ref_{side}"])
    if "score_ratio" in features:
        content["score_ratio"] = features["score_ratio"].to_numpy(dtype=np.float64)
    for name, values in columns.items():
        margin = values[:, 0] - values[:, 1]
        content[f"{name}_A"], content[f"{name}_B"] = values.T
        if name in scales:
            content[f"{name}_p"] = expit(scales[name] * margin)
        content[f"{name}_correct"] = (1 + np.sign(margin) * np.where(labels == 1, 1, -1)) / 2
    return pd.DataFrame(content)


def chosen_margins(per_pair: pd.DataFrame, name: str) -> Floats:
    """Reward ``name`` of the chosen response less that of the rejected one, [pairs]."""
    margins: Floats = (per_pair[f"{name}_A"] - per_pair[f"{name}_B"]).to_numpy()
    return margins * np.where(per_pair["labels"] == 1, 1.0, -1.0)


def wrong_pairs(per_pair: pd.DataFrame, features: pd.DataFrame, name: str) -> pd.DataFrame:
    """The pairs that reward ``name`` gets wrong, with their texts; the surest first.

    Columns: pair_id, post_id, domain, prompt, chosen, rejected (texts), reward_chosen, reward_rejected, sure (the
    probability given to the rejected response) and, where the pairs have votes, score_ratio. Texts are found in
    ``features`` by pair_id. Raises :class:`EvaluationError` when a pair is not there.
    """
    if "pair_id" not in per_pair:
        raise EvaluationError("these pairs were judged before pairs had a pair_id")
    wrong = per_pair[per_pair[f"{name}_correct"] == 0]
    texts = features.set_index(_pair_ids(features))
    if missing := sorted(set(wrong["pair_id"]) - set(texts.index)):
        raise EvaluationError(f"pair {missing[0]} was judged, but is not among these features")
    texts = texts.loc[wrong["pair_id"]].reset_index(drop=True)
    wrong = wrong.reset_index(drop=True)
    a_chosen = wrong["labels"] == 1
    table = wrong[["pair_id", "post_id", "domain"]].assign(prompt=texts["history"])
    for side, is_a in (("chosen", a_chosen), ("rejected", ~a_chosen)):
        table[side] = texts["human_ref_A"].where(is_a, texts["human_ref_B"])
        table[f"reward_{side}"] = wrong[f"{name}_A"].where(is_a, wrong[f"{name}_B"])
    table["sure"] = wrong[f"{name}_p"].where(~a_chosen, 1 - wrong[f"{name}_p"])
    if "score_ratio" in texts:
        table["score_ratio"] = texts["score_ratio"]
    return table.sort_values("sure", ascending=False, kind="stable", ignore_index=True)


def _pair_ids(features: pd.DataFrame) -> "pd.Index[str]":
    """The features' own pair_id, or else the number of the row."""
    return pd.Index(features["pair_id"] if "pair_id" in features else [str(row) for row in range(len(features))])
