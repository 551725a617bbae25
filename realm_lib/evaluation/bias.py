"""Is it only length? How a reward goes with length, before and after what length has to do with quality."""

from typing import Any

import numpy as np
import pandas as pd

from realm_lib.evaluation.display import measured, percent, with_interval
from realm_lib.evaluation.resampling import Bootstrap, EvaluationError, Floats, bootstrap_over_posts
from realm_lib.evaluation.result import Evaluation
from realm_lib.runs.seeds import derive_seed


def length_bias(evaluation: Evaluation, *, resamples: int = 10_000, seed: int = 42) -> dict[str, Any]:
    """Correlation of each reward with length within pairs: as it is, and with quality held.

    Everything is a difference of A and B, so that what two responses share, their post, drops out. Differences count
    by their signed ranks (sign times rank of the size, as in Wilcoxon's test), which makes the correlation one of
    ranks and, like the choice of who is A, free of an origin. Quality is the true utility of simulated pairs, else
    the votes' ratio where it is known, else the label; the partial correlation is r_xl.q = (r_xl - r_xq r_lq) /
    sqrt((1 - r_xq^2)(1 - r_lq^2)). Intervals resample posts.

    Returns ``quality`` (what was held), ``pairs`` and ``quality_correlation`` of length with quality itself, and for
    each reward {correlation, ci, given_quality, given_quality_ci}; null where a reward or length never varies.
    Raises :class:`EvaluationError` when the pairs' lengths are not known.
    """
    table = evaluation.per_pair
    if "word_count_A" not in table:
        raise EvaluationError("the features hold no human_ref_A and human_ref_B, so lengths are not known")
    kind, quality = _quality(table, evaluation.simulated)
    known = ~np.isnan(quality)  # an infinite ratio of votes is known: only one response has any
    table, quality = table[known], signed_ranks(quality[known])
    length = signed_ranks(np.log1p(table["word_count_A"]).to_numpy() - np.log1p(table["word_count_B"]).to_numpy())
    posts = table["post_id"].to_numpy()
    level, seed = evaluation.confidence, derive_seed(seed, "length bias")
    rewards: dict[str, Any] = {}
    for name in evaluation.scales:
        reward = signed_ranks((table[f"{name}_A"] - table[f"{name}_B"]).to_numpy())
        squares = [reward**2, length**2, quality**2]
        products = np.column_stack([*squares, reward * length, reward * quality, length * quality])
        drawn = bootstrap_over_posts(products, posts, resamples=resamples, seed=seed, confidence=level)
        plain, given_quality = _correlations(drawn.means[None, :])
        plain_drawn, given_quality_drawn = _correlations(drawn.resampled)
        rewards[name] = {
            **_with_interval("correlation", "ci", plain, plain_drawn, drawn),
            **_with_interval("given_quality", "given_quality_ci", given_quality, given_quality_drawn, drawn),
        }
    lq = float((length * quality).sum() / np.sqrt((length**2).sum() * (quality**2).sum())) if length.any() else None
    return {"quality": kind, "pairs": len(table), "quality_correlation": lq, "rewards": rewards}


def length_bias_table(evaluation: Evaluation, lengths: dict[str, Any]) -> pd.DataFrame:
    """One row a reward: accuracy by which response is longer, length-controlled, and the correlations with length."""
    rows = []
    for name, reward in evaluation.metrics["rewards"].items():
        row = {"reward": name}
        for half, part in evaluation.metrics["length_split"].items():
            share = part[name]["accuracy"]
            row[f"{half.replace('_', ' ')} (n = {part['pairs']:,})"] = "" if share is None else percent(share)
        controlled, entry = reward["length_controlled"], lengths["rewards"][name]
        row["length-controlled"] = "" if controlled is None else with_interval(controlled["accuracy"], controlled["ci"])
        row["correlation with length"] = _correlation(entry["correlation"], entry["ci"])
        row[f"with {lengths['quality']} held"] = _correlation(entry["given_quality"], entry["given_quality_ci"])
        rows.append(row)
    return pd.DataFrame(rows)


def signed_ranks(differences: Floats) -> Floats:
    """Sign times rank of the size of ``differences`` [pairs], over the largest: -1 to 1, all 0 where none differ."""
    from scipy.stats import rankdata

    ranks: Floats = np.sign(differences) * rankdata(np.abs(differences))
    return ranks / max(1.0, float(np.abs(ranks).max(initial=0.0)))


def _correlation(value: float | None, ci: list[float]) -> str:
    return "" if value is None else measured(value, ci)


def _quality(table: pd.DataFrame, simulated: bool) -> tuple[str, Floats]:
    """What stands for quality, and A's minus B's of it."""
    if simulated:
        return "true utility", (table["gold_A"] - table["gold_B"]).to_numpy()
    sign = np.where(table["labels"] == 1, 1.0, -1.0)
    if "score_ratio" in table and table["score_ratio"].nunique() > 1:
        # At least 1; a hair more, so that a pair without a margin still has its label.
        return "votes", sign * (np.log(table["score_ratio"].clip(lower=1).to_numpy()) + 1e-6)
    return "preference", sign


def _correlations(moments: Floats) -> tuple[Floats, Floats]:
    """Plain and partial correlation [n] from the mean products [n, 6]; NaN where something never varies."""
    xx, ll, qq, xl, xq, lq = moments.T
    with np.errstate(invalid="ignore", divide="ignore"):
        r_xl, r_xq, r_lq = xl / np.sqrt(xx * ll), xq / np.sqrt(xx * qq), lq / np.sqrt(ll * qq)
        held = (1 - r_xq**2) * (1 - r_lq**2)
        partial = np.where(held > 1e-12, (r_xl - r_xq * r_lq) / np.sqrt(held), np.nan)
    return r_xl, partial


def _with_interval(name: str, ci: str, value: Floats, resampled: Floats, drawn: Bootstrap) -> dict[str, Any]:
    """``value`` [1] and its interval, from what it is in each resample, under these keys; null where there is none."""
    if not np.isfinite(value[0]):
        return {name: None, ci: None}
    return {name: float(value[0]), ci: drawn.interval_of(resampled)}
