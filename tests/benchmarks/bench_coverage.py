"""How often every interval of the report holds the truth, in simulated trials: percentile intervals, and ours.

    python tests/benchmarks/bench_coverage.py [--trials 1000] [--posts 20 50 100 400] [--resamples 2000]

Posts have 1 to 20 pairs, most of them few, and a difficulty and rewards' errors of their own; domains are eight, the
largest of nine times the posts of the smallest. The truth of each number is that number on 40,000 posts. Percentile
intervals, which the evaluation had before, are of the same resamples, with the rules that it had for no width.
Prints a table in Markdown: the share of trials whose interval holds the truth, before and now.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from realm_lib.evaluation.best_of_n import against_curve, at_distance, curve_weights
from realm_lib.evaluation.bias import _correlations, _signed_ranks
from realm_lib.evaluation.calibration import calibration_interval, calibration_places
from realm_lib.evaluation.domain_means import DomainAccuracy, domain_mean
from realm_lib.evaluation.intervals import resample_variance, wilson
from realm_lib.evaluation.resampling import Bootstrap, bootstrap_over_posts
from realm_lib.evaluation.win_rates import length_controlled_win_rate, win_rate

Floats = NDArray[np.float64]
Ends = Sequence[float] | None
Both = tuple[Ends, Ends]
"""The ends before and now; None where a way gives no interval."""

ANSWERS = 8
DOMAINS = np.repeat(np.arange(8), [9, 7, 6, 5, 4, 3, 2, 1])


def percentile(resampled: Floats) -> list[float]:
    """The plain percentile interval."""
    return np.quantile(resampled[np.isfinite(resampled)], [0.025, 0.975]).tolist()


def draw_pairs(rng: np.random.Generator, posts: int) -> dict[str, Any]:
    """Pairs with their post, domain, labels' sign, and differences of A and B."""
    sizes = np.clip(rng.geometric(0.2, posts), 1, 20)
    ids = np.repeat(np.arange(posts), sizes)
    # Every domain has a post, whatever their number.
    domain = np.sort(np.concatenate([np.arange(8), rng.choice(DOMAINS, posts - 8)]))[ids]
    of_post = rng.normal(size=(3, posts))[:, ids]
    quality, noise, other = rng.normal(size=(3, len(ids)))
    length = 0.4 * quality + rng.normal(size=len(ids))
    realm = (1 - 0.06 * domain) * quality + 0.2 * length + 0.6 * noise + 0.4 * of_post[0]
    sign = np.where(rng.random(len(ids)) < expit(2 * quality + 0.5 * of_post[1]), 1.0, -1.0)
    return {
        "ids": ids,
        "domain": domain,
        "sign": sign,
        "quality": quality,
        "length": length,
        "realm": realm,
        "linear": realm + 0.1 * other,
        "reward_model": 0.6 * quality + 0.4 * length + 0.9 * other + 0.4 * of_post[2],
        "change": 0.1 + 0.5 * of_post[0] + rng.laplace(size=len(ids)),
    }


def right(pairs: dict[str, Any], name: str) -> Floats:
    """1 where the reward prefers the chosen response, else 0: [pairs]."""
    return np.asarray(pairs[name] * pairs["sign"] > 0, dtype=np.float64)


def groups(pairs: dict[str, Any]) -> dict[str, NDArray[np.bool_]]:
    """The pairs in which one accuracy is asked for."""
    size = np.abs(pairs["realm"])
    return {
        "accuracy": np.ones(len(size), dtype=bool),
        "accuracy in the surest tenth (reliability)": size > 2.1,
        "accuracy in the least sure fifth (spread)": size < 0.33,
        "disagreement": pairs["realm"] * pairs["reward_model"] < 0,
    }


def halves(pairs: dict[str, Any]) -> Floats:
    """Columns whose means give the length-controlled accuracy, as the evaluation has them: [pairs, 4]."""
    longer, correct = pairs["length"] * pairs["sign"] > 0, right(pairs, "realm")
    return np.column_stack([longer, longer * correct, ~longer, ~longer * correct]).astype(np.float64)


def controlled(means: Floats) -> Floats:
    """The length-controlled accuracy from the means of :func:`halves` [n, 4]."""
    with np.errstate(invalid="ignore"):
        return np.asarray((means[:, 1] / means[:, 0] + means[:, 3] / means[:, 2]) / 2)


def products(pairs: dict[str, Any]) -> Floats:
    """Products of signed ranks, as the correlations with length are made of: [pairs, 6]."""
    reward, length, quality = (_signed_ranks(pairs[name]) for name in ("realm", "length", "quality"))
    return np.column_stack([reward**2, length**2, quality**2, reward * length, reward * quality, length * quality])


def loss_difference(pairs: dict[str, Any]) -> Floats:
    """The difference in log-loss of two rewards, [pairs]."""
    margins = [pairs[name] * pairs["sign"] for name in ("realm", "reward_model")]
    return np.asarray(np.logaddexp(0, -1.5 * margins[0]) - np.logaddexp(0, -1.2 * margins[1]))


def sureness(pairs: dict[str, Any]) -> Floats:
    """A probability of the preferred side that is a little too sure, [pairs]."""
    return np.asarray(expit(2.2 * np.abs(pairs["realm"])))


def pairs_truth(pairs: dict[str, Any]) -> dict[str, float]:
    """Every number on many pairs."""
    found = {name: float(right(pairs, "realm")[own].mean()) for name, own in groups(pairs).items()}
    accuracies = [right(pairs, "realm")[pairs["domain"] == domain].mean() for domain in range(8)]
    plain, held = _correlations(products(pairs).mean(axis=0)[None, :])
    sure, correct = sureness(pairs), right(pairs, "realm")
    place = calibration_places(sure, 10)
    gaps = np.bincount(place, weights=sure - correct)
    return found | {
        "difference": found["accuracy"] - float(right(pairs, "reward_model").mean()),
        "difference of rewards that part in 3 % of pairs": found["accuracy"] - float(right(pairs, "linear").mean()),
        "difference in log-loss": float(loss_difference(pairs).mean()),
        "mean over domains": float(np.mean(accuracies)),
        "length-controlled accuracy": float(controlled(halves(pairs).mean(axis=0)[None, :])[0]),
        "correlation with length": float(plain[0]),
        "correlation with quality held": float(held[0]),
        "calibration error": float(np.abs(gaps).sum() / len(sure)),
        "change under a perturbation": 0.1,
    }


def pairs_ends(pairs: dict[str, Any], options: dict[str, Any]) -> dict[str, Both]:
    """Every interval on these pairs. What is of all pairs shares its draws, which saves most of the time."""
    ids, ends = pairs["ids"], {}
    rewards = np.stack([right(pairs, name) for name in ("realm", "reward_model", "linear")], axis=1)
    plain = np.stack([loss_difference(pairs), pairs["change"]], axis=1)
    drawn = bootstrap_over_posts(np.hstack([rewards, plain, halves(pairs), products(pairs)]), ids, **options)
    for name, own in groups(pairs).items():
        if name == "accuracy":
            before = percentile(drawn.resampled[:, 0])
            if before[1] - before[0] < 1e-12:
                before = wilson(float(drawn.means[0]), len(np.unique(ids)), 0.95)
            ends[name] = (before, drawn.share_interval_of(float(drawn.means[0]), drawn.resampled[:, 0]))
        elif own.any():
            part = bootstrap_over_posts(right(pairs, "realm")[own], ids[own], shares=True, **options)
            ends[name] = (percentile(part.resampled[:, 0]), part.interval())
    for column, name in ((1, "difference"), (2, "difference of rewards that part in 3 % of pairs")):
        apart = drawn.resampled[:, 0] - drawn.resampled[:, column]
        ends[name] = (percentile(apart), drawn.share_difference(0, column))
    for column, name in ((3, "difference in log-loss"), (4, "change under a perturbation")):
        ends[name] = (percentile(drawn.resampled[:, column]), drawn.interval(column))
    ends["mean over domains"] = over_domains(pairs, options)
    resampled = controlled(drawn.resampled[:, 5:9])
    value = float(controlled(drawn.means[None, 5:9])[0])
    ends["length-controlled accuracy"] = (percentile(resampled), drawn.share_interval_of(value, resampled))
    for name, resampled in zip(
        ("correlation with length", "correlation with quality held"),
        _correlations(drawn.resampled[:, 9:]),
        strict=True,
    ):
        ends[name] = (percentile(resampled), drawn.interval_of(resampled))
    # Its interval never was a percentile's.
    own_way = calibration_interval(sureness(pairs), rewards[:, 0], ids, **options)[:2]
    ends["calibration error"] = (own_way, own_way)
    return ends


def of_mean(drawn: Bootstrap) -> Both:
    """Both intervals of a mean."""
    return percentile(drawn.resampled[:, 0]), drawn.interval()


def over_domains(pairs: dict[str, Any], options: dict[str, Any]) -> Both:
    """Both intervals of the mean over domains."""
    drawn, domains = [], []
    for domain in range(8):
        own = pairs["domain"] == domain
        part = bootstrap_over_posts(right(pairs, "realm")[own], pairs["ids"][own], shares=True, **options)
        # Each domain has draws of its own.
        drawn.append(np.random.default_rng(domain).permutation(part.resampled[:, 0]))
        variance = resample_variance(part.resampled[:, 0], part.posts)
        domains.append(DomainAccuracy(float(part.means[0]), variance, len(np.unique(pairs["ids"][own])), part.posts))
    return percentile(np.mean(drawn, axis=0)), domain_mean(domains, 0.95)[1]


def draw_prompts(rng: np.random.Generator, prompts: int) -> dict[str, Any]:
    """Answers of a start and of a policy that is better and somewhat longer, with rewards and log-ratios."""
    start = rng.normal(size=(prompts, ANSWERS)) + 0.5 * rng.normal(size=(prompts, 1))
    policy = start[:, :4] * 0.3 + rng.normal(size=(prompts, 4)) + 0.5
    lengths = np.round(40 + rng.normal(0, 10, (2, prompts)) + rng.normal(0, 8, prompts) + [[8], [0]])
    margin = rng.logistic(size=prompts)
    return {
        "start": start,
        "policy": policy.mean(axis=1),
        "log_ratios": 0.5 + rng.normal(0, 0.4, prompts) + rng.exponential(0.3, prompts) - 0.3,
        "lengths": lengths,
        "won by length": np.sign(lengths[0] - lengths[1]) / 2 + 0.5,
        "won by truth": np.asarray(margin + 1 > 0, dtype=np.float64),
        "won 60 %": np.asarray(margin + math.log(0.6 / 0.4) > 0, dtype=np.float64),
        "won 97 %": np.asarray(margin + math.log(0.97 / 0.03) > 0, dtype=np.float64),
        "share won": rng.binomial(16, rng.beta(1.8, 1.2, prompts)) / 16,
        "gained": 0.3 + rng.normal(size=prompts) + rng.exponential(1, prompts) - 1,
    }


def curve_of(answers: Floats) -> Floats:
    """Best-of-n of answers that never tie, whose reward is what is measured: [prompts, N]."""
    return np.asarray(np.sort(answers, axis=1) @ curve_weights(np.arange(ANSWERS)[None, :])[:, 0].T)


def prompts_truth(prompts: dict[str, Any]) -> dict[str, float]:
    """Every number on many prompts, or as it was made."""
    curve = curve_of(prompts["start"]).mean(axis=0)
    height = at_distance(curve[None, :], np.array([0.5]))[0]
    return {
        "win rate of 60 %": 0.6,
        "win rate of 97 %": 0.97,
        "win rate of 60 %, 16 comparisons a prompt": 0.6,
        "win rate at equal length, judged by length": 0.5,
        "win rate at equal length, judged by truth": float(expit(1)),
        "policy less best-of-n's curve": 0.5 - float(height),
        "mean gain of a policy (PPO, DPO)": 0.3,
        "KL": 0.5,
    }


def prompts_ends(prompts: dict[str, Any], options: dict[str, Any]) -> dict[str, Both]:
    """Every interval on these prompts."""
    ends: dict[str, Both] = {}
    rows = np.arange(len(prompts["policy"]))
    for column, name in (
        ("won 60 %", "win rate of 60 %"),
        ("won 97 %", "win rate of 97 %"),
        ("share won", "win rate of 60 %, 16 comparisons a prompt"),
    ):
        rate = win_rate(prompts[column], **options)
        before = percentile(bootstrap_over_posts(prompts[column], rows, **options).resampled[:, 0])
        ends[name] = (before, (rate.low, rate.high))
    few = options["resamples"] // 4  # fits take long
    for judge in ("length", "truth"):
        shares, (own, other) = prompts[f"won by {judge}"], prompts["lengths"]
        found = length_controlled_win_rate(shares, own, other, resamples=few, seed=options["seed"]).rate
        now = None if found is None else (found.low, found.high)
        before = without_jump(shares, own - other, few)
        ends[f"win rate at equal length, judged by {judge}"] = (before, now)
    curve = curve_of(prompts["start"])
    beside = against_curve(curve, prompts["policy"], prompts["log_ratios"], resamples=options["resamples"])
    columns = np.column_stack([curve, prompts["policy"], prompts["log_ratios"]])
    drawn = bootstrap_over_posts(columns, rows, **options).resampled
    before = percentile(drawn[:, -2] - at_distance(drawn[:, :-2], drawn[:, -1]))
    ends["policy less best-of-n's curve"] = (before, (beside.low, beside.high))
    ends["mean gain of a policy (PPO, DPO)"] = of_mean(bootstrap_over_posts(prompts["gained"], rows, **options))
    ends["KL"] = of_mean(bootstrap_over_posts(prompts["log_ratios"], rows, **options))
    return ends


def without_jump(shares: Floats, difference: Floats, resamples: int) -> list[float]:
    """The rate at equal length as it was: of a regression without a jump, by percentiles."""
    x, places = np.unique(np.tanh(difference / difference.std()), return_inverse=True)
    prompts = len(shares)
    cells = np.zeros((prompts, len(x)))
    cells[np.arange(prompts), places] = 1
    rng = np.random.default_rng(0)
    counts = np.stack([np.bincount(row, minlength=prompts) for row in rng.integers(0, prompts, (resamples, prompts))])
    won, counted = counts @ (cells * shares[:, None]), counts @ cells
    design = np.column_stack([np.ones_like(x), x])
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(x), 4)
    fits = np.zeros((resamples, 2))
    for _ in range(50):
        p = expit(fits @ design.T)
        curvature = ((counted * p * (1 - p)) @ squares).reshape(-1, 2, 2) + 0.1 * np.eye(2)
        step = np.linalg.solve(curvature, ((counted * p - won) @ design + 0.1 * fits)[:, :, None])[:, :, 0]
        fits -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return percentile(expit(fits[:, 0]))


def coverage(
    draw: Callable[..., dict[str, Any]],
    truth: dict[str, float],
    ends: Callable[..., dict[str, Both]],
    posts: int,
    trials: int,
    resamples: int,
) -> pd.Series:
    """ "before → now (known in ...)" by kind of interval."""
    held: dict[str, list[tuple[bool, bool | None]]] = {name: [] for name in truth}
    for trial in range(trials):
        rng = np.random.default_rng([posts, trial])
        for name, both in ends(draw(rng, posts), {"resamples": resamples, "seed": trial}).items():
            before, now = (None if one is None else one[0] - 1e-12 <= truth[name] <= one[1] + 1e-12 for one in both)
            held[name].append((bool(before), now))
    told = {}
    for name, found in held.items():
        known = [now for _, now in found if now is not None]
        if not known:
            told[name] = f"{100 * np.mean([before for before, _ in found]):.1f}, not known"
            continue
        share = f", known in {100 * len(known) / len(found):.0f}" if len(known) < len(found) else ""
        told[name] = f"{100 * np.mean([before for before, _ in found]):.1f}, **{100 * np.mean(known):.1f}**{share}"
    return pd.Series(told, name=f"{posts} posts")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--posts", type=int, nargs="+", default=[20, 50, 100, 400])
    parser.add_argument("--resamples", type=int, default=2000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    worlds = [
        (draw_pairs, pairs_truth(draw_pairs(rng, 40_000)), pairs_ends),
        (draw_prompts, prompts_truth(draw_prompts(rng, 40_000)), prompts_ends),
    ]
    columns = [
        pd.concat([coverage(*world, posts, options.trials, options.resamples) for world in worlds])
        .rename(f"{posts} posts")
        for posts in options.posts
    ]  # fmt: skip
    table = pd.concat(columns, axis=1)
    print(f"| interval of | {' | '.join(table)} |")
    print(f"| --- |{' ---: |' * len(columns)}")
    for name, row in table.iterrows():
        print(f"| {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
