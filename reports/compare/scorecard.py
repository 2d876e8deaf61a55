"""A comparison in a few numbers, and the cells that spoil them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.compare.cells import Compared, Verdict
from reports.declared import AVERAGE
from reports.statistics import Agreement, agreement

BASELINE = "sgd"


@dataclass(frozen=True)
class Scorecard:
    """How a table agrees with the published one; averages are counted apart."""

    counts: Mapping[Verdict, int]
    """Cells by verdict."""
    averages: Mapping[Verdict, int]
    """Averages by verdict."""
    mean_absolute: float | None
    """Mean size of the differences of the cells, in points; None where none is compared."""
    mean_signed: float | None
    """Their mean: above zero where ours are higher."""
    order: Mapping[str, Agreement]
    """By model: pairs of methods on one dataset, in the order that the paper has them."""
    deltas: Agreement
    """Differences from SGD of the same model and dataset, by their sign."""
    by_spread: int
    """Cells that are judged by Table 5's spread, as one side has no interval."""

    @property
    def compared(self) -> int:
        """Cells that have a difference."""
        return sum(self.counts.get(verdict, 0) for verdict in ("within", "above", "below"))


def score(cells: Sequence[Compared]) -> Scorecard:
    """The scorecard of a table's cells and averages."""
    own = [one for one in cells if one.entry.column != AVERAGE]
    compared = [one for one in own if one.compared]
    differences = [one.difference for one in compared if one.difference is not None]
    blocks = _blocks(compared)
    order: dict[str, Agreement] = {}
    deltas = Agreement()
    for (model, _, _), block in blocks.items():
        ours, theirs = _values(block)
        order[model] = order.get(model, Agreement()) + agreement(ours, theirs)
        deltas += _signs(block)
    return Scorecard(
        Counter(one.verdict for one in own),
        Counter(one.verdict for one in cells if one.entry.column == AVERAGE),
        math.fsum(map(abs, differences)) / len(differences) if differences else None,
        math.fsum(differences) / len(differences) if differences else None,
        {model: found for model, found in order.items() if found.pairs},
        deltas,
        sum(one.basis == "Table 5's spread" for one in compared),
    )


def _blocks(cells: Sequence[Compared]) -> dict[tuple[str, str, str], list[Compared]]:
    """Cells among which methods are ranked: of one model, dataset and split."""
    found: dict[tuple[str, str, str], list[Compared]] = {}
    for one in cells:
        entry = one.entry
        found.setdefault((entry.model, entry.column, entry.split), []).append(one)
    return found


def _values(cells: Sequence[Compared]) -> tuple[list[float], list[float]]:
    return [one.entry.cell.value or 0.0 for one in cells], [one.theirs for one in cells]


def _signs(block: Sequence[Compared]) -> Agreement:
    """Each method of a block against its SGD."""
    found = Agreement()
    base = next((one for one in block if one.entry.method == BASELINE), None)
    for one in block:
        if base is not None and one is not base:
            found += agreement(*_values([base, one]))
    return found


def suspects(cells: Sequence[Compared]) -> list[Compared]:
    """Cells outside of their interval, the furthest (in units of it) first."""
    outside = [
        one for one in cells if one.verdict in ("above", "below") and one.entry.column != AVERAGE
    ]
    return sorted(outside, key=lambda one: -one.excess)
