"""What the documents say of the demo: tables and sentences in Markdown, made from the metrics of its reference."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from realm_lib.evaluation.display import counted, interval, percent, with_interval
from realm_lib.report.words.distances import against_best_of_n, ends_less
from realm_lib.report.words.evaluation import questions_answered, two_sentences
from realm_lib.report.words.numbers import Metrics
from realm_lib.report.words.policies import at_equal_length, distance, policy_name

_REWARDS = {
    "realm": "**REALM (combined)**",
    "linear": "best weighted sum of both features",
    "similarity": "similarity alone",
    "reward_model": "reward model alone (the small stand-in)",
    "length": "longer response",
}
_POLICIES = ("best_of_16", "best_of_4", "ppo", "dpo")


def rewards(metrics: Mapping[str, Metrics]) -> str:
    """The README's table of rewards, and whether the combined one is better than its parts and more than length.

    The last column is there where stand-ins were trained again from other seeds (``seeds.retrained``).
    """
    found = metrics["evaluation"]
    retrained = found["seeds"].get("retrained")
    start = (
        f"Each reward on {found['pairs']:,} **simulated** test pairs of {counted(found['posts'], 'posts')}, intervals "
        f"over posts:"
    )
    if retrained is not None:
        trainings = counted(len(retrained["realm"]), "trainings")
        start = (
            start.removesuffix(":") + f"; the last column is over {trainings} of the reward model and of what uses it:"
        )
    head = ["reward", "accuracy", "95 % interval", "log-loss", *(["another training (SD)"] if retrained else [])]
    ceiling = found["ceiling"]
    rows = [["true utility (ceiling)", percent(ceiling["accuracy"]), interval(ceiling["ci"]), ""]]
    for name, label in _REWARDS.items():
        reward = found["rewards"][name]
        stress = "**" if name == "realm" else ""
        accuracy, loss = percent(reward["accuracy"]), f"{reward['log_loss']:.3f}"
        rows.append([label, f"{stress}{accuracy}{stress}", interval(reward["ci"]), f"{stress}{loss}{stress}"])
    if retrained is not None:
        spread = retrained["sd"]
        for row, name in zip(rows, ["ceiling", *_REWARDS], strict=True):
            row.append(f"± {100 * spread[name]:.1f}" if name in spread else "")
    return f"{_wrapped(start)}\n\n{_table(head, rows)}\n\n{_wrapped(two_sentences(found))}"


def answers(metrics: Mapping[str, Metrics]) -> str:
    """The questions that a reader of the evaluation has, each with its answer; that on length is in the README."""
    answered = questions_answered(metrics["evaluation"])
    return _bullets(f"{question} {answer}" for question, answer in answered if "length" not in question)


def policies(metrics: Mapping[str, Metrics]) -> str:
    """The table of policies against the start, and where the trained ones lie against best-of-n's curve."""
    found = metrics["policies"]
    entries, start = found["policies"], found["policies"]["base"]
    head = ["policy", "wins", "at equal length", "KL to the start, nats", "ended", "distinct word pairs"]
    rows = [["the start", "", "", "0", percent(start["ended"]), percent(start["distinct_2"])]]
    for name in _POLICIES:
        entry = entries[name]
        rows.append(
            [
                f"{policy_name(name)}{' under REALM' if name.startswith('best') else ''}",
                with_interval(entry["win_rate"], entry["ci"]),
                at_equal_length(entry),
                distance(entry),
                percent(entry["ended"]),
                percent(entry["distinct_2"]),
            ]
        )
    judged = (
        f"Policies, judged by the **simulated** truth on {found['prompts']} held-out prompts, "
        f"{counted(found['answers'], 'answers')} each, in wins over the policy that all started from:"
    )
    said = [against_best_of_n(policy_name(name), entries[name]) for name in _POLICIES]
    said += [ends_less(policy_name(name), entries[name], start) for name in _POLICIES]
    said += [_repeats(policy_name(name), entries[name], start) for name in _POLICIES]
    return f"{_wrapped(judged)}\n\n{_table(head, rows)}\n\n{_bullets(filter(None, said))}"


def _repeats(who: str, entry: Metrics, start: Metrics) -> str:
    """A warning where a trained policy's word pairs are less than three quarters as distinct as the start's."""
    if entry["kl_kind"] != "estimate" or entry["distinct_2"] >= 0.75 * start["distinct_2"]:
        return ""
    return (
        f"**Negative:** {who} repeats itself, which neither the reward nor the simulated truth minds: "
        f"{percent(entry['distinct_2'])} of its answers' word pairs are distinct, {percent(start['distinct_2'])} of "
        "the start's."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in lines)


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(textwrap.indent(_wrapped(text), "  ").replace("  ", "- ", 1) for text in sentences)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, width=124, break_long_words=False, break_on_hyphens=False)
