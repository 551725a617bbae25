"""Words beside points, each where it covers neither another label nor what is drawn."""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

_SIDES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_GAPS = (3, 6, 12, 20)
_CLEAR = 3.0
"""Points of paper kept clear around a label."""


class Label(NamedTuple):
    """``text`` beside the point ``at`` (x and y of the data)."""

    at: tuple[float, float]
    text: str
    colour: str
    marker: float = 4.0
    """Radius of what is drawn at the point, in points of paper."""


def label_points(ax: Axes, labels: Sequence[Label], drawn: ArrayLike, fontsize: float = 10) -> None:
    """Write each label at the nearest place beside its point that is free; where none is, at the least crowded.

    ``drawn`` holds points [k, 2] of the data to keep clear: curves and bars as the points along them. The limits of
    ``ax``, titles and legends must stand already: places are found on the figure as it is laid out.
    """
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("labels need axes of a figure: places are found on the figure as it is laid out")
    figure.draw_without_rendering()
    pixels = figure.get_dpi() / 72
    room = ax.get_window_extent()
    taken = ax.transData.transform(np.asarray(drawn, dtype=np.float64).reshape(-1, 2))
    centres = [ax.transData.transform(label.at) for label in labels]
    boxes = [
        np.array([at - label.marker * pixels, at + label.marker * pixels])
        for at, label in zip(centres, labels, strict=True)
    ]
    for number, label in enumerate(labels):
        note = ax.annotate(label.text, label.at, xytext=(0, 0), textcoords="offset points", ha="center", va="center",
                           fontsize=fontsize, color=label.colour)  # fmt: skip
        extent = note.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2
        point, others = centres[number], [box for index, box in enumerate(boxes) if index != number]
        places = []
        for gap, side in product(_GAPS, _SIDES):
            reach = (label.marker + gap) * pixels * (1.0 if 0 in side else 0.6)
            centre = point + np.array(side) * (half + reach)
            low, high = centre - half - _CLEAR * pixels, centre + half + _CLEAR * pixels
            outside = bool((low < room.min).any() or (high > room.max).any())
            overlaps = sum(bool((low < box[1]).all() and (high > box[0]).all()) for box in others)
            covered = int(((taken > low) & (taken < high)).all(axis=1).sum())
            places.append((1000 * (overlaps + outside) + covered, centre, np.array([low, high])))
        _, centre, box = min(places, key=lambda place: place[0])
        note.set_position(tuple((centre - point) / pixels))
        boxes.append(box)


def along(ends: Sequence[tuple[float, float]], steps: int = 25) -> NDArray[np.float64]:
    """Points [k, 2] along the straight lines that join ``ends``, for :func:`label_points`."""
    corners = np.asarray(ends, dtype=np.float64)
    shares = np.linspace(0, 1, steps)[:, None]
    parts = [first + shares * (last - first) for first, last in pairwise(corners)]
    return np.concatenate([corners, *parts])
