"""What a run takes, in words for a screen: the plan before it, and how far it is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from realm_lib.runs.steps import seconds_so_far

if TYPE_CHECKING:
    from realm_lib.features.counting import TextCounts, TokenCounts
    from realm_lib.rlhf.plan import RunPlan
    from realm_lib.rlhf.status import RunStatus, TrainingProgress
    from realm_lib.runs.steps import Step

_LONG = 24.0
"""Hours on this machine from which on a plan warns."""


def plan(found: "RunPlan") -> str:
    """All that was planned: texts, tokens, what was looked at, hours by card, money, and what would stop the run."""
    features = found.features
    lines = [f"{found.name}: {_texts(features.texts, found.source)}", ""]
    for name, counts in features.tokens.items():
        lines += _tokens(name, counts)
    lines += [f"{what}: {told}" for what, told in features.ahead.found]
    lines += [line for name in features.minutes if (line := _service(found, name))]
    if found.steps:
        lines.append(f"notebooks: {notebooks(found.steps)}")
    if table := _hours(found):
        lines += ["", *table]
    lines += ["", *warnings(found)]
    if not found.faults:
        lines.append("Nothing that was looked at would stop this run.")
    return "\n".join(lines)


def brief_plan(found: "RunPlan") -> str:
    """The plan in a few lines, for make: no table, no line for what is as it should be."""
    features = found.features
    lines = [f"{found.name}: {_texts(features.texts, found.source)}"]
    for name, counts in features.tokens.items():
        lines.append(_tokens(name, counts)[0])
    lines += [line for name in features.minutes if (line := _service(found, name))]
    here = found.places[0]
    if (hours := found.hours(here)) is not None and hours > 0:
        lines.append(f"about {_time(3600 * hours)} on {here} for the models whose size is known, a rough estimate")
    return "\n".join([*lines, *warnings(found)])


def warnings(found: "RunPlan") -> list[str]:
    """What does not stop the run, and should be known before it."""
    told = []
    here = found.places[0]
    hours = found.hours(here)
    if hours is None and not found.faults:
        told.append(f"Warning: a model does not fit {here} by this estimate; memory as it is now is what counts.")
    elif hours is not None and hours > _LONG:
        told.append(f"Warning: this takes about {_time(3600 * hours)} on {here}.")
    for name, quote in found.features.ahead.quotes.items():
        if found.features.texts.basis != "counted" and quote.cost:
            told.append(f"Warning: {name} may cost about ${quote.cost:,.2f}: an estimate before the pairs are here.")
    return told


def status(found: "RunStatus") -> str:
    """How far a run is, what is left, how long it takes and what it costs."""
    lines = [status_line(found.folder, found.steps)]
    for progress in found.features:
        each = progress.stored
        line = f"{each.feature} ({_bare(each.model)}): {each.stored:,} of {each.texts:,} texts stored"
        if each.to_do:
            line += f", {each.to_do:,} to do"
            line += (
                "" if progress.seconds_left is None else f", about {_time(progress.seconds_left)} at the rate so far"
            )
        if each.left is not None and each.left.texts:
            line += f"; left to pay: {each.left}"
        lines.append(line)
    lines += [_training(training) for training in found.trainings if training.done]
    return "\n".join(lines)


def status_line(folder: str, steps: "Sequence[Step]") -> str:
    """The notebooks of a run by their state, and the time that they have taken."""
    return f"{folder}: {notebooks(steps)}; {_time(seconds_so_far(steps))} so far"


def notebooks(steps: "Sequence[Step]") -> str:
    """``5 done; running: 04_ppo; left: 06_policy_comparison``."""
    done = sum(step.state == "done" for step in steps)
    if done == len(steps):
        return f"all {done} notebooks done"
    states = ("running", "failed", "stopped", "stale", "left")
    named = {state: [step.name for step in steps if step.state == state] for state in states}
    return "; ".join(
        [f"{done} of {len(steps)} notebooks done", *(f"{state}: {', '.join(of)}" for state, of in named.items() if of)]
    )


def _texts(counts: "TextCounts", source: str) -> str:
    if not counts.pairs:
        return f"pairs of {source}: {counts.basis}"
    basis = "" if counts.basis == "counted" else f" ({counts.basis})"
    return (
        f"{counts.pairs:,} pairs of {source}, {counts.texts:,} distinct responses to {counts.prompts:,} prompts{basis}"
    )


def _tokens(name: str, counts: "TokenCounts") -> list[str]:
    lines = [
        f"{name}: {_count(counts.shared)} tokens where a prompt is read once for its responses, {_count(counts.naive)} "
        f"where it is read for each ({counts.basis})"
    ]
    if counts.cut_prompts or counts.long_responses:
        lines.append(
            f"{name}: about {counts.cut_prompts:,} texts lose a part of their prompt, and {counts.long_responses:,} "
            "responses are too long by themselves"
        )
    return lines


def _service(found: "RunPlan", name: str) -> str | None:
    minutes = found.features.minutes[name]
    return f"{name}: {_time(60 * minutes)} at the least, by the limits of the account" if minutes else None


def _hours(found: "RunPlan") -> list[str]:
    """A row for each piece of work, a column for each place; numbers are hours."""
    works = [work for work in (*found.features.works, *found.policies) if work.weights is not None]
    if not works:
        return []
    head = ["hours, calculated; policies at most", *map(str, found.places)]
    rows = [[work.what, *(_number(work.hours(place.card, place.number)) for place in found.places)] for work in works]
    if len(works) > 1:
        rows.append(["in all, what is stored left out", *(_number(found.hours(place)) for place in found.places)])
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in [head, *rows]
    ]


def _number(hours: float | None) -> str:
    return (
        "too large" if hours is None else f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else "<0.1"
    )


def _training(training: "TrainingProgress") -> str:
    total = "" if training.total is None else f" of {training.total:,}"
    line = f"{training.name}: {training.done:,}{total} {training.unit}"
    line += f", {training.kept:,} of them in a checkpoint" if training.kept else ""
    if training.seconds_left is not None and training.done:
        line += f", about {_time(training.seconds_left)} left at the rate so far"
    return line


def _count(number: float) -> str:
    return f"{number / 1e6:,.1f} million" if number >= 1e6 else f"{number:,.0f}"


def _time(seconds: float) -> str:
    """``40 s``, ``12 min``, ``5.3 h``, ``4.1 days``."""
    for size, name in ((86_400.0 * 2, "days"), (3600.0 * 1.5, "h"), (90.0, "min")):
        if seconds >= size:
            unit = {"days": 86_400.0, "h": 3600.0, "min": 60.0}[name]
            return f"{seconds / unit:,.1f} {name}" if name != "min" else f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _bare(model_id: str) -> str:
    return model_id.removeprefix("run:").removeprefix("package:")
