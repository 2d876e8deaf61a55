"""`summary`: the paper's Figure 1b, the average of each method, ID and OOD."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reports import tables
from reports.figures.sheets import BY_RULE
from reports.figures.style import (
    INK,
    LARGE,
    MUTED,
    PALETTE,
    PAPER,
    SMALL,
    new_figure,
    styled,
)
from reports.study import Study
from reports.tables import Entry, Labels, Table

WIDTH, NAMES, BAR, APART = 4.3, 1.3, 0.17, 0.14
"""Inches: the page, its methods' names, a bar, between methods."""
TOP, FOOT = 0.2, 0.62
"""Inches above what is said under the title, and below the bars."""
COLOURS: Mapping[str, tuple[str, str, str]] = {
    "id": (PAPER, PALETTE[0], "////"),
    "ood": (PALETTE[1], PALETTE[1], ""),
}
"""Inside, edge and hatch of a split's bars."""


def draw(study: Study, labels: Labels) -> list[Figure]:
    """One page; raises `ReportError` where no method has an average."""
    table = tables.build(tables.find("summary"), study, labels)
    with styled():
        return [_page(table)]


def _page(table: Table) -> Figure:
    said = textwrap.wrap(" ".join(table.notes) + BY_RULE[table.rule], int(WIDTH / 0.054))
    top = TOP + 0.14 * len(said) + 0.15
    high = len(table.rows) * (2 * BAR + APART)
    tall = top + high + FOOT
    figure = new_figure(WIDTH, tall)
    figure.text(
        0.1 / WIDTH, 1 - 0.09 / tall, "Average accuracy", size=LARGE, weight="bold", va="top"
    )
    figure.text(
        0.1 / WIDTH, 1 - 0.28 / tall, "\n".join(said), size=SMALL, color=MUTED, va="top",
        linespacing=1.2,
    )  # fmt: skip
    box = (NAMES / WIDTH, FOOT / tall, (WIDTH - NAMES - 0.9) / WIDTH, high / tall)
    axes = figure.add_axes(box)
    for place, row in enumerate(table.rows):
        for number, entry in enumerate(row):
            _bar(axes, (place * (2 * BAR + APART)) + number * BAR, entry)
    middles = [place * (2 * BAR + APART) + BAR for place in range(len(table.rows))]
    names = [
        "\n".join(textwrap.wrap(row.heads[0], 20, break_on_hyphens=False)) for row in table.rows
    ]
    axes.set_yticks(middles, names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(high - APART / 2, -APART / 2)
    axes.set_xlim(0, 100)
    axes.grid(axis="x")
    axes.set_xlabel("accuracy (%)")
    shown: list[Artist] = [
        Patch(facecolor=COLOURS[split][0], edgecolor=COLOURS[split][1], hatch=COLOURS[split][2],
              linewidth=0.8, label=split.upper())
        for split in table.declared.splits
    ]  # fmt: skip
    figure.legend(
        handles=shown, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 0.06 / tall),
        borderaxespad=0, borderpad=0,
    )  # fmt: skip
    return figure


def _bar(axes: Axes, top: float, entry: Entry) -> None:
    """One average, with its interval where it has one, and its number at the end."""
    value = entry.cell.value
    if value is None:
        return
    inside, edge, hatch = COLOURS[entry.split]
    axes.barh(
        top + BAR / 2, value, 0.9 * BAR, facecolor=inside, edgecolor=edge, hatch=hatch,
        linewidth=0.8, label=f"{entry.method} {entry.split}",
    )  # fmt: skip
    width = entry.cell.ci90 or 0.0
    if width:
        axes.errorbar(value, top + BAR / 2, xerr=width, fmt="none", ecolor=INK, elinewidth=0.8,
                      capsize=1.8)  # fmt: skip
    shown = entry.shown + (f" ±{entry.shown_interval}" if entry.shown_interval else "")
    shown += f" ({entry.shown_delta})" if entry.shown_delta else ""
    axes.annotate(
        shown, (value + width, top + BAR / 2), (3, 0), textcoords="offset points", va="center",
        size=SMALL, weight="bold" if entry.bold else "normal", annotation_clip=False,
    )  # fmt: skip
