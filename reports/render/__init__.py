"""Tables as text, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence

from reports.entries import Table
from reports.render import html, latex
from reports.render.long import as_csv, as_json
from reports.render.markdown import markdown
from reports.render.marks import heading, legend
from reports.render.text import text

__all__ = [
    "FORMATS",
    "as_csv",
    "as_json",
    "heading",
    "html",
    "latex",
    "legend",
    "markdown",
    "render",
    "text",
]

FORMATS = ("text", "markdown", "latex", "html", "csv", "json")


def render(
    tables: Sequence[Table], style: str, *, colour: bool = False, width: int | None = None
) -> str:
    """Tables in one of `FORMATS`; `colour` and a terminal's `width` are for text alone."""
    if style == "text":
        return "\n".join(text(table, colour=colour, width=width) for table in tables)
    if style == "markdown":
        return "\n".join(map(markdown, tables))
    whole = {"latex": latex.document, "html": html.page, "csv": as_csv, "json": as_json}
    return whole[style](tables)
