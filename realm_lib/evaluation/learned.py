"""What a combiner has made of its features, and how much of it is the seed that it was trained from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.evaluation.calibration import probability_scores
from realm_lib.evaluation.display import percent, with_interval
from realm_lib.evaluation.per_pair import chosen_margins
from realm_lib.evaluation.resampling import EvaluationError, bootstrap_over_posts
from realm_lib.evaluation.result import Evaluation
from realm_lib.reward.combiner import Combiner, chosen_and_rejected
from realm_lib.runs.seeds import derive_seed


def folded_calibration(
    evaluation: Evaluation, factor: float, *, resamples: int = 10_000, seed: int = 42
) -> dict[str, Any]:
    """How well the reward's bare differences do as log-odds, before and after ``factor`` was folded into them.

    ``factor`` is the combiner's ``scale``, from validation pairs; the differences before it are those of the
    reward over it. Returns {factor, before, after}, the last two as :func:`probability_scores`.
    """
    name, level = evaluation.subject, evaluation.confidence
    margins, posts = chosen_margins(evaluation.per_pair, name), evaluation.per_pair["post_id"]
    scores = {
        when: probability_scores(
            margins, posts, scale, resamples=resamples, seed=derive_seed(seed, "calibration", name, when), level=level
        )
        for when, scale in (("before", 1 / factor), ("after", 1.0))
    }
    return {"factor": factor, **scores}


def disagreement(
    evaluation: Evaluation, left: str, right: str, *, resamples: int = 10_000, seed: int = 42
) -> dict[str, Any]:
    """Where two rewards prefer different responses, and how often ``left`` is the one who is right.

    {pairs, posts, share (of all pairs), left_right (share of these in which ``left`` is right), ci over posts}; the
    last two are null when they never disagree. Ties are no preference and are left out.
    """
    table = evaluation.per_pair
    preferred = [np.sign((table[f"{name}_A"] - table[f"{name}_B"]).to_numpy()) for name in (left, right)]
    apart = preferred[0] * preferred[1] < 0
    left_right, ci = None, None
    if apart.any():
        values, posts = table[f"{left}_correct"][apart], table["post_id"][apart]
        seed = derive_seed(seed, "disagreement", left, right)
        level = evaluation.confidence
        drawn = bootstrap_over_posts(values, posts, shares=True, resamples=resamples, seed=seed, confidence=level)
        left_right, ci = float(drawn.means[0]), drawn.interval()
    return {
        "pairs": int(apart.sum()),
        "posts": int(table["post_id"][apart].nunique()),
        "share": float(apart.mean()),
        "left_right": left_right,
        "ci": ci,
    }


def disagreement_table(metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a "left - right" of :func:`disagreement`, with numbers as text for display."""
    rows = []
    for name, entry in metrics.items():
        left, right = name.split(" - ")
        row = {"rewards": f"{left} against {right}", "disagree": f"{percent(entry['share'])} (n = {entry['pairs']:,})"}
        row[f"{left} is right"] = "" if entry["ci"] is None else with_interval(entry["left_right"], entry["ci"])
        rows.append(row)
    return pd.DataFrame(rows)


def spread_against_error(
    combiner: Combiner, features: pd.DataFrame, *, bins: int = 5, resamples: int = 10_000, seed: int = 42
) -> pd.DataFrame:
    """Accuracy by how far the ensemble's members disagree about a pair's margin, least first.

    A large margin brings a large spread along, so the disagreement is spread / (spread + margin), from 0 to 1, with
    the members' standard deviation and the size of their mean. Bins of equal mass of it: columns disagreement, spread,
    margin, accuracy, low, high (95 % over posts), pairs.

    Raises :class:`EvaluationError` for a single member, which cannot disagree.
    """
    if combiner.params.ensemble < 2:
        raise EvaluationError("one member has no spread: set model.ensemble to 2 or more")
    sides = chosen_and_rejected(features, combiner.features)
    chosen, rejected = (combiner.member_rewards(side).astype(np.float64) for side in sides)
    margins = chosen - rejected
    mean = margins.mean(axis=0)
    table = pd.DataFrame({"spread": margins.std(axis=0), "margin": np.abs(mean), "right": (1 + np.sign(mean)) / 2})
    size = (table["spread"] + table["margin"]).to_numpy()
    # Two responses with the same features are a tie about which no member knows anything.
    table["disagreement"] = np.divide(table["spread"], size, out=np.ones(len(table)), where=size > 0)
    table["post_id"] = features["post_id"].to_numpy()
    rows = []
    for _, part in table.groupby(pd.qcut(table["disagreement"], bins, duplicates="drop", labels=False)):
        drawn = bootstrap_over_posts(part["right"], part["post_id"], shares=True, resamples=resamples, seed=seed)
        low, high = drawn.interval()
        means = {name: part[name].mean() for name in ("disagreement", "spread", "margin")}
        rows.append({**means, "accuracy": drawn.means[0], "low": low, "high": high, "pairs": len(part)})
    return pd.DataFrame(rows)


def seed_spread(
    features: Mapping[str, pd.DataFrame],
    combiner: Combiner,
    model: ModelParams,
    training: TrainingParams,
    *,
    seeds: int = 4,
) -> dict[str, Any]:
    """Accuracy on the test pairs of ``combiner`` and of ``seeds`` more, trained from other seeds on the same pairs.

    This is the spread that training adds, on one and the same test set; how far another test set would move the
    accuracy is the interval of :func:`evaluate_rewards`. ``features`` has train, validation and test.
    Returns {ensemble: [accuracies], members: [accuracies of every single network], sd, members_sd}.
    """
    ensembles, members = [], []
    sides = chosen_and_rejected(features["test"], combiner.features)
    for number in range(seeds + 1):
        trained = combiner
        if number:
            settings = training.model_copy(update={"seed": derive_seed(training.seed, "other seed", number)})
            trained = Combiner(model, combiner.features)
            trained.fit(features["train"], features["validation"], settings)
        chosen, rejected = (trained.member_rewards(side) for side in sides)
        margins = (chosen - rejected).astype(np.float64)
        ensembles.append(float((1 + np.sign(margins.mean(axis=0))).mean() / 2))
        members += ((1 + np.sign(margins)).mean(axis=1) / 2).tolist()
    return {
        "ensemble": ensembles,
        "members": members,
        "sd": float(np.std(ensembles, ddof=1)) if len(ensembles) > 1 else 0.0,
        "members_sd": float(np.std(members, ddof=1)) if len(members) > 1 else 0.0,
    }
