"""A few words in a panel, where nothing is drawn."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from reports.figures.style import INK, PAPER, SMALL

Points = NDArray[np.float64]
HIGH, LETTER, MARGIN = 0.12, 0.055, 0.04
"""Inches: of the words, of a letter, from the panel's edge."""
ENOUGH = 0.25
"""Inches from any line; a place that is farther is no better."""


def note(axes: Axes, text: str) -> None:
    """Print `text` where it is farthest from the panel's lines, below right where it can be."""
    if not text:
        return
    panel = axes.get_window_extent()
    dots = axes.figure.dpi
    inches = np.array([panel.width / dots, panel.height / dots])
    half = np.array([LETTER * len(text), HIGH]) / 2
    first, last = half + MARGIN, inches - half - MARGIN
    across, up = ([last[0], first[0], inches[0] / 2], [first[1], last[1], inches[1] / 2])
    places = [np.array([x, y]) for y, x in itertools.product(up, across)]
    drawn = np.concatenate([_along(line, axes) for line in axes.lines]) * inches

    def room(place: Points) -> float:
        apart = np.maximum(np.abs(drawn - place) - half, 0.0)
        return min(float(np.hypot(apart[:, 0], apart[:, 1]).min()), ENOUGH)

    x, y = max(places, key=room) / inches
    axes.text(
        x, y, text, transform=axes.transAxes, size=SMALL, color=INK, ha="center", va="center",
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
    )  # fmt: skip


def _along(line: Line2D, axes: Axes) -> Points:
    """Points all along a line, as shares of the panel."""
    corners = (line.get_transform() - axes.transAxes).transform(line.get_xydata())
    steps = np.arange(0, len(corners) - 1 + 0.05, 0.1)
    whole = np.arange(len(corners))
    return np.stack([np.interp(steps, whole, corners[:, axis]) for axis in (0, 1)], axis=1)
