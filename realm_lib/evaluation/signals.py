"""The features of a combined reward one by one: what each adds, what it costs, what it shares with the others."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.evaluation.bias import signed_ranks
from realm_lib.evaluation.display import interval
from realm_lib.evaluation.parts import WITHOUT
from realm_lib.evaluation.resampling import Floats
from realm_lib.evaluation.result import Evaluation
from realm_lib.reward.combiner import Combiner, feature_matrix
from realm_lib.runs.run import MissingStepError, Run


def feature_costs(run: Run, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What notebook 01 spent on each feature: {name: {computed, cache_hits, tokens, seconds, cost}}, numbers or null.

    Raises :class:`MissingStepError` for a run whose features were made before costs were kept.
    """
    costs = run.read_metrics("features").get("costs", {})
    if missing := [name for name in names if name not in costs]:
        raise MissingStepError(
            f"{run.path('metrics', 'features.json')}: does not say what {missing[0]} cost: run 01_feature_extraction "
            "again (what is in the feature store is not computed again)"
        )
    return {name: dict(costs[name]) for name in names}


def signals_worth(evaluation: Evaluation, costs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """For each feature of ``costs`` what the reward would lose without it, beside its cost.

    {feature: {gained: {value, ci, p_holm}, cost}}, of the tested difference between the reward and the same trained
    without the feature; features without such a difference, as an only one, are left out.
    """
    differences, worth = evaluation.metrics["differences"], {}
    for name, cost in costs.items():
        if (found := differences.get(f"{evaluation.subject} - {WITHOUT}{name}")) is not None:
            worth[name] = {"gained": {key: found[key] for key in ("value", "ci", "p_holm")}, "cost": dict(cost)}
    return worth


def signals_table(worth: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a feature of :func:`signals_worth`, the one that adds most first, with numbers as text for display."""
    rows = []
    for name, entry in sorted(worth.items(), key=lambda item: -item[1]["gained"]["value"]):
        gained, cost = entry["gained"], entry["cost"]
        money = cost["cost"]
        rows.append(
            {
                "feature": name,
                "lost without it (points)": f"{100 * gained['value']:+.1f} ({interval(gained['ci'], '+.1f')})",
                "p after Holm": f"{gained['p_holm']:.4f}",
                "computed": _counted(cost["computed"]),
                "from the store": _counted(cost["cache_hits"]),
                "tokens": _counted(cost["tokens"]),
                "seconds": "" if cost["seconds"] is None else f"{cost['seconds']:,.1f}",
                "US dollars": "" if money is None else f"{money:,.2f}",
            }
        )
    return pd.DataFrame(rows)


def feature_correlations(features: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Rank correlation of each two features' differences between the responses of a pair, {one: {other: number}}.

    Differences count by their signed ranks, so that it does not matter which response is called A. Null where a feature
    never differs within a pair.
    """
    a, b = feature_matrix(features, names)
    ranks = [signed_ranks(difference) for difference in (a - b).astype(np.float64).T]
    found: dict[str, dict[str, float | None]] = {name: {name: 1.0} for name in names}
    for one, other in combinations(range(len(names)), 2):
        value = _correlation(ranks[one], ranks[other])
        found[names[one]][names[other]] = found[names[other]][names[one]] = value
    return {name: {other: found[name][other] for other in names} for name in names}


def _correlation(x: Floats, y: Floats) -> float | None:
    return float(x @ y / np.sqrt((x @ x) * (y @ y))) if x.any() and y.any() else None


def outside_range(combiner: Combiner, features: pd.DataFrame) -> dict[str, Any]:
    """How many responses lie beyond what the combiner was trained on, where it takes the border's value for theirs.

    {responses, share (with any feature outside), by_feature: {name: share}}.
    """
    responses = np.concatenate(feature_matrix(features, combiner.features))
    beyond = combiner.beyond(responses)
    by_feature = dict(zip(combiner.features, beyond.mean(axis=0).tolist(), strict=True))
    return {"responses": len(responses), "share": float(beyond.any(axis=1).mean()), "by_feature": by_feature}


def _counted(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
