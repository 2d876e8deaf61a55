"""The tables: rows of models and methods, columns of datasets and their average.

Typography: PROTOCOL section 4, after the paper's Tables 1 and 2. Tables are declared as data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from db.errors import ReportError
from reports.select import Cell, Key

BASELINE = "sgd"
NEAR_BEST = 0.2
"""Percentage points: what counts as equal to the best of a block."""
AVERAGE = "average"


@dataclass(frozen=True)
class Declared:
    """A table that can be asked for by name."""

    name: str
    title: str
    split: str
    note: str = ""


TABLES: dict[str, Declared] = {
    t.name: t
    for t in (
        Declared("ood", "Out-of-distribution accuracy (%)", "ood"),
        Declared(
            "id",
            "In-distribution accuracy (%)",
            "id",
            "These images also chose the epoch and the learning rate, so the figures are "
            "optimistic (as in the paper).",
        ),
    )
}


@dataclass(frozen=True)
class Labels:
    """How ids are printed, and in which order: the order of the mappings."""

    models: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One printed number: a cell's, or a row's average."""

    model: str
    method: str
    column: str
    """A dataset, or `average`."""
    cell: Cell
    delta: float | None = None
    """Against the baseline's entry of the same model: difference of the printed values."""
    gain: float | None = None
    """The same difference before rounding, which decides the colour."""
    bold: bool = False

    @property
    def shown(self) -> str:
        """One decimal, or a dash."""
        return "—" if self.cell.value is None else f"{self.cell.value:.1f}"


@dataclass(frozen=True)
class Table:
    """A table ready to be rendered: blocks of rows, one block a model."""

    declared: Declared
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    labels: Labels


def find(name: str) -> Declared:
    """The table called `name`; raises `ReportError` with the names there are."""
    if name not in TABLES:
        raise ReportError(f'there is no table "{name}"; there are: {", ".join(TABLES)}.')
    return TABLES[name]


def build(declared: Declared, cells: Mapping[Key, Cell], labels: Labels) -> Table:
    """Arrange cells into the table's rows; raises `ReportError` where there is none."""
    if not cells:
        raise ReportError("there is no run to report on; widen --sweep or --where.")
    models = _ordered({key[0] for key in cells}, labels.models)
    datasets = _ordered({key[1] for key in cells}, labels.datasets)
    methods = _ordered({key[2] for key in cells}, labels.methods)
    rows: list[tuple[Entry, ...]] = []
    for model in models:
        present = [m for m in methods if any((model, d, m) in cells for d in datasets)]
        rows += _block(model, present, datasets, cells)
    return Table(declared, (*datasets, AVERAGE), tuple(rows), labels)


def _ordered(names: Iterable[str], order: Mapping[str, str]) -> list[str]:
    places = {name: place for place, name in enumerate(order)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def _block(
    model: str, methods: Sequence[str], datasets: Sequence[str], cells: Mapping[Key, Cell]
) -> list[tuple[Entry, ...]]:
    """One model's rows, with deltas and bold within them."""
    values: dict[str, list[Cell]] = {}
    for method in methods:
        row = [
            cells.get((model, d, method), Cell(model, d, method, "", n=0, expected=0))
            for d in datasets
        ]
        values[method] = [*row, _average(row)]
    columns = [[values[method][place] for method in methods] for place in range(len(datasets) + 1)]
    bold = [_bold(column) for column in columns]
    return [
        tuple(
            Entry(
                model,
                method,
                (*datasets, AVERAGE)[place],
                cell,
                *_against(cell, values[BASELINE][place] if BASELINE in values else None),
                bold[place][number],
            )
            for place, cell in enumerate(values[method])
        )
        for number, method in enumerate(methods)
    ]


def _average(row: Sequence[Cell]) -> Cell:
    """The plain mean of the unrounded columns that have a value; `n` says of how many."""
    present = [cell.value for cell in row if cell.value is not None]
    whole = sum(not cell.partial and cell.value is not None for cell in row)
    value = math.fsum(present) / len(present) if present else None
    first = row[0]
    return Cell(first.model, AVERAGE, first.method, "mean", whole, len(row), value)


def _against(cell: Cell, baseline: Cell | None) -> tuple[float | None, float | None]:
    """The difference of the one-decimal values, sign kept (`-0.0` too), and of the unrounded ones.

    Averages are compared only where both are of the same, complete columns.
    """
    if baseline is None or cell.method == BASELINE:
        return None, None
    if cell.value is None or baseline.value is None:
        return None, None
    if cell.dataset == AVERAGE and (cell.partial or baseline.partial):
        return None, None
    gain = cell.value - baseline.value
    rounded = round(round(cell.value, 1) - round(baseline.value, 1), 1)
    return rounded if rounded else math.copysign(0.0, gain), gain


def _bold(column: Sequence[Cell]) -> list[bool]:
    """Which cells of a block's column are within 0.2 of its best, or within the intervals.

    |x − best| ≤ 0.2, or the larger of the two intervals where there are some (a missing one counts
    as 0.2). Partial cells neither win nor compete.
    """
    whole = [c for c in column if c.value is not None and not c.partial]
    if not whole:
        return [False] * len(column)
    best = max(whole, key=lambda c: c.value or 0.0)
    return [cell in whole and _near(cell, best) for cell in column]


def _near(cell: Cell, best: Cell) -> bool:
    slack = NEAR_BEST
    if cell.ci90 is not None or best.ci90 is not None:
        slack = max(c.ci90 if c.ci90 is not None else NEAR_BEST for c in (cell, best))
    return abs((cell.value or 0.0) - (best.value or 0.0)) <= slack + 1e-9
