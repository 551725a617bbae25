"""Figures of how a reward behaves: effects of its features, perturbed texts, other seeds, disagreeing members."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from realm_lib.evaluation.parts import WITHOUT
from realm_lib.report.figures import theme

_HELD = {"low": ("#9ECAE1", "10 % quantile"), "middle": ("#3B8FC4", "median"), "high": ("#08306B", "90 % quantile")}
_KINDS = {
    "padded": "Empty phrases\nat the end",
    "polite": "A polite\nopening",
    "reordered": "Sentences in\nanother order",
    "wrong_prompt": "Under another\npost",
}


def effect_lines(
    effects: pd.DataFrame,
    axes: Sequence[Axes] | NDArray[np.object_] | None = None,
    *,
    responses: int,
    simulated: bool = False,
) -> list[Axes]:
    """The reward along each feature, all others held low, in the middle and high: an axes a feature.

    ``effects`` is what realm_lib.reward.effects.partial_effects returns, ``responses`` how many gave its quantiles.
    """
    names = list(effects["feature"].unique())
    axes = list(axes) if axes is not None else theme.new_grid(len(names), 3.8, 3.7)
    low, high = effects["reward"].min(), effects["reward"].max()
    room = 0.05 * (high - low) + 1e-9
    for index, (ax, name) in enumerate(zip(axes, names, strict=True)):
        others = [other for other in names if other != name]
        for held, (colour, words) in _HELD.items():
            part = effects[(effects["feature"] == name) & (effects["held"] == held)]
            label = f"{words} ({part['held_value'].iloc[0]:.2f})" if len(others) == 1 else words
            ax.plot(part["value"], part["reward"], color=colour, label=label)
        if len(others) == 1:
            ax.legend(title=f"{others[0]} held at", title_fontsize=9, loc="best")
        elif others and index == 0:  # the same for all
            ax.legend(title="each other one held at its", title_fontsize=9, loc="best")
        ax.set_xlabel(theme.axis_label(name).replace(" (", "\n("))
        ax.set_ylim(low - room, high + room)
        theme.draw_title(ax, f"Along the {name}" if name in theme.AXIS_LABELS else f"Along {name}",
                         [theme.counted(responses, "response")], simulated)  # fmt: skip
        if index % 2 == 0:
            ax.set_ylabel("Combined reward (log-odds)")
    return axes


def perturbation_points(metrics: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Mean change of each reward under each perturbation, with intervals over posts.

    ``metrics`` is what realm_lib.evaluation.perturbation_suite returns; it is simulated where it has a true utility.
    """
    kinds = {kind: entry for kind, entry in metrics["kinds"].items() if entry["responses"]}
    names = [name for name in next(iter(kinds.values())) if name != "responses"]
    known = [*names, *(f"{WITHOUT}{name}" for name in names)]  # all but REALM and the truth are features alone
    ax = ax or theme.new_axes(6.8, 1.9 + max(0.75, 0.19 * len(names)) * len(kinds))
    offsets = np.linspace(-0.27, 0.27, len(names))
    for name, offset in zip(names, offsets, strict=True):
        colour = theme.colour_of("ceiling" if name == "gold" else name, known)
        for row, entry in enumerate(kinds.values()):
            ax.plot(entry[name]["ci"], [row + offset] * 2, color=colour, linewidth=2.4, solid_capstyle="round")
            ax.plot(entry[name]["change"], row + offset, "o", color=colour, markersize=6.5, markeredgecolor="white")
        label = "True utility" if name == "gold" else theme.label_of(name, known)
        ax.plot([], [], "o-", color=colour, markersize=6, label=label)
    ax.axvline(0, **theme.DOTTED)
    theme.label_rows(ax, [f"{_KINDS[kind]} (n = {entry['responses']})" for kind, entry in kinds.items()])
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.set_xlabel("Mean change of the reward (its own standard deviations)")
    theme.legend_below(ax, ax, columns=2)
    facts = [theme.counted(metrics["pairs"], "pair"), "95 % intervals over posts"]
    theme.draw_title(ax, "What a reward makes of a changed text", facts, "gold" in names)
    return ax


def seed_points(
    spread: Mapping[str, Any], ci: Sequence[float], ax: Axes | None = None, *, pairs: int, simulated: bool = False
) -> Axes:
    """Accuracy by training seed beside the interval over posts: two kinds of doubt that are not one.

    ``spread`` is what realm_lib.evaluation.seed_spread returns, with what retrained_spread returns as ``retrained``
    where the reward model was trained here; ``ci`` is the interval of the run's own reward.
    """
    ax = ax or theme.new_axes(6.4, 2.6)
    colour = theme.COLOURS["realm"]
    ensemble, members = spread["ensemble"], spread["members"]
    rows = [(f"{len(members)} single networks", members), (f"{len(ensemble)} training seeds", ensemble)]
    if "retrained" in spread:
        realm = spread["retrained"]["realm"]
        rows.append((f"{len(realm)} reward models trained here", realm))
    for row, (_, values) in enumerate(rows):
        ax.plot(values, [row] * len(values), "o", color=colour, alpha=0.45, markersize=7, markeredgecolor="white")
    top = len(rows)
    ax.plot(ci, [top, top], color=colour, linewidth=3, solid_capstyle="round")
    ax.plot(ensemble[0], top, "o", color=colour, markersize=8, markeredgecolor="white")
    theme.label_rows(ax, [*(name for name, _ in rows), "Other test posts (95 %)"])
    ax.set_ylim(-0.6, top + 0.6)
    ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(theme.PERCENT)
    ax.set_xlabel("Accuracy of REALM")
    theme.draw_title(ax, "What another seed and other posts would change", [theme.counted(pairs, "pair")], simulated)
    return ax


def spread_points(table: pd.DataFrame, ax: Axes | None = None, *, simulated: bool = False) -> Axes:
    """Accuracy by how far the ensemble's members disagree; ``table`` of realm_lib.evaluation.spread_against_error."""
    ax = ax or theme.new_axes(5.6, 3.6)
    colour = theme.COLOURS["realm"]
    x = table["disagreement"]
    ax.vlines(x, table["low"], table["high"], color=colour, linewidth=2.4)
    ax.plot(x, table["accuracy"], "o-", color=colour, linewidth=1.2, markersize=7, markeredgecolor="white")
    ax.axhline(0.5, **theme.DOTTED)
    ax.yaxis.set_major_formatter(theme.PERCENT)
    ax.set_xlabel("Members' disagreement about a pair (spread / (spread + margin))")
    ax.set_ylabel("Accuracy")
    facts = [theme.counted(int(table["pairs"].sum()), "pair"), f"{len(table)} bins of equal mass", "95 % intervals"]
    theme.draw_title(ax, "Is the ensemble wrong where it disagrees?", facts, simulated)
    return ax
