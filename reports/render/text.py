"""Tables for a terminal or a pipe: aligned columns, which need no colour to be read."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from reports.entries import Entry, Table
from reports.render.marks import diverged, edge, heading, heads, legend, missing

_CODES = {"gain": "32", "slight gain": "92", "slight loss": "91", "loss": "31"}
_GAP = "  "
LINE = 100
"""Characters of a line of the legend, at most: also where a table is wider, or goes into a pipe."""
Segments = list[tuple[str, str]]
"""Pieces of a cell, each with the terminal's code for it or none."""


def text(table: Table, *, colour: bool = False, width: int | None = None) -> str:
    """Aligned columns, in as many panels as a terminal of `width` characters needs.

    With `colour`, terminal escapes for bold and the paper's green and red.
    """
    titles = [f"{column.title} {column.subtitle}".strip() for column in table.columns]
    grid: list[list[Segments]] = [[[(title, "")] for title in (*table.heads, *titles)]]
    for named, row in zip(heads(table), table.rows, strict=True):
        grid.append([*([(head, "")] for head in named), *map(segments, row)])
    parts = [heading(table)]
    for columns in _panels(grid, len(table.heads), width):
        parts += ["", *_panel(table, [[line[c] for c in columns] for line in grid], colour)]
    notes = [f"{note.mark}  {note.text}" if note.mark else note.text for note in legend(table)]
    wrapped = [line for note in notes for line in _wrapped(note, min(width or LINE, LINE))]
    return "\n".join([*parts, "", *wrapped]) + "\n"


def _panels(
    grid: Sequence[Sequence[Segments]], heads: int, width: int | None
) -> Iterator[list[int]]:
    """The columns that go side by side, those that name a row in each."""
    widths = _widths(grid)
    named = [*range(heads)]
    panel = named.copy()
    for column in range(heads, len(widths)):
        taken = sum(widths[c] + len(_GAP) for c in panel)
        if width is not None and len(panel) > heads and taken + widths[column] > width:
            yield panel
            panel = named.copy()
        panel.append(column)
    yield panel


def _panel(table: Table, grid: Sequence[Sequence[Segments]], colour: bool) -> Iterator[str]:
    """Titles, a rule, and the rows, with a blank line between blocks."""
    widths = _widths(grid)
    for number, line in enumerate(grid):
        if number > 1 and table.rows[number - 1].block != table.rows[number - 2].block:
            yield ""
        cells = (
            _painted(cell, colour) + " " * (width - _width(cell))
            for cell, width in zip(line, widths, strict=True)
        )
        yield _GAP.join(cells).rstrip()
        if not number:
            yield _GAP.join("─" * width for width in widths)


def segments(entry: Entry) -> Segments:
    """A cell's pieces: value, interval, star of the best, delta in its colour, marks."""
    interval = f" ±{entry.shown_interval}" if entry.shown_interval else ""
    made = [(entry.shown + interval + ("*" if entry.bold else ""), "1" if entry.bold else "")]
    if entry.shown_delta:
        made += [(" ", ""), (f"({entry.shown_delta})", _CODES.get(entry.tone, ""))]
    count = missing(entry)
    return [*made, (edge(entry) + diverged(entry) + (f" ({count})" if count else ""), "")]


def _widths(grid: Sequence[Sequence[Segments]]) -> list[int]:
    return [max(map(_width, column)) for column in zip(*grid, strict=True)]


def _width(cell: Segments) -> int:
    return sum(len(piece) for piece, _ in cell)


def _painted(cell: Segments, colour: bool) -> str:
    return "".join(
        f"\x1b[{code}m{piece}\x1b[0m" if colour and code else piece for piece, code in cell
    )


def _wrapped(note: str, width: int) -> list[str]:
    whole = re.sub("`[^`]*`", lambda found: found[0].replace(" ", "\0"), note)  # to be copied
    lines = textwrap.wrap(whole, width, subsequent_indent=_GAP, break_long_words=False)
    return [line.replace("\0", " ") for line in lines]
