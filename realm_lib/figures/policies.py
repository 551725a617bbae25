"""Figures of policies: how they learn to answer, what happens while a reward trains them, and where it goes too far."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes

from realm_lib.figures.theme import COLOURS, INK, SOFT, draw_title, new_axes, new_pair

__all__ = ["over_optimisation", "policy_training", "ppo_progress"]

_PANELS = {
    "reward": "Reward",
    "kl": "KL from the reference (nats a response)",
    "entropy": "Entropy (nats a token)",
    "length": "Response length (tokens)",
    "ended": "Share ending in EOS",
    "clip_fraction": "Clip fraction",
    "approximate_kl": "Approximate KL of an update (nats a token)",
    "explained_variance": "Explained variance of the values",
}
"""Columns of a training's log, as :class:`realm_lib.ppo.PPOResult` holds it, and what they are."""
_LINES = ("-", "--", ":")


def policy_training(history: Sequence[Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Loss of a policy's supervised training by step; ``history`` as realm_lib.offline_models returns it."""
    ax = ax or new_axes(6.4, 3.2)
    steps = [entry["step"] for entry in history]
    ax.plot(steps, [entry["loss"] for entry in history], "o-", color=COLOURS["realm"], markersize=3.5)
    ax.set(xlabel="Training step", ylabel="Cross-entropy (nats a token)", ylim=(0, None))
    ax.set_title("Policy: loss on the comments of its training batches")
    return ax


def ppo_progress(history: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """What a person watches during PPO, one of eight ``axes`` each; ``history`` as realm_lib.ppo returns it."""
    for ax, (column, label) in zip(axes, _PANELS.items(), strict=True):
        ax.plot(history["episodes"], history[column].astype(float), color=COLOURS["realm"], linewidth=1.5)
        if column == "reward" and "gold" in history:
            ax.plot(history["episodes"], history["gold"], color=INK, linewidth=1.2, linestyle="--")
            ax.set_title("reward (line), true utility (dashes)", fontsize=8.5, fontweight="normal", color=SOFT)
        ax.set_xlabel("Episodes")
        ax.set_ylabel(label, fontsize=8.5)
        ax.locator_params(nbins=5)
    return axes


def over_optimisation(
    trainings: Mapping[str, pd.DataFrame],
    *,
    kept: Mapping[str, int] | None = None,
    simulated: bool = False,
    axes: tuple[Axes, Axes] | None = None,
) -> tuple[Axes, Axes]:
    """Proxy reward, and the true utility where a judge told it, against KL from the reference (Gao et al. 2210.10760).

    ``trainings`` holds the evaluations of each training by name, with columns kl, reward and perhaps gold, a row a
    point on the held-out prompts; ``kept`` the steps of the policies that were kept, which get a ring.
    """
    left, right = axes or new_pair(10, 3.8)
    colours = [COLOURS["realm"], COLOURS["reward_model"], COLOURS["similarity"]]
    for place, (name, evaluations) in enumerate(trainings.items()):
        found = evaluations.sort_values("step")
        colour, line = colours[place % len(colours)], _LINES[place % len(_LINES)]
        for ax, column in ((left, "reward"), (right, "gold")):
            if column not in found:
                continue
            ax.plot(found["kl"], found[column], f"o{line}", color=colour, markersize=3.5, linewidth=1.5, label=name)
            if kept is not None:
                chosen = found[found["step"] == kept[name]]
                ax.plot(chosen["kl"], chosen[column], "o", markersize=11, fillstyle="none", color=colour)
    for ax, title in ((left, "Proxy: the reward that is trained on"), (right, "Truth: the utility that it stands for")):
        ax.set(xlabel="KL from the reference (nats a response)", ylabel="Mean over held-out prompts")
        draw_title(ax, title, [] if kept is None else ["a ring: the policy that is kept"], simulated)
    left.legend(loc="lower right")
    return left, right
