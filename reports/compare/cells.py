"""A table's cells beside the published ones: difference, interval, verdict, likely causes.

Two numbers agree where they differ by no more than their 90% intervals combined, that is
√(ours² + theirs²), and half a unit of the published decimal. A number without an interval gets one
from the spread over seeds that the paper's Table 5 shows for its dataset.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from reports import published
from reports.declared import AVERAGE, FIVE, PRIOR
from reports.entries import Entry, Row, Table
from reports.likeness import SEEDS, Likeness
from reports.published import Figure, Place
from reports.select import Z90
from reports.study import Study

Verdict = Literal["within", "above", "below", "no number", "not comparable"]
COMPARED: tuple[Verdict, ...] = ("within", "above", "below")
Basis = Literal["", "intervals", "Table 5's spread"]
"""What the interval of a difference is made of; the second, where either side has none."""
ROUNDING = 0.05
"""Percentage points: how far a printed decimal may be from the number behind it."""
LACKING = "an average that lacks one of the paper's five datasets"
_EPSILON = 1e-9


@dataclass(frozen=True)
class Compared:
    """One of our numbers beside the published one, in percent."""

    entry: Entry
    theirs: float
    theirs_ci90: float | None
    verdict: Verdict
    difference: float | None = None
    """Ours, unrounded, less the published decimal; None where they are not compared."""
    allowed: float | None = None
    """The largest difference that is `within`."""
    basis: Basis = ""
    reason: str = ""
    """Why there is no number, or no comparison."""
    causes: tuple[str, ...] = ()
    """What may explain a difference, the likeliest first."""

    @property
    def compared(self) -> bool:
        """Whether there is a difference."""
        return self.verdict in COMPARED

    @property
    def excess(self) -> float:
        """The difference in units of what is allowed; 0 where they are not compared."""
        if self.difference is None or self.allowed is None:
            return 0.0
        return abs(self.difference) / self.allowed


Line = tuple[Compared | None, ...]
"""A table's row: None where the paper has no such number."""


def lines(table: Table, figures: Mapping[Place, Figure], study: Study) -> tuple[Line, ...]:
    """The rows of a table, entry by entry."""
    likeness = Likeness(study)
    return tuple(_line(table, row, figures, likeness) for row in table.rows)


def _line(table: Table, row: Row, figures: Mapping[Place, Figure], likeness: Likeness) -> Line:
    found = {
        place: _cell(entry, figure, likeness)
        for place, entry in enumerate(row)
        if entry.column != AVERAGE and (figure := _figure(table, entry, figures)) is not None
    }
    for place, entry in enumerate(row):
        figure = _figure(table, entry, figures)
        if entry.column == AVERAGE and figure is not None:
            parts = [
                (e, found.get(n))
                for n, e in enumerate(row)
                if e.column != AVERAGE and e.split == entry.split
            ]
            found[place] = _mean(entry, figure, parts)
    return tuple(found.get(place) for place in range(len(row)))


def _figure(table: Table, entry: Entry, figures: Mapping[Place, Figure]) -> Figure | None:
    """The published number of an entry; of Table 3's best cells, whichever cell ours is."""
    if entry.text is not None or entry.method == PRIOR:
        return None
    if table.declared.layout == "sota":
        best = (f for f in published.table(3) if f.method != PRIOR)
        return next((f for f in best if f.dataset == entry.column), None)
    return figures.get((entry.model, entry.column, entry.method, entry.split))


def _cell(entry: Entry, figure: Figure, likeness: Likeness) -> Compared | None:
    cell = entry.cell
    if figure.value is None:
        return None
    if cell.value is None:
        return Compared(entry, figure.value, figure.ci90, "no number", reason=cell.reason)
    key = (cell.model, cell.dataset, cell.method)
    if reason := likeness.miniature(key):
        return Compared(entry, figure.value, figure.ci90, "not comparable", reason=reason)
    ours = Z90 * spread(figure.dataset, figure.metric) / math.sqrt(max(cell.seeds, 1))
    theirs = Z90 * spread(figure.dataset, figure.metric)
    noise = math.hypot(
        ours if cell.ci90 is None else cell.ci90,
        theirs if figure.ci90 is None else max(figure.ci90, ROUNDING),
    )
    causes = (
        likeness.weights(key),
        likeness.checksums(key),
        *likeness.protocol(key),
        *likeness.choice(cell, SEEDS if figure.ci90 is not None else 1),
    )
    whole = cell.ci90 is not None and figure.ci90 is not None
    return _judged(
        entry,
        figure,
        noise + ROUNDING,
        "intervals" if whole else "Table 5's spread",
        tuple(cause for cause in causes if cause),
    )


def _mean(
    entry: Entry, figure: Figure, parts: Sequence[tuple[Entry, Compared | None]]
) -> Compared | None:
    """A row's average, where it is of the paper's five datasets and all of them are compared."""
    if figure.value is None:
        return None
    cells = [one for _, one in parts if one is not None and one.compared]
    if entry.cell.value is None:
        return Compared(entry, figure.value, figure.ci90, "no number", reason="no column has one")
    if {part.column for part, _ in parts} == {*FIVE} and len(cells) == len(FIVE):
        noise = math.hypot(*((one.allowed or 0.0) - ROUNDING for one in cells)) / len(cells)
        whole = all(one.basis == "intervals" for one in cells)
        basis: Basis = "intervals" if whole else "Table 5's spread"
        return _judged(entry, figure, noise + ROUNDING, basis, _shared(cells))
    return Compared(entry, figure.value, figure.ci90, "not comparable", reason=LACKING)


def _judged(
    entry: Entry, figure: Figure, allowed: float, basis: Basis, causes: tuple[str, ...]
) -> Compared:
    assert entry.cell.value is not None
    assert figure.value is not None
    difference = entry.cell.value - figure.value
    outside: Verdict = "above" if difference > 0 else "below"
    verdict = outside if abs(difference) > allowed + _EPSILON else "within"
    return Compared(
        entry, figure.value, figure.ci90, verdict, difference, allowed, basis, causes=causes
    )


def _shared(cells: Sequence[Compared]) -> tuple[str, ...]:
    """The causes that all of some cells have, in the order of the first one's."""
    first, *others = cells
    return tuple(c for c in first.causes if all(c in other.causes for other in others))


def common(cells: Sequence[Compared]) -> tuple[str, ...]:
    """What every cell does otherwise than the published runs; nothing for fewer than two cells."""
    return _shared(cells) if len(cells) > 1 else ()


@cache
def spread(dataset: str, metric: str) -> float:
    """Standard deviation over seeds, in points: the median over the methods of Table 5.

    Of three seeds, s = ci·√3/1.645; an interval printed as 0.0 is taken as 0.05. A dataset that is
    not in Table 5 gets the median over those that are.
    """
    known = [f for f in published.table(5) if f.metric == metric and f.ci90 is not None]
    of_it = [f for f in known if f.dataset == dataset] or known
    return statistics.median(_deviations(of_it))


def _deviations(figures: Sequence[Figure]) -> Iterator[float]:
    for figure in figures:
        yield max(figure.ci90 or 0.0, ROUNDING) * math.sqrt(SEEDS) / Z90
