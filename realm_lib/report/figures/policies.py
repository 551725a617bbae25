"""Figures of policies: how they learn to answer, what happens while a reward trains them, and where it goes too far."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from realm_lib.report.figures.labels import Label, along, label_points
from realm_lib.report.figures.theme import (
    COLOURS,
    DOTTED,
    INK,
    PERCENT,
    SOFT,
    counted,
    draw_title,
    legend_below,
    new_axes,
    new_pair,
)

_PANELS: dict[str, tuple[str, str]] = {
    "reward": ("Reward", "mean over a rollout"),
    "score": ("Reward model's score", "a part of the reward"),
    "similarity": ("Similarity", "a part of the reward, cosine"),
    "spread": ("Spread of the ensemble", "standard deviation, mean"),
    "outside": ("Outside the training range", "share of responses"),
    "transformed": ("Transformed reward", "mean: what training maximises"),
    "kl": ("KL from the reference", "nats a response"),
    "kl_coefficient": ("KL coefficient", "reward a nat"),
    "entropy": ("Entropy", "nats a token"),
    "reward_std": ("Spread of the reward", "over a rollout's responses"),
    "length": ("Response length", "tokens"),
    "ended": ("Ended by themselves", "share of responses with EOS"),
    "clip_fraction": ("Clip fraction", "share of tokens out of the range"),
    "approximate_kl": ("KL of an update", "approximate, nats a token"),
    "value_error": ("Error of the values", "mean square, before the update"),
    "explained_variance": ("Explained variance", "of the returns by the values"),
    "grad_norm": ("Gradient norm", "before it is clipped"),
    "episodes_per_second": ("Speed", "episodes a second"),
}
"""Columns of a training's log, as :class:`PPOResult` holds it: what they are, and their unit."""
_PARTS = ("reward", "score", "similarity")
_TRANSFORMS = {"none": "Reward", "centred": "Centred reward", "log_sigmoid": "Log-sigmoid of the centred reward"}
_LINES = ("-", "--", ":")
_COLUMNS = 4
_LABELLED = 4
"""Points of a curve that all get a number; of more, only some do."""
_RING = 12
"""Width of the ring around a policy that is kept, in points of paper."""


def policy_training(history: Sequence[Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Loss of a policy's supervised training by step; ``history`` as realm_lib.models.offline returns it."""
    ax = ax or new_axes(6.4, 3.2)
    steps = [entry["step"] for entry in history]
    ax.plot(steps, [entry["loss"] for entry in history], "o-", color=COLOURS["realm"], markersize=3.5)
    ax.set(xlabel="Training step", ylabel="Cross-entropy (nats a token)", ylim=(0, None))
    ax.set_title("Policy: loss on the comments of its training batches")
    return ax


def token_credit(credits: Mapping[float, Sequence[float]], ax: Axes | None = None) -> Axes:
    """The share of a reward at a response's end that each of its tokens gets, for several values of lambda."""
    ax = ax or new_axes(7.4, 3.2)
    colours = (COLOURS["reward_model"], COLOURS["realm"], COLOURS["similarity"])
    tokens = len(next(iter(credits.values())))
    places = np.arange(1, tokens + 1)
    for index, (gae_lambda, shares) in enumerate(credits.items()):
        colour = colours[index % len(colours)]
        ax.plot(places, shares, color=colour, linewidth=2)
        ax.fill_between(places, 0, shares, color=colour, alpha=0.12, linewidth=0)
        above = 5 if shares[0] > 0.5 else 22  # a rising line would cross its label
        ax.annotate(f"λ = {gae_lambda:g}: {100 * shares[0]:.3g} % for the first", (1, shares[0]), xytext=(6, above),
                    textcoords="offset points", fontsize=9.5, color=colour)  # fmt: skip
    ax.set(xlabel="Token of the response", ylabel="Share of the reward", xlim=(1, tokens), ylim=(0, 1.15))
    ax.yaxis.set_major_formatter(PERCENT)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_title(ax, "Credit of each token", [counted(tokens, "token"), "calculated, all values 0"], False)
    return ax


def ppo_progress(
    history: pd.DataFrame,
    axes: Sequence[Axes] | None = None,
    *,
    parts: Sequence[str] = (),
    simulated: bool = False,
) -> Sequence[Axes]:
    """What a person watches during PPO, a small panel each; ``history`` as realm_lib.rlhf.ppo returns it.

    There is a panel for every quantity of ``history`` that is known here or is one of the reward's ``parts``: a reward
    without parts has fewer. Without ``axes`` they stand four in a row, over one axis of episodes.
    """
    own = {name: (name, "a part of the reward") for name in parts if name not in _PANELS}
    known = {**{name: _PANELS[name] for name in _PARTS}, **own, **_PANELS}
    panels = [name for name in known if name in history]
    if axes is None:
        rows = max(1, -(-len(panels) // _COLUMNS))
        figure, grid = plt.subplots(rows, _COLUMNS, figsize=(11, 2.25 * rows + 0.5), sharex=True, squeeze=False)
        figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.08)
        axes = list(grid.flat)
        facts = [*(["simulated"] if simulated else []), counted(len(history), "update")]
        if len(history):
            facts.append(f"{int(history['episodes'].iloc[0]):,} episodes each")
        figure.suptitle(f"PPO, update by update  ({' · '.join(facts)})", x=0.01, ha="left", fontsize=12)
    if len(axes) < len(panels):
        raise ValueError(f"{len(panels)} quantities to show, but {len(axes)} axes")
    for index, (ax, column) in enumerate(zip(axes, panels, strict=False)):
        values = history[column].astype(float)
        ax.plot(history["episodes"], values, color=COLOURS["realm"], linewidth=1.5)
        name, unit = known[column]
        if column == "reward" and "gold" in history:
            ax.plot(history["episodes"], history["gold"], color=INK, linewidth=1.2, linestyle="--")
            unit = "mean; dashes: true utility"
        ax.set_title(name, fontsize=10, pad=18)
        ax.annotate(unit, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=8.5,
                    color=SOFT)  # fmt: skip
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        ax.set_xlim(0, None)
        if values.min() == values.max():
            ax.set_ylim(0, 2 * values.iloc[0] or 1)  # a constant would get ticks of its rounding errors
        if index >= len(panels) - _COLUMNS:
            ax.set_xlabel("Episodes")
        elif axes[0].get_shared_x_axes().joined(axes[0], ax):
            ax.tick_params(labelbottom=False)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return axes


def rewards_by_prompt(
    rollouts: pd.DataFrame,
    between: Mapping[str, Any] | None,
    axes: Sequence[Axes] | None = None,
    *,
    simulated: bool = False,
) -> Sequence[Axes]:
    """Rewards of the first rollouts, a column of points a prompt in the order of their means: plain and transformed.

    ``rollouts`` as :class:`PPOResult` holds them, ``between`` their entry between_prompts of metrics/ppo.json. A prompt
    has its place of the first panel in all of them. Without rollouts the one panel is empty.
    """
    kinds = [kind for kind in _TRANSFORMS if kind in rollouts] or ["none"]
    if axes is None:
        figure, grid = plt.subplots(1, len(kinds), figsize=(11, 3.4), squeeze=False)
        figure.set_layout_engine("constrained", w_pad=0.1)
        axes = list(grid.flat)
    if rollouts.empty:
        axes[0].set_axis_off()
        return axes
    means = rollouts.groupby(["step", "question"])["none"].transform("mean")
    places = means.rank(method="dense")
    for ax, kind in zip(axes, kinds, strict=True):
        ax.scatter(places, rollouts[kind], s=9, color=COLOURS["realm"], alpha=0.35, linewidths=0)
        ax.set_xlabel("Prompt, by its mean reward")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        part = None if between is None else between[kind]
        facts = [] if part is None else [f"{100 * part['share']:.0f} % of the variance between prompts"]
        draw_title(ax, _TRANSFORMS[kind], facts, simulated)
    axes[0].set_ylabel("Of each response")
    return axes


def over_optimisation(
    curves: Mapping[str, pd.DataFrame],
    *,
    kept: Mapping[str, int] | None = None,
    simulated: bool = False,
    axes: tuple[Axes, Axes] | None = None,
) -> tuple[Axes, Axes]:
    """Change of the proxy reward, and of the true utility where a judge told it, against KL from the reference.

    The curve of Gao et al. (arXiv 2210.10760). ``curves`` holds :meth:`PPOResult.curve` of each training
    by name; bars are its 95 % intervals. Points are numbered with their updates and darken with time; ``kept`` holds
    the steps of the policies that were kept, which get a ring.
    """
    left, right = axes or new_pair(11, 4.4)
    colours = [COLOURS["realm"], COLOURS["reward_model"], COLOURS["similarity"]]
    for ax, column in ((left, "reward"), (right, "gold")):
        for index, (name, curve) in enumerate(curves.items()):
            if column not in curve:
                continue
            colour = colours[index % len(colours)]
            _path(ax, curve.sort_values("step"), column, colour, _LINES[index % len(_LINES)], name)
            if kept is not None:
                chosen = curve[curve["step"] == kept[name]]
                ax.plot(chosen["kl"], chosen[column], "o", markersize=_RING, fillstyle="none", color=colour,
                        markeredgewidth=1.8)  # fmt: skip
        ax.axhline(0, **DOTTED, zorder=1)
        ax.margins(0.07, 0.1)
        ax.set(xlabel="KL from the reference (nats a response)", ylabel="Change of the mean since the start")
    # Together the facts under both titles explain every mark.
    first = next(iter(curves.values()))
    facts = [counted(int(first["prompts"].iloc[0]), "prompt")] if "prompts" in first else []
    facts += ["bars: 95 %, paired with update 0"] if "reward_low" in first else []
    draw_title(left, "Proxy: the reward that is trained on", facts, simulated)
    facts = ["numbers: updates", *([] if kept is None else ["ring: the policy that is kept"])]
    draw_title(right, "Truth: the utility that it stands for", facts, simulated)
    if len(curves) > 1:
        legend_below(left, left, len(curves))
    for ax, column in ((left, "reward"), (right, "gold")):
        _number(ax, curves, kept or {}, column, colours)
    return left, right


def _path(ax: Axes, curve: pd.DataFrame, column: str, colour: str, line: str, name: str) -> None:
    """A faint line in the order of time, and points on it from light to dark."""
    kl, values = curve["kl"].to_numpy(), curve[column].to_numpy()
    ax.plot(kl, values, line, color=colour, linewidth=1.2, alpha=0.45, zorder=2)
    if f"{column}_low" in curve:
        ax.vlines(kl, curve[f"{column}_low"], curve[f"{column}_high"], color=colour, linewidth=1, alpha=0.3, zorder=1)
    shares = np.linspace(0.7, 0.0, len(curve))[:, None]  # of white
    ax.scatter(kl, values, s=26, c=shares + (1 - shares) * np.array(to_rgb(colour)), edgecolors=colour, linewidths=0.8,
               zorder=3)  # fmt: skip
    ax.plot([], [], f"o{line}", color=colour, markersize=5, linewidth=1.2, label=name)


def _number(
    ax: Axes, curves: Mapping[str, pd.DataFrame], kept: Mapping[str, int], column: str, colours: Sequence[str]
) -> None:
    """Numbers of updates beside some of the points, clear of lines, bars and each other.

    Trainings that start from one policy share its point, and its number.
    """
    labels: dict[tuple[float, float, float], Label] = {}
    drawn = []
    for index, (name, curve) in enumerate(curves.items()):
        if column not in curve:
            continue
        colour = colours[index % len(colours)]
        ordered = curve.sort_values("step")
        drawn.append(along(list(zip(ordered["kl"], ordered[column], strict=True))))
        wanted = _labelled(ordered["step"].tolist(), kept.get(name))
        for row in ordered.to_dict("records"):
            if f"{column}_low" in row:
                drawn.append(along([(row["kl"], row[f"{column}_low"]), (row["kl"], row[f"{column}_high"])]))
            if row["step"] in wanted:
                at = (row["kl"], row[column])
                radius = _RING / 2 + 2 if row["step"] == kept.get(name) else 3.0
                labels.setdefault((row["step"], *at), Label(at, f"{row['step']:.0f}", colour, radius))
    if labels:
        label_points(ax, list(labels.values()), np.concatenate(drawn), fontsize=8.5)


def _labelled(steps: Sequence[int], kept: int | None) -> set[int]:
    """Steps whose points get a number: all of a few; of more the first, the last, and the one that is kept."""
    few = steps if len(steps) <= _LABELLED else [steps[0], steps[-1]]
    return {*few, *([] if kept is None else [kept])}
