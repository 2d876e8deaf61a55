"""An audit to read: in a terminal, in a pipe, as Markdown; and as JSON."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence

from reports.entries import Labels
from reports.explain.records import Audit
from reports.explain.sections import Grid, Section, sections_of, title_of

FORMATS = ("text", "markdown", "json")
WIDTH = 78
"""Columns of sentences, so that a terminal of 80 does not wrap."""
LONGEST = 90
"""Characters that a line may have beyond its indent, where a command or a name is long."""
HELD = "\N{NO-BREAK SPACE}"


def render(audit: Audit, style: str, labels: Labels | None = None, *, colour: bool = False) -> str:
    """An audit in one of `FORMATS`; `colour` is for text in a terminal."""
    if style == "json":
        return json.dumps(audit.as_json(), indent=2, ensure_ascii=False) + "\n"
    title = title_of(audit, labels or Labels())
    sections = [*sections_of(audit, colour=colour and style == "text")]
    if style == "markdown":
        return _markdown(title, sections)
    return _text(title, sections, colour=colour)


def _text(title: str, sections: Sequence[Section], *, colour: bool) -> str:
    lines = [_bold(title, colour)]
    for section in sections:
        body = [*_body(section, colour=colour)]
        if body:
            lines += ["", *([_bold(section.title, colour)] if section.title else []), *body]
    return "\n".join(lines) + "\n"


def _bold(text: str, colour: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if colour else text


def _body(section: Section, *, colour: bool) -> Iterator[str]:
    if section.grid:
        yield from _grid(section.grid, colour=colour)
    if section.grid and section.plot:
        yield ""
    yield from section.plot
    width = max((len(name) for name, _ in section.pairs), default=0)
    for name, value in section.pairs:
        if width > 20:
            yield f"  {name}"
            yield from _wrapped(value, "      ", "      ")
        else:
            start = f"  {name:<{width}}  " if width else "  "
            yield from _wrapped(value, start, " " * len(start))
    for sentence in section.sentences:
        yield from _wrapped(sentence, "  - ", "    ")


def _wrapped(text: str, first: str, later: str) -> list[str]:
    """Lines of words; what stands between backticks is a command, and stays whole to be copied."""
    whole = re.sub(r"`[^`]*`", lambda found: found[0].replace(" ", HELD), text)
    lines = textwrap.wrap(
        whole,
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_on_hyphens=False,
        break_long_words=max(map(len, whole.split(" ")), default=0) > LONGEST,
    )
    return [line.replace(HELD, " ") for line in lines]


def _grid(grid: Grid, *, colour: bool) -> Iterator[str]:
    rows = [grid.header, *grid.rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(grid.header))]
    for number, row in enumerate(rows):
        cells = [
            cell.rjust(widths[place])
            if grid.header[place] in grid.right
            else cell.ljust(widths[place])
            for place, cell in enumerate(row)
        ]
        line = "  " + "  ".join(cells).rstrip()
        style = grid.styles[number - 1] if number else "2"
        yield f"\x1b[{style}m{line}\x1b[0m" if colour and style else line


# Markdown


def _markdown(title: str, sections: Sequence[Section]) -> str:
    parts = [f"# {title}"]
    for section in sections:
        body = [*_markdown_body(section)]
        if body:
            parts += [f"## {section.title}"] if section.title else []
            parts += body
    return "\n\n".join(parts) + "\n"


def _markdown_body(section: Section) -> Iterator[str]:
    if grid := section.grid:
        rules = " | ".join("---:" if name in grid.right else "---" for name in grid.header)
        rows = [grid.header, *grid.rows]
        lines = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows]
        yield "\n".join([lines[0], f"| {rules} |", *lines[1:]])
    if section.plot:
        yield "\n".join(["```text", *section.plot, "```"])
    if section.pairs:
        yield "\n".join(
            f"- {f'**{name}**: ' if name else ''}{_escaped(value)}" for name, value in section.pairs
        )
    if section.sentences:
        yield "\n".join(f"- {_escaped(sentence)}" for sentence in section.sentences)


def _escaped(cell: str) -> str:
    """Text that may hold anything, such as an error's: no table's rule, no tag."""
    return cell.replace("|", "\\|").replace("<", "\\<")
