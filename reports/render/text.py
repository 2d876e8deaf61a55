"""Tables for a terminal or a pipe: aligned columns, which need no colour to be read."""

from __future__ import annotations

from reports.entries import Entry, Table
from reports.render.marks import diverged, edge, heading, heads, legend, missing

_CODES = {"gain": "32", "slight gain": "92", "slight loss": "91", "loss": "31"}
Segments = list[tuple[str, str]]
"""Pieces of a cell, each with the terminal's code for it or none."""


def text(table: Table, *, colour: bool = False) -> str:
    """Aligned columns; with `colour`, terminal escapes for bold and the paper's green and red."""
    titles = [f"{column.title} {column.subtitle}".strip() for column in table.columns]
    grid: list[list[Segments]] = [[[(title, "")] for title in (*table.heads, *titles)]]
    for named, row in zip(heads(table), table.rows, strict=True):
        grid.append([*([(head, "")] for head in named), *map(segments, row)])
    widths = [max(_width(row[place]) for row in grid) for place in range(len(grid[0]))]
    lines = [heading(table), ""]
    for number, line in enumerate(grid):
        if number > 1 and table.rows[number - 1].block != table.rows[number - 2].block:
            lines.append("")
        cells = [
            _painted(cell, colour) + " " * (width - _width(cell))
            for cell, width in zip(line, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
        if not number:
            lines.append("  ".join("─" * width for width in widths))
    notes = [f"{note.mark}  {note.text}" if note.mark else note.text for note in legend(table)]
    return "\n".join([*lines, "", *notes]) + "\n"


def segments(entry: Entry) -> Segments:
    """A cell's pieces: value, interval, star of the best, delta in its colour, marks."""
    interval = f" ±{entry.shown_interval}" if entry.shown_interval else ""
    made = [(entry.shown + interval + ("*" if entry.bold else ""), "1" if entry.bold else "")]
    if entry.shown_delta:
        made += [(" ", ""), (f"({entry.shown_delta})", _CODES.get(entry.tone, ""))]
    count = missing(entry)
    return [*made, (edge(entry) + diverged(entry) + (f" ({count})" if count else ""), "")]


def _width(cell: Segments) -> int:
    return sum(len(piece) for piece, _ in cell)


def _painted(cell: Segments, colour: bool) -> str:
    return "".join(
        f"\x1b[{code}m{piece}\x1b[0m" if colour and code else piece for piece, code in cell
    )
