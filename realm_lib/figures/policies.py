"""Figures of policies: how they learn to answer, what happens while a reward trains them, and where it goes too far."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from realm_lib.figures.theme import COLOURS, INK, SOFT, draw_title, new_axes, new_pair

__all__ = ["over_optimisation", "policy_training", "ppo_progress"]

_PANELS = {
    "reward": "Reward",
    "score": "Score of the reward model",
    "similarity": "Similarity (cosine)",
    "spread": "Spread over the ensemble",
    "kl": "KL from the reference (nats a response)",
    "kl_coefficient": "KL coefficient",
    "approximate_kl": "KL of one update (nats a token)",
    "clip_fraction": "Share of clipped tokens",
    "entropy": "Entropy (nats a token)",
    "value_error": "Squared error of the values",
    "explained_variance": "Explained variance of the values",
    "grad_norm": "Norm of the gradient",
    "length": "Length (tokens)",
    "ended": "Share ending in EOS",
    "episodes_per_second": "Episodes a second",
}
"""Columns of a training's log, as :class:`realm_lib.ppo.PPOResult` holds it, and what they are."""
_PARTS = {"sampling": "sampling", "reward": "reward", "forward": "passes without gradient", "update": "update"}
_SHADES = ("#DCEAF4", "#BFD9EA", "#9FC6E0", "#7FB2D5")
_LINES = ("-", "--", ":")


def policy_training(history: Sequence[Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Loss of a policy's supervised training by step; ``history`` as realm_lib.offline_models returns it."""
    ax = ax or new_axes(6.4, 3.2)
    steps = [entry["step"] for entry in history]
    ax.plot(steps, [entry["loss"] for entry in history], "o-", color=COLOURS["realm"], markersize=3.5)
    ax.set(xlabel="Training step", ylabel="Cross-entropy (nats a token)", ylim=(0, None))
    ax.set_title("Policy: loss on the comments of its training batches")
    return ax


def ppo_progress(history: pd.DataFrame, axes: NDArray[Any] | None = None) -> NDArray[Any]:
    """What a person watches during PPO, a panel each on 4 by 4 ``axes``; ``history`` as realm_lib.ppo returns it.

    A row of panels each about the reward and its parts, the distance from the policy before, what is learned, and
    responses and time. The panel of a part that the reward does not tell stays empty.
    """
    if axes is None:
        _, axes = plt.subplots(4, 4, figsize=(13, 10.4), layout="constrained", sharex=True)
    *panels, last = axes.flat
    for ax, (column, label) in zip(panels, _PANELS.items(), strict=True):
        if column not in history:
            ax.set_axis_off()
            continue
        ax.plot(history["episodes"], history[column].astype(float), color=COLOURS["realm"], linewidth=1.5)
        ax.set_title(label, fontsize=9.5, fontweight="normal", color=INK)
    if "gold" in history:
        panels[0].plot(history["episodes"], history["gold"], color=INK, linewidth=1.2, linestyle="--")
        panels[0].set_title("Reward; true utility (dashes)", fontsize=9.5, fontweight="normal", color=INK)
    shares = np.array([history[f"seconds_{part}"] / history["seconds"] for part in _PARTS])
    last.stackplot(history["episodes"], shares, colors=_SHADES)
    tops, middle = shares.mean(axis=1).cumsum(), history["episodes"].median()
    for label, top, share in zip(_PARTS.values(), tops, shares.mean(axis=1), strict=True):
        last.text(middle, top - share / 2, label, ha="center", va="center", fontsize=8.5, color=INK)
    last.set(ylim=(0, 1))
    last.grid(visible=False)
    last.set_title("Share of the time", fontsize=9.5, fontweight="normal", color=INK)
    for ax in axes.flat:
        ax.locator_params(nbins=5)
        ax.tick_params(labelsize=8.5)
    for ax in axes[-1]:
        ax.set_xlabel("Episodes", fontsize=9)
    return axes


def over_optimisation(
    curves: Mapping[str, pd.DataFrame],
    *,
    kept: Mapping[str, int] | None = None,
    simulated: bool = False,
    axes: tuple[Axes, Axes] | None = None,
) -> tuple[Axes, Axes]:
    """Change of the proxy reward, and of the true utility where a judge told it, against KL from the reference.

    The curve of Gao et al. (arXiv 2210.10760). ``curves`` holds :meth:`realm_lib.ppo.PPOResult.curve` of each training
    by name; bars are its 95 % intervals. ``kept`` are the steps of the policies that were kept, which get a ring.
    """
    left, right = axes or new_pair(10, 3.8)
    colours = [COLOURS["realm"], COLOURS["reward_model"], COLOURS["similarity"]]
    for place, (name, curve) in enumerate(curves.items()):
        found = curve.sort_values("step")
        colour, line = colours[place % len(colours)], _LINES[place % len(_LINES)]
        for ax, column in ((left, "reward"), (right, "gold")):
            if column not in found:
                continue
            ax.vlines(found["kl"], found[f"{column}_low"], found[f"{column}_high"], color=colour, alpha=0.35)
            ax.plot(found["kl"], found[column], f"o{line}", color=colour, markersize=3.5, linewidth=1.5, label=name)
            if kept is not None:
                chosen = found[found["step"] == kept[name]]
                ax.plot(chosen["kl"], chosen[column], "o", markersize=11, fillstyle="none", color=colour)
    facts = ["95 % intervals", *([] if kept is None else ["a ring: the policy that is kept"])]
    for ax, title in ((left, "Proxy: the reward that is trained on"), (right, "Truth: the utility that it stands for")):
        ax.axhline(0, color=SOFT, linewidth=1.2, linestyle=(0, (1, 2)))
        ax.set(xlabel="KL from the reference (nats a response)", ylabel="Change of the mean since the start")
        draw_title(ax, title, facts, simulated)
    left.legend(loc="lower right")
    return left, right
