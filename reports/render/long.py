"""Tables for programs: one row a number, value and interval in percent, unrounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence

from reports.entries import Entry, Table

LONG = (
    "table", "model", "method", "dataset", "metric", "value", "shown", "ci90", "delta", "bold",
    "learning_rate", "n", "expected", "edge",
)  # fmt: skip
MORE = ("measure", "select", "number", "seeds", "diverged", "hyperparameters")
"""What stands after the columns that every version has; `metric` is the split, as in the published
figures (`id`, `ood`, …), `measure` what was measured on it (`worst_group_accuracy`, …)."""


def rows(table: Table) -> Iterator[dict[str, object]]:
    """The numbers of a table, row by row; words that stand among them are left out."""
    for entry in table.entries:
        if entry.text is None:
            yield _row(table, entry)


def _row(table: Table, entry: Entry) -> dict[str, object]:
    cell = entry.cell
    values = (
        table.declared.name, entry.model, entry.method, entry.column, entry.split, cell.value,
        entry.shown, cell.ci90, entry.delta, entry.bold, cell.learning_rate, cell.n, cell.expected,
        cell.edge, cell.metric, table.rule, table.declared.published, cell.seeds, cell.diverged,
        cell.hyperparameters,
    )  # fmt: skip
    return dict(zip((*LONG, *MORE), values, strict=True))


def as_csv(tables: Sequence[Table]) -> str:
    """One header for all of the tables."""
    out = io.StringIO()
    writer = csv.DictWriter(out, (*LONG, *MORE), lineterminator="\n")
    writer.writeheader()
    spelled = {True: "yes", False: "no"}
    for row in (row for table in tables for row in rows(table)):
        marked = {name: spelled[bool(row[name])] for name in ("bold", "diverged")}
        writer.writerow({**row, **marked})
    return out.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """One list for all of the tables."""
    found = [row for table in tables for row in rows(table)]
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
