"""Judging rewards on preference pairs: accuracy, log-loss, calibration, and how sure each number is.

A reward is right on a pair when it gives the chosen response more than the rejected one; a tie counts half. Pairs of
one post share its question and its comments, so they are not independent: intervals resample posts and p-values flip
posts, never pairs. All rewards meet the same resamples, which makes their differences paired.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.evaluation.calibration import pair_losses, probability_scores
from realm_lib.evaluation.domain_means import DomainAccuracy, domain_mean, pooled_domains
from realm_lib.evaluation.intervals import resample_variance
from realm_lib.evaluation.per_pair import check_features, check_reward, check_scale, chosen_margins, make_per_pair
from realm_lib.evaluation.resampling import (
    Bootstrap,
    EvaluationError,
    Floats,
    bootstrap_over_posts,
    check_resampling,
    detectable_difference,
    holm,
    permutation_p_value,
)
from realm_lib.evaluation.result import Evaluation
from realm_lib.evaluation.slices import longer_chosen, slices
from realm_lib.runs.seeds import derive_seed


class _Resampling(TypedDict):
    resamples: int
    confidence: float


def evaluate_rewards(
    features: pd.DataFrame,
    rewards: Mapping[str, ArrayLike],
    *,
    scales: Mapping[str, float],
    compare: Sequence[tuple[str, str]] | None = None,
    feature_ceiling: ArrayLike | None = None,
    resamples: int = 10_000,
    seed: int = 42,
    confidence: float = 0.95,
) -> Evaluation:
    """Judge rewards on the pairs of ``features``.

    ``features`` has a row a pair with post_id, domain, labels (1 = A preferred); ``pair_id`` names the pairs (else
    their row's number does), ``human_ref_A`` and ``human_ref_B`` add what depends on length in words, ``score_ratio``
    the curve over votes, ``gold_A`` and ``gold_B`` the ceiling of simulated pairs. ``rewards`` maps a name to [pairs,
    2], the rewards of A and of B. ``scales`` has :func:`fit_scale`'s factor for each, from other pairs than these.
    ``compare`` lists the differences in accuracy to test; by default "realm" (without one, the first reward) against
    each other reward. ``feature_ceiling`` [pairs] is the margin of A over B of the best preference that the features
    allow, where it is known.

    A difference has its interval, the p-value of permuting it by post, the same after Holm's correction for all that
    are compared, the smallest true difference that these pairs would show with 80 % power, and the difference in
    log-loss.

    Domains with few posts are pooled for the interval of the mean over domains: ``domain_mean`` names them.

    Raises :class:`EvaluationError` naming what is wrong with the features or the rewards.
    """
    check_resampling(resamples, confidence)
    labels = check_features(features)
    columns = {name: check_reward(name, values, features) for name, values in rewards.items()}
    if not columns:
        raise EvaluationError("rewards is empty: give at least one reward")
    factors = {name: check_scale(name, scales) for name in columns}
    simulated = "gold_A" in features
    if simulated:
        columns["gold"] = check_reward("gold", features[["gold_A", "gold_B"]].to_numpy(), features)
    if feature_ceiling is not None:
        halves = np.asarray(feature_ceiling, dtype=np.float64)[:, None] * [[0.5, -0.5]]
        columns["feature_ceiling"] = check_reward("feature_ceiling", halves, features)
    subject = "realm" if "realm" in factors else next(iter(factors))
    if compare is None:
        compare = [(subject, other) for other in factors if other != subject]
    for pair in compare:
        if unknown := [name for name in pair if name not in factors]:
            raise EvaluationError(f"compare names {unknown[0]!r}, which is not among the rewards: {', '.join(factors)}")

    per_pair = make_per_pair(features, labels, columns, factors)
    options = _Resampling(resamples=resamples, confidence=confidence)
    judge = _Judge(per_pair, list(factors), list(columns), seed, options)
    grouped, domain_means = judge.groups()
    metrics: dict[str, Any] = {
        "pairs": len(per_pair),
        "posts": judge.count,
        "rewards": {
            name: judge.accuracy(name)
            | judge.probability_scores(name, factors[name])
            | domain_means[name]
            | judge.length_controlled(name)
            | judge.expected(name)
            for name in factors
        },
        "differences": judge.differences(compare, factors),
        **grouped,
    }
    if simulated:
        metrics["ceiling"] = judge.accuracy("gold") | {"expected": judge.expected("gold")["expected_accuracy"]}
    if feature_ceiling is not None:
        metrics["feature_ceiling"] = (
            judge.accuracy("feature_ceiling")
            | judge.expected("feature_ceiling")
            | {"difference": judge.difference(subject, "feature_ceiling")}
        )
    return Evaluation(metrics, per_pair, factors, confidence, simulated)


class _Judge:
    """The bootstrap that all rewards share, and the numbers that are read from it."""

    def __init__(
        self, per_pair: pd.DataFrame, rewards: list[str], columns: list[str], seed: int, options: _Resampling
    ) -> None:
        self.per_pair, self.rewards, self.columns, self.seed, self.options = per_pair, rewards, columns, seed, options
        self.correct = per_pair[[f"{name}_correct" for name in columns]].to_numpy()
        self.posts = per_pair["post_id"].to_numpy()
        self.count = int(per_pair["post_id"].nunique())
        drawn = derive_seed(seed, "bootstrap")
        self.whole = bootstrap_over_posts(self.correct, self.posts, shares=True, seed=drawn, **options)

    def accuracy(self, name: str) -> dict[str, Any]:
        return _accuracy(self.whole, self.columns.index(name))

    def difference(self, left: str, right: str) -> dict[str, Any]:
        first, second = self.columns.index(left), self.columns.index(right)
        value = float(self.whole.means[first] - self.whole.means[second])
        return {"value": value, "ci": self.whole.share_difference(first, second)}

    def differences(self, compare: Sequence[tuple[str, str]], scales: Mapping[str, float]) -> dict[str, Any]:
        """Every difference of ``compare`` with all that is asked of one."""
        tested = {f"{left} - {right}": self._tested(left, right, scales) for left, right in compare}
        adjusted = holm({name: entry["p_value"] for name, entry in tested.items()})
        return {name: entry | {"p_holm": adjusted[name]} for name, entry in tested.items()}

    def _tested(self, left: str, right: str, scales: Mapping[str, float]) -> dict[str, Any]:
        moved = self.per_pair[f"{left}_correct"].to_numpy() - self.per_pair[f"{right}_correct"].to_numpy()
        losses = np.subtract(
            *(pair_losses(chosen_margins(self.per_pair, name), scales[name]) for name in (left, right))
        )
        loss_seed, flip_seed = (derive_seed(self.seed, use, left, right) for use in ("log-loss", "permutation"))
        loss = bootstrap_over_posts(losses, self.posts, seed=loss_seed, **self.options)
        return self.difference(left, right) | {
            "p_value": permutation_p_value(moved, self.posts, resamples=self.options["resamples"], seed=flip_seed),
            "detectable": detectable_difference(self._resampled(left, right), self.options["confidence"]),
            "log_loss": {"value": float(loss.means[0]), "ci": loss.interval()},
        }

    def groups(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Accuracies on every slice of the pairs, and each reward's mean over domains."""
        groups: dict[str, Any] = {}
        by_domain: list[Bootstrap] = []
        for kind, parts in slices(self.per_pair).items():
            groups[kind] = {}
            for key, mask in parts.items():
                # Keys are hashed as they were before there were other kinds: an interval keeps its draws.
                groups[kind][key], part = self._group(key, mask)
                if kind == "by_domain" and part is not None:
                    by_domain.append(part)
        posts = {name: part["posts"] for name, part in groups["by_domain"].items()}
        pooled = [list(posts)[place] for place in pooled_domains(list(posts.values()))]
        means = {}
        for index, name in enumerate(self.rewards):
            domains = [
                DomainAccuracy(drawn.means[index], resample_variance(drawn.resampled[:, index], drawn.posts), count,
                               drawn.posts)
                for drawn, count in zip(by_domain, posts.values(), strict=True)
            ]  # fmt: skip
            mean, ci = domain_mean(domains, self.options["confidence"])
            means[name] = {"domain_mean_accuracy": mean, "domain_mean_ci": ci}
        return {**groups, "domain_mean": {"domains": len(posts), "pooled": pooled}}, means

    def _group(self, key: str, mask: NDArray[np.bool_]) -> tuple[dict[str, Any], Bootstrap | None]:
        """Accuracies on some of the pairs; null where there are none."""
        posts = self.posts[mask]
        summary: dict[str, Any] = {"pairs": int(mask.sum()), "posts": len(set(posts))}
        if not mask.any():
            return summary | {name: {"accuracy": None, "ci": None} for name in self.rewards}, None
        correct = self.correct[mask][:, : len(self.rewards)]
        drawn = derive_seed(self.seed, "group", key)
        part = bootstrap_over_posts(correct, posts, shares=True, seed=drawn, **self.options)
        for index, name in enumerate(self.rewards):
            summary[name] = _accuracy(part, index)
        return summary, part

    def expected(self, name: str) -> dict[str, Any]:
        """The accuracy to expect over all votes that the true utilities could have got: without the votes' noise."""
        if "gold_A" not in self.per_pair:
            return {}
        from scipy.special import expit

        wins = expit((self.per_pair["gold_A"] - self.per_pair["gold_B"]).to_numpy())
        side = np.sign((self.per_pair[f"{name}_A"] - self.per_pair[f"{name}_B"]).to_numpy())
        return {"expected_accuracy": float((0.5 + side * (wins - 0.5)).mean())}

    def length_controlled(self, name: str) -> dict[str, Any]:
        """Mean of the accuracies where the longer and where the shorter response was chosen: length alone gets half."""
        if "word_count_A" not in self.per_pair:
            return {}
        sign = longer_chosen(self.per_pair)
        if not ((sign > 0).any() and (sign < 0).any()):
            return {"length_controlled": None}
        correct = self.per_pair[f"{name}_correct"].to_numpy()
        halves = [(half, half * correct) for half in ((sign > 0).astype(float), (sign < 0).astype(float))]
        values = np.column_stack([column for pair in halves for column in pair])
        drawn = bootstrap_over_posts(values, self.posts, seed=derive_seed(self.seed, "length"), **self.options)
        longer, longer_right, shorter, shorter_right = drawn.resampled.T
        with np.errstate(invalid="ignore"):
            # A resample without one of the halves has no such number; with more than a few posts there is none.
            resampled = (longer_right / longer + shorter_right / shorter) / 2
        means = drawn.means
        value = float(means[1] / means[0] + means[3] / means[2]) / 2
        if 0 < value < 1 and np.nanvar(resampled) < 1e-24:
            # Half whatever the posts are, as length itself gets; that all of them are right could be luck.
            return {"length_controlled": {"accuracy": value, "ci": [value, value]}}
        return {"length_controlled": {"accuracy": value, "ci": drawn.share_interval_of(value, resampled)}}

    def probability_scores(self, name: str, scale: float) -> dict[str, Any]:
        """Ties, log-loss (nats a pair), Brier score and calibration error of one reward."""
        seed, level = derive_seed(self.seed, "calibration", name), self.options["confidence"]
        resamples = self.options["resamples"]
        return {
            "ties": int((self.per_pair[f"{name}_correct"] == 0.5).sum()),
            **probability_scores(
                chosen_margins(self.per_pair, name), self.posts, scale, resamples=resamples, seed=seed, level=level
            ),
            "temperature": 1 / scale if scale > 0 else None,
        }

    def _resampled(self, left: str, right: str) -> Floats:
        """The paired differences in accuracy of all resamples."""
        return self.whole.resampled[:, self.columns.index(left)] - self.whole.resampled[:, self.columns.index(right)]


def _accuracy(bootstrap: Bootstrap, column: int) -> dict[str, Any]:
    return {"accuracy": float(bootstrap.means[column]), "ci": bootstrap.interval(column)}
