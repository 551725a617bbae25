"""The look of every figure: colours and names of rewards, titles with their facts, axes, legends."""

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import ScaledTranslation

from realm_lib.evaluation.parts import WITHOUT, parts
from realm_lib.report.words import numbers

if TYPE_CHECKING:
    from realm_lib.evaluation.result import Evaluation

COLOURS: dict[str, str] = {
    "realm": "#0072B2",
    "reward_model": "#D55E00",
    "similarity": "#009E73",
    "length": "#7A7A7A",
    "linear": "#CC79A7",
    "characters": "#A8A8A8",
    "trees": "#7B3294",
    "realm_with_length": "#56B4E9",
    "realm_without_score": "#00456B",
    "realm_without_similarity": "#7A93AC",
    "ceiling": "#222222",
    "feature_ceiling": "#555555",
    "chosen": "#3B8FC4",
    "rejected": "#E69F00",
}
"""From the palette of Okabe and Ito (2008), which readers with any colour vision can tell apart; ablations of REALM are
other blues, and always stand beside their names."""

_SIGNALS = ("#8C6D1F", "#C0392B", "#2F7F7F", "#9C4F96", "#5B7F1F", "#B8578A", "#4B4BA8", "#A65628")
_WITHOUT_SIGNALS = ("#2C6E9B", "#8FB4D9", "#1F2F4F", "#5F8FBF", "#A9BCD0", "#3D5A80", "#6C8EBF", "#24476B")
"""Colours of a profile's own signals in their order, and of the reward without each; from the ninth on they repeat."""

LABELS: dict[str, str] = {
    "realm": "REALM (combined)",
    "reward_model": "Reward model alone",
    "similarity": "Similarity alone",
    "length": "Longer response wins",
    "linear": "Linear combination",
    "characters": "Longer in characters wins",
    "trees": "Boosted trees",
    "realm_with_length": "REALM with length",
    "realm_without_score": "REALM without score",
    "realm_without_similarity": "REALM without similarity",
    "ceiling": "True utility (ceiling)",
    "feature_ceiling": "Best use of the features",
    "chosen": "Chosen",
    "rejected": "Rejected",
}

AXIS_LABELS = {
    "score": "Reward-model score (the model's own units)",
    "similarity": "Cosine similarity of prompt and response (-1 to 1)",
}
INK = "#222222"
SOFT = "#5A5A5A"
DOTTED: dict[str, Any] = {"color": SOFT, "linewidth": 1.2, "linestyle": (0, (1, 2))}
"""The line of what shows nothing: chance, no change."""
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g} %")  # never rounds a tick


def set_theme() -> None:
    """Set matplotlib's defaults to this project's look.

    The font is the one that matplotlib carries, and SVG text is drawn as outlines: a figure looks the same on every
    machine, offline. The fixed hash salt gives the same figure the same bytes. A dollar is a dollar: names of subsets,
    signals and judges are not mathematics. Of a letter that the font lacks a box is drawn, without a warning for each.
    """
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
    plt.rcParams.update(
        {
            "axes.axisbelow": True,
            "axes.edgecolor": "#9A9A9A",
            "axes.grid": True,
            "axes.labelcolor": INK,
            "axes.labelsize": 10,
            "axes.prop_cycle": cycler(color=[COLOURS[name] for name in list(COLOURS)[:5]]),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlecolor": INK,
            "axes.titlelocation": "left",
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "figure.figsize": (6.4, 4.0),
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "grid.color": "#E3E3E3",
            "grid.linewidth": 0.8,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "lines.linewidth": 2.0,
            "savefig.dpi": 160,
            "savefig.facecolor": "white",
            "svg.fonttype": "path",
            "svg.hashsalt": "realm",
            "text.color": INK,
            "text.parse_math": False,
            "xtick.color": SOFT,
            "xtick.labelsize": 9,
            "ytick.color": SOFT,
            "ytick.labelsize": 9,
        }
    )


def new_axes(width: float, height: float) -> Axes:
    """One axes in a figure of this size in inches."""
    ax: Axes = plt.subplots(figsize=(width, height))[1]
    return ax


def new_pair(width: float, height: float) -> tuple[Axes, Axes]:
    """Two axes side by side."""
    left, right = plt.subplots(1, 2, figsize=(width, height))[1]
    return left, right


def new_grid(count: int, width: float, height: float) -> list[Axes]:
    """``count`` axes of this size each, two in a row."""
    columns = min(2, count)
    rows = -(-count // columns)
    grid = plt.subplots(rows, columns, figsize=(columns * width, rows * height), squeeze=False)[1].ravel()
    for unused in grid[count:]:
        unused.set_axis_off()
    return list(grid[:count])


def draw_title(ax: Axes, title: str, facts: Sequence[str], simulated: bool, above: bool = False) -> None:
    """A title with a smaller line of facts under it; ``above`` leaves a line for the labels of vertical lines."""
    lift = 20 if above else 6
    line = " · ".join([*(["simulated"] if simulated else []), *facts])
    ax.set_title(title, pad=lift + (17 if line else 0))
    if line:
        ax.annotate(line, (0, 1), xytext=(0, lift), xycoords="axes fraction", textcoords="offset points",
                    fontsize=9, color=SOFT)  # fmt: skip


def counted(count: int, thing: str) -> str:
    """``n = 1,234 pairs``"""
    return f"n = {numbers.counted(count, f'{thing}s')}"


def sizes(evaluation: "Evaluation") -> list[str]:
    """The facts under a title: n of pairs and posts, and what the intervals are."""
    pairs, posts = evaluation.metrics["pairs"], evaluation.metrics["posts"]
    return [f"{counted(pairs, 'pair')} of {numbers.counted(posts, 'posts')}",
            f"{100 * evaluation.confidence:g} % intervals"]  # fmt: skip


def label_of(name: str, rewards: Iterable[str] = ()) -> str:
    """The name of one of ``rewards`` in figures and tables; its own where the project does not know it."""
    if name in LABELS:
        return LABELS[name]
    if name.startswith(WITHOUT):
        return f"REALM without {short(name.removeprefix(WITHOUT))}"
    return f"{short(name)} alone" if name in parts(rewards) else short(name)


def short(name: str, characters: int = 40) -> str:
    """A user's name on one line, what cannot be printed left out; of a long one its beginning and its end."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    end = characters // 3
    return line if len(line) <= characters else f"{line[: characters - end - 1].rstrip()}…{line[-end:].lstrip()}"


def colour_of(name: str, rewards: Iterable[str] = ()) -> str:
    """The colour of one of ``rewards``, a signal's by its place among them; black for what is no part of the reward."""
    if name in COLOURS:
        return COLOURS[name]
    signals = [part for part in parts(rewards) if part not in COLOURS]
    signal, colours = (name.removeprefix(WITHOUT), _WITHOUT_SIGNALS) if name.startswith(WITHOUT) else (name, _SIGNALS)
    return colours[signals.index(signal) % len(colours)] if signal in signals else INK


def axis_label(feature: str) -> str:
    """What stands at an axis of ``feature``; a signal's own name."""
    return AXIS_LABELS.get(feature, short(feature))


def legend_below(ax: Axes, lowest: Axes, columns: int) -> None:
    """The legend of ``ax`` under the axis label of ``lowest``."""
    below = lowest.transAxes + ScaledTranslation(0, -40 / 72, ax.figure.dpi_scale_trans)
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0), bbox_transform=below, ncols=columns, borderaxespad=0)


def label_rows(ax: Axes, labels: Sequence[str], fontsize: float = 9) -> None:
    """Names to the left of rows at 0, 1, 2 ..., without ticks and lines across."""
    ax.set_yticks(range(len(labels)), labels, color=INK, fontsize=fontsize)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)


def line_label(ax: Axes, x: float, text: str, align: Literal["left", "center", "right"] = "center") -> None:
    """``text`` above the vertical line at ``x``; ``align`` says which part of it is there."""
    ax.annotate(text, (x, 1), xytext=(0, 4), xycoords=ax.get_xaxis_transform(), textcoords="offset points",
                ha=align, fontsize=8.5, color=SOFT)  # fmt: skip
