"""Figures of an evaluation: accuracies, differences, groups of pairs, calibration."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from realm_lib.evaluation.parts import alone
from realm_lib.report.figures import theme
from realm_lib.report.words.numbers import p_value, percent
from realm_lib.report.words.rewards import all_features
from realm_lib.report.words.signals import spent

if TYPE_CHECKING:
    from realm_lib.evaluation.result import Evaluation

_GROUPS = {
    "by_score_ratio": (
        "Accuracy where the votes were clearer",
        "Votes of the preferred response at least so many times the other's",
    ),
    "by_length_difference": ("Is it only length?", "Words of the preferred response as a multiple of the other's"),
    "by_post_size": ("Accuracy by how many pairs a post has", "Pairs of the post among these"),
}

_MOST_DOMAINS = 24
_BEFORE = "#9ECAE1"
_POINTS = FuncFormatter(lambda value, _: f"{100 * value:+.4g}" if value else "0")


def accuracy_bars(evaluation: "Evaluation", ax: Axes | None = None) -> Axes:
    """Accuracy of each reward as a point with its interval, the best on top; chance, and the ceiling if known."""
    known = evaluation.metrics["rewards"]
    rewards = sorted(known.items(), key=lambda item: float(item[1]["accuracy"]))
    ax = ax or theme.new_axes(6.4, 1.7 + 0.36 * len(rewards))
    for row, (name, entry) in enumerate(rewards):
        _draw_point(ax, row, entry["accuracy"], entry["ci"], theme.colour_of(name, known))
        _write_beside(ax, row, percent(entry["accuracy"]))
    ax.axvline(0.5, **theme.DOTTED)
    theme.line_label(ax, 0.5, "chance")
    ends = [0.5, *(end for _, entry in rewards for end in entry["ci"])]
    if "ceiling" in evaluation.metrics:
        ends.append(ceiling := evaluation.metrics["ceiling"]["accuracy"])
        ax.axvline(ceiling, color=theme.COLOURS["ceiling"], linewidth=1.4, linestyle=(0, (5, 2)))
        theme.line_label(ax, ceiling, f"ceiling {percent(ceiling)}")
    if "feature_ceiling" in evaluation.metrics:
        ends.append(best := evaluation.metrics["feature_ceiling"]["accuracy"])
        ax.axvline(best, color=theme.COLOURS["feature_ceiling"], linewidth=1.2, linestyle=(0, (3, 2)))
        of = all_features(known).replace("the two", "both features")
        theme.line_label(ax, best, f"best of {of} {percent(best)}", "right")
    _accuracy_axis(ax, ends)
    theme.label_rows(ax, [theme.label_of(name, known) for name, _ in rewards], fontsize=10)
    ax.set_ylim(-0.6, len(rewards) - 0.4)
    theme.draw_title(ax, "Accuracy of each reward", theme.sizes(evaluation), evaluation.simulated, above=True)
    return ax


def accuracy_by_domain(
    evaluation: "Evaluation", names: Sequence[str] = ("realm", "reward_model"), ax: Axes | None = None
) -> Axes:
    """Accuracy of some rewards by domain, with intervals, domains in the order of the first reward's accuracy.

    The n beside a domain counts its pairs. Of more than 24 domains, those with most pairs are drawn.
    """
    by_domain, known = evaluation.metrics["by_domain"], evaluation.scales
    largest = sorted(by_domain.items(), key=lambda item: -int(item[1]["pairs"]))[:_MOST_DOMAINS]
    domains = sorted(largest, key=lambda item: float(item[1][names[0]]["accuracy"]))
    ax = ax or theme.new_axes(6.4, 1.7 + len(domains) * (0.1 + 0.11 * len(names)))
    offsets = np.linspace(0.18, -0.18, len(names)) if len(names) > 1 else [0.0]
    for name, offset in zip(names, offsets, strict=True):
        colour = theme.colour_of(name, known)
        for row, (_, entry) in enumerate(domains):
            _draw_point(ax, row + offset, entry[name]["accuracy"], entry[name]["ci"], colour, size=5)
        ax.plot([], [], "o-", color=colour, markersize=5, label=theme.label_of(name, known))
    ax.axvline(0.5, **theme.DOTTED)
    theme.line_label(ax, 0.5, "chance")
    _accuracy_axis(ax, [0.5, *(end for _, entry in domains for name in names for end in entry[name]["ci"])])
    theme.label_rows(ax, [f"{theme.short(domain)}  (n = {entry['pairs']:,})" for domain, entry in domains])
    ax.set_ylim(-0.7, len(domains) - 0.3)
    theme.legend_below(ax, ax, columns=len(names))
    facts = theme.sizes(evaluation)
    if len(domains) < len(by_domain):
        facts.append(f"the {len(domains)} largest of {len(by_domain)} domains")
    theme.draw_title(ax, "Accuracy by domain", facts, evaluation.simulated, above=True)
    return ax


def accuracy_by_group(
    evaluation: "Evaluation",
    kind: str,
    names: Sequence[str] = ("realm", "reward_model", "length"),
    ax: Axes | None = None,
) -> Axes:
    """Accuracy in the groups of one ``kind``: by_score_ratio, by_length_difference, by_post_size; n under each.

    Groups without pairs are left out.
    """
    title, xlabel = _GROUPS[kind]
    groups = {key: part for key, part in evaluation.metrics[kind].items() if part["pairs"]}
    ax = ax or theme.new_axes(6.8, 4.2)
    offsets = np.linspace(-0.18, 0.18, len(names)) if len(names) > 1 else [0.0]
    for name, offset in zip(names, offsets, strict=True):
        xs = np.arange(len(groups)) + offset
        colour = theme.colour_of(name, evaluation.scales)
        values = [part[name]["accuracy"] for part in groups.values()]
        for x, part in zip(xs, groups.values(), strict=True):
            ax.plot([x, x], part[name]["ci"], color=colour, linewidth=2.2, solid_capstyle="round")
        ax.plot(xs, values, "-", color=colour, linewidth=1, alpha=0.6)
        ax.plot(xs, values, "o", color=colour, markersize=6.5, markeredgecolor="white", markeredgewidth=0.8)
        ax.plot([], [], "o-", color=colour, markersize=5, label=theme.label_of(name, evaluation.scales))
    ax.axhline(0.5, **theme.DOTTED)
    prefix = "≥ " if kind == "by_score_ratio" else ""
    labels = [f"{prefix}{key.replace(' as long', '')}\nn = {part['pairs']:,}" for key, part in groups.items()]
    ax.set_xticks(range(len(groups)), labels, color=theme.INK)
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.grid(visible=False, axis="x")
    ax.yaxis.set_major_formatter(theme.PERCENT)
    ax.set_ylabel("Accuracy (ties count half)")
    ax.set_xlabel(xlabel)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.24), ncols=len(names), borderaxespad=0)
    theme.draw_title(ax, title, theme.sizes(evaluation), evaluation.simulated)
    return ax


def difference_bars(evaluation: "Evaluation", ax: Axes | None = None) -> Axes:
    """Each tested difference in accuracy with its interval and its p-value after Holm's correction, largest on top."""
    differences = sorted(evaluation.metrics["differences"].items(), key=lambda item: float(item[1]["value"]))
    ax = ax or theme.new_axes(7.0, 1.7 + 0.36 * len(differences))
    for row, (name, entry) in enumerate(differences):
        _draw_point(ax, row, entry["value"], entry["ci"], theme.colour_of(name.split(" - ")[1], evaluation.scales))
        _write_beside(ax, row, f"{100 * entry['value']:+.1f}   {p_value(entry['p_holm'])}")
    ax.axvline(0, **theme.DOTTED)
    _fit_to(ax, [0.0, *(end for _, entry in differences for end in entry["ci"])], least_room=0.002)
    ax.xaxis.set_major_formatter(_POINTS)
    subject = theme.label_of(evaluation.subject)
    ax.set_xlabel(f"Accuracy of {subject} minus that of the other reward (percentage points)")
    others = [name.removeprefix(f"{evaluation.subject} - ") for name, _ in differences]
    theme.label_rows(ax, [theme.label_of(other, evaluation.scales) for other in others], fontsize=10)
    ax.set_ylim(-0.6, len(differences) - 0.4)
    theme.draw_title(
        ax, "How much better, and how sure", [*theme.sizes(evaluation), "p after Holm"], evaluation.simulated
    )
    return ax


def reliability(
    evaluation: "Evaluation",
    names: Sequence[str] = ("realm",),
    ax: Axes | None = None,
    *,
    folded: Mapping[str, Any] | None = None,
) -> Axes:
    """Reliability diagram: how often a reward is right against how sure it is, and below it how many pairs that holds.

    Bins of equal mass on the probability of the predicted side, as in the calibration error. With ``folded``, which is
    what realm_lib.evaluation.learned.folded_calibration returns, the subject's bare differences are taken as log-odds:
    one curve before the combiner's factor was folded into them and one after.
    """
    ax = ax or theme.new_axes(5.2, 5.4)
    counts = ax.inset_axes((0, -0.30, 1, 0.24), sharex=ax)
    ax.plot([0.5, 1], [0.5, 1], **theme.DOTTED, label="As right as it is sure")
    rewards = evaluation.metrics["rewards"]
    curves = []
    for name in names:
        label, colour = theme.label_of(name, rewards), theme.colour_of(name, rewards)
        if name == evaluation.subject and folded is not None:
            curves.append((f"{label}, before", _BEFORE, name, 1 / folded["factor"], folded["before"]["ece"]))
            curves.append((f"{label}, after", colour, name, 1.0, folded["after"]["ece"]))
        else:
            curves.append((label, colour, name, evaluation.scales[name], rewards[name]["ece"]))
    lowest = 0.5
    for label, colour, name, scale, error in curves:
        bins = evaluation.reliability(name, scale=scale)
        lowest = min(lowest, float(bins["low"].min()))
        ax.vlines(bins["predicted"], bins["low"], bins["high"], color=colour, linewidth=1.2, alpha=0.55)
        told = f"{label}, error {100 * error:.1f} points"
        ax.plot(bins["predicted"], bins["observed"], "o-", color=colour, markersize=6, label=told)
        number, edges = np.histogram(evaluation.sure(name, scale), np.linspace(0.5, 1, 26))
        counts.stairs(number, edges, color=colour, linewidth=1.6)
    ax.set_xlim(0.49, 1.01)
    ax.set_ylim(max(0.0, lowest - 0.03), 1.02)
    ax.xaxis.set_major_formatter(theme.PERCENT)
    ax.yaxis.set_major_formatter(theme.PERCENT)
    ax.tick_params(labelbottom=False)
    ax.set_ylabel("Share of pairs ranked rightly")
    counts.set_ylabel("Pairs")
    counts.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    counts.set_xlabel(f"Probability of its preferred response{'' if folded else ' (scaled on validation)'}")
    theme.legend_below(ax, counts, columns=1)
    theme.draw_title(ax, "Is the reward as often right as it is sure?", theme.sizes(evaluation), evaluation.simulated)
    return ax


def signal_points(evaluation: "Evaluation", worth: Mapping[str, Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """What the combined reward loses without each feature, with its interval, and beside it what the feature cost.

    ``worth`` is what realm_lib.evaluation.signals.signals_worth returns; the feature that adds most is on top.
    """
    rows = sorted(worth.items(), key=lambda item: float(item[1]["gained"]["value"]))
    ax = ax or theme.new_axes(7.0, 1.9 + 0.42 * len(rows))
    for row, (name, entry) in enumerate(rows):
        colour = theme.colour_of(alone(name), evaluation.scales)
        _draw_point(ax, row, entry["gained"]["value"], entry["gained"]["ci"], colour)
        _write_beside(ax, row, f"{100 * entry['gained']['value']:+.1f}   {spent(entry['cost'])}")
    ax.axvline(0, **theme.DOTTED)
    _fit_to(ax, [0.0, *(end for _, entry in rows for end in entry["gained"]["ci"])], least_room=0.002)
    ax.xaxis.set_major_formatter(_POINTS)
    ax.set_xlabel("Accuracy lost without it (percentage points)")
    theme.label_rows(ax, [theme.short(name) for name, _ in rows], fontsize=10)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    theme.draw_title(ax, "What each feature adds, and what it cost", theme.sizes(evaluation), evaluation.simulated)
    return ax


def _draw_point(ax: Axes, row: float, value: float, ci: Sequence[float], colour: str, size: float = 8) -> None:
    ax.plot(ci, [row, row], color=colour, linewidth=size / 3, solid_capstyle="round")
    ax.plot(value, row, "o", color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.8)


def _write_beside(ax: Axes, row: float, text: str) -> None:
    ax.annotate(text, (1.01, row), xycoords=ax.get_yaxis_transform(), va="center", fontsize=9.5, color=theme.INK)


def _fit_to(ax: Axes, ends: Sequence[float], least_room: float) -> None:
    room = 0.04 * (max(ends) - min(ends)) + least_room
    ax.set_xlim(min(ends) - room, max(ends) + room)
    ax.spines["left"].set_visible(False)


def _accuracy_axis(ax: Axes, ends: Sequence[float]) -> None:
    _fit_to(ax, ends, least_room=0.005)
    ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(theme.PERCENT)
    ax.set_xlabel("Accuracy (share of pairs ranked rightly, ties count half)")
