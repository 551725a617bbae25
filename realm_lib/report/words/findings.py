"""What each notebook found: the Markdown of its closing cell, made from the metrics that it has just written."""

import math
from typing import Literal

import pandas as pd

from realm_lib.report.words.numbers import (
    Metrics,
    against_half,
    between,
    counted,
    interval,
    measured,
    percent,
    with_interval,
)
from realm_lib.report.words.policies import floored, limits, verdict

_SHOWN_WARNINGS = 8


def offline_models(metrics: Metrics, *, simulated: bool) -> str:
    """Notebook 00, from metrics/offline_models.json: how good the stand-ins are."""
    kind, policy = "simulated pairs" if simulated else "pairs", metrics["policy"]
    return (
        f"A reward model of {metrics['parameters']:,} parameters, trained on {counted(metrics['pairs'], kind)} in "
        f"{metrics['seconds']:.0f} s, prefers the right response in **{percent(metrics['validation_accuracy'])}** of "
        f"{counted(metrics['validation_pairs'], kind)} of posts that it has not seen (a coin: 50 %). "
        f"A policy of {policy['parameters']:,} parameters, trained in {policy['seconds']:.0f} s, loses "
        f"{policy['final_loss']:.2f} nats a token on the last of its training comments."
    )


def features(metrics: Metrics, *, simulated: bool, rank_correlation: float) -> str:
    """Notebook 01, from metrics/features.json: what was computed; ``rank_correlation`` is that of the two features."""
    saved = 1 - metrics["tokens_scored"] / metrics["tokens_naive"]
    related = "unknown, since one of them never varies" if math.isnan(rank_correlation) else f"{rank_correlation:.2f}"
    return (
        f"**{counted(metrics['pairs'], 'simulated pairs' if simulated else 'pairs')}**, "
        f"{counted(metrics['unique_responses'], 'distinct responses')}: {metrics['scored']:,} scored now, "
        f"{metrics['cache_hits']:,} from the store. Tokens read: {metrics['tokens_scored']:,}, where one pass "
        f"over every pair would read {metrics['tokens_naive']:,} ({100 * saved:.0f} % fewer). "
        f"Rank correlation between the two features: {related}."
    )


def combiner(metrics: Metrics, *, simulated: bool) -> str:
    """Notebook 02, from metrics/combiner.json: how far the weighted sum is bent, and what the validation pairs say."""
    text = "" if metrics["evidence"] is None else f"{_bend(metrics)} "
    return (
        f"{text}{'On simulated pairs, the' if simulated else 'The'} best epoch was **{metrics['best_epoch']}**: "
        f"training loss {metrics['train_loss']:.3f}, validation loss {metrics['validation_loss']:.3f} nats (knowing "
        f"nothing: {math.log(2):.3f}), validation accuracy **{percent(metrics['validation_accuracy'])}**, after "
        f"{metrics['seconds']:.1f} s of training. The validation pairs ask for {metrics['temperature']:.2f} times the "
        "differences that training made, and the reward has them."
    )


def _bend(metrics: Metrics) -> str:
    """What the reward is made of, and why."""
    evidence, weights = metrics["evidence"], metrics["linear"]
    sums = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    text = f"A standard deviation counts in log-odds: {sums}."
    pairs = counted(evidence["pairs"], "pairs")
    if metrics["best_epoch"] == 0:
        return f"{text} No epoch of the network was better than this weighted sum on pairs that it had not seen."
    found = f"{pairs} that it had not seen ask for {evidence['alpha']:.2f} ± {evidence['se']:.2f} of it"
    if metrics["bend"] == 0:
        return f"{text} Of the network's bend **nothing** is kept: {found}, which is too little to tell from none."
    return f"{text} Of the network's bend **{percent(metrics['bend'])}** is kept: {found}."


def evaluation(metrics: Metrics) -> str:
    """Notebook 03, from metrics/evaluation.json: the verdict, which says itself whether pairs are simulated."""
    return f"**{metrics['verdict']}**"


def ppo(metrics: Metrics, *, simulated: bool) -> str:
    """Notebook 04, from metrics/ppo.json: what training gained on held-out prompts, and whether the truth agrees."""
    speed = metrics["episodes_per_second"]
    text = (
        f"On {_held_out(metrics, simulated)} the mean reward went {_change(metrics['reward'])} at "
        f"{max(0.0, metrics['kl']):.1f} nats from the reference, after {metrics['best_step']} of "
        f"{counted(metrics['updates'], 'updates')} ({counted(metrics['episodes'], 'episodes')}, "
        f"{speed:{'.0f' if speed >= 10 else '.2g'}} a second).{floored(metrics)}"
    )
    if metrics["best_step"] == 0:
        return f"{text} The policy that was kept is the one that training began with."
    if "gold" not in metrics:
        return text
    return f"{text} The simulated true utility went {_change(metrics['gold'])}: {_by_the_truth(metrics)}."


def dpo(metrics: Metrics, *, simulated: bool, trained_here: bool) -> str:
    """Notebook 05, from metrics/dpo.json: what training changed, and what cannot be said of it (:func:`limits`).

    "More" and "less" are said only where the whole interval says so.
    """
    margin, right, length, ended = (metrics[name] for name in ("reward_margin", "accuracy", "length", "ended"))
    often = against_half(metrics["win_rate_ci"], "beat", "cannot be told from", "lose to")
    sure = against_half(right["ci"], "more than chance", "which cannot be told from chance", "less than chance")
    ordered = "which ordered its pairs" if metrics["pairs_from"] == "on_policy" else "while its pairs came from people"
    judge = "the simulated truth" if metrics["judge"] == "gold" else f"REALM's reward, {ordered}"
    text = (
        f"The trained policy's answers {often} the starting policy's: they win "
        f"**{percent(metrics['win_rate'])}** ({interval(metrics['win_rate_ci'])}), judged by {judge}, on "
        f"{_held_out(metrics, simulated)}. The mean margin of {counted(metrics['held_out_pairs'], 'held-out pairs')} "
        f"went from 0 to {measured(margin['after'], margin['ci'], '.3f')} nats; in the right order are "
        f"{with_interval(right['after'], right['ci'])}, {sure}. "
        f"Answers have {length['after']:.0f} tokens ({length['before']:.0f} "
        f"before); {100 * ended['after']:.0f} % end by themselves ({100 * ended['before']:.0f} % before)."
        f"{floored(metrics)}"
    )
    return _with_limits(text, limits(simulated=simulated, trained_here=trained_here, pairs=metrics["pairs_from"]))


def policies(metrics: Metrics, *, simulated: bool, trained_here: bool, pairs: Literal["human", "on_policy"]) -> str:
    """Notebook 06, from metrics/policies.json: which policy is better, and what cannot be said of it.

    ``trained_here`` and ``pairs`` as in :func:`limits`.
    """
    return _with_limits(verdict(metrics), limits(simulated=simulated, trained_here=trained_here, pairs=pairs))


def warnings(history: pd.DataFrame, *reasons: str) -> str:
    """What went wrong during PPO, the first of it; ``reasons`` say why prompts were dropped or training stopped."""
    updates = zip(history["step"], history["warnings"], strict=True)
    said = [f"update {step}: {warning}" for step, given in updates for warning in given]
    more = [f"and {len(said) - _SHOWN_WARNINGS} more in the log"] if len(said) > _SHOWN_WARNINGS else []
    lines = [*said[:_SHOWN_WARNINGS], *more, *filter(None, reasons)]
    if not lines:
        return "No warning was given."
    return "\n".join(["What went wrong, in words:", "", *(f"- {line}" for line in lines)])


def _held_out(metrics: Metrics, simulated: bool) -> str:
    return counted(metrics["held_out_prompts"], "simulated held-out prompts" if simulated else "held-out prompts")


def _change(entry: Metrics) -> str:
    return (
        f"from {entry['before']:.2f} to **{entry['after']:.2f}** (difference "
        f"{entry['difference']:+.2f}, {between(entry['ci_of_difference'], '+.2f')})"
    )


def _by_the_truth(metrics: Metrics) -> str:
    """What the change of the true utility says of a policy whose reward changed too."""
    (low, high), liked = metrics["gold"]["ci_of_difference"], metrics["reward"]["ci_of_difference"][0] > 0
    if low > 0:
        return "the policy got better, not only better liked" if liked else "the policy got better"
    if high < 0:
        return "it got worse while it was liked better: the reward is over-optimised" if liked else "it got worse"
    return "whether the policy got better cannot be told from chance"


def _with_limits(text: str, bounds: str) -> str:
    return f"{text}\n\nWhat this can and cannot say:\n\n{bounds}" if bounds else text
