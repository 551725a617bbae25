"""The picture of REALM's pipeline, as the README shows it.

``python -m realm_lib.report.figures.pipeline outputs/reference/demo/figures/pipeline.svg`` draws it again.
"""

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from realm_lib.report.figures.theme import COLOURS, INK, SOFT, new_axes, set_theme

_NEUTRAL, _GREEN = "#5A6675", COLOURS["similarity"]
_BOXES: dict[str, tuple[float, float, float, float, str, str, str]] = {
    # name: left, bottom, width, height, colour, title, what it is
    "pairs": (0.1, 2.0, 2.3, 1.3, _NEUTRAL, "Preference pairs", "SHP, your own files,\nor simulated"),
    "score": (3.3, 3.05, 2.5, 1.15, COLOURS["reward_model"], "01 · Score", "of a reward model,\nsmall or of 70 B"),
    "similarity": (3.3, 1.1, 2.5, 1.15, _GREEN, "01 · Similarity", "cosine of prompt and\nresponse embeddings"),
    "combiner": (6.7, 2.0, 2.3, 1.3, COLOURS["realm"], "02 · Combiner", "a weighted sum, bent by\n2 → 64 → 32 → 1"),
    "evaluation": (9.9, 3.75, 2.9, 1.0, COLOURS["realm"], "03 · Evaluation", "is it better, and how sure?"),
    "policies": (9.9, 2.15, 2.9, 1.0, COLOURS["realm"], "04–06 · Policies", "PPO, DPO, best-of-n"),
    "use": (9.9, 0.55, 2.9, 1.0, _NEUTRAL, "Your training", "TRL, OpenRLHF, verl, HTTP"),
    "offline": (3.3, 4.85, 2.5, 0.8, _NEUTRAL, "00 · Offline models", "trained on the spot"),
}
_ARROWS = [
    ("pairs", "score"),
    ("pairs", "similarity"),
    ("score", "combiner"),
    ("similarity", "combiner"),
    ("combiner", "evaluation"),
    ("combiner", "policies"),
    ("combiner", "use"),
]


def draw_pipeline(ax: Axes | None = None) -> Axes:
    """Boxes from the pairs to what the reward is used for; the numbers are those of the notebooks."""
    ax = ax or new_axes(9.6, 4.3)
    for left, bottom, width, height, colour, title, text in _BOXES.values():
        box = FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.12",
                             facecolor="white", edgecolor=colour, linewidth=1.6)  # fmt: skip
        ax.add_patch(box)
        ax.text(left + width / 2, bottom + height - 0.28, title, ha="center", va="center", fontsize=9.5,
                fontweight="bold", color=INK)  # fmt: skip
        ax.text(left + width / 2, bottom + (height - 0.42) / 2, text, ha="center", va="center", fontsize=8.2,
                color=SOFT, linespacing=1.3)  # fmt: skip
    for start, end in _ARROWS:
        left, bottom, width, height, *_ = _BOXES[start]
        target = _BOXES[end]
        _arrow(ax, (left + width, bottom + height / 2), (target[0], target[1] + target[3] / 2))
    left, bottom, width, *_ = _BOXES["offline"]
    _arrow(ax, (left + width / 2, bottom), (left + width / 2, _BOXES["score"][1] + _BOXES["score"][3]), dashed=True)
    ax.set(xlim=(0, 12.9), ylim=(0.4, 5.75))
    ax.axis("off")
    return ax


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
    line = "--" if dashed else "-"
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=SOFT, linewidth=1.2,
                                 linestyle=line, shrinkA=3, shrinkB=3))  # fmt: skip


def main(path: str) -> None:
    """Write the picture to ``path`` as SVG, the same bytes each time."""
    set_theme()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9.6, 4.3))
    draw_pipeline(figure.subplots())
    with mpl.rc_context({"svg.hashsalt": "pipeline"}):
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
