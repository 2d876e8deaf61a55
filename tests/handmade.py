"""Cells made by hand, and the tables of them: for what arranges and prints numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from db.reading import Reader
from db.records import RunBrief, State
from reports import tables
from reports.entries import Entry, Labels, Table
from reports.select import Cell
from reports.study import Study
from reports.tables import TABLES

LABELS = Labels(
    models={"vit": "Sup ViT-B/16", "bit": "BiT ResNet-50"},
    datasets={"living17": "Living-17", "fmow": "FMoW"},
    methods={"sgd": "SGD", "adamw": "AdamW", "freeze": "SGD (freeze-embed)"},
)


def cell(method: str, value: float | None, dataset: str = "living17", **others: Any) -> Cell:
    """A finished cell of one run a rate."""
    given = {"model": "vit", "metric": "accuracy", "n": 6, "expected": 6, "learning_rate": 1e-3}
    rates = {"seeds": 1, "seeds_expected": 1, "rates": others.get("n", 6), "rates_expected": 6}
    given |= rates if value is not None else {}
    return Cell(method=method, dataset=dataset, value=value, **{**given, **others})


def study(*cells: Cell, state: State = "done", **others: Sequence[Cell]) -> Study:
    """A study with these cells for the split `ood` and, by keyword, for others."""
    made = Study(Reader(sa.create_engine("sqlite://")), "demo")
    splits = {"ood": cells, **others}
    for split, given in splits.items():
        made._cells[split] = {(c.model, c.dataset, c.method): c for c in given}
        assert len(made._cells[split]) == len(given)
    keys = {(c.model, c.dataset, c.method) for given in splits.values() for c in given}
    made.__dict__["runs"] = tuple(
        RunBrief(place, f"{place:016x}", "finetune", *key, 1e-3, "{}", 0, "v", 3, state, None, None)
        for place, key in enumerate(sorted(keys))
    )
    return made


def table(*cells: Cell, name: str = "ood") -> Table:
    """The table of some cells."""
    (split,) = TABLES[name].splits
    return tables.build(TABLES[name], study(**{split: cells}), LABELS)


def entries(made: Table) -> dict[tuple[str, str, str], Entry]:
    """Entries by (model, method, column)."""
    return {(e.model, e.method, e.column): e for row in made.rows for e in row}


def plain(text: str) -> list[list[str]]:
    """The rows of a text table, cell by cell, from the header to the last."""
    grid = text.split("\n\n")[1:-1]
    lines = [line for block in grid for line in block.splitlines() if "──" not in line]
    return [re.split(r"\s{2,}", line.strip()) for line in lines]
