"""Figures of the features, the training and the reward that was learned."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from realm_lib.config.feature_models import FEATURES
from realm_lib.report.figures import theme
from realm_lib.reward.effects import RewardOf, partial_effects, responses_of, strongest_two


class _TrainingRecord(Protocol):
    """What :func:`training_curves` reads: one entry an epoch, in nats a pair and as a share.

    Where there are out-of-fold losses, they and the others begin with epoch 0, else with the first.
    """

    @property
    def train_loss(self) -> Sequence[float]: ...
    @property
    def validation_loss(self) -> Sequence[float]: ...
    @property
    def validation_accuracy(self) -> Sequence[float]: ...
    @property
    def out_of_fold_loss(self) -> Sequence[float]: ...
    @property
    def best_epoch(self) -> int: ...


def feature_distributions(features: pd.DataFrame, column: str, ax: Axes | None = None) -> Axes:
    """Histograms of ``column`` ("score", "similarity", a signal) for chosen and rejected responses, with medians."""
    chosen, rejected = _by_preference(features, column)
    ax = ax or theme.new_axes(6.4, 3.8)
    edges = np.histogram_bin_edges(np.concatenate([chosen, rejected]), bins=int(np.clip(len(chosen) ** 0.5, 12, 45)))
    both = {"chosen": chosen, "rejected": rejected}
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in both.items()}
    peak = max(float(share.max()) for share in shares.values())
    for name, values in both.items():
        colour, median = theme.COLOURS[name], float(np.median(values))
        ax.stairs(shares[name], edges, fill=True, color=to_rgba(colour, 0.18))
        ax.stairs(shares[name], edges, color=colour, linewidth=1.8, label=f"{theme.LABELS[name]}, median {median:.2f}")
        ax.vlines(median, 0, 1.06 * peak, color=colour, linewidth=1.5, linestyle=(0, (4, 2)))
    ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(theme.PERCENT)
    ax.set_ylim(0, 1.25 * peak)  # room for the legend
    ax.grid(visible=False, axis="x")
    ax.set_xlabel(theme.axis_label(column))
    ax.set_ylabel("Share of the responses in a bin")
    ax.legend(loc="upper left", ncols=2, columnspacing=1.5, handlelength=1.4)
    subject = {"score": "Reward-model score", "similarity": "Similarity"}.get(column, column)
    theme.draw_title(
        ax, f"{subject} of chosen and rejected responses", [theme.counted(len(chosen), "pair")], "gold_A" in features
    )
    return ax


def response_surface(
    reward_of: RewardOf,
    features: pd.DataFrame,
    ax: Axes | None = None,
    *,
    names: Sequence[str] = FEATURES,
    over: Sequence[str] | None = None,
    at: tuple[str, Sequence[float]] | None = None,
    including: Sequence[Sequence[float]] = (),
    levels: int | NDArray[np.float64] = 24,
) -> Axes:
    """The combined reward over two features, with lines around the half and around nine tenths of the responses.

    ``reward_of`` maps float32 [n, k], the features ``names`` in their order, to rewards [n]. Drawn are the two ``over``
    or those that matter most; any others are held at their medians, or where the response ``at`` has them, a name and
    its k features. The area holds nearly all responses, and the points of ``including`` (two numbers each).
    """
    over = over or _two_of(reward_of, features, names)
    places = [list(names).index(name) for name in over]
    table = responses_of(features, names)
    _need_finite(table, " or ".join(names))
    points, held = table[:, places], np.median(table, axis=0) if at is None else np.asarray(at[1], dtype=np.float64)
    ax = ax or theme.new_axes(6.4, 4.6)
    xs, ys = _area(points, including)
    reward = _rewards_over(reward_of, xs, ys, places, held)
    filled = ax.contourf(xs, ys, reward, levels=levels, cmap="viridis")
    filled.set_edgecolor("face")  # no hairlines between the bands in SVG
    _mass_contours(ax, points, xs, ys)
    bar = ax.figure.colorbar(filled, ax=ax, pad=0.02, ticks=MaxNLocator(6))
    bar.set_label("Combined reward (log-odds)")
    bar.outline.set_visible(False)
    ax.grid(visible=False)
    ax.set_xlabel(theme.axis_label(over[0]))
    ax.set_ylabel(theme.axis_label(over[1]).removesuffix(" (-1 to 1)"))
    facts = [theme.counted(len(points), "response"), "white lines hold 50 % and 90 % of them"]
    title = "The reward that the combiner has learned"
    if len(names) > 2:
        title = f"{title[:10]}, other features {'at their medians' if at is None else f'as in {at[0]}'}"
    theme.draw_title(ax, title, facts, "gold_A" in features)
    return ax


def responses_on_surface(
    reward_of: RewardOf,
    features: pd.DataFrame,
    responses: Sequence[tuple[str, Sequence[float]]],
    axes: Sequence[Axes],
    *,
    names: Sequence[str] = FEATURES,
) -> None:
    """:func:`response_surface` with single responses marked: each a name and its features in the order of ``names``.

    With two features all stand on the first of ``axes``. With more, each needs one of its own: a surface with the other
    features as that response has them, in the same colours for the same reward.
    """
    over = _two_of(reward_of, features, names)
    places = [list(names).index(name) for name in over]
    marked = [(name, [values[place] for place in places]) for name, values in responses]
    including = [point for _, point in marked]
    surface = partial(response_surface, reward_of, features, names=names, over=over, including=including)
    if len(names) == 2:
        surface(axes[0])
        for name, point in marked:
            _mark(axes[0], name, point)
        return
    xs, ys = _area(responses_of(features, over), including)
    heights = [_rewards_over(reward_of, xs, ys, places, np.asarray(values)) for _, values in responses]
    levels = np.linspace(min(map(np.min, heights)), max(map(np.max, heights)) + 1e-9, 25)
    for ax, response, (name, point) in zip(axes, responses, marked, strict=True):
        surface(ax, at=response, levels=levels)
        _mark(ax, name, point)


def training_curves(
    history: _TrainingRecord,
    axes: Sequence[Axes] | NDArray[np.object_] | None = None,
    *,
    train_pairs: int | None = None,
    validation_pairs: int | None = None,
    simulated: bool = False,
) -> tuple[Axes, Axes]:
    """Loss of training and validation pairs, and accuracy on validation pairs, by epoch; the best epoch is marked.

    It is marked on the loss that chose it. The history does not know how many pairs it saw: give their numbers to show
    them.
    """
    left, right = axes if axes is not None else theme.new_pair(7.4, 3.5)
    out_of_fold, best = history.out_of_fold_loss, history.best_epoch
    first = 0 if out_of_fold else 1

    def seen(split: str, pairs: int | None) -> str:
        return f"{split} pairs" if pairs is None else f"{split} ({theme.counted(pairs, 'pair')})"

    validation = seen("Validation", validation_pairs)
    curves = [
        (left, history.train_loss, "length", seen("Training", train_pairs)),
        (left, history.validation_loss, "realm", validation),
        (right, history.validation_accuracy, "realm", validation),
    ]
    chose = [(left, history.validation_loss, "realm"), (right, history.validation_accuracy, "realm")]
    if out_of_fold:
        curves.append((left, out_of_fold, "reward_model", "Training, by networks without its post"))
        chose[0] = (left, out_of_fold, "reward_model")
    for ax, values, name, label in curves:
        epochs = np.arange(first, first + len(values))
        ax.plot(epochs, values, "o-", color=theme.COLOURS[name], markersize=3.5, label=label)
    for ax, values, name in chose:
        ax.plot(best, values[best - first], "o", markersize=9, markerfacecolor="white", markeredgewidth=2,
                color=theme.COLOURS[name], label=f"Best epoch ({best})")  # fmt: skip
        ax.set_xlabel("Epoch (0: the weighted sum)" if out_of_fold else "Epoch")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.set_xlim(first - 0.5, max(len(values), len(history.train_loss)) + first - 0.5)
        ax.legend(loc="best")
    left.set_ylabel("Bradley-Terry loss (nats a pair)")
    right.set_ylabel("Validation accuracy")
    right.yaxis.set_major_formatter(theme.PERCENT)
    theme.draw_title(left, "Loss by epoch", [], simulated)
    theme.draw_title(right, "Accuracy by epoch", [], simulated)
    return left, right


def reward_model_training(history: Sequence[Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Loss of a reward model's training batches by step; ``history`` as realm_lib.models.offline returns it."""
    ax = ax or theme.new_axes(6.4, 3.2)
    steps = [entry["step"] for entry in history]
    ax.plot(steps, [entry["loss"] for entry in history], "o-", color=theme.COLOURS["reward_model"], markersize=3.5)
    ax.axhline(np.log(2), color=theme.SOFT, linewidth=1, linestyle="--")
    ax.annotate("knows nothing (log 2)", (steps[-1], np.log(2)), xytext=(0, 4), textcoords="offset points",
                ha="right", fontsize=9, color=theme.SOFT)  # fmt: skip
    ax.set(xlabel="Training step", ylabel="Bradley-Terry loss (nats)")
    ax.set_title("Reward model: loss on its training batches")
    return ax


def probe_choices(tried: pd.DataFrame, *, simulated: bool = False, ax: Axes | None = None) -> Axes:
    """How often a probe is right about pairs that it was not fitted to, by what it reads; the one taken is marked.

    ``tried`` is :attr:`realm_lib.models.probe_training.ProbeTraining.tried`; taken is the least loss, which need not be
    the most often right.
    """
    ax = ax or theme.new_axes(6.4, 3.2)
    names = [str(layers[0]) if len(layers) == 1 else "all of these" for layers in tried["layers"]]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    colours = ("similarity", "rejected", "linear", "realm")
    ways = list(dict.fromkeys(tried["poolings"]))
    for number, poolings in enumerate(ways):
        rows = tried.assign(name=names)[[each == poolings for each in tried["poolings"]]]
        at = [places[name] + 0.13 * (number - 1.5) for name in rows["name"]]
        label = poolings[0] if len(poolings) == 1 else "all of them"
        ax.plot(at, rows["accuracy"], "o", color=theme.COLOURS[colours[number]], label=label)
    best = int(tried["log_loss"].to_numpy().argmin())
    way = ways.index(tried["poolings"].iloc[best])
    ax.plot(places[names[best]] + 0.13 * (way - 1.5), tried["accuracy"].iloc[best], "o", markersize=13,
            markerfacecolor="none", markeredgecolor=theme.INK, label="taken: the least loss")  # fmt: skip
    ax.set_xticks(list(places.values()), [*places])
    ax.set(xlabel="After so many layers", ylabel="Right on pairs left out")
    ax.yaxis.set_major_formatter(theme.PERCENT)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="over the response")
    theme.draw_title(ax, "What the probe reads", [], simulated)
    return ax


def _two_of(reward_of: RewardOf, features: pd.DataFrame, names: Sequence[str]) -> Sequence[str]:
    return names if len(names) == 2 else strongest_two(partial_effects(reward_of, features, names))


def _area(
    points: NDArray[np.float64], including: Sequence[Sequence[float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values along both axes of an area with nearly all ``points`` [n, 2], and all of ``including``."""
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    for point in including:
        low, high = np.minimum(low, point), np.maximum(high, point)
    room = 0.03 * (high - low) + 1e-9  # a constant feature still gets an area
    xs, ys = (np.linspace(low[i] - room[i], high[i] + room[i], 120) for i in (0, 1))
    return xs, ys


def _rewards_over(
    reward_of: RewardOf,
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    places: Sequence[int],
    held: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The rewards where the features at ``places`` are ``xs`` and ``ys``, and the others as ``held``: [ys, xs]."""
    grid = np.tile(held, (len(ys), len(xs), 1))
    grid[..., places[0]], grid[..., places[1]] = np.meshgrid(xs, ys)
    rewards = reward_of(grid.reshape(-1, len(held)).astype(np.float32))
    return np.asarray(rewards, dtype=np.float64).reshape(len(ys), len(xs))


def _mark(ax: Axes, name: str, point: Sequence[float]) -> None:
    ax.plot(*point, "o", color="white", markersize=17, markeredgecolor=theme.INK, markeredgewidth=1.6, zorder=5)
    ax.annotate(name, (point[0], point[1]), ha="center", va="center_baseline", fontsize=10, fontweight="bold",
                color=theme.INK, zorder=6)  # fmt: skip


def _by_preference(features: pd.DataFrame, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values of ``column`` for the chosen and for the rejected responses, each [pairs]."""
    if missing := [name for name in (f"{column}_A", f"{column}_B", "labels") if name not in features]:
        raise ValueError(f"features lack the column {missing[0]!r}")
    a, b = (features[f"{column}_{side}"].to_numpy(dtype=np.float64) for side in "AB")
    _need_finite(np.stack([a, b]), column)
    a_is_chosen = features["labels"].to_numpy() == 1
    return np.where(a_is_chosen, a, b), np.where(a_is_chosen, b, a)


def _need_finite(values: NDArray[np.float64], name: str) -> None:
    if values.size == 0:
        raise ValueError("features hold no pairs: there is nothing to draw")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinity: extract the features again")


def _mass_contours(ax: Axes, points: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]) -> None:
    """Lines around the densest area that holds half, and nine tenths, of ``points``."""
    from scipy.ndimage import gaussian_filter

    counts = np.histogram2d(points[:, 0], points[:, 1], bins=60, range=((xs[0], xs[-1]), (ys[0], ys[-1])))[0]
    density = gaussian_filter(counts, sigma=10 * len(points) ** (-1 / 6))  # Scott's rule: 60 bins are some 6 deviations
    ordered = np.sort(density.ravel())[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    levels = [float(ordered[np.searchsorted(held, share)]) for share in (0.9, 0.5)]
    if levels[0] < levels[1]:
        centres = [np.linspace(axis[0], axis[-1], 121)[1::2] for axis in (xs, ys)]
        ax.contour(*centres, density.T, levels=levels, colors="white", linewidths=(1.0, 1.6), alpha=0.9)
