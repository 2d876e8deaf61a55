"""Where the panels of many cells go: pages that stay readable.

A page is a model's: a row a method, a column a dataset, as in the tables. What has one dataset, or
one method, is wrapped into rows of four. More rows or columns than fit make more pages.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from reports.figures.style import INK, LARGE, MUTED, NORMAL, SMALL, new_figure
from reports.select import Cell, Key, Rule
from reports.tables import Labels

ACROSS, DOWN, WRAP = 5, 6, 4
WIDTHS = (3.25, 4.3, 5.2, 6.0, 6.75)
"""Inches of a page with one, two, … columns: a column of text to both."""
TITLE, SIDE, EDGE = 0.28, 0.72, 0.1
"""Inches of the title, left and right of the panels."""
BETWEEN, BELOW = 0.35, 0.28
"""Inches between columns and between rows, for tick labels."""
TICKS, AXIS, LINE = 0.2, 0.2, 0.16
"""Inches of the last row's tick labels, of the label of the x axis, and of a line of text."""
BY_RULE: Mapping[Rule, str] = {
    "id_val": "",
    "last": "; the last epoch, not the best",
    "ood-oracle": "; chosen by the OOD numbers themselves: an oracle",
    "id_test": "; chosen by id_test",
}


@dataclass(frozen=True)
class Sheet:
    """One page: which cell is where, counted from the top left."""

    title: str
    places: Mapping[Key, tuple[int, int]]
    heads: Mapping[Key, str]
    """Above panels: the dataset on the first row of a grid; of a wrapped page what varies."""
    sides: Mapping[int, str]
    """Left of rows: the method; nothing on a wrapped page."""

    @property
    def rows(self) -> int:
        """How many."""
        return 1 + max(row for row, _ in self.places.values())

    @property
    def columns(self) -> int:
        """How many."""
        return 1 + max(column for _, column in self.places.values())


def sheets(keys: Collection[Key], labels: Labels) -> Iterator[Sheet]:
    """Every cell on one page, in the order of the labels."""
    for model in ordered({key[0] for key in keys}, labels.models):
        own = {key for key in keys if key[0] == model}
        datasets = ordered({key[1] for key in own}, labels.datasets)
        methods = ordered({key[2] for key in own}, labels.methods)
        title = labels.models.get(model, model)
        if len(datasets) == 1:
            name = labels.datasets.get(datasets[0], datasets[0])
            heads = {(model, datasets[0], m): labels.methods.get(m, m) for m in methods}
            yield from _wrapped(f"{title}, {name}", heads)
        elif len(methods) == 1:
            name = labels.methods.get(methods[0], methods[0])
            heads = {(model, d, methods[0]): labels.datasets.get(d, d) for d in datasets}
            yield from _wrapped(f"{title}, {name}", heads)
        else:
            for across in _chunks(datasets, ACROSS):
                for down in _chunks(methods, DOWN):
                    yield from _grid(model, across, down, own, labels)


def _grid(
    model: str, datasets: Sequence[str], methods: Sequence[str], own: set[Key], labels: Labels
) -> Iterator[Sheet]:
    methods = [m for m in methods if any((model, d, m) in own for d in datasets)]
    if methods:
        yield Sheet(
            labels.models.get(model, model),
            {
                (model, d, m): (row, column)
                for row, m in enumerate(methods)
                for column, d in enumerate(datasets)
                if (model, d, m) in own
            },
            {(model, d, methods[0]): labels.datasets.get(d, d) for d in datasets},
            {row: labels.methods.get(m, m) for row, m in enumerate(methods)},
        )


def _wrapped(title: str, heads: Mapping[Key, str]) -> Iterator[Sheet]:
    keys = [*heads]
    wide = min(WRAP, len(keys))
    for first in range(0, len(keys), WRAP * DOWN):
        part = keys[first : first + WRAP * DOWN]
        places = {key: divmod(place, wide) for place, key in enumerate(part)}
        yield Sheet(title, places, {key: heads[key] for key in part}, {})


def ordered(names: Collection[str], order: Mapping[str, str]) -> list[str]:
    """Names as the labels have them, those that they have not at the end."""
    places = {name: place for place, name in enumerate(order)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Even parts of at most `size`."""
    parts = math.ceil(len(items) / size)
    for part in range(parts):
        yield items[part * len(items) // parts : (part + 1) * len(items) // parts]


class Layout:
    """A figure with a place for each panel of a sheet, sizes in inches."""

    def __init__(
        self,
        sheet: Sheet,
        subtitle: str,
        height: float,
        legend: Sequence[Artist],
        *,
        second_heads: bool = False,
    ) -> None:
        self.sheet = sheet
        self.height = height
        wide = WIDTHS[min(sheet.columns, len(WIDTHS)) - 1]
        said = textwrap.wrap(subtitle, int(wide / 0.055))
        across = max(1, min(len(legend), int(wide / 1.3)))
        self._foot = 0.1 + LINE * math.ceil(len(legend) / across) + 0.05
        self._top = TITLE + LINE * (len(said) + 1 + second_heads) + 0.05
        gap = BELOW + (0.0 if sheet.sides else LINE)
        self._step = height + gap
        tall = self._top + sheet.rows * self._step - gap + TICKS + AXIS + self._foot
        self._left = SIDE if sheet.sides else SIDE - 0.3
        self.width = (wide - self._left - EDGE - BETWEEN * (sheet.columns - 1)) / sheet.columns
        self.figure = new_figure(wide, tall)
        self._page = (wide, tall)
        self._text(0.1, tall - 0.09, sheet.title, size=LARGE, weight="bold", va="top")
        self._text(
            0.1, tall - TITLE, "\n".join(said), color=MUTED, size=SMALL, va="top", linespacing=1.2
        )
        for row, name in sheet.sides.items():
            lines = "\n".join(textwrap.wrap(name, int(height / 0.055), break_on_hyphens=False))
            self._upright(0.17, row, 0, height, lines)
        self.figure.legend(
            handles=list(legend), loc="lower center", ncols=across,
            bbox_to_anchor=(0.5, 0.06 / tall), borderaxespad=0, borderpad=0, handlelength=2.2,
            columnspacing=1.4, labelspacing=0.35,
        )  # fmt: skip

    def _text(self, x: float, y: float, text: str, **how: object) -> None:
        wide, tall = self._page
        given = {"ha": "left", "size": NORMAL, "color": INK, **how}
        self.figure.text(x / wide, y / tall, text, **given)  # type: ignore[arg-type]

    def _bottom(self, row: int) -> float:
        return self._page[1] - self._top - row * self._step - self.height

    def _upright(
        self, x: float, row: int, low: float, high: float, text: str, **how: object
    ) -> None:
        y = self._bottom(row) + (low + high) / 2
        self._text(x, y, text, rotation=90, ha="center", va="center", linespacing=1.15, **how)

    def axes(self, key: Key, low: float = 0.0, high: float | None = None) -> Axes:
        """Axes in a cell's place, from `low` to `high` inches above its lower edge."""
        wide, tall = self._page
        row, column = self.sheet.places[key]
        left = self._left + column * (self.width + BETWEEN)
        bottom = self._bottom(row)
        top = self.height if high is None else high
        box = (left / wide, (bottom + low) / tall, self.width / wide, (top - low) / tall)
        return self.figure.add_axes(box)

    def head(self, axes: Axes, key: Key, below: str = "") -> None:
        """What stands above a panel, with a second line where there is one."""
        if key in self.sheet.heads:
            name = self.sheet.heads[key]
            axes.set_title(name, pad=12 if below else 4, size=self._fitting(name))
            if below:
                axes.annotate(
                    below,
                    (0.5, 1),
                    (0, 4),
                    "axes fraction",
                    "offset points",
                    ha="center",
                    size=SMALL,
                    color=MUTED,
                )

    def _fitting(self, name: str) -> float:
        return NORMAL if len(name) * 0.055 <= self.width + BETWEEN else SMALL

    def name_x(self, text: str) -> None:
        """The label of every x axis, once."""
        middle = (self._left + self._page[0] - EDGE) / 2
        self._text(middle, self._foot + 0.04, text, ha="center", va="bottom")

    def name_y(self, text: str, low: float = 0.0, high: float | None = None) -> None:
        """The label of every row's y axes from `low` to `high`, left of the first."""
        for row in range(self.sheet.rows):
            top = self.height if high is None else high
            self._upright(self._left - 0.3, row, low, top, text, color=MUTED, size=SMALL)


def silent(axes: Axes, cell: Cell) -> None:
    """A panel without a number says why."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    why = cell.reason or "no value"
    axes.text(
        0.5,
        0.5,
        "\n".join(textwrap.wrap(why, 20)),
        transform=axes.transAxes,
        ha="center",
        va="center",
        size=SMALL,
        color=MUTED,
    )
