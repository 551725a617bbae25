"""Which policy is better, in plain words made from the numbers, and what cannot be said."""

from collections.abc import Mapping
from typing import Any, Literal

from realm_lib.report.words.distances import against_best_of_n, ends_less
from realm_lib.report.words.numbers import against_half, capital, counted, listed, percent, with_interval

TRUTH_OF_OTHERS = (
    "The policy's English is its own, and the simulated truth knows the simulator's sentences alone: facts, details, "
    "myths and courtesies, each where a sentence holds more than half of its content words, the name of the topic, and "
    "how many words there are up to 60. A right answer in other words is worth as little to it as a wrong one, and "
    "friendly talk that names the topic is worth more. It says how near such answers come to the simulator's, not "
    "whether they are right."
)
"""What the simulated truth sees in texts of a language model that did not learn from the simulator's comments."""

_LABELS = {"base": "the starting policy", "ppo": "PPO", "dpo": "DPO"}


def label(name: str) -> str:
    """A policy's name within a sentence: ``best_of_16`` is best-of-16."""
    return _LABELS.get(name, name.replace("_", "-"))


def policy_name(name: str) -> str:
    """A policy's name where it stands alone, as at the head of a row or at a point of a figure."""
    return capital(label(name).removeprefix("the "))


def verdict(metrics: Mapping[str, Any]) -> str:
    """Sentences from metrics/policies.json: who beats the start, who beats whom, at what length and distance.

    A policy is called better only where its win rate's whole interval lies above one half. Then where trained policies
    lie against best-of-n's curve, and a warning where one does not end its answers.
    """
    judge, policies = metrics["judge"], metrics["policies"]
    others = [name for name in policies if name != "base"]
    further = [name for name in metrics["pairwise"] if name not in ("realm", "gold")]
    who = "the simulated truth" if judge == "gold" else "REALM's own reward"
    each = counted(metrics.get("answers", 1), "answers")
    lines = [f"Judged by {who} on {counted(metrics['prompts'], 'held-out prompts')}, {each} each:"]
    lines += [f"- {_against_start(name, policies[name])}" for name in others]
    beating = {name: float(policies[name]["win_rate"]) for name in others if policies[name]["ci"][0] > 0.5}
    if beating:
        lines.append(f"- {_best(beating, others, metrics['pairwise'][judge])}")
    else:
        lines.append("- No policy is shown to be better than the start.")
    told = [against_best_of_n(policy_name(name), policies[name]) for name in others]
    told += [ends_less(policy_name(name), policies[name], policies["base"]) for name in others]
    lines += [f"- {text}" for text in told if text]
    if judge == "gold":
        lines += [f"- {text}" for name in others if (text := _overoptimised(name, policies[name]))]
    else:
        takes = "" if further else "; that takes people, or a judge of another kind (`rlhf.judges`)"
        lines.append(
            "- The judge is the reward itself. A high win rate says that answers are what it pays for, not that they "
            f"are better{takes}."
        )
    lines += [f"- {_by_another(judge, {name: policies[name] for name in others})}" for judge in further]
    lines += [f"-{text}" for text in [floored(metrics)] if text]
    if metrics.get("dropped"):
        lines.append(f"- {capital(metrics['dropped'])}.")
    return "\n".join(lines)


def floored(metrics: Mapping[str, Any]) -> str:
    """A sentence, a space before it, where responses of these metrics got ``rlhf.floor_reward``; else empty."""
    counts = metrics.get("floored", 0)  # metrics of older runs have none
    total = sum(counts.values()) if isinstance(counts, Mapping) else counts
    if not total:
        return ""
    whose = "1 response was" if total == 1 else f"{total:,} responses were"
    return f" {whose} empty or too long to be scored, and got the floor reward (`rlhf.floor_reward`)."


def limits(*, simulated: bool, trained_here: bool, pairs: Literal["human", "on_policy"]) -> str:
    """What a comparison of policies can and cannot say, whatever its numbers; empty where nothing has to be said.

    ``trained_here``: the starting policy is the small one of notebook 00; ``pairs`` are those that DPO learned from.
    """
    lines = []
    if simulated:
        lines.append(
            "Posts, comments and the truth that judges are **simulated**: it is found here whether the method and its "
            "code do what they should, not what people would prefer."
        )
    if simulated and not trained_here:
        lines.append(TRUTH_OF_OTHERS)
    if trained_here:
        lines.append(
            "The policies are small: they start from the language model that notebook 00 trained on this run's own "
            "comments. Read the answers before the numbers: one poor answer can win against another. What can be "
            "concluded: whether training moves a policy to what its reward or its pairs prefer, on prompts that it has "
            "not seen, and how far it goes for that. What cannot: that anybody would want these answers, or that a "
            "larger model would gain as much."
        )
    if pairs == "human" and not simulated:
        lines.append(
            "DPO learned from pairs that people decided, of answers that others wrote; PPO and best-of-n follow the "
            "reward. A win rate under the reward measures these two by their own aim, and DPO by another's."
        )
    return "\n".join(f"- {line}" for line in lines)


def _by_another(judge: str, policies: Mapping[str, Any]) -> str:
    """How the policies do against the start under a judge that is neither the reward nor the simulated truth."""
    told = []
    for name, entry in policies.items():
        rate = entry["by_judge"][judge]
        word = against_half(rate["ci"], "beats", "cannot be told from", "loses to")
        told.append(f"{label(name)} {word} the start ({with_interval(rate['win_rate'], rate['ci'])})")
    return f"By the judge `{judge}` {listed(told)}."


def _against_start(name: str, entry: Mapping[str, Any]) -> str:
    word = against_half(entry["ci"], "beats", "cannot be told from", "loses to")
    text = (
        f"{capital(label(name))} {word} the start: wins {with_interval(entry['win_rate'], entry['ci'])}, "
        f"at equal length {at_equal_length(entry)}{_why_not_known(entry)}"
    )
    equal = entry["length_controlled_ci"]
    if entry["ci"][0] > 0.5 and (equal is None or equal[0] <= 0.5):
        text += ", so that length may explain it"
    return f"{text}, at a KL of {distance(entry)} nats."


def at_equal_length(entry: Mapping[str, Any]) -> str:
    """A policy's win rate at equal length, as a table's cell: with its interval, or ``not known``."""
    if entry["length_controlled"] is None:
        return "not known"
    return with_interval(entry["length_controlled"], entry["length_controlled_ci"])


def _why_not_known(entry: Mapping[str, Any]) -> str:
    if entry["length_controlled"] is not None:
        return ""
    side = min(("shorter", "longer"), key=lambda name: float(entry[name]))
    return f" (its answer is the {side} one in {percent(entry[side])} of comparisons)"


def distance(entry: Mapping[str, Any]) -> str:
    """A policy's KL to the start, in nats: ``1.9``, or ``at most 1.9`` where a bound is all that is known."""
    nats = f"{max(0.0, entry['kl']):.1f}"  # an estimate can come out below 0, which no KL is
    return {"start": "0", "upper bound": f"at most {nats}", "estimate": nats}[entry["kl_kind"]]


def captions(judge: str) -> dict[str, tuple[str, str]]:
    """Title and caption of the figures that compare policies, as :func:`realm_lib.report.words.evaluation.captions`."""
    truth = " Where the reward rises and the truth does not, the policy has found what the reward pays for."
    return {
        f"policies_win_rates_{judge}": (
            "Which policy wins.",
            "An interval right of the dotted line is a policy whose answers win over the start's. Where the hollow "
            "one reaches the line, length may be what won; where there is none, nobody can tell.",
        ),
        "policies_reward_kl": (
            "What the distance buys.",
            "Mean reward against the distance from the start, drawn by its square root. The curve is best-of-n for "
            "every n, from all answers of the start; its distances are upper bounds, so that the true curve lies there "
            f"or to the left. A policy below it pays more distance for as much.{truth if judge == 'gold' else ''}",
        ),
    }


def _best(beating: Mapping[str, float], others: list[str], pairwise: Mapping[str, Any]) -> str:
    """Which of the policies that beat the start wins most often, and how it stands directly to all ``others``."""
    best = max(beating, key=lambda name: beating[name])
    rivals: dict[str, list[str]] = {"beats": [], "cannot be told from": [], "loses to": []}
    for name in (name for name in others if name != best):
        rivals[against_half(_directly(best, name, pairwise), *rivals)].append(label(name))
    as_often = [label(name) for name, rate in beating.items() if rate == beating[best] and name != best]
    text = "alone beats the start" if len(beating) == 1 else "wins most often of those that beat the start"
    text += f", as often as {listed(as_often)}" if as_often else ""
    clauses = [f"it {outcome} {listed(names)}" for outcome, names in rivals.items() if names]
    directly = f"; directly, {'; '.join(clauses)}" if clauses else ""
    return f"{capital(label(best))} {text}{directly}."


def _directly(first: str, second: str, pairwise: Mapping[str, Any]) -> list[float]:
    """The interval of ``first``'s win rate over ``second``, in whichever order it was kept."""
    if (key := f"{first} over {second}") in pairwise:
        return list(pairwise[key]["ci"])
    low, high = pairwise[f"{second} over {first}"]["ci"]
    return [1 - high, 1 - low]


def _overoptimised(name: str, entry: Mapping[str, Any]) -> str:
    realm, gold = entry["by_judge"]["realm"], entry["by_judge"]["gold"]
    if realm["ci"][0] <= 0.5 or gold["ci"][0] > 0.5:
        return ""
    start = f"{capital(label(name))} wins {percent(realm['win_rate'])} under REALM's reward, which the truth"
    found = with_interval(gold["win_rate"], gold["ci"])
    if gold["ci"][1] < 0.5:
        return f"{start} contradicts ({found}): it found what the reward pays for, not what is good."
    return f"{start} does not confirm ({found})."
