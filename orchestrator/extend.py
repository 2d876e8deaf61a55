"""Growing a sweep where its best rate is the lowest or highest tried: a better one may lie beyond.

Pure: `extensions` says which runs to add, `with_extensions` what those that were added occupy.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from db.records import RESULTS, Run, State, StoredRun
from orchestrator.sweep import Planned

if TYPE_CHECKING:
    from reports.select import Cell

Key = tuple[str, str, str]
"""Model, dataset, method."""
DIGITS = 6
"""Significant digits of a new rate: 0.03, not 0.030000000000000002, is what a file's 3e-2 is."""
SETTLED: tuple[State, ...] = (*RESULTS, "cancelled")
"""States of runs that a cell no longer waits for."""


@dataclass(frozen=True)
class Growth:
    """What becomes of one cell whose best rate is at an edge, or that cannot be judged yet."""

    model: str
    dataset: str
    method: str
    chosen: float | None
    """The best rate so far; None where the cell is incomplete."""
    edge: str
    """`low` or `high`."""
    rates: tuple[float, ...] = ()
    """The rates to add, the nearest first."""
    runs: tuple[Run, ...] = ()
    waits: str = ""
    """Why nothing is added."""

    @property
    def cell(self) -> str:
        """`model dataset method`."""
        return f"{self.model} {self.dataset} {self.method}"

    def as_json(self) -> dict[str, Any]:
        """What `orch extend --format json` prints."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"rates": [*self.rates], "runs": [run.id for run in self.runs]}


def next_rates(rates: Iterable[float], edge: str, steps: int) -> tuple[float, ...]:
    """The next rates beyond an edge, the nearest first: the list's own spacing goes on.

    Factors repeat in pairs, so that 1, 3, 10 goes on with 30 and a constant factor stays what it
    is; two rates have one factor. Ends early where a float does.
    """
    # From the edge inwards; what is beyond is a mirror image at the other one.
    known = sorted(set(rates), reverse=edge == "high")
    found: list[float] = []
    for _ in range(steps):
        factor = known[0] / known[1] if len(known) == 2 else known[1] / known[2]
        exact = known[0] * factor
        if not sys.float_info.min <= exact <= sys.float_info.max:
            break
        spelled = float(f"{exact:.{DIGITS}g}")
        beyond = spelled > known[0] if edge == "high" else spelled < known[0]
        known.insert(0, spelled if beyond else exact)
        found.append(known[0])
    return tuple(found)


def partitions(runs: Iterable[StoredRun]) -> list[list[StoredRun]]:
    """The requested fine-tuning runs in as few lists as give no cell two variants in one."""
    variants: dict[Key, list[str]] = {}
    lists: list[list[StoredRun]] = []
    for stored in runs:
        run = stored.run
        if not stored.requested or run.kind != "finetune":
            continue
        known = variants.setdefault((run.model, run.dataset, run.method), [])
        if run.variant not in known:
            known.append(run.variant)
        place = known.index(run.variant)
        if place == len(lists):
            lists.append([])
        lists[place].append(stored)
    return lists


def extensions(runs: Sequence[StoredRun], cells: Iterable[Cell], steps: int) -> list[Growth]:
    """What to add to each cell at an edge, and which cells are incomplete; the others are left out.

    `runs` are those that `cells` were selected from. The new runs are the edge rate's own with
    another rate: its seeds, its hyperparameters, everything. A diverged run at the highest rate is
    no reason to go higher.
    """
    members: dict[Key, list[StoredRun]] = {}
    for stored in runs:
        members.setdefault((stored.run.model, stored.run.dataset, stored.run.method), []).append(
            stored
        )
    grown = []
    for cell in cells:
        growth = _growth(cell, members[cell.model, cell.dataset, cell.method], steps)
        if growth is not None:
            grown.append(growth)
    return grown


def _growth(cell: Cell, members: Sequence[StoredRun], steps: int) -> Growth | None:
    key = (cell.model, cell.dataset, cell.method)
    if waits := _unsettled(members):
        return Growth(*key, None, "", waits=waits)
    if not cell.edge or cell.learning_rate is None:
        return None
    if cell.edge == "high" and cell.diverged:
        return Growth(*key, cell.learning_rate, cell.edge, waits="diverged at its highest rate")
    rates = next_rates({s.run.learning_rate for s in members}, cell.edge, steps)
    edge = [s.run for s in members if s.run.learning_rate == cell.learning_rate]
    runs = tuple(dataclasses.replace(run, learning_rate=rate) for rate in rates for run in edge)
    waits = "" if rates else "no number lies beyond"
    return Growth(*key, cell.learning_rate, cell.edge, rates, runs, waits)


def _unsettled(members: Sequence[StoredRun]) -> str:
    """`2 of 6 runs are failed or pending`, empty where all are settled."""
    left = [stored for stored in members if stored.state not in SETTLED]
    states = " or ".join(sorted({stored.state for stored in left}))
    are = "is" if len(left) == 1 else "are"
    return f"{len(left)} of {len(members)} runs {are} {states}" if left else ""


def with_extensions(planned: Sequence[Planned], stored: Sequence[StoredRun]) -> list[Planned]:
    """The runs of a sweep file and those that `orch extend` added to their cells in the store.

    An added run gets the resources, and keeps the weights, of the first run of its cell and
    variant. Where the file has no such run any more, it is left out, and is not trained.
    """
    extended = [one.run for one in stored if one.extended]
    if not extended:
        return [*planned]
    siblings: dict[tuple[str, ...], Planned] = {}
    for one in planned:
        siblings.setdefault(_cell_of(one.run), one)
    known = {one.run.id for one in planned}
    added = [
        dataclasses.replace(siblings[cell], run=run)
        for run in extended
        if run.id not in known and (cell := _cell_of(run)) in siblings
    ]
    return [*planned, *added]


def _cell_of(run: Run) -> tuple[str, ...]:
    return run.kind, run.model, run.dataset, run.method, run.variant
