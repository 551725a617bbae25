"""Figures of policies: how they learn to answer."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from realm_lib.figures.theme import COLOURS, new_axes

__all__ = ["policy_training"]


def policy_training(history: Sequence[Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Loss of a policy's supervised training by step; ``history`` as realm_lib.offline_models returns it."""
    ax = ax or new_axes(6.4, 3.2)
    steps = [entry["step"] for entry in history]
    ax.plot(steps, [entry["loss"] for entry in history], "o-", color=COLOURS["realm"], markersize=3.5)
    ax.set(xlabel="Training step", ylabel="Cross-entropy (nats a token)", ylim=(0, None))
    ax.set_title("Policy: loss on the comments of its training batches")
    return ax
