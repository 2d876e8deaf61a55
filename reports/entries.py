"""What a table is made of, and the paper's typography of its numbers (PROTOCOL section 4).

Deltas of printed values, four colours, bold within 0.2 of the best of a block or within the
intervals, averages of unrounded columns. Layouts (`reports.tables`) arrange, renderers print.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from reports.declared import (
    AVERAGE,
    NEAR_BEST,
    PAPER_DATASETS,
    PAPER_METHODS,
    PAPER_MODELS,
    Declared,
)
from reports.select import Cell, Rule

DASH = "—"
Tone = Literal["", "gain", "slight gain", "slight loss", "loss"]
"""The paper's dark green, light green, light red and dark red."""
_EPSILON = 1e-9
"""Percentage points: less than any difference, more than what sums lose in binary."""


@dataclass(frozen=True)
class Labels:
    """How ids are printed, and in which order: the order of the mappings."""

    models: Mapping[str, str] = field(default_factory=lambda: PAPER_MODELS)
    datasets: Mapping[str, str] = field(default_factory=lambda: PAPER_DATASETS)
    methods: Mapping[str, str] = field(default_factory=lambda: PAPER_METHODS)


@dataclass(frozen=True)
class Column:
    """One column of numbers."""

    title: str
    split: str
    subtitle: str = ""
    """Under the title, where several columns share one."""


@dataclass(frozen=True)
class Entry:
    """One printed number: a cell's, or a mean of several."""

    model: str
    """`avg` where it is a mean over models."""
    method: str
    column: str
    """A dataset, or `avg`."""
    split: str
    cell: Cell
    delta: float | None = None
    """Against the baseline's entry of the same model: difference of the printed values."""
    gain: float | None = None
    """The same difference before rounding, which decides the colour."""
    bold: bool = False
    interval: bool = True
    """Whether the cell's interval is printed."""
    text: str | None = None
    """Words in the place of a number."""

    @property
    def shown(self) -> str:
        """One decimal, or a dash."""
        if self.text is not None:
            return self.text
        return DASH if self.cell.value is None else f"{self.cell.value:.1f}"

    @property
    def shown_interval(self) -> str:
        """One decimal, empty where none is to be printed."""
        return "" if self.cell.ci90 is None or not self.interval else f"{self.cell.ci90:.1f}"

    @property
    def shown_delta(self) -> str:
        """One decimal with its sign, empty where there is none."""
        return "" if self.delta is None else f"{self.delta:+.1f}"

    @property
    def tone(self) -> Tone:
        """How the delta is coloured: by the unrounded gain, or by the rounded loss."""
        if self.gain is None or self.delta is None:
            return ""
        if self.gain >= 0:
            return "gain" if self.gain >= NEAR_BEST - _EPSILON else "slight gain"
        return "slight loss" if -self.delta <= NEAR_BEST + _EPSILON else "loss"


@dataclass(frozen=True)
class Row:
    """One row: what it is called, and its entries."""

    heads: tuple[str, ...]
    """As printed, one for each of the table's `heads`."""
    entries: tuple[Entry, ...]
    block: int
    """Rows of a block stand together; the best among them is bold."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, place: int) -> Entry:
        return self.entries[place]


@dataclass(frozen=True)
class Table:
    """A table ready to be rendered."""

    declared: Declared
    heads: tuple[str, ...]
    """Titles of the columns that name a row."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    labels: Labels
    notes: tuple[str, ...] = ()
    """What a reader must know of these rows, beside `declared.note`."""
    rule: Rule = "id_val"
    partial: bool = False
    """Whether rates that lack seeds could be chosen."""
    sweep: str | None = None

    @property
    def entries(self) -> Iterator[Entry]:
        """Every entry, row by row."""
        return (entry for row in self.rows for entry in row)


@dataclass(frozen=True)
class Line:
    """A row before its typography."""

    heads: tuple[str, ...]
    cells: tuple[tuple[str, Cell], ...]
    """Each column's split and cell."""
    baseline: tuple[Cell, ...] | None = None
    """What each cell is compared with; None for no deltas."""


def block_of(declared: Declared, lines: Sequence[Line], block: int) -> list[Row]:
    """The rows of one block, with deltas, and bold among them."""
    bold = _bold(declared, [[cell for _, cell in line.cells] for line in lines])
    rows = []
    for line, marked in zip(lines, bold, strict=True):
        against = line.baseline or (None,) * len(line.cells)
        entries = tuple(
            Entry(
                cell.model,
                cell.method,
                cell.dataset,
                split,
                cell,
                *_against(cell, base),
                bold=strong,
                interval=declared.intervals,
            )
            for (split, cell), base, strong in zip(line.cells, against, marked, strict=True)
        )
        rows.append(Row(line.heads, entries, block))
    return rows


def nothing(model: str, dataset: str, method: str) -> Cell:
    """The cell of which there is no run."""
    return Cell(model, dataset, method, "", n=0, expected=0, reason="no run was asked for")


def average(row: Sequence[Cell]) -> Cell:
    """The plain mean of the unrounded cells that have a value; `n` says how many are complete."""
    present = [cell.value for cell in row if cell.value is not None]
    whole = sum(not cell.partial and cell.value is not None for cell in row)
    value = math.fsum(present) / len(present) if present else None
    return Cell(row[0].model, AVERAGE, row[0].method, "mean", whole, len(row), value)


def _against(cell: Cell, baseline: Cell | None) -> tuple[float | None, float | None]:
    """The difference of the one-decimal values, sign kept (`-0.0` too), and of the unrounded ones.

    Averages are compared only where both are of the same, complete columns.
    """
    if baseline is None or cell.value is None or baseline.value is None:
        return None, None
    if cell.dataset == AVERAGE and (cell.partial or baseline.partial):
        return None, None
    gain = cell.value - baseline.value
    rounded = round(round(cell.value, 1) - round(baseline.value, 1), 1)
    return rounded if rounded else math.copysign(0.0, gain), gain


def _bold(declared: Declared, rows: Sequence[Sequence[Cell]]) -> list[list[bool]]:
    """Which cells of a block are within reach of their column's best, row by row.

    |x − best| ≤ 0.2, or the larger of the two intervals where there are some (a missing one counts
    as 0.2). Partial cells neither win nor compete.
    """
    if not declared.bold:
        return [[False] * len(row) for row in rows]
    columns = []
    for column in zip(*rows, strict=True):
        whole = [cell for cell in column if cell.value is not None and not cell.partial]
        best = max(whole, key=lambda cell: cell.value or 0.0, default=None)
        columns.append(
            [best is not None and cell in whole and _near(declared, cell, best) for cell in column]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _near(declared: Declared, cell: Cell, best: Cell) -> bool:
    slack = declared.within
    if declared.intervals and (cell.ci90 is not None or best.ci90 is not None):
        slack = max(c.ci90 if c.ci90 is not None else declared.within for c in (cell, best))
    return abs((cell.value or 0.0) - (best.value or 0.0)) <= slack + _EPSILON
