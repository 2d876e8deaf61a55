"""One question put to a store: which runs it is about, and how their numbers are chosen.

Tables, comparisons, claims, figures and pages all read from a `Study`, so that they agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from db.reading import Reader
from db.records import RunBrief, StoredRun
from reports.select import Cell, Key, Rule, cells

KINDS = ("finetune", "linear_probe")
"""Kinds of run whose accuracies tables show."""
MINIATURE = "miniature-"
"""How the fingerprint of data begins that was generated in a real dataset's place."""


class Study:
    """The runs of a sweep, or of all, and the cells that are chosen among them."""

    def __init__(
        self,
        reader: Reader,
        sweep: str | None = None,
        *,
        matches: Callable[[StoredRun], bool] | None = None,
        rule: Rule = "id_val",
        partial: bool = False,
    ) -> None:
        self.reader = reader
        self.sweep = sweep
        self.rule: Rule = rule
        self.partial = partial
        self._matches = matches
        self._cells: dict[str, Mapping[Key, Cell]] = {}

    @cached_property
    def runs(self) -> tuple[RunBrief, ...]:
        """The runs that were asked for, whatever became of them."""
        if self._matches is None:
            return tuple(run for run in self.reader.briefs(self.sweep) if run.kind in KINDS)
        return tuple(
            stored.brief
            for stored in self.reader.runs(self.sweep)
            if stored.requested and stored.run.kind in KINDS and self._matches(stored)
        )

    def cells(self, split: str) -> Mapping[Key, Cell]:
        """Every cell with its `split` value; chosen once a split.

        Raises `ReportError` where a cell has runs of two variants.
        """
        if split not in self._cells:
            found = cells(self.reader, self.runs, split, self.rule, partial=self.partial)
            self._cells[split] = found
        return self._cells[split]

    @cached_property
    def members(self) -> Mapping[Key, tuple[RunBrief, ...]]:
        """The runs of each cell."""
        found: dict[Key, list[RunBrief]] = {}
        for run in self.runs:
            found.setdefault(run.cell, []).append(run)
        return {key: tuple(runs) for key, runs in found.items()}

    @cached_property
    def miniature(self) -> frozenset[str]:
        """Datasets of which a run had generated data in the real one's place."""
        return frozenset(
            run.dataset for run in self.runs if (run.data_fingerprint or "").startswith(MINIATURE)
        )
