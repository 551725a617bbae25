"""What each notebook found: the Markdown of its closing cell, made from the metrics that it has just written."""

import math
from collections.abc import Mapping
from typing import Literal

import pandas as pd

from realm_lib.config.feature_models import FEATURES
from realm_lib.models.embedders import Reading
from realm_lib.models.reward_models import ScoreReading
from realm_lib.report.words.numbers import (
    Metrics,
    against_half,
    between,
    counted,
    interval,
    listed,
    measured,
    percent,
    with_interval,
)
from realm_lib.report.words.policies import TRUTH_OF_OTHERS, floored, limits, verdict
from realm_lib.report.words.signals import combiner_is

_SHOWN_WARNINGS = 8
_POOLED = {"mean": "the mean", "last": "the last token", "max": "the largest"}
_TRANSFORMS = {"centred": "centring", "log_sigmoid": "the log-sigmoid"}


def offline_models(metrics: Metrics, *, simulated: bool) -> str:
    """Notebook 00, from metrics/offline_models.json: how good is what was trained."""
    kind = "simulated pairs" if simulated else "pairs"
    told = []
    if "validation_accuracy" in metrics:
        told.append(
            f"A reward model of {metrics['parameters']:,} parameters, trained on {counted(metrics['pairs'], kind)} in "
            f"{metrics['seconds']:.0f} s, prefers the right response in "
            f"**{percent(metrics['validation_accuracy'])}** of {counted(metrics['validation_pairs'], kind)} of posts "
            "that it has not seen (a coin: 50 %)."
        )
    if probe := metrics.get("probe"):
        right = {name: with_interval(each["accuracy"], each["ci"]) for name, each in metrics["rewards"].items()}
        layers = f"layer{'s' if len(probe['layers']) > 1 else ''} {listed([str(layer) for layer in probe['layers']])}"
        pooled = listed([_POOLED[way] for way in probe["poolings"]])
        told.append(
            f"A probe that reads, over the response, {pooled} of the hidden states after {layers} is right in "
            f"**{right['probe']}** of {counted(metrics['validation_pairs'], kind)}; taking the longer response in "
            f"{right['length']}. On the pairs left out by which this was chosen it was right in "
            f"{percent(probe['left_out_accuracy'])}. Reading and fitting {counted(metrics['pairs'], kind)} took "
            f"{probe['seconds']:.0f} s."
        )
    if policy := metrics.get("policy"):
        told.append(
            f"A policy of {policy['parameters']:,} parameters, trained in {policy['seconds']:.0f} s, loses "
            f"{policy['final_loss']:.2f} nats a token on the last of its training comments."
        )
    return " ".join(told) or f"{counted(metrics['pairs'], kind)} are kept; nothing was to be trained."


def features(metrics: Metrics, *, simulated: bool, rank_correlation: float) -> str:
    """Notebook 01, from metrics/features.json: what was computed; ``rank_correlation`` is of score and similarity."""
    signals = [name for name in metrics.get("costs", {}) if name not in FEATURES]
    further = f" Further signals: {', '.join(signals)}." if signals else ""
    saved = 1 - metrics["tokens_scored"] / metrics["tokens_naive"]
    related = "unknown, since one of them never varies" if math.isnan(rank_correlation) else f"{rank_correlation:.2f}"
    return (
        f"**{counted(metrics['pairs'], 'simulated pairs' if simulated else 'pairs')}**, "
        f"{counted(metrics['unique_responses'], 'distinct responses')}: {metrics['scored']:,} scored now, "
        f"{metrics['cache_hits']:,} from the store. Tokens read: {metrics['tokens_scored']:,}, where one pass "
        f"over every pair would read {metrics['tokens_naive']:,} ({100 * saved:.0f} % fewer). "
        f"Rank correlation between score and similarity: {related}.{further}"
    )


def texts_read(metrics: Metrics) -> str:
    """How much of the texts each model read, from metrics/features.json. Markdown."""
    return "\n".join(f"- **{name}**: {reading}." for name, reading in _readings(metrics).items())


def notable(metrics: Metrics) -> str:
    """The same of those models that left something unread or do not know the language; empty where there is none."""
    return "; ".join(f"{name}: {reading}" for name, reading in _readings(metrics).items() if reading.is_notable)


def _readings(metrics: Metrics) -> dict[str, Reading | ScoreReading]:
    """By the name of the feature; none of older runs."""
    found: dict[str, Reading | ScoreReading] = {}
    for name, entry in metrics.get("reading", {}).items():
        counts = {key: value for key, value in entry.items() if key != "splits"}
        found[name] = ScoreReading(**counts) if "cut_responses" in counts else Reading(**counts)
    return found


def combiner(metrics: Metrics, *, simulated: bool) -> str:
    """Notebook 02, from metrics/combiner.json: what the reward is made of, and what the validation pairs say."""
    return (
        f"{combiner_is(metrics)} {'On simulated pairs, the' if simulated else 'The'} best epoch of the network was "
        f"**{metrics['best_epoch']}**: training loss {metrics['train_loss']:.3f}, validation loss "
        f"{metrics['validation_loss']:.3f} nats (knowing nothing: {math.log(2):.3f}), validation accuracy "
        f"**{percent(metrics['validation_accuracy'])}**, after {metrics['seconds']:.1f} s of training."
    )


def evaluation(metrics: Metrics) -> str:
    """Notebook 03, from metrics/evaluation.json: the verdict, which says itself whether pairs are simulated."""
    return f"**{metrics['verdict']}**"


def ppo(metrics: Metrics, *, simulated: bool, trained_here: bool) -> str:
    """Notebook 04, from metrics/ppo.json: what training gained on held-out prompts, and whether the truth and other
    judges agree; ``trained_here`` as in :func:`limits`.
    """
    speed = metrics["episodes_per_second"]
    text = (
        f"On {_held_out(metrics, simulated)} the mean reward went {_change(metrics['reward'])} at "
        f"{max(0.0, metrics['kl']):.1f} nats from the reference, after {metrics['best_step']} of "
        f"{counted(metrics['updates'], 'updates')} ({counted(metrics['episodes'], 'episodes')}, "
        f"{speed:{'.0f' if speed >= 10 else '.2g'}} a second).{floored(metrics)}{_outside(metrics)}"
    )
    if metrics["best_step"] == 0:
        return f"{text} The policy that was kept is the one that training began with."
    others = [name for name, entry in metrics.items() if isinstance(entry, Mapping) and "ci_of_difference" in entry]
    for name in others:
        if name not in ("reward", "gold"):
            text += f" By the judge `{name}` it went {_change(metrics[name])}."
    if "gold" not in metrics:
        return text
    text += f" The simulated true utility went {_change(metrics['gold'])}"
    return f"{text}: {_by_the_truth(metrics)}." if trained_here else f"{text}. {TRUTH_OF_OTHERS}"


def between_prompts(metrics: Metrics, transform: str) -> str:
    """Notebook 04, from metrics/ppo.json: how much of the reward is the prompt's, what ``transform`` makes of it."""
    found = metrics["between_prompts"]
    if found is None:
        return (
            "How much of the reward's variance lies between prompts cannot be told here: that takes several responses "
            "to one prompt (`rlhf.ppo.samples_per_prompt`) that do not all earn the same."
        )
    prompts, responses, plain = found["prompts"], found["responses"], found["none"]
    text = (
        f"Of the variance of {counted(prompts * responses, 'rewards')} ({counted(prompts, 'prompts')}, {responses} "
        f"responses each) **{with_interval(plain['share'], plain['ci'])}** lies between prompts and says nothing about "
        "which response is better. "
    )
    part = None if transform == "none" else found[transform]
    if part is not None:
        text += f"Of what {_TRANSFORMS[transform]} makes of it, it is {percent(part['share'])}. "
    text += "Each response is then compared with the others to its prompt, so that this part teaches nothing"
    if transform == "centred":
        return f"{text}: but for `reward_scaling` the gradient is that of the plain reward."
    if transform == "log_sigmoid":
        return f"{text}. A gain counts the less, the better a response already is."
    return f"{text}."


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
        f"{floored(metrics)}{_other_judges(metrics)}"
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


def _outside(metrics: Metrics) -> str:
    """How many responses lie where the combiner has not been; nothing of a reward that does not tell."""
    if "outside" not in metrics:
        return ""
    share = metrics["outside"]
    return (
        f" {percent(share['after'])} of the responses after training have a feature outside the range that the "
        f"combiner was trained on ({percent(share['before'])} before): there it is held at the edge of that range."
    )


def _by_the_truth(metrics: Metrics) -> str:
    """What the change of the true utility says of a policy whose reward changed too."""
    (low, high), liked = metrics["gold"]["ci_of_difference"], metrics["reward"]["ci_of_difference"][0] > 0
    if low > 0:
        return "the policy got better, not only better liked" if liked else "the policy got better"
    if high < 0:
        return "it got worse while it was liked better: the reward is over-optimised" if liked else "it got worse"
    return "whether the policy got better cannot be told from chance"


def _other_judges(metrics: Metrics) -> str:
    """How often DPO's answers win under judges that are neither the reward nor the simulated truth."""
    rates = metrics.get("win_rates", {})
    return "".join(
        f" By the judge `{name}` they win {with_interval(rate['win_rate'], rate['ci'])}."
        for name, rate in rates.items()
        if name not in ("realm", "gold")
    )


def _with_limits(text: str, bounds: str) -> str:
    return f"{text}\n\nWhat this can and cannot say:\n\n{bounds}" if bounds else text
