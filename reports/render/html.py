"""Tables as HTML: one `<table>` for a page, or a whole page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from reports.entries import Column, Entry, Row, Table
from reports.render.marks import Note, diverged, edge, heading, heads, legend, missing, spans

Link = Callable[[Entry], str | None]
"""Where a cell leads to, None for nowhere."""

STYLE = """
table.orch { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.orch caption { text-align: left; font-weight: 600; padding: 0 0 .5rem; }
table.orch caption span, table.orch tfoot p {
  display: block; position: sticky; left: 0; width: max-content; white-space: normal;
  max-width: min(46rem, calc(100vw - 3rem));
}
table.orch th, table.orch td { padding: .2rem .6rem; text-align: left; white-space: nowrap; }
table.orch thead { border-top: 2px solid; border-bottom: 1px solid; }
table.orch thead th.group { border-bottom: 1px solid #8886; }
table.orch tbody { border-top: 1px solid #8888; }
table.orch tbody:first-of-type { border-top: 0; }
table.orch tbody:last-of-type { border-bottom: 2px solid; }
table.orch tbody th { font-weight: 400; }
table.orch tr.model { display: none; }
table.orch tfoot td { padding: .5rem 0 0; font-size: .85em; }
table.orch tfoot p { margin: .15rem 0; }
table.orch a { color: inherit; text-decoration-color: #8888; text-underline-offset: .2em; }
table.orch .delta, table.orch .ci { font-size: .85em; }
table.orch .mark { font-size: .8em; color: GrayText; }
table.orch .gain { color: #05691f; } table.orch .slight-gain { color: #2f8a4a; }
table.orch .slight-loss { color: #c2483d; } table.orch .loss { color: #9b0f0f; }
@media (max-width: 45rem) {
  table.orch tr.model { display: table-row; }
  table.orch tr.model th { font-weight: 600; padding-top: .5rem; }
  table.orch tr.model th span { position: sticky; left: .4rem; }
  table.orch .first { display: none; }
  table.orch th, table.orch td { padding: .2rem .4rem; }
  table.orch tbody th.last, table.orch thead th.last {
    position: sticky; left: 0; background: Canvas; white-space: normal; min-width: 6.5rem;
  }
}
@media (prefers-color-scheme: dark) {
  table.orch .gain { color: #4ddb78; } table.orch .slight-gain { color: #8fd8a5; }
  table.orch .slight-loss { color: #f2a09a; } table.orch .loss { color: #ff6b5e; }
}
""".strip()
"""What `fragment` looks like; a page puts it into a `<style>` once."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; }}
.scroll {{ overflow-x: auto; margin: 0 0 2.5rem; }}
@media (max-width: 40rem) {{ body {{ font-size: 13px; margin: .75rem; }} }}
{style}
</style>
</head>
<body>
{tables}
</body>
</html>
"""


def page(tables: Sequence[Table]) -> str:
    """A whole document: style inside, no script, nothing from elsewhere."""
    title = ", ".join(heading(table) for table in tables)
    parts = [f'<div class="scroll">\n{fragment(table)}</div>' for table in tables]
    return _PAGE.format(title=_e(title), style=STYLE, tables="\n".join(parts))


def fragment(table: Table, link: Link | None = None) -> str:
    """One `<table class="orch">` with caption and legend; `link` says where its cells lead."""
    width = len(table.heads) + len(table.columns)
    caption = f"<caption><span>{_e(heading(table))}</span></caption>"
    parts = ['<table class="orch">', caption, "<thead>", *_header(table), "</thead>"]
    rows = zip(heads(table), table.rows, strict=True)
    for _, block in groupby(rows, key=lambda pair: pair[1].block):
        lines = (line for named, row in block for line in _row(named, row, link))
        parts += ["<tbody>", *lines, "</tbody>"]
    notes = "".join(f"<p>{_note(note)}</p>" for note in legend(table))
    parts.append(f'<tfoot><tr><td colspan="{width}">{notes}</td></tr></tfoot>')
    return "\n".join([*parts, "</table>"]) + "\n"


def _header(table: Table) -> Iterator[str]:
    """One line of titles, or two where columns have subtitles."""
    two = any(column.subtitle for column in table.columns)
    span = ' rowspan="2"' if two else ""
    heads = "".join(
        f'<th scope="col" class="{place}"{span}>{_e(head)}</th>'
        for place, head in _placed(table.heads)
    )
    if not two:
        titles = "".join(f'<th scope="col">{_e(column.title)}</th>' for column in table.columns)
        yield f"<tr>{heads}{titles}</tr>"
        return
    groups = "".join(
        f'<th scope="colgroup" class="group" colspan="{len(columns)}">{_e(title)}</th>'
        for title, columns in titled(table.columns)
    )
    subtitles = "".join(f'<th scope="col">{_e(column.subtitle)}</th>' for column in table.columns)
    yield from (f"<tr>{heads}{groups}</tr>", f"<tr>{subtitles}</tr>")


def titled(columns: Sequence[Column]) -> Iterator[tuple[str, list[Column]]]:
    """Neighbouring columns that share a title."""
    for title, found in groupby(columns, key=lambda column: column.title):
        yield title, [*found]


def _row(named: Sequence[str], row: Row, link: Link | None) -> Iterator[str]:
    """A row; where a model begins, a line of its own before it, which narrow screens show."""
    if len(named) > 1 and named[0]:
        width = len(named) - 1 + len(row)
        yield f'<tr class="model"><th colspan="{width}"><span>{_e(named[0])}</span></th></tr>'
    heads = "".join(
        f'<th scope="row" class="{place}">{_e(head)}</th>' for place, head in _placed(named)
    )
    yield f"<tr>{heads}{''.join(_cell(entry, link) for entry in row)}</tr>"


def _placed(named: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The heads of a row with their place: all but the last are hidden on narrow screens."""
    for place, head in enumerate(named, 1):
        yield "last" if place == len(named) else "first", head


def _cell(entry: Entry, link: Link | None) -> str:
    value = _e(entry.shown)
    if entry.bold:
        value = f"<strong>{value}</strong>"
    target = link(entry) if link else None
    if target is not None:
        value = f'<a href="{_e(target)}">{value}</a>'
    if entry.shown_interval:
        value += f' <span class="ci">±{entry.shown_interval}</span>'
    if entry.shown_delta:
        tone = entry.tone.replace(" ", "-")
        value += f' <span class="delta {tone}">({entry.shown_delta})</span>'
    count = missing(entry)
    marks = edge(entry) + diverged(entry) + (f" ({count})" if count else "")
    if marks:
        value += f'<span class="mark">{_e(marks)}</span>'
    return f'<td title="{_e(_told(entry))}">{value}</td>'


def _told(entry: Entry) -> str:
    """A cell's own line: rate, seeds and rates, or why it has no number."""
    cell = entry.cell
    if cell.value is None:
        return cell.reason
    if cell.learning_rate is None:
        return f"mean of {cell.expected}" if not cell.partial else f"{cell.n} of {cell.expected}"
    tuned = "" if cell.hyperparameters == "{}" else f", {cell.hyperparameters}"
    return f"learning rate {cell.learning_rate:g}{tuned}; {cell.n} of {cell.expected} runs"


def _note(note: Note) -> str:
    text = "".join(
        f"<code>{_e(part)}</code>" if code else _e(part) for code, part in spans(note.text)
    )
    mark = "<strong>bold</strong>" if note.mark == "*" else _e(note.mark)
    return f"{mark} {text}".strip()


def _e(text: str) -> str:
    return html.escape(text)
