"""What an audit asks of the store about one cell, whatever the other cells have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from db.engines import among
from db.reading import METRICS, SWEEP_RUNS, SWEEPS, Reader
from db.records import ADDED_LATER, CELL, CHOSEN_OVER, Run, RunBrief
from reports import select
from reports.entries import Entry
from reports.explain.records import Number
from reports.render.text import segments
from reports.select import Cell, Rule
from reports.study import Study

OOD = "ood"
SHOWN_FIRST = (OOD, select.SELECTION_SPLIT)
"""Splits in the order of the tables; the others follow by name."""


class OneCell(Study):
    """The question of another study about some of its runs, perhaps by another rule."""

    def __init__(self, study: Study, runs: Sequence[RunBrief], rule: Rule | None = None) -> None:
        super().__init__(study.reader, study.sweep, rule=rule or study.rule, partial=study.partial)
        self._runs = tuple(runs)

    @cached_property
    def runs(self) -> tuple[RunBrief, ...]:
        """Those of the cell."""
        return self._runs


@dataclass(frozen=True)
class Asking:
    """A sweep that asks for a run."""

    sweep: str
    run_key: int
    extended: bool
    launched: bool
    """From a sweep file; an imported one has nothing to train."""


def asking_for(reader: Reader, run_keys: Sequence[int], sweep: str | None) -> list[Asking]:
    """Which sweeps ask for the runs, the one launched last first; or whether `sweep` does."""
    query = (
        sa.select(SWEEPS.c.name, SWEEP_RUNS.c.run_key, SWEEP_RUNS.c.extended, SWEEPS.c.yaml != "")
        .join(SWEEPS, SWEEPS.c.id == SWEEP_RUNS.c.sweep_id)
        .where(among(SWEEP_RUNS.c.run_key, "keys"), SWEEP_RUNS.c.requested)
        .order_by(SWEEPS.c.created.desc(), SWEEPS.c.id.desc(), SWEEP_RUNS.c.position)
    )
    if sweep is not None:
        query = query.where(SWEEPS.c.name == sweep)
    with reader.read() as connection:
        return [Asking(*row) for row in connection.execute(query, {"keys": run_keys})]


def splits_of(reader: Reader, run_keys: Sequence[int]) -> tuple[str, ...]:
    """The splits that the runs evaluated, in the order of `SHOWN_FIRST`, which are always there."""
    query = sa.select(METRICS.c.split).where(among(METRICS.c.run_key, "keys")).distinct()
    with reader.read() as connection:
        found = set(connection.scalars(query, {"keys": run_keys}))
    return (*SHOWN_FIRST, *sorted(found.difference(SHOWN_FIRST)))


def identity_of(runs: Iterable[Run]) -> dict[str, Any]:
    """What the runs of one variant share: its fields, those that joined later too, in their order.

    A head that comes from the linear probe of the same seed is each run's own.
    """
    contents = [{**ADDED_LATER, **run.content()} for run in runs]
    return {
        name: contents[0][name]
        for name in Run.__dataclass_fields__
        if name not in (*CELL, *CHOSEN_OVER)
        and all(content[name] == contents[0][name] for content in contents)
    }


def number(cell: Cell, split: str) -> Number:
    """What a table prints of a cell, but for what compares it with others."""
    entry = Entry(cell.model, cell.method, cell.dataset, split, cell)
    printed = "".join(piece for piece, _ in segments(entry))
    values = (cell.value, cell.ci90, entry.shown, printed, cell.values, cell.reason)
    return Number(split, cell.metric, *values)
