"""Marks: what a reader must know about a number, in a few characters, and their legend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from reports.declared import AVERAGE, WITH_ID_TEST
from reports.entries import DASH, Entry, Table
from reports.select import SCORED_BY, SELECTION_SPLIT

LOW, HIGH, DIVERGED = "‹", "›", "!"
_RULES = {
    "id_val": "Learning rate and epoch by in-distribution validation",
    "last": "Last epoch; learning rate by in-distribution validation there",
    "ood-oracle": (
        "ORACLE: learning rate and epoch by the out-of-distribution accuracy itself, which no "
        "honest choice can see: an upper bound, not a result"
    ),
    "id_test": "Learning rate and epoch by the separate in-distribution test",
}
_SUFFIXES = {
    "last": " [last epoch]",
    "ood-oracle": " [ORACLE: chosen by OOD]",
    "id_test": " [chosen by the ID test]",
}


@dataclass(frozen=True)
class Note:
    """A line under a table; `mark` is what it explains, empty where it is about the whole."""

    text: str
    mark: str = ""


def heading(table: Table, title: str = "") -> str:
    """The title, with what sets the choice of its numbers apart from the protocol's."""
    partial = " [rates that lack seeds compete]" if table.partial else ""
    return (title or table.declared.heading) + _SUFFIXES.get(table.rule, "") + partial


def heads(table: Table) -> Iterator[tuple[str, ...]]:
    """What names each row; a model is named on the first row of its block."""
    before = None
    for row in table.rows:
        first, *others = row.heads
        yield ("" if others and (row.block, first) == before else first, *others)
        before = row.block, first


def edge(entry: Entry) -> str:
    """`‹` or `›` where the best rate ends its list."""
    return "" if entry.text else {"low": LOW, "high": HIGH}.get(entry.cell.edge, "")


def diverged(entry: Entry) -> str:
    """`!` where a chosen run diverged."""
    return DIVERGED if entry.cell.diverged and not entry.text else ""


def missing(entry: Entry) -> str:
    """What of a partial number is there: `2/3s` seeds, `5/6r` rates, or `4/5` runs or columns."""
    cell = entry.cell
    if not cell.partial or entry.text:
        return ""
    parts = []
    if cell.value is not None and cell.seeds < cell.seeds_expected:
        parts.append(f"{cell.seeds}/{cell.seeds_expected}s")
    if cell.value is not None and cell.rates < cell.rates_expected:
        parts.append(f"{cell.rates}/{cell.rates_expected}r")
    return " ".join(parts) or f"{cell.n}/{cell.expected}"


def legend(table: Table) -> Iterator[Note]:
    """How the numbers were chosen, and every mark that occurs, each once."""
    entries = [entry for entry in table.entries if entry.text is None]
    cells = [entry for entry in entries if entry.column != AVERAGE]
    means = [entry for entry in entries if entry.column == AVERAGE]
    shown = ", ± 90% interval" if any(entry.shown_interval for entry in entries) else ""
    yield Note(f"{_RULES[table.rule]}; mean over seeds{shown}.")
    yield from map(Note, _by_last(table))
    yield from map(Note, _seen(table))
    if table.declared.note:
        yield Note(table.declared.note)
    yield from map(Note, table.notes)
    if any(entry.shown_delta for entry in entries):
        method = table.declared.baseline or ""
        same = "" if table.declared.layout == "summary" else " of the same model"
        title = table.labels.methods.get(method, method).replace("`", "'")
        yield Note(f"against {title}{same}.", "(+x.x)")
    if any(entry.bold for entry in entries):
        yield Note(_bold(table), "*")
    if any(edge(entry) for entry in cells):
        lowest = "the best rate is the lowest or highest tried, so a better one may lie beyond"
        yield Note(f"{lowest}: {_extend(table)}", f"{LOW} {HIGH}")
    if any(diverged(entry) for entry in cells):
        yield Note("a chosen run diverged; its epochs before that count.", DIVERGED)
    yield from _counts(cells, means)
    if any(entry.cell.value is None for entry in cells):
        yield Note("no rate has a score from every seed yet, or no run was asked for.", DASH)


def _by_last(table: Table) -> Iterator[str]:
    """The cells whose sweep has the last epoch stand for a run, where the table goes by another."""
    labels = table.labels
    found = dict.fromkeys(
        (entry.cell.dataset, entry.cell.method)
        for entry in table.entries
        if entry.text is None and entry.cell.rule == "last" != table.rule
    )
    if found:
        named = ", ".join(
            f"{labels.methods.get(method, method)} on {labels.datasets.get(dataset, dataset)}"
            for dataset, method in found
        )
        yield f"Last epoch, not the best, and the rate by ID validation there: {named}."


def _seen(table: Table) -> Iterator[str]:
    """What the images of the shown splits had to do with the choice."""
    splits, by = table.declared.splits, SCORED_BY[table.rule]
    if SELECTION_SPLIT in splits and by == SELECTION_SPLIT:
        what = "the learning rate" if table.rule == "last" else "the epoch and the learning rate"
        yield (f"The ID images also chose {what}, so ID figures are optimistic (as in the paper).")
        if any(entry.column.removeprefix("mini_") in WITH_ID_TEST for entry in table.entries):
            yield "`--table id-test` has the datasets with an ID test of their own."
    if "id_test" in splits:
        yield (
            "The ID-test images themselves chose: the figures are optimistic."
            if by == "id_test"
            else "The ID-test images chose nothing."
        )


def _extend(table: Table) -> str:
    command = f"`orch extend --edges {table.sweep or 'SWEEP'}`"
    if table.rule == "id_val":
        return f"{command} adds the next ones."
    return f"{command} goes by in-distribution validation, not by this choice."


def _bold(table: Table) -> str:
    block = "model" if table.declared.layout == "datasets" else "column"
    best = f"best of its {'block' if table.declared.blocks else block}"
    if any(entry.shown_interval for entry in table.entries):
        return f"{best}, or no further from it than the larger of their intervals (0.2 without)."
    return f"{best}, or within {table.declared.within:g} points of it."


def _counts(cells: list[Entry], means: list[Entry]) -> Iterator[Note]:
    """What the counts in parentheses say, sort by sort."""
    counts = " ".join(missing(entry) for entry in cells).split()
    if any(count.endswith("s") for count in counts):
        yield Note("only n of m seeds of the rate are in.", "(n/ms)")
    if any(count.endswith("r") for count in counts):
        yield Note("only n of m rates are complete: the choice may change.", "(n/mr)")
    if any(re.fullmatch(r"\d+/\d+", count) for count in counts):
        yield Note("only n of m runs are finished: the number may change.", "(n/m)")
    if counts:
        yield Note("What is incomplete is never bold.")
    if any(missing(entry) for entry in means):
        yield Note(
            "only n of m of what it averages is complete; compare with care.", "(n/m) in a mean:"
        )


def spans(text: str) -> Iterator[tuple[bool, str]]:
    """A note's parts, and whether each is code: what stands between backticks."""
    for place, part in enumerate(text.split("`")):
        if part:
            yield place % 2 == 1, part
