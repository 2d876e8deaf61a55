"""What stands on the page, read from a study: everything the template prints."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from db.errors import ReportError
from db.records import StoredRun, SweepInfo
from reports import figures, render, tables
from reports.figures import DeclaredFigure
from reports.page import pictures
from reports.page.cells import Cells, ModelView, anchors, why
from reports.page.inline import inline
from reports.select import Key, Rule
from reports.study import Study
from reports.tables import Declared, Entry, Labels

WHOLE = ("summary", "id-vs-ood")
"""Figures that are shown as `orch report --figure` draws them; the others are drawn a cell each."""
HOW: Mapping[Rule, str] = {
    "id_val": (
        "Each run counts with its best epoch by ID validation (the first on ties; never the "
        "evaluation before training). The mean over seeds of that score chooses the cell's "
        "learning rate (the smallest on ties), and every number is read at those epochs. No OOD "
        "number is looked at. The ID numbers chose, so they are optimistic."
    ),
    "last": (
        "Each run counts with its last epoch; the mean over seeds of ID validation there chooses "
        "the cell's learning rate."
    ),
    "ood-oracle": (
        "An ORACLE: each run's epoch and each cell's learning rate are chosen by the OOD numbers "
        "that are shown. No honest choice can see them: these are upper bounds, not results."
    ),
    "id_test": (
        "Each run's epoch and each cell's learning rate are chosen by the split id_test, whose "
        "numbers are therefore optimistic."
    ),
}


@dataclass(frozen=True)
class TableView:
    """A table with numbers."""

    anchor: str
    title: str
    html: Markup


@dataclass(frozen=True)
class FigureView:
    """A figure, drawn whole."""

    anchor: str
    declared: DeclaredFigure
    pages: tuple[Markup, ...]


@dataclass(frozen=True)
class Absent:
    """A table or a figure that has nothing to show, and why."""

    name: str
    title: str
    why: str


@dataclass(frozen=True)
class Trouble:
    """A run that is no result, or only half of one."""

    stored: StoredRun
    why: str
    anchor: str


@dataclass(frozen=True)
class Page:
    """Everything."""

    title: str
    store: str
    written: str
    how: str
    rule: Rule
    partial: bool
    conditions: tuple[str, ...]
    miniature: tuple[str, ...]
    states: tuple[tuple[str, int], ...]
    runs: int
    cells: int
    sweeps: tuple[SweepInfo, ...]
    tables: tuple[TableView, ...]
    figures: tuple[FigureView, ...]
    models: tuple[ModelView, ...]
    absent_tables: tuple[Absent, ...]
    absent_figures: tuple[Absent, ...]
    troubles: tuple[Trouble, ...]
    table_style: Markup
    learning_rate: DeclaredFigure
    curves: DeclaredFigure


def gather(
    study: Study,
    labels: Labels,
    declared: Sequence[Declared],
    *,
    conditions: Sequence[str],
    written: datetime.datetime,
) -> Page:
    """Read everything once."""
    ids = anchors([*study.members])
    shown, absent = _tables(study, labels, declared, ids)
    drawn, blank = _figures(study, labels)
    own = {run.id for run in study.runs}
    stored = {s.id: s for s in study.reader.runs(study.sweep) if s.id in own}
    known = study.reader.sweeps()
    states = Counter(run.state for run in study.runs)
    return Page(
        title=f"Sweep {study.sweep}" if study.sweep else "All sweeps",
        store=study.reader.place.removeprefix("store "),
        written=written.strftime("%Y-%m-%d %H:%M UTC"),
        how=HOW[study.rule],
        rule=study.rule,
        partial=study.partial,
        conditions=tuple(conditions),
        miniature=tuple(labels.datasets.get(d, d) for d in sorted(study.miniature)),
        states=tuple((s, states[s]) for s in pictures.STATES if states[s]),
        runs=len(study.runs),
        cells=len(study.members),
        sweeps=tuple(s for s in known if study.sweep in (None, s.name)),
        tables=tuple(shown),
        figures=tuple(drawn),
        models=tuple(Cells(study, labels, ids, stored).models()),
        absent_tables=tuple(absent),
        absent_figures=tuple(blank),
        troubles=tuple(_troubles(study, stored, ids)),
        table_style=Markup(render.html.STYLE),
        learning_rate=figures.FIGURES["learning-rate"],
        curves=figures.FIGURES["curves"],
    )


def _tables(
    study: Study, labels: Labels, declared: Sequence[Declared], ids: Mapping[Key, str]
) -> tuple[list[TableView], list[Absent]]:
    def link(entry: Entry) -> str | None:
        cell = entry.cell
        anchor = ids.get((cell.model, cell.dataset, cell.method))
        return f"#{anchor}" if anchor else None

    shown: list[TableView] = []
    absent: list[Absent] = []
    for place, one in enumerate(declared):
        try:
            table = tables.build(one, study, labels)
        except ReportError as error:
            absent.append(Absent(one.name, one.heading, str(error)))
            continue
        if all(entry.cell.value is None for entry in table.entries):
            absent.append(Absent(one.name, one.heading, "none of its cells has a number yet."))
            continue
        html = Markup(render.html.fragment(table, link))
        shown.append(TableView(f"table-{place}", one.heading, html))
    return shown, absent


def _figures(study: Study, labels: Labels) -> tuple[list[FigureView], list[Absent]]:
    drawn: list[FigureView] = []
    blank: list[Absent] = []
    for name, declared in figures.FIGURES.items():
        if name not in WHOLE and declared.module:
            continue
        try:
            pages = figures.draw(name, study, labels)
        except ReportError as error:
            blank.append(Absent(name, declared.title, str(error)))
            continue
        inlined = tuple(
            inline(page, f"{name}-{number}", declared.title) for number, page in enumerate(pages)
        )
        drawn.append(FigureView(f"figure-{name}", declared, inlined))
    return drawn, blank


def _troubles(
    study: Study, stored: Mapping[str, StoredRun], ids: Mapping[Key, str]
) -> Iterator[Trouble]:
    for run in study.runs:
        if run.state in ("failed", "diverged", "cancelled", "voided"):
            one = stored[run.id]
            cause = f"{one.cause}: " if one.cause and run.state == "failed" else ""
            yield Trouble(one, cause + why(one), ids[run.cell])
