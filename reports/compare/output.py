"""Comparisons as text, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from reports import render as tables
from reports.compare.cells import COMPARED, Compared, Verdict
from reports.compare.comparing import Comparison
from reports.compare.scorecard import Scorecard
from reports.entries import DASH, Entry, Row, Table
from reports.render.marks import heads
from reports.statistics import LEVEL, Agreement

FORMATS = ("text", "markdown", "latex", "html", "csv", "json")
LONG = (
    "table", "model", "method", "dataset", "split", "ours", "ours_ci90", "theirs", "theirs_ci90",
    "difference", "allowed", "basis", "verdict", "reason", "causes", "learning_rate", "runs",
)  # fmt: skip
ABOVE, BELOW, NEVER = "▲", "▼", "×"
MARKS: Mapping[Verdict, str] = {"above": ABOVE, "below": BELOW, "not comparable": NEVER}
CODES: Mapping[Verdict, str] = {
    "within": "32", "above": "33", "below": "31", "not comparable": "90", "no number": "90",
}  # fmt: skip
WORST = 10
"""Suspects that are printed; CSV and JSON have the causes of every cell."""
WIDTH = 100
"""Characters of a line of prose."""
Columns = Sequence[int]


def render(comparisons: Sequence[Comparison], style: str, *, colour: bool = False) -> str:
    """Comparisons in one of `FORMATS`; with `colour`, text has terminal escapes.

    In a terminal, columns that do not fit beside each other go below each other.
    """
    if style == "csv":
        return as_csv(comparisons)
    if style == "json":
        return as_json(comparisons)
    if style == "text":
        width = shutil.get_terminal_size().columns if colour else None
        return "\n".join(text(one, colour=colour, width=width) for one in comparisons)
    return tables.render([as_table(one) for one in comparisons], style)


def title(comparison: Comparison) -> str:
    """What is compared."""
    return f"{tables.heading(comparison.table)}, beside the paper's"


def shown(comparison: Comparison) -> tuple[list[int], list[int]]:
    """The places of the rows and columns of which the paper has a number."""
    rows = [n for n, line in enumerate(comparison.lines) if any(line)]
    columns = range(len(comparison.table.columns))
    return rows, [n for n in columns if any(line[n] for line in comparison.lines)]


# Text


def text(comparison: Comparison, *, colour: bool = False, width: int | None = None) -> str:
    """Ours, the paper's and the difference of each number, then the scorecard and the suspects."""
    lines = [_painted(title(comparison), "1", colour), ""]
    if comparison.nothing:
        return "\n".join([*lines, *textwrap.wrap(comparison.nothing, WIDTH)]) + "\n"
    rows, columns = shown(comparison)
    for panel in _panels(comparison, columns, width):
        lines += [*_grid(comparison, rows, panel, colour), ""]
    for note in legend(comparison):
        lines += textwrap.wrap(note, WIDTH)
    lines += ["", _painted("Scorecard", "1", colour)]
    named = [*scorecard(comparison)]
    wide = max(len(name) for name, _ in named)
    for name, value in named:
        head = f"  {name:<{wide}}  "
        lines += textwrap.wrap(value, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return "\n".join([*lines, *_suspects(comparison, colour)]) + "\n"


def _painted(value: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{value}\x1b[0m" if colour and code and value.strip() else value


def _triple(one: Compared | None) -> tuple[str, str, str]:
    """Ours, the paper's, the difference with its mark."""
    if one is None:
        return "", "", ""
    if one.verdict == "no number":
        return DASH, f"{one.theirs:.1f}", " "
    difference = "" if one.difference is None else f"{one.difference:+.1f}"
    return one.entry.shown, f"{one.theirs:.1f}", difference + MARKS.get(one.verdict, " ")


def _widths(comparison: Comparison, column: int) -> tuple[int, int, int]:
    """Of the three numbers of a column; the last one grows until the title fits."""
    triples = [_triple(line[column]) for line in comparison.lines]
    ours, theirs, diff = (
        max(len(head), *(len(triple[n]) for triple in triples))
        for n, head in enumerate(("ours", "paper", "diff "))
    )
    return ours, theirs, max(diff, len(_titled(comparison, column)) - ours - theirs - 2)


def _titled(comparison: Comparison, column: int) -> str:
    found = comparison.table.columns[column]
    return f"{found.title} {found.subtitle}".strip()


def _panels(comparison: Comparison, columns: Columns, width: int | None) -> Iterator[list[int]]:
    """The columns in groups that fit into `width` characters; all in one without it."""
    left = sum(_heads(comparison)) + 2 * len(comparison.table.heads)
    panel: list[int] = []
    used = left
    for column in columns:
        wants = sum(_widths(comparison, column)) + 5
        if panel and width is not None and used + wants > width:
            yield panel
            panel, used = [], left
        panel.append(column)
        used += wants
    yield panel


def _heads(comparison: Comparison) -> list[int]:
    """Widths of the columns that name a row."""
    named = [comparison.table.heads, *(row.heads for row in comparison.table.rows)]
    return [max(map(len, column)) for column in zip(*named, strict=True)]


def _grid(
    comparison: Comparison, rows: Sequence[int], columns: Columns, colour: bool
) -> Iterator[str]:
    """The rows that the paper has, three numbers a column."""
    table = comparison.table
    lefts = _heads(comparison)
    widths = [_widths(comparison, column) for column in columns]

    def line(named: Sequence[str], cells: Sequence[str]) -> str:
        padded = [name.ljust(size) for name, size in zip(named, lefts, strict=True)]
        return "  ".join([*padded, *cells]).rstrip()

    titles = [
        _titled(comparison, n).center(sum(w) + 2) for n, w in zip(columns, widths, strict=True)
    ]
    yield line([""] * len(lefts), titles)
    under = [_spread(("ours", "paper", "diff "), w) for w in widths]
    yield line(table.heads, under)
    yield "  ".join("─" * size for size in (*lefts, *(sum(w) + 2 for w in widths)))
    kept = replace(table, rows=tuple(table.rows[n] for n in rows))
    for place, (number, named) in enumerate(zip(rows, heads(kept), strict=True)):
        if place and table.rows[number].block != table.rows[rows[place - 1]].block:
            yield ""
        found = [comparison.lines[number][column] for column in columns]
        cells = [
            _painted(_spread(_triple(one), w), CODES[one.verdict] if one else "", colour)
            for one, w in zip(found, widths, strict=True)
        ]
        yield line(named, cells)


def _spread(values: Sequence[str], widths: Sequence[int]) -> str:
    return " ".join(value.rjust(width) for value, width in zip(values, widths, strict=True))


OUTSIDE = (
    f"further apart than the {LEVEL}% interval of the difference (ours and theirs combined, and "
    "the paper's rounding)."
)


def legend(comparison: Comparison) -> Iterator[str]:
    """How the verdicts come about, and the marks that occur."""
    yield f"Ours, the paper's, and the difference. {ABOVE} above, {BELOW} below: {OUTSIDE}"
    yield from _reservations(comparison)


def _reservations(comparison: Comparison) -> Iterator[str]:
    """What is judged by less than two intervals, or not at all."""
    by_spread, compared = comparison.scorecard.by_spread, comparison.scorecard.compared
    if by_spread:
        yield (
            f"In {by_spread} of {compared} cells a side has no interval: it gets one from the "
            "spread over seeds that the paper's Table 5 shows for the dataset."
        )
    never = dict.fromkeys(one.reason for one in comparison.cells if one.verdict == "not comparable")
    if never:
        yield f"{NEVER} not comparable: {'; '.join(never)}."
    if any(one.verdict == "no number" for one in comparison.cells):
        yield f"{DASH} no number here yet."


def scorecard(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """The lines of the scorecard: what, and how much."""
    card = comparison.scorecard
    yield "cells within the interval", _share(card.counts, card.compared)
    yield "above, below", f"{card.counts.get('above', 0)}, {card.counts.get('below', 0)}"
    if any(card.averages.get(verdict) for verdict in COMPARED):
        total = sum(card.averages.get(verdict, 0) for verdict in COMPARED)
        yield "averages within it", _share(card.averages, total)
    if card.mean_absolute is not None and card.mean_signed is not None:
        yield (
            "mean difference",
            f"{card.mean_absolute:.1f} points in size; {card.mean_signed:+.1f} with its sign",
        )
    if card.order:
        total_order = sum(card.order.values(), Agreement())
        yield "order of the methods", _agreed(total_order)
        if len(card.order) > 1:
            labels = comparison.table.labels.models
            each = (
                f"{labels.get(model, model)} {found.same}/{found.pairs}"
                for model, found in card.order.items()
            )
            yield "by model", ", ".join(each)
    if card.deltas.pairs:
        yield "sign of the gain over SGD", _agreed(card.deltas, tau=False)
    missing = card.counts.get("no number", 0), card.counts.get("not comparable", 0)
    if any(missing):
        yield "no number, not comparable", f"{missing[0]}, {missing[1]}"


def _share(counts: Mapping[Verdict, int], total: int) -> str:
    within = counts.get("within", 0)
    return f"{within} of {total} ({100 * within / total:.0f}%)"


def _agreed(found: Agreement, *, tau: bool = True) -> str:
    share = (
        f"{found.same} of {found.pairs} pairs as published ({100 * found.same / found.pairs:.0f}%)"
    )
    return share + (f", Kendall's tau {found.tau:+.2f}" if tau and found.tau is not None else "")


def _suspects(comparison: Comparison, colour: bool) -> Iterator[str]:
    """The worst cells with what may explain each, and what all runs have in common."""
    for name, causes in blamed(comparison):
        yield ""
        yield _painted(name, "1", colour) if name.endswith(":") else name
        for cause in causes:
            yield from textwrap.wrap(
                cause, WIDTH, initial_indent="    - ", subsequent_indent="      "
            )


def blamed(comparison: Comparison) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each suspect with its own causes; those that all compared runs share come first."""
    if comparison.common:
        yield "All runs here differ from the published ones:", comparison.common
    if not comparison.suspects:
        return
    total = len(comparison.suspects)
    worst = f"the {WORST} worst of {total}" if total > WORST else f"{total}, the worst first"
    yield f"Suspects, {worst}:", ()
    for one in comparison.suspects[:WORST]:
        own = tuple(cause for cause in one.causes if cause not in comparison.common)
        nothing = ("nothing that the store knows of sets it apart",)
        yield f"  {_named(comparison, one)}", own or nothing


def _named(comparison: Comparison, one: Compared) -> str:
    labels, entry = comparison.table.labels, one.entry
    what = (
        labels.models.get(entry.model, entry.model),
        labels.methods.get(entry.method, entry.method),
        labels.datasets.get(entry.column, entry.column),
        entry.split.upper(),
    )
    numbers = f"{entry.shown}, paper {one.theirs:.1f}: {one.difference:+.1f} (±{one.allowed:.1f})"
    return f"{', '.join(what)}: {numbers}"


# As a table, for the formats that tables have


def as_table(comparison: Comparison) -> Table:
    """`ours / theirs (difference)` in each cell, bold where outside; the rest in its notes."""
    table = comparison.table
    if comparison.nothing:
        return replace(table, notes=(*table.notes, comparison.nothing))
    rows, columns = shown(comparison)
    declared = replace(
        table.declared, title=f"{table.declared.title}, ours / paper's (difference)", note=""
    )
    made = tuple(
        Row(
            table.rows[n].heads,
            tuple(_worded(table.rows[n][m], comparison.lines[n][m]) for m in columns),
            table.rows[n].block,
        )
        for n in rows
    )
    kept = tuple(table.columns[n] for n in columns)
    return replace(
        table, declared=declared, columns=kept, rows=made, notes=tuple(_plain(comparison))
    )


def _worded(entry: Entry, one: Compared | None) -> Entry:
    if one is None:
        words = ""
    else:
        ours, theirs, difference = _triple(one)
        difference = difference.strip(f" {ABOVE}{BELOW}")
        words = f"{ours} / {theirs}" + (f" ({difference})" if difference else "")
    outside = one is not None and one.verdict in ("above", "below")
    return replace(entry, text=words, delta=None, gain=None, bold=outside)


def _plain(comparison: Comparison) -> Iterator[str]:
    """The legend, the scorecard and the suspects, a sentence each."""
    yield f"Bold: {OUTSIDE}"
    yield from _reservations(comparison)
    yield from (f"{name[0].upper()}{name[1:]}: {value}." for name, value in scorecard(comparison))
    for name, causes in blamed(comparison):
        if causes:
            yield f"{name.strip().removesuffix(':')}: {'; '.join(causes)}."


# Long forms


def _long(comparison: Comparison) -> Iterator[dict[str, object]]:
    for one in comparison.cells:
        entry = one.entry
        values = (
            comparison.table.declared.name, entry.model, entry.method, entry.column, entry.split,
            entry.cell.value, entry.cell.ci90, one.theirs, one.theirs_ci90, one.difference,
            one.allowed, one.basis, one.verdict, one.reason, one.causes, entry.cell.learning_rate,
            entry.cell.runs,
        )  # fmt: skip
        yield dict(zip(LONG, values, strict=True))


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """One row a number that the paper has too: percent, unrounded; lists joined by semicolons."""
    out = io.StringIO()
    writer = csv.DictWriter(out, LONG, lineterminator="\n")
    writer.writeheader()
    for comparison in comparisons:
        for row in _long(comparison):
            causes = "; ".join(row["causes"])  # type: ignore[arg-type]
            runs = " ".join(row["runs"])  # type: ignore[arg-type]
            writer.writerow({**row, "causes": causes, "runs": runs})
    return out.getvalue()


def as_json(comparisons: Sequence[Comparison]) -> str:
    """A list of comparisons: scorecard, shared causes, and the rows of the CSV."""
    made = [
        {
            "table": comparison.table.declared.name,
            "number": comparison.table.declared.number,
            "nothing": comparison.nothing,
            "scorecard": _card(comparison.scorecard),
            "common": comparison.common,
            "cells": [*_long(comparison)],
        }
        for comparison in comparisons
    ]
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _card(card: Scorecard) -> dict[str, object]:
    return {
        **asdict(card),
        "counts": dict(card.counts),
        "averages": dict(card.averages),
        "compared": card.compared,
        "tau": sum(card.order.values(), Agreement()).tau,
    }
