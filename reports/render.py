"""Tables as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence

from reports.tables import AVERAGE, BASELINE, NEAR_BEST, Entry, Table

FORMATS = ("text", "markdown", "csv", "json")
LONG = (
    "table", "model", "method", "dataset", "metric", "value", "shown", "ci90", "delta", "bold",
    "learning_rate", "n", "expected", "edge",
)  # fmt: skip


def _marks(entry: Entry) -> str:
    """What a reader must know about a cell, in a few characters that the legend explains."""
    cell = entry.cell
    marks = {"low": "‹", "high": "›"}.get(cell.edge, "")
    if cell.diverged:
        marks += "!"
    if cell.partial:
        marks += f" ({cell.n}/{cell.expected})"
    return marks


def _plain(entry: Entry, bold: Callable[[str], str]) -> str:
    text = entry.shown
    if entry.cell.ci90 is not None:
        text += f" ±{entry.cell.ci90:.1f}"
    text = bold(text) if entry.bold else text
    if entry.delta is not None:
        text += f" ({entry.delta:+.1f})"
    return text + _marks(entry)


def legend(table: Table) -> Iterator[str]:
    """The lines under a table: how it was chosen, and every mark that occurs in it."""
    entries = [entry for row in table.rows for entry in row]
    cells = [e.cell for e in entries if e.column != AVERAGE]
    yield (
        "Learning rate and epoch by in-distribution validation; mean over seeds"
        + (", ± 90% interval." if any(c.ci90 is not None for c in cells) else ".")
    )
    if table.declared.note:
        yield table.declared.note
    if any(e.delta is not None for e in entries):
        baseline = table.labels.methods.get(BASELINE, BASELINE)
        yield f"(+x.x) against {baseline} of the same model."
    if any(e.bold for e in entries):
        yield "*  best of its model, or within 0.2 points (or the interval) of it."
    if any(c.edge for c in cells):
        yield "‹ › the best rate is the lowest or highest tried: a better one may lie beyond."
    if any(c.diverged for c in cells):
        yield "!  a chosen run diverged; its epochs before that count."
    if any(c.partial for c in cells):
        yield "(n/m) only n of m runs are finished: the number may change, and is never bold."
    if any(e.cell.partial for e in entries if e.column == AVERAGE):
        yield "(n/m) in the average: only n of m datasets are complete; compare with care."
    if any(c.value is None for c in cells):
        yield "—  no rate has a score from every seed yet, or nothing was asked for."


def _grid(table: Table, bold: Callable[[str], str]) -> list[list[str]]:
    """A header and the rows, as strings; the model's name only on its block's first row."""
    labels = table.labels
    header = ["model", "method", *(labels.datasets.get(c, c) for c in table.columns)]
    grid, before = [header], ""
    for row in table.rows:
        model, method = row[0].model, row[0].method
        name = "" if model == before else labels.models.get(model, model)
        grid.append(
            [name, labels.methods.get(method, method), *(_plain(entry, bold) for entry in row)]
        )
        before = model
    return grid


def text(table: Table, *, colour: bool = False) -> str:
    """Aligned columns; with `colour`, terminal escapes for bold and the paper's green and red."""
    grid = _grid(table, lambda value: value + "*")
    widths = [max(len(row[place]) for row in grid) for place in range(len(grid[0]))]
    lines = [table.declared.title, ""]
    for number, row in enumerate(grid):
        entries = table.rows[number - 1] if number else ()
        if number > 1 and row[0]:
            lines.append("")
        cells = [
            _painted(
                value.ljust(widths[place]), entries[place - 2] if place > 1 and entries else None
            )
            if colour
            else value.ljust(widths[place])
            for place, value in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
        if not number:
            lines.append("  ".join("─" * width for width in widths))
    return "\n".join([*lines, "", *legend(table)]) + "\n"


def _painted(text: str, entry: Entry | None) -> str:
    """Bold, and the paper's four colours for the gain over the baseline (Tables 1 and 2)."""
    if entry is None or entry.cell.value is None:
        return text
    codes = ["1"] if entry.bold else []
    if entry.gain is not None and entry.delta is not None:
        if entry.gain >= 0:
            codes.append("32" if entry.gain >= NEAR_BEST else "92")
        else:
            codes.append("91" if -entry.delta <= NEAR_BEST else "31")
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes else text


def markdown(table: Table) -> str:
    """A GitHub table with its legend."""
    grid = _grid(table, lambda value: f"**{value}**")
    lines = [f"**{table.declared.title}**", ""]
    lines.append("| " + " | ".join(grid[0]) + " |")
    lines.append("|" + " --- |" * 2 + " ---: |" * (len(grid[0]) - 2))
    lines += ["| " + " | ".join(row) + " |" for row in grid[1:]]
    notes = [line.replace("*  best", "**bold** best", 1) for line in legend(table)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _long(table: Table) -> Iterator[dict[str, object]]:
    for row in table.rows:
        for entry in row:
            cell = entry.cell
            values = (
                table.declared.name, entry.model, entry.method, entry.column, cell.metric,
                cell.value, entry.shown, cell.ci90, entry.delta, entry.bold, cell.learning_rate,
                cell.n, cell.expected, cell.edge,
            )  # fmt: skip
            yield dict(zip(LONG, values, strict=True))


def as_csv(tables: Sequence[Table]) -> str:
    """The long form, one row a cell: value and interval in percent, unrounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, LONG, lineterminator="\n")
    writer.writeheader()
    for row in (row for table in tables for row in _long(table)):
        writer.writerow({**row, "bold": "yes" if row["bold"] else "no"})
    return out.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """The same rows as a JSON list."""
    rows = [row for table in tables for row in _long(table)]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def render(tables: Sequence[Table], style: str, *, colour: bool = False) -> str:
    """Tables in one of `FORMATS`."""
    if style == "text":
        return "\n".join(text(table, colour=colour) for table in tables)
    if style == "markdown":
        return "\n".join(map(markdown, tables))
    return as_csv(tables) if style == "csv" else as_json(tables)
