"""A table with its published numbers: what all the formats print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reports.compare.cells import Compared, Line, common, lines
from reports.compare.scorecard import Scorecard, score, suspects
from reports.declared import AVERAGE
from reports.entries import Table
from reports.published import Figure, Place
from reports.study import Study


@dataclass(frozen=True)
class Comparison:
    """A table with the published number beside each of its own."""

    table: Table
    lines: tuple[Line, ...]
    """For each row of the table its entries; None where the paper has no such number."""
    scorecard: Scorecard
    common: tuple[str, ...]
    """Settings that all compared runs have otherwise than the published ones."""
    suspects: tuple[Compared, ...]
    """Cells outside of their interval, the worst first."""

    @property
    def cells(self) -> tuple[Compared, ...]:
        """Every number that the paper has too, averages included."""
        return tuple(one for line in self.lines for one in line if one is not None)

    @property
    def nothing(self) -> str:
        """Why no number can be compared, in one sentence; empty where one can."""
        if any(one.compared for one in self.cells):
            return ""
        if not self.cells:
            return (
                "Nothing here can be compared with the paper: it has no number of these models, "
                "datasets and methods."
            )
        own = [one for one in self.cells if one.entry.column != AVERAGE]
        reasons = dict.fromkeys(one.reason for one in own or self.cells)
        return f"Nothing here can be compared with the paper: {'; '.join(reasons)}."


def compare(table: Table, published: Mapping[Place, Figure], study: Study) -> Comparison:
    """Put the published figures (`published.by_place()`) beside a table built from `study`.

    Numbers that the paper has not are left out; miniatures are `not comparable`.
    """
    found = lines(table, published, study)
    cells = [one for line in found for one in line if one is not None]
    compared = [one for one in cells if one.compared]
    return Comparison(table, found, score(cells), common(compared), tuple(suspects(compared)))
