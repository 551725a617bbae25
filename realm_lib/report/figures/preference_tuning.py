"""Figures of DPO and of the comparison of policies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from realm_lib.report.figures import theme
from realm_lib.report.figures.labels import Label, along, label_points
from realm_lib.report.words.policies import policy_name

_COLOURS = {"base": "#7A7A7A", "ppo": "#D55E00", "dpo": "#0072B2"}
_JUDGES = {"realm": "REALM's reward", "gold": "the simulated truth"}


def policy_colour(name: str) -> str:
    """A policy's own colour; best-of-n are greens, others black."""
    return "#009E73" if name.startswith("best_of_") else _COLOURS.get(name, theme.INK)


def pair_margins(margins: ArrayLike, *, simulated: bool, ax: Axes | None = None) -> Axes:
    """Histogram of the margins of pairs: by how much the reward prefers the chosen response, with their median."""
    values = np.asarray(margins, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("margins must be finite, and there must be some")
    ax = ax or theme.new_axes(6.4, 3.2)
    ax.hist(values, bins=int(np.clip(len(values) ** 0.5, 8, 40)), color=theme.COLOURS["chosen"], alpha=0.75)
    ax.axvline(float(np.median(values)), color=theme.INK, linewidth=1.4, linestyle=(0, (4, 2)))
    theme.line_label(ax, float(np.median(values)), f"median {np.median(values):.2f}")
    ax.set(xlabel="Reward of chosen less reward of rejected", ylabel="Pairs")
    theme.draw_title(ax, "Margins of the pairs", [theme.counted(len(values), "pair")], simulated, above=True)
    return ax


def pair_lengths(differences: ArrayLike, *, simulated: bool, ax: Axes | None = None) -> Axes:
    """Histogram of the length differences of pairs, in tokens, with their mean: what DPO could learn from alone."""
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("length differences must be finite, and there must be some")
    ax = ax or theme.new_axes(6.4, 3.2)
    reach = max(1.0, float(np.abs(values).max()))
    bins = 2 * int(np.clip(len(values) ** 0.5 / 2, 4, 15)) + 1  # odd: the middle one is around 0
    ax.hist(values, bins=bins, range=(-reach, reach), color=theme.COLOURS["chosen"], alpha=0.75)
    ax.axvline(0.0, **theme.DOTTED)
    mean = float(values.mean())
    ax.axvline(mean, color=theme.INK, linewidth=1.4, linestyle=(0, (4, 2)))
    theme.line_label(ax, mean, f"mean {mean:+.1f}")
    ax.set(xlabel="Tokens of chosen less tokens of rejected", ylabel="Pairs")
    theme.draw_title(ax, "Lengths of the pairs", [theme.counted(len(values), "pair")], simulated, above=True)
    return ax


def dpo_training(
    history: pd.DataFrame,
    *,
    simulated: bool,
    held_out_pairs: int | None = None,
    axes: Sequence[Axes] | NDArray[np.object_] | None = None,
) -> tuple[Axes, Axes, Axes]:
    """Loss, margin and accuracy of implicit rewards by step, on training batches and on held-out pairs.

    A dashed line marks a policy that nothing has moved: a loss of log 2 (sigmoid), no margin, half of the pairs right.
    """
    import matplotlib.pyplot as plt

    first, second, third = axes if axes is not None else plt.subplots(1, 3, figsize=(10.5, 3.4))[1]
    realm = theme.COLOURS["realm"]
    facts = [] if held_out_pairs is None else [f"{theme.counted(held_out_pairs, 'pair')} held out"]
    start = float(history.loc[history["step"] == history["step"].min(), "loss"].iloc[0])
    for ax, column, title, unit, unmoved in (
        (first, "loss", "Loss", "nats a pair", start),
        (second, "margin", "Margin of implicit rewards", "nats", 0.0),
        (third, "accuracy", "Pairs in the right order", "", 0.5),
    ):
        for split, colour, style, width in (("training", "#B5B5B5", "-", 1), ("held out", realm, "o-", 2)):
            rows = history[history["split"] == split]
            ax.plot(rows["step"], rows[column], style, color=colour, linewidth=width, markersize=4,
                    label=split.capitalize())  # fmt: skip
        ax.axhline(unmoved, color=theme.SOFT, linewidth=1, linestyle="--", zorder=1)
        ax.set(xlabel="Step", ylabel=unit)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        theme.draw_title(ax, title, facts, simulated)
    third.yaxis.set_major_formatter(theme.PERCENT)
    first.legend(loc="best")
    return first, second, third


def win_rate_bars(metrics: Mapping[str, Any], *, judge: str | None = None, ax: Axes | None = None) -> Axes:
    """Win rates over the start with intervals: filled as they are, hollow at equal length where that is known.

    ``metrics`` is metrics/policies.json; ``judge`` one of its judges (None: that of the verdict).
    """
    judge = judge or metrics["judge"]
    names = [name for name in metrics["policies"] if name != "base"][::-1]
    ax = ax or theme.new_axes(6.4, 1.8 + 0.5 * len(names))
    for row, name in enumerate(names):
        entry, colour = metrics["policies"][name]["by_judge"][judge], policy_colour(name)
        plain = (entry["win_rate"], entry["ci"], colour, row + 0.12)
        equal = (entry["length_controlled"], entry["length_controlled_ci"], "white", row - 0.12)
        for value, ends, fill, y in (plain, equal):
            if value is None:
                continue
            ax.plot(ends, [y, y], color=colour, linewidth=2.2, solid_capstyle="round")
            ax.plot(value, y, "o", color=colour, markerfacecolor=fill, markersize=8)
    ax.axvline(0.5, **theme.DOTTED)
    theme.line_label(ax, 0.5, "no better")
    ax.set_yticks(range(len(names)), [theme.short(policy_name(name)) for name in names], color=theme.INK, fontsize=10)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.xaxis.set_major_formatter(theme.PERCENT)
    ax.set_xlabel("Wins over the start, ties half (hollow: at equal length)")
    ax.grid(visible=False, axis="y")
    judged_by = f"judge: {_JUDGES.get(judge, theme.short(judge))}"
    facts = [judged_by, theme.counted(metrics["prompts"], "prompt"), "95 % intervals"]
    theme.draw_title(ax, "How often a policy beats the start", facts, "gold" in metrics["policies"]["base"], above=True)
    return ax


def reward_against_kl(
    metrics: Mapping[str, Any], *, axes: Sequence[Axes] | NDArray[np.object_] | None = None
) -> list[Axes]:
    """Mean reward, and mean gold where it is known, against the distance from the start, with intervals.

    ``metrics`` is metrics/policies.json. Best-of-n stands at its analytic KL, an upper bound: as a curve with its
    interval for every n that the start's answers allow, and a point for each n that was compared. Trained policies
    stand at their estimate with its standard error. Distances are drawn by their square root, as Gao et al. (arXiv
    2210.10760) do. Metrics without the curve, as were made before there was one, have a line that joins the points.
    """
    policies, curve = metrics["policies"], metrics.get("best_of_n")
    judges = [judge for judge in ("realm", "gold") if judge in policies["base"]]
    if axes is None:
        axes = theme.new_pair(9.6, 4.0) if len(judges) == 2 else [theme.new_axes(6.4, 4.0)]
    of_all = [theme.counted(metrics["prompts"], "prompt"), "95 % intervals"]
    of_curve = [f"curve: best-of-n, n = 1 to {len(curve['kl'])}"] if curve else []
    facts = [of_all, of_curve] if len(judges) == 2 else [[*of_all, *of_curve]]
    for ax, judge, under in zip(axes, judges, facts, strict=False):
        drawn = [_best_of_n_line(ax, policies, curve, judge)]
        for name, entry in policies.items():
            mean, (low, high), colour = entry[judge]["mean"], entry[judge]["ci"], policy_colour(name)
            error = entry.get("kl_error", 0.0)
            ax.errorbar(entry["kl"], mean, yerr=[[mean - low], [high - mean]], xerr=error or None,
                        fmt="o", color=colour, markersize=7, linewidth=1.6)  # fmt: skip
            drawn.append(along([(entry["kl"], low), (entry["kl"], high)]))
            drawn.append(along([(entry["kl"] - error, mean), (entry["kl"] + error, mean)]))
        ends = [entry["kl"] + 2 * entry.get("kl_error", 0.0) for entry in policies.values()]
        ax.set_xscale("function", functions=(_root, _square))
        width = 1.12 * float(_root(np.array(max([*ends, *(curve["kl"] if curve else [])]))))
        ax.set_xlim(_square(np.array(-0.15 * width)), _square(np.array(width)))
        ax.margins(y=0.12)
        ax.xaxis.set_major_locator(FixedLocator(_squares(width)))
        ax.set(xlabel="KL to the start (nats a response)", ylabel=f"Mean, {_JUDGES[judge]}")
        theme.draw_title(ax, "Reward and distance" if judge == "realm" else "Truth and distance", under,
                         "gold" in judges)  # fmt: skip
        names = [
            Label((entry["kl"], entry[judge]["mean"]), theme.short(policy_name(name)), policy_colour(name))
            for name, entry in policies.items()
        ]
        label_points(ax, names, np.concatenate(drawn))
    return list(axes)


def _best_of_n_line(
    ax: Axes, policies: Mapping[str, Any], curve: Mapping[str, Any] | None, judge: str
) -> NDArray[np.float64]:
    """Best-of-n by distance: the whole curve with its band, or a line that joins what was compared; points of it."""
    colour = policy_colour("best_of_n")
    if curve is not None:
        found = curve["by_judge"][judge]
        ax.fill_between(curve["kl"], found["low"], found["high"], color=colour, alpha=0.13, linewidth=0)
        ax.plot(curve["kl"], found["mean"], "-", color=colour, linewidth=1.4)
        return along(list(zip(curve["kl"], found["mean"], strict=True)))
    compared = [entry for name, entry in policies.items() if name == "base" or name.startswith("best_of_")]
    ends = [(entry["kl"], entry[judge]["mean"]) for entry in compared]
    ax.plot(*zip(*ends, strict=True), "--", color=colour, linewidth=1.4)
    return along(ends)


def _root(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The square root, and of an estimate below 0 that of its mirror image."""
    roots: NDArray[np.float64] = np.sign(values) * np.sqrt(np.abs(values))
    return roots


def _square(roots: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.sign(roots) * np.square(roots)
    return squares


def _squares(width: float) -> list[float]:
    """Five ticks or so, whose square roots are evenly spaced from 0 to ``width``."""
    step = next(step for step in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if width / step <= 6 or step == 50)
    return [round(float(root) ** 2, 2) for root in np.arange(0, width, step)]
