"""Tables as GitHub prints them."""

from __future__ import annotations

import re

from reports.entries import Entry, Table
from reports.render.marks import Note, diverged, edge, heading, heads, legend, missing, spans


def markdown(table: Table) -> str:
    """A table with its title and legend."""
    titles = [f"{column.title} {column.subtitle}".strip() for column in table.columns]
    lines = [f"**{escaped(heading(table))}**", ""]
    lines.append(_line([*map(escaped, table.heads), *map(escaped, titles)]))
    lines.append("|" + " --- |" * len(table.heads) + " ---: |" * len(titles))
    for named, row in zip(heads(table), table.rows, strict=True):
        lines.append(_line([*map(escaped, named), *map(_cell, row)]))
    return "\n".join([*lines, "", *(f"- {_note(note)}" for note in legend(table))]) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(entry: Entry) -> str:
    text = escaped(entry.shown)
    if entry.shown_interval:
        text += f" ±{entry.shown_interval}"
    if entry.bold:
        text = f"**{text}**"
    if entry.shown_delta:
        text += f" ({entry.shown_delta})"
    count = missing(entry)
    return text + edge(entry) + diverged(entry) + (f" ({count})" if count else "")


def _note(note: Note) -> str:
    text = "".join(f"`{part}`" if code else escaped(part) for code, part in spans(note.text))
    mark = "**bold**" if note.mark == "*" else escaped(note.mark)
    return f"{mark} {text}".strip()


def escaped(text: str) -> str:
    """Text in which Markdown and HTML see no markup."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", re.sub(r"\s+", " ", text))
