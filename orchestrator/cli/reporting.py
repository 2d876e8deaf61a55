"""`orch report`."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from db.errors import EnvironmentProblem, NotFound, ReportError, SpecError
from orchestrator import where
from orchestrator.cli import Settings
from worker.data import DATASETS
from worker.methods import METHODS
from worker.models import MODELS

if TYPE_CHECKING:
    from db.reading import Reader
    from reports.declared import Declared
    from reports.entries import Labels, Table
    from reports.study import Study

FORMATS = ("text", "markdown", "latex", "html", "csv", "json")
RULES = ("id_val", "last", "ood-oracle", "id_test")
SUFFIXES = {
    ".txt": "text", ".md": "markdown", ".tex": "latex", ".html": "html", ".csv": "csv",
    ".json": "json",
}  # fmt: skip
"""Formats that the ending of `-o` stands for where `--format` is not given."""


@click.command()
@click.option(
    "--table",
    "names",
    multiple=True,
    metavar="NAME|N",
    help=(
        "Which table: ood (the default), id, summary, sota, …; 1 to 14 for the paper's, with its "
        "rows; or one that the sweep file declares. May be repeated."
    ),
)
@click.option(
    "--sweep",
    metavar="NAME|FILE.yaml",
    help="Only the runs of this sweep, and the tables it declares; by default of all sweeps.",
)
@click.option("--where", "conditions", multiple=True, help="Only runs with these fields.")
@click.option(
    "--select",
    "rule",
    type=click.Choice(RULES),
    default="id_val",
    show_default=True,
    help=(
        "What chooses epoch and rate: ID validation; the last epoch; the shown OOD split itself "
        "(an upper bound); the ID test."
    ),
)
@click.option("--partial", is_flag=True, help="Let rates compete that lack seeds; they are marked.")
@click.option(
    "--format",
    "style",
    type=click.Choice(FORMATS),
    help=(
        "text, unless the ending of -o says another. latex is a fragment and a document; csv and "
        "json have one row a number, unrounded."
    ),
)
@click.option(
    "--compare",
    "reference",
    type=click.Choice(["paper"]),
    help="Ours beside the published figures, with a verdict a cell and a scorecard.",
)
@click.option("--figure", metavar="NAME", help="Draw a figure into -o FILE.png, .pdf or .svg.")
@click.option(
    "--html",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the whole study as one page into this folder.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file."
)
@click.pass_obj
def report(
    settings: Settings,
    names: tuple[str, ...],
    sweep: str | None,
    conditions: tuple[str, ...],
    rule: str,
    partial: bool,
    style: str | None,
    reference: str | None,
    figure: str | None,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Print a table of the study from what is stored so far; or compare it, draw it, page it.

    The learning rate and the epoch of every cell are chosen by in-distribution validation. What is
    missing, partial, at the edge of its rates or diverged is marked, and a legend explains the
    marks that occur.

    \b
    Examples:
      orch report --table ood --table id
      orch report --table 1 --sweep full_grid -o table1.tex
      orch report --table ood --compare paper
      orch report --figure learning-rate -o rates.pdf
      orch report --html report/
    """
    from db import summary
    from db.reading import Reader
    from reports.study import Study

    _refuse_mixtures(names, style, reference, figure, folder, output)
    reader = Reader.open(settings.store)
    wanted = where.parse(conditions, lambda: summary.names(reader))
    name, own = _sweep(reader, sweep)
    declared = [_find(asked, reader, name, own) for asked in dict.fromkeys(names)]
    study = Study(
        reader,
        name,
        matches=(lambda stored: wanted.matches(stored.run)) if conditions else None,
        rule=rule,  # type: ignore[arg-type]
        partial=partial,
    )
    shown = labels(_stand_ins(study))
    if figure is not None:
        _draw(figure, study, shown, output)
    elif folder is not None:
        _page(declared, study, shown, folder, conditions)
    else:
        built = _built(declared or [_find("ood", reader, name, own)], study, shown)
        style = style or SUFFIXES.get(output.suffix if output else "", "text")
        terminal = output is None and sys.stdout.isatty()
        _write(_rendered(built, study, reference, style, terminal), output)


def _refuse_mixtures(
    names: Sequence[str],
    style: str | None,
    reference: str | None,
    figure: str | None,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Options of which each asks for another product."""
    if figure is not None and (names or style or reference or folder):
        raise SpecError(
            "--figure draws a figure and nothing else: leave out --table, --format, --compare and "
            "--html."
        )
    if figure is not None and output is None:
        raise SpecError(f"say where to draw it: --figure {figure} -o FILE.png (or .pdf, .svg).")
    if folder is not None and (style or reference or output):
        raise SpecError("--html writes a folder of its own: leave out --format, --compare and -o.")


def _sweep(reader: Reader, asked: str | None) -> tuple[str | None, tuple[Declared, ...] | None]:
    """The name of a sweep that is given by name or file; of a file also the tables it declares."""
    if asked is None or not asked.endswith((".yaml", ".yml")):
        return asked, None
    from orchestrator import sweep as sweeps

    loaded = sweeps.load(Path(asked))
    if loaded.name not in {info.name for info in reader.sweeps()}:
        raise NotFound(
            f'{reader.place} has no sweep "{loaded.name}" yet: `orch launch {asked}` registers it.'
        )
    return loaded.name, loaded.tables


def _find(
    asked: str, reader: Reader, sweep: str | None, own: tuple[Declared, ...] | None
) -> Declared:
    """A table by name or number, or one that a sweep declares."""
    from reports import declared

    if asked in declared.TABLES or asked.isdecimal():
        return declared.find(asked)
    if sweep is not None:
        return declared.find(asked, _own(reader.sweep(sweep).yaml, sweep) if own is None else own)
    for info in reader.sweeps():
        if asked in {table.name for table in _own(info.yaml, info.name)}:
            raise ReportError(
                f'the table "{asked}" belongs to the sweep {info.name}: add --sweep {info.name}.'
            )
    return declared.find(asked)


def _own(text: str, name: str) -> tuple[Declared, ...]:
    """The tables that a stored sweep declares."""
    from orchestrator import yaml_file
    from orchestrator.own_tables import tables_of

    return tables_of(yaml_file.parse(text, f"sweep {name}"))


def _built(declared: Sequence[Declared], study: Study, shown: Labels) -> list[Table]:
    """The tables that have runs; what the others lack is said on stderr, or is the error."""
    from reports import tables

    built: list[Table] = []
    lacking: list[tables.NoRuns] = []
    for one in declared:
        try:
            built.append(tables.build(one, study, shown))
        except tables.NoRuns as error:
            lacking.append(error)
    if not built:
        raise ReportError("\n".join(dict.fromkeys(map(str, lacking))))
    for lack in lacking:
        click.echo(f"note: {lack}", err=True)
    return built


def _rendered(
    built: Sequence[Table], study: Study, reference: str | None, style: str, terminal: bool
) -> str:
    if reference is None:
        from reports import render

        width = shutil.get_terminal_size().columns if terminal else None
        return render.render(built, style, colour=terminal, width=width)
    from reports import compare, published  # numpy

    compared = [compare.compare(table, published.by_place(), study) for table in built]
    return compare.render(compared, style, colour=terminal)


def _draw(name: str, study: Study, shown: Labels, output: Path | None) -> None:
    from reports import figures

    assert output is not None
    for path in figures.save(figures.draw(name, study, shown), output):
        click.echo(str(path))


def _page(
    declared: Sequence[Declared],
    study: Study,
    shown: Labels,
    folder: Path,
    conditions: Sequence[str],
) -> None:
    """Every table that has runs, and the sweep's own."""
    from reports import page

    own = _own(study.reader.sweep(study.sweep).yaml, study.sweep) if study.sweep else ()
    path = page.write(study, shown, folder, tables=[*declared, *own], conditions=conditions)
    click.echo(str(path))


def _stand_ins(study: Study) -> list[str]:
    """Real datasets in whose place a run had miniature data; told on stderr."""
    found = [n for n in sorted(study.miniature) if n in DATASETS and DATASETS[n].images]
    for dataset in found:
        click.echo(f"note: runs of {dataset} had miniature data, not the real one.", err=True)
    return found


def labels(stand_ins: Collection[str] = ()) -> Labels:
    """How ids are printed: the paper's, in its order, then the catalogs' others.

    `stand_ins` are datasets of which runs had miniature data.
    """
    from reports.declared import PAPER_DATASETS, PAPER_METHODS, PAPER_MODELS
    from reports.entries import Labels

    datasets = {**PAPER_DATASETS, **{d.id: d.title for d in DATASETS.values()}}
    return Labels(
        models={**PAPER_MODELS, **{m.id: m.title for m in MODELS.values()}},
        datasets={
            name: title + (" (miniature)" if name in stand_ins else "")
            for name, title in datasets.items()
        },
        methods={**PAPER_METHODS, **{m.id: m.title for m in METHODS.values()}},
    )


def _write(text: str, output: Path | None) -> None:
    """To stdout, or whole into a file, which is never left half written."""
    if output is None:
        click.echo(text, nl=False)
        return
    partial = output.with_name(output.name + ".partial")
    try:
        if output.exists() and not output.is_file():  # a pipe, a terminal
            output.write_text(text, encoding="utf-8")
            return
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise EnvironmentProblem(
            f"-o {output} cannot be written ({error.strerror}); name another file."
        ) from error


COMMANDS: list[click.Command] = [report]
