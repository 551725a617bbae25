"""Every plot of the notebooks and reports: one look, one colour for each reward, and the number of pairs in each.

Functions take data and, if wanted, the axes to draw on; they return the axes and neither save nor show. A figure whose
data is simulated says so under its title.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

if TYPE_CHECKING:
    from realm_lib.evaluation import Evaluation

__all__ = [
    "COLOURS",
    "LABELS",
    "accuracy_bars",
    "accuracy_by_domain",
    "feature_distributions",
    "reliability",
    "response_surface",
    "reward_distributions",
    "set_theme",
    "training_curves",
]

COLOURS: dict[str, str] = {
    "realm": "#0072B2",
    "reward_model": "#D55E00",
    "similarity": "#009E73",
    "length": "#7A7A7A",
    "linear": "#CC79A7",
    "ceiling": "#222222",
    "chosen": "#3B8FC4",
    "rejected": "#E69F00",
}
"""From the palette of Okabe and Ito (2008), which readers with any colour vision can tell apart."""

LABELS: dict[str, str] = {
    "realm": "REALM (combined)",
    "reward_model": "Reward model alone",
    "similarity": "Similarity alone",
    "length": "Longer response wins",
    "linear": "Linear combination",
    "ceiling": "True utility (ceiling)",
    "chosen": "Chosen",
    "rejected": "Rejected",
}

_AXIS_LABELS = {
    "reward": "Reward-model score (the model's own units)",
    "similarity": "Cosine similarity of prompt and response (-1 to 1)",
}
_INK = "#222222"
_SOFT = "#5A5A5A"
_GRID = "#E3E3E3"
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g} %")  # never rounds a tick


class TrainingRecord(Protocol):
    """What :func:`training_curves` reads: one entry an epoch, in nats a pair and as a share."""

    @property
    def train_loss(self) -> Sequence[float]: ...
    @property
    def validation_loss(self) -> Sequence[float]: ...
    @property
    def validation_accuracy(self) -> Sequence[float]: ...
    @property
    def best_epoch(self) -> int: ...


def set_theme() -> None:
    """Set matplotlib's defaults to this project's look.

    The font is the one that matplotlib carries, and SVG text is drawn as outlines: a figure looks the same on every
    machine, offline. The fixed hash salt gives the same figure the same bytes.
    """
    plt.rcParams.update(
        {
            "axes.axisbelow": True,
            "axes.edgecolor": "#9A9A9A",
            "axes.grid": True,
            "axes.labelcolor": _INK,
            "axes.labelsize": 10,
            "axes.prop_cycle": cycler(color=[COLOURS[name] for name in list(COLOURS)[:5]]),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlecolor": _INK,
            "axes.titlelocation": "left",
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "figure.figsize": (6.4, 4.0),
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "grid.color": _GRID,
            "grid.linewidth": 0.8,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "lines.linewidth": 2.0,
            "savefig.dpi": 160,
            "savefig.facecolor": "white",
            "svg.fonttype": "path",
            "svg.hashsalt": "realm",
            "text.color": _INK,
            "xtick.color": _SOFT,
            "xtick.labelsize": 9,
            "ytick.color": _SOFT,
            "ytick.labelsize": 9,
        }
    )


def reward_distributions(features: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Reward-model scores of the chosen and of the rejected responses, with their medians."""
    return feature_distributions(features, "reward", ax)


def feature_distributions(features: pd.DataFrame, column: str, ax: Axes | None = None) -> Axes:
    """Histograms of feature ``column`` ("reward", "similarity") for chosen and rejected responses, with medians."""
    chosen, rejected = _by_preference(features, column)
    ax = ax or _new_axes(6.4, 3.8)
    edges = np.histogram_bin_edges(np.concatenate([chosen, rejected]), bins=int(np.clip(len(chosen) ** 0.5, 12, 45)))
    both = (("chosen", chosen), ("rejected", rejected))
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in both}
    peak = max(float(share.max()) for share in shares.values())
    for name, values in both:
        colour, median = COLOURS[name], float(np.median(values))
        ax.stairs(shares[name], edges, fill=True, color=to_rgba(colour, 0.18))
        ax.stairs(shares[name], edges, color=colour, linewidth=1.8, label=f"{LABELS[name]}, median {median:.2f}")
        ax.vlines(median, 0, 1.06 * peak, color=colour, linewidth=1.5, linestyle=(0, (4, 2)))
    ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(_PERCENT)
    ax.set_ylim(0, 1.25 * peak)  # room for the legend
    ax.grid(visible=False, axis="x")
    ax.set_xlabel(_AXIS_LABELS.get(column, column))
    ax.set_ylabel("Share of the responses in a bin")
    ax.legend(loc="upper left", ncols=2, columnspacing=1.5, handlelength=1.4)
    subject = {"reward": "Reward-model score", "similarity": "Similarity"}.get(column, column)
    _title(ax, f"{subject} of chosen and rejected responses", [_count(len(chosen), "pair")], "gold_A" in features)
    return ax


def response_surface(
    reward_of: Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]],
    features: pd.DataFrame,
    ax: Axes | None = None,
) -> Axes:
    """The combined reward over both features, with lines around the half and around nine tenths of the responses.

    ``reward_of`` maps features float32 [n, 2], reward-model score and similarity, to rewards [n].
    """
    points = np.concatenate(
        [features[[f"reward_{side}", f"similarity_{side}"]].to_numpy(dtype=np.float64) for side in "AB"]
    )
    _need_finite(points, "reward or similarity")
    ax = ax or _new_axes(6.4, 4.6)
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    room = 0.03 * (high - low) + 1e-9  # a constant feature still gets an area
    xs, ys = (np.linspace(low[i] - room[i], high[i] + room[i], 120) for i in (0, 1))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    reward = np.asarray(reward_of(grid.reshape(-1, 2).astype(np.float32)), dtype=np.float64).reshape(grid.shape[:2])
    filled = ax.contourf(xs, ys, reward, levels=24, cmap="viridis")
    filled.set_edgecolor("face")  # no hairlines between the bands in SVG
    _mass_contours(ax, points, xs, ys)
    bar = ax.figure.colorbar(filled, ax=ax, pad=0.02, ticks=MaxNLocator(6))
    bar.set_label("Combined reward (its own units)")
    bar.outline.set_visible(False)
    ax.grid(visible=False)
    ax.set_xlabel(_AXIS_LABELS["reward"])
    ax.set_ylabel("Cosine similarity of prompt and response")
    _title(
        ax,
        "The reward that the combiner has learned",
        [_count(len(points), "response"), "white lines hold 50 % and 90 % of them"],
        "gold_A" in features,
    )
    return ax


def accuracy_bars(evaluation: "Evaluation", ax: Axes | None = None) -> Axes:
    """Accuracy of each reward as a point with its interval, the best on top; chance, and the ceiling if known."""
    found = evaluation.metrics["rewards"]
    names = sorted(found, key=lambda name: float(found[name]["accuracy"]))
    ax = ax or _new_axes(6.4, 1.7 + 0.36 * len(names))
    for place, name in enumerate(names):
        _point(ax, found[name], place, _colour(name))
        text = f"{100 * found[name]['accuracy']:.1f} %"
        ax.annotate(text, (1.01, place), xycoords=ax.get_yaxis_transform(), va="center", fontsize=9.5, color=_INK)
    ax.axvline(0.5, color=_SOFT, linewidth=1.2, linestyle=(0, (1, 2)))
    _line_label(ax, 0.5, "chance")
    ends = [0.5, *(end for name in names for end in found[name]["ci"])]
    if "ceiling" in evaluation.metrics:
        ceiling = evaluation.metrics["ceiling"]["accuracy"]
        ends.append(ceiling)
        ax.axvline(ceiling, color=COLOURS["ceiling"], linewidth=1.4, linestyle=(0, (5, 2)))
        _line_label(ax, ceiling, f"ceiling {100 * ceiling:.1f} %")
    _accuracy_axis(ax, ends)
    ax.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names], color=_INK, fontsize=10)
    ax.set_ylim(-0.6, len(names) - 0.4)
    _title(ax, "Accuracy of each reward", _sizes(evaluation), evaluation.simulated, above=True)
    return ax


def accuracy_by_domain(
    evaluation: "Evaluation", names: Sequence[str] = ("realm", "reward_model"), ax: Axes | None = None
) -> Axes:
    """Accuracy of some rewards by domain, with intervals, domains in the order of the first reward's accuracy.

    The n beside a domain counts its pairs.
    """
    found = evaluation.metrics["by_domain"]
    domains = sorted(found, key=lambda domain: float(found[domain][names[0]]["accuracy"]))
    ax = ax or _new_axes(6.4, 1.7 + len(domains) * (0.1 + 0.11 * len(names)))
    offsets = np.linspace(0.18, -0.18, len(names)) if len(names) > 1 else [0.0]
    for name, offset in zip(names, offsets, strict=True):
        for place, domain in enumerate(domains):
            _point(ax, found[domain][name], place + offset, _colour(name), size=5)
        ax.plot([], [], "o-", color=_colour(name), markersize=5, label=LABELS.get(name, name))
    ax.axvline(0.5, color=_SOFT, linewidth=1.2, linestyle=(0, (1, 2)))
    _line_label(ax, 0.5, "chance")
    _accuracy_axis(ax, [0.5, *(end for domain in domains for name in names for end in found[domain][name]["ci"])])
    labels = [f"{domain}  (n = {found[domain]['pairs']:,})" for domain in domains]
    ax.set_yticks(range(len(domains)), labels, color=_INK)
    ax.set_ylim(-0.7, len(domains) - 0.3)
    _legend_below(ax, ax, columns=len(names))
    _title(ax, "Accuracy by domain", _sizes(evaluation), evaluation.simulated, above=True)
    return ax


def training_curves(
    history: TrainingRecord,
    axes: Sequence[Axes] | NDArray[np.object_] | None = None,
    *,
    train_pairs: int | None = None,
    validation_pairs: int | None = None,
    simulated: bool = False,
) -> tuple[Axes, Axes]:
    """Loss of training and validation pairs, and accuracy on validation pairs, by epoch; the best epoch is marked.

    ``best_epoch`` counts from 1. The history does not know how many pairs it saw: give their numbers to show them.
    """
    left, right = axes if axes is not None else _new_pair(7.4, 3.5)
    epochs = np.arange(1, len(history.train_loss) + 1)
    best = history.best_epoch

    def seen(split: str, pairs: int | None) -> str:
        return f"{split} pairs" if pairs is None else f"{split} ({_count(pairs, 'pair')})"

    left.plot(
        epochs, history.train_loss, "o-", color=COLOURS["length"], markersize=3.5, label=seen("Training", train_pairs)
    )
    left.plot(
        epochs,
        history.validation_loss,
        "o-",
        color=COLOURS["realm"],
        markersize=3.5,
        label=seen("Validation", validation_pairs),
    )
    right.plot(epochs, history.validation_accuracy, "o-", color=COLOURS["realm"], markersize=3.5,
               label=seen("Validation", validation_pairs))  # fmt: skip
    for ax, values in ((left, history.validation_loss), (right, history.validation_accuracy)):
        ax.plot(best, values[best - 1], "o", markersize=9, markerfacecolor="white", markeredgewidth=2,
                color=COLOURS["realm"], label=f"Best epoch ({best})")  # fmt: skip
        ax.set_xlabel("Epoch")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.set_xlim(0.5, len(epochs) + 0.5)
    left.set_ylabel("Bradley-Terry loss (nats a pair)")
    left.legend(loc="best")
    right.legend(loc="best")
    right.set_ylabel("Validation accuracy")
    right.yaxis.set_major_formatter(_PERCENT)
    _title(left, "Loss by epoch", [], simulated)
    _title(right, "Accuracy by epoch", [], simulated)
    return left, right


def reward_model_training(history: Sequence[Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Loss of a reward model's training batches by step; ``history`` as realm_lib.offline_models returns it."""
    ax = ax or _new_axes(6.4, 3.2)
    steps = [entry["step"] for entry in history]
    ax.plot(steps, [entry["loss"] for entry in history], "o-", color=COLOURS["reward_model"], markersize=3.5)
    ax.axhline(np.log(2), color=_SOFT, linewidth=1, linestyle="--")
    ax.annotate("knows nothing (log 2)", (steps[-1], np.log(2)), xytext=(0, 4), textcoords="offset points",
                ha="right", fontsize=9, color=_SOFT)  # fmt: skip
    ax.set(xlabel="Training step", ylabel="Bradley-Terry loss (nats)")
    ax.set_title("Reward model: loss on its training batches")
    return ax


def reliability(evaluation: "Evaluation", names: Sequence[str] = ("realm",), ax: Axes | None = None) -> Axes:
    """Reliability diagram: how often a reward is right against how sure it is, and below it how many pairs that holds.

    Bins of equal mass on the probability of the predicted side, as in the calibration error.
    """
    ax = ax or _new_axes(5.2, 5.4)
    counts = ax.inset_axes((0, -0.30, 1, 0.24), sharex=ax)
    ax.plot([0.5, 1], [0.5, 1], color=_SOFT, linewidth=1.2, linestyle=(0, (1, 2)), label="As right as it is sure")
    lowest = 0.5
    for name in names:
        bins = evaluation.reliability(name)
        lowest = min(lowest, float(bins["observed"].min()))
        error = 100 * evaluation.metrics["rewards"][name]["ece"]
        label = f"{LABELS.get(name, name)}, error {error:.1f} points"
        ax.plot(bins["predicted"], bins["observed"], "o-", color=_colour(name), markersize=6, label=label)
        p = evaluation.per_pair[f"{name}_p"].to_numpy()
        number = np.histogram(np.maximum(p, 1 - p), np.linspace(0.5, 1, 26))[0]
        counts.stairs(number, np.linspace(0.5, 1, 26), color=_colour(name), linewidth=1.6)
    ax.set_xlim(0.49, 1.01)
    ax.set_ylim(max(0.0, lowest - 0.03), 1.02)
    ax.xaxis.set_major_formatter(_PERCENT)
    ax.yaxis.set_major_formatter(_PERCENT)
    ax.tick_params(labelbottom=False)
    ax.set_ylabel("Share of pairs ranked rightly")
    counts.set_ylabel("Pairs")
    counts.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    counts.set_xlabel("Probability that the reward gives to the response it prefers")
    _legend_below(ax, counts, columns=1)
    _title(ax, "Is the reward as often right as it is sure?", _sizes(evaluation)[:1], evaluation.simulated)
    return ax


def _new_axes(width: float, height: float) -> Axes:
    ax: Axes = plt.subplots(figsize=(width, height))[1]
    return ax


def _new_pair(width: float, height: float) -> tuple[Axes, Axes]:
    left, right = plt.subplots(1, 2, figsize=(width, height))[1]
    return left, right


def _title(ax: Axes, title: str, facts: Sequence[str], simulated: bool, above: bool = False) -> None:
    """A title with a smaller line of facts under it; ``above`` leaves a line for the labels of vertical lines."""
    lift = 20 if above else 6
    line = " · ".join([*(["simulated"] if simulated else []), *facts])
    ax.set_title(title, pad=lift + (17 if line else 0))
    if line:
        ax.annotate(line, (0, 1), xytext=(0, lift), xycoords="axes fraction", textcoords="offset points",
                    fontsize=9, color=_SOFT)  # fmt: skip


def _count(count: int, thing: str) -> str:
    return f"n = {count:,} {thing}{'' if count == 1 else 's'}"


def _sizes(evaluation: "Evaluation") -> list[str]:
    pairs, posts = evaluation.metrics["pairs"], evaluation.metrics["posts"]
    return [f"{_count(pairs, 'pair')} of {posts:,} post{'' if posts == 1 else 's'}",
            f"{100 * evaluation.confidence:g} % intervals"]  # fmt: skip


def _colour(name: str) -> str:
    """The reward's own colour; black for a reward that the project does not know."""
    return COLOURS.get(name, _INK)


def _point(ax: Axes, found: dict[str, Any], place: float, colour: str, size: float = 8) -> None:
    ax.plot(found["ci"], [place, place], color=colour, linewidth=size / 3, solid_capstyle="round")
    ax.plot(found["accuracy"], place, "o", color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.8)


def _legend_below(ax: Axes, lowest: Axes, columns: int) -> None:
    """The legend of ``ax`` under the axis label of ``lowest``."""
    place = lowest.transAxes + ScaledTranslation(0, -40 / 72, ax.figure.dpi_scale_trans)
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0), bbox_transform=place, ncols=columns, borderaxespad=0)


def _line_label(ax: Axes, x: float, text: str) -> None:
    ax.annotate(text, (x, 1), xytext=(0, 4), xycoords=ax.get_xaxis_transform(), textcoords="offset points",
                ha="center", fontsize=8.5, color=_SOFT)  # fmt: skip


def _accuracy_axis(ax: Axes, ends: Sequence[float]) -> None:
    room = 0.04 * (max(ends) - min(ends)) + 0.005
    ax.set_xlim(min(ends) - room, max(ends) + room)
    ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(_PERCENT)
    ax.set_xlabel("Accuracy (share of pairs ranked rightly, ties count half)")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


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
