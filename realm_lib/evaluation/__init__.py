"""Judging rewards on preference pairs: accuracy, log-loss, calibration, and how sure each number is.

A reward is right on a pair when it gives the chosen response more than the rejected one; a tie counts half. Pairs of
one post share its question and its comments, so they are not independent: intervals resample posts and p-values flip
posts, never pairs. All rewards meet the same resamples, which makes their differences paired.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.evaluation.calibration import confidences, expected_calibration_error, fit_scale
from realm_lib.evaluation.resampling import (
    Bootstrap,
    EvaluationError,
    Floats,
    bootstrap_over_posts,
    check_resampling,
    percentiles,
    permutation_p_value,
    wilson,
)
from realm_lib.evaluation.result import Evaluation
from realm_lib.evaluation.standard import fit_scales, standard_rewards
from realm_lib.runs import derive_seed

__all__ = [
    "Bootstrap",
    "Evaluation",
    "EvaluationError",
    "bootstrap_over_posts",
    "evaluate_rewards",
    "expected_calibration_error",
    "fit_scale",
    "fit_scales",
    "permutation_p_value",
    "standard_rewards",
]

_RESERVED = ("gold", "pairs", "posts", "words")


class _Resampling(TypedDict):
    resamples: int
    confidence: float


def evaluate_rewards(
    features: pd.DataFrame,
    rewards: Mapping[str, ArrayLike],
    *,
    scales: Mapping[str, float],
    compare: Sequence[tuple[str, str]] | None = None,
    resamples: int = 10_000,
    seed: int = 42,
    confidence: float = 0.95,
) -> Evaluation:
    """Judge rewards on the pairs of ``features``.

    ``features`` has a row a pair with post_id, domain, labels (1 = A preferred); ``human_ref_A`` and ``human_ref_B``
    add the split by length in words (pairs of equal length are in neither half), ``gold_A`` and ``gold_B`` the ceiling
    of simulated pairs. ``rewards`` maps a name to [pairs, 2], the rewards of A and of B. ``scales`` has
    :func:`fit_scale`'s factor for each, from other pairs than these. ``compare`` lists the differences in accuracy to
    test; by default "realm" (without one, the first reward) against each other reward.

    Accuracies that are the same in every post leave the bootstrap no width; they get Wilson's interval (1927) with a
    post as one observation instead. Below some twenty posts percentile intervals are too narrow: read them so.

    Raises :class:`EvaluationError` naming what is wrong with the features or the rewards.
    """
    check_resampling(resamples, confidence)
    labels = _check_features(features)
    columns = {name: _check_reward(name, values, features) for name, values in rewards.items()}
    if not columns:
        raise EvaluationError("rewards is empty: give at least one reward")
    factors = {name: _check_scale(name, scales) for name in columns}
    simulated = "gold_A" in features
    if simulated:
        columns["gold"] = _check_reward("gold", features[["gold_A", "gold_B"]].to_numpy(), features)
    if compare is None:
        subject = "realm" if "realm" in factors else next(iter(factors))
        compare = [(subject, other) for other in factors if other != subject]
    for pair in compare:
        if unknown := [name for name in pair if name not in factors]:
            raise EvaluationError(f"compare names {unknown[0]!r}, which is not among the rewards: {', '.join(factors)}")

    per_pair = _per_pair(features, labels, columns, factors)
    names = list(columns)
    correct = per_pair[[f"{name}_correct" for name in names]].to_numpy()
    posts = per_pair["post_id"].to_numpy()
    options = _Resampling(resamples=resamples, confidence=confidence)
    whole = bootstrap_over_posts(correct, posts, seed=derive_seed(seed, "bootstrap"), **options)
    count = int(per_pair["post_id"].nunique())

    def group(key: str, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Accuracies on some of the pairs; null where there are none."""
        summary: dict[str, Any] = {"pairs": int(mask.sum()), "posts": len(set(posts[mask]))}
        if not mask.any():
            return summary | {name: {"accuracy": None, "ci": None} for name in factors}
        part = bootstrap_over_posts(
            correct[mask][:, : len(factors)], posts[mask], seed=derive_seed(seed, "group", key), **options
        )
        return summary | {name: _accuracy(part, i, summary["posts"], confidence) for i, name in enumerate(factors)}

    domains = per_pair["domain"].to_numpy()
    by_domain = {str(domain): group(str(domain), domains == domain) for domain in sorted(set(domains))}
    metrics: dict[str, Any] = {
        "pairs": len(per_pair),
        "posts": count,
        "rewards": {
            name: _accuracy(whole, i, count, confidence)
            | _probability_scores(per_pair, name, factors[name])
            | {"domain_mean_accuracy": float(np.mean([found[name]["accuracy"] for found in by_domain.values()]))}
            for i, name in enumerate(factors)
        },
        "differences": {
            f"{left} - {right}": _difference(whole, names.index(left), names.index(right), count, confidence)
            | {
                "p_value": permutation_p_value(
                    per_pair[f"{left}_correct"].to_numpy() - per_pair[f"{right}_correct"].to_numpy(),
                    posts,
                    resamples=resamples,
                    seed=derive_seed(seed, "permutation", left, right),
                )
            }
            for left, right in compare
        },
        "by_domain": by_domain,
    }
    if "words_A" in per_pair:
        # Positive when the chosen response has more words.
        longer = (per_pair["words_A"] - per_pair["words_B"]).to_numpy() * np.where(labels == 1, 1, -1)
        metrics["length_split"] = {
            "chosen_longer": group("chosen_longer", longer > 0),
            "chosen_shorter": group("chosen_shorter", longer < 0),
        }
    if simulated:
        from scipy.special import expit

        gap = per_pair["gold_A"].to_numpy() - per_pair["gold_B"].to_numpy()
        expected = float(expit(np.abs(gap)).mean())
        metrics["ceiling"] = _accuracy(whole, names.index("gold"), count, confidence) | {"expected": expected}
    return Evaluation(metrics, per_pair, factors, confidence, simulated)


def _check_features(features: pd.DataFrame) -> NDArray[np.int64]:
    """The labels, after every check of ``features``."""
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
    return features["labels"].to_numpy().astype(np.int64)


def _check_reward(name: str, values: ArrayLike, features: pd.DataFrame) -> Floats:
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


def _check_scale(name: str, scales: Mapping[str, float]) -> float:
    if name in _RESERVED:
        raise EvaluationError(f"a reward cannot be called {name!r}; these names are taken: {', '.join(_RESERVED)}")
    if name not in scales:
        raise EvaluationError(f"reward {name!r} has no scale: fit one with fit_scale on validation pairs")
    scale = float(scales[name])
    if not (math.isfinite(scale) and scale >= 0):
        raise EvaluationError(f"the scale of reward {name!r} must be a finite number >= 0, got {scale}")
    return scale


def _per_pair(
    features: pd.DataFrame, labels: NDArray[np.int64], columns: Mapping[str, Floats], scales: Mapping[str, float]
) -> pd.DataFrame:
    from scipy.special import expit

    content: dict[str, Any] = {
        "post_id": features["post_id"].to_numpy(),
        "domain": features["domain"].astype(str).str.replace(r"_(train|validation|test)$", "", regex=True).to_numpy(),
        "labels": labels,
    }
    for side in "AB" if "human_ref_A" in features else "":
        content[f"words_{side}"] = [len(text.split()) for text in features[f"human_ref_{side}"]]
    for name, values in columns.items():
        margin = values[:, 0] - values[:, 1]
        content[f"{name}_A"], content[f"{name}_B"] = values.T
        if name in scales:
            content[f"{name}_p"] = expit(scales[name] * margin)
        content[f"{name}_correct"] = (1 + np.sign(margin) * np.where(labels == 1, 1, -1)) / 2
    return pd.DataFrame(content)


def _probability_scores(per_pair: pd.DataFrame, name: str, scale: float) -> dict[str, Any]:
    """Ties, log-loss (nats a pair) and calibration error of one reward."""
    correct = per_pair[f"{name}_correct"].to_numpy()
    margin = (per_pair[f"{name}_A"] - per_pair[f"{name}_B"]).to_numpy() * np.where(per_pair["labels"] == 1, 1, -1)
    return {
        "ties": int((correct == 0.5).sum()),
        # From the margin, not from p, which rounds to 0 or 1 for a reward that is very sure.
        "log_loss": float(np.logaddexp(0, -scale * margin).mean()),
        "ece": expected_calibration_error(confidences(margin, scale), correct),
    }


def _accuracy(bootstrap: Bootstrap, column: int, posts: int, confidence: float) -> dict[str, Any]:
    value, low, high = (float(found[column]) for found in (bootstrap.means, bootstrap.lows, bootstrap.highs))
    if math.isclose(low, high, abs_tol=1e-12):
        low, high = wilson(value, posts, confidence)
    return {"accuracy": value, "ci": [low, high]}


def _difference(bootstrap: Bootstrap, left: int, right: int, posts: int, confidence: float) -> dict[str, Any]:
    value = float(bootstrap.means[left] - bootstrap.means[right])
    lows, highs = percentiles(bootstrap.resampled[:, [left]] - bootstrap.resampled[:, [right]], confidence)
    low, high = float(lows[0]), float(highs[0])
    # Two rewards that answer alike in several posts do differ by 0; one post, or one gain everywhere, proves less.
    if math.isclose(low, high, abs_tol=1e-12) and (posts == 1 or abs(value) > 1e-12):
        low, high = (2 * share - 1 for share in wilson((1 + value) / 2, posts, confidence))
    return {"value": value, "ci": [low, high]}
