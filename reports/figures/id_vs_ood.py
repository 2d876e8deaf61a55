"""`id-vs-ood`: what a method gains out of distribution at the same in-distribution accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from db.errors import ReportError
from reports.figures.series import OOD_SPLIT
from reports.figures.sheets import BY_RULE, LINE, ordered
from reports.figures.style import (
    INK,
    LARGE,
    MUTED,
    SMALL,
    WIDEST,
    PercentLocator,
    by_place,
    new_figure,
    percent_limits,
    styled,
)  # fmt: skip
from reports.select import SELECTION_SPLIT, Cell, Key
from reports.study import Study
from reports.tables import Labels

ACROSS = 3
PANEL, TOP, SIDE, BETWEEN, BELOW = 1.75, 0.68, 0.5, 0.42, 0.62
"""Inches: a panel's side, above, left of and between columns, and between rows."""


def draw(study: Study, labels: Labels) -> list[Figure]:
    """One page, a panel a dataset; raises `ReportError` where no cell has both numbers."""
    inside, outside = study.cells(SELECTION_SPLIT), study.cells(OOD_SPLIT)
    pairs = {
        key: (cell, outside[key])
        for key, cell in inside.items()
        if cell.value is not None and outside[key].value is not None
    }
    if not pairs:
        raise ReportError("no cell has both an ID and an OOD accuracy yet: nothing to draw.")
    with styled():
        return [_page(pairs, study, labels)]


def _page(pairs: Mapping[Key, tuple[Cell, Cell]], study: Study, labels: Labels) -> Figure:
    datasets = ordered({key[1] for key in pairs}, labels.datasets)
    methods = ordered({key[2] for key in pairs}, labels.methods)
    columns = min(ACROSS, len(datasets))
    rows = math.ceil(len(datasets) / columns)
    wide = min(WIDEST, SIDE + columns * PANEL + (columns - 1) * BETWEEN + 0.15)
    wide = max(wide, 3.25)
    names = max(len(labels.methods.get(method, method)) for method in methods)
    across = max(1, min(len(methods), int(wide / (0.45 + 0.056 * names))))
    foot = 0.5 + LINE * math.ceil(len(methods) / across)
    tall = TOP + rows * (PANEL + BELOW) - BELOW + foot
    figure = new_figure(wide, tall)
    figure.text(
        0.1 / wide, 1 - 0.09 / tall, "OOD against ID accuracy", size=LARGE, weight="bold", va="top"
    )
    subtitle = f"One point a cell (model × method), a panel a dataset{BY_RULE[study.rule]}"
    figure.text(0.1 / wide, 1 - 0.26 / tall, subtitle, size=SMALL, color=MUTED, va="top")
    for place, dataset in enumerate(datasets):
        row, column = divmod(place, columns)
        left = SIDE + column * (PANEL + BETWEEN)
        bottom = tall - TOP - row * (PANEL + BELOW) - PANEL
        axes = figure.add_axes((left / wide, bottom / tall, PANEL / wide, PANEL / tall))
        own = {key: pair for key, pair in pairs.items() if key[1] == dataset}
        _panel(axes, own, methods)
        axes.set_title(labels.datasets.get(dataset, dataset), pad=4)
        if column == 0:
            axes.set_ylabel("OOD accuracy (%)")
        axes.set_xlabel("ID accuracy (%)")
    handles = [
        Line2D(
            [], [], linestyle="", color=by_place(place)[0], marker=by_place(place)[1],
            markersize=5, markeredgecolor=INK, markeredgewidth=0.4,
            label=labels.methods.get(method, method),
        )
        for place, method in enumerate(methods)
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="lower center", ncols=across, bbox_to_anchor=(0.5, 0.06 / tall),
        borderaxespad=0, borderpad=0, handlelength=1.0, columnspacing=1.4, labelspacing=0.35,
    )  # fmt: skip
    return figure


def _panel(axes: Axes, pairs: Mapping[Key, tuple[Cell, Cell]], methods: list[str]) -> None:
    axes.grid()
    for place, method in enumerate(methods):
        points = [pair for key, pair in pairs.items() if key[2] == method]
        if not points:
            continue
        colour, marker = by_place(place)
        x, y = [a.value or 0.0 for a, _ in points], [b.value or 0.0 for _, b in points]
        for inside, outside in points:
            if inside.ci90 is not None and outside.ci90 is not None:
                axes.errorbar(
                    [inside.value or 0.0], [outside.value or 0.0], [outside.ci90], [inside.ci90],
                    fmt="none", ecolor=colour, elinewidth=0.7, zorder=2,
                )  # fmt: skip
        axes.plot(
            x, y, marker, color=colour, markersize=5, markeredgecolor=INK, markeredgewidth=0.4,
            zorder=3, label=method,
        )  # fmt: skip
    cells = [cell for pair in pairs.values() for cell in pair]
    spans = [
        percent_limits(
            [(c.value or 0.0) + end for c in side for end in (-(c.ci90 or 0), c.ci90 or 0)]
        )
        for side in (cells[::2], cells[1::2])
    ]
    axes.set_xlim(*spans[0])
    axes.set_ylim(*spans[1])
    axes.axline((50, 50), slope=1, color=MUTED, linewidth=0.7, linestyle=":", zorder=1)
    axes.xaxis.set_major_locator(PercentLocator(5))
    axes.yaxis.set_major_locator(PercentLocator(5))
