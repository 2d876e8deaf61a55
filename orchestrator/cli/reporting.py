"""`orch report | export`."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from db.errors import EnvironmentProblem
from orchestrator import where
from orchestrator.cli import Settings
from worker.data import DATASETS
from worker.methods import METHODS
from worker.models import MODELS

if TYPE_CHECKING:
    from db.reading import Reader
    from reports.tables import Labels


@click.command()
@click.option(
    "--table", "names", multiple=True, default=("ood",), show_default=True,
    help="Which table: ood or id. May be repeated.",
)  # fmt: skip
@click.option("--sweep", help="Only the runs of this sweep; by default of all sweeps.")
@click.option("--where", "conditions", multiple=True, help="Only runs with these fields.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "latex", "html", "csv", "json"]),
    default="text",
    show_default=True,
    help="csv and json are long: one row a cell.",
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
    style: str,
    output: Path | None,
) -> None:
    """Print a table of the study from what is stored so far.

    The learning rate and the epoch of every cell are chosen by in-distribution validation. Missing
    and partial cells are marked, never averaged in silence.

    \b
    Examples:
      orch report --table ood
      orch report --table id --sweep demo --format markdown -o table.md
    """
    from db.reading import Reader
    from reports import render, tables
    from reports.study import Study

    wanted = where.parse(conditions)
    declared = [tables.find(name) for name in names]
    study = Study(
        Reader.open(settings.store),
        sweep,
        matches=(lambda stored: wanted.matches(stored.run)) if conditions else None,
    )
    stand_ins = {name for name in study.miniature if DATASETS[name].images}
    for dataset in sorted(stand_ins):
        click.echo(f"note: runs of {dataset} had miniature data, not the real one.", err=True)
    shown = labels(stand_ins)
    built = [tables.build(one, study, shown) for one in declared]
    colour = output is None and sys.stdout.isatty()
    _write(render.render(built, style, colour=colour), output)


def labels(stand_ins: Collection[str] = ()) -> Labels:
    """How the catalogs' entries are printed, in their order; `stand_ins` had miniature data."""
    from reports.tables import Labels

    return Labels(
        models={m.id: m.title for m in MODELS.values()},
        datasets={
            d.id: d.title + (" (miniature)" if d.id in stand_ins else "") for d in DATASETS.values()
        },
        methods={m.id: m.title for m in METHODS.values()},
    )


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(
            f"-o {output} cannot be written ({error.strerror}); name another file."
        ) from error


@click.command()
@click.option("--sweep", help="Only the runs of this sweep; by default of all sweeps.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file."
)
@click.pass_obj
def export(settings: Settings, sweep: str | None, output: Path | None) -> None:
    """Write every measured number as long CSV: one row a run, epoch, split, group and metric.

    Values are fractions in [0, 1], exact to the last bit.

    \b
    Example: orch export --sweep demo -o demo.csv
    """
    from db.reading import Reader

    reader = Reader.open(settings.store)
    if output is None:
        _rows(reader, sweep, sys.stdout)
        return
    partial = output.with_name(output.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            _rows(reader, sweep, file)
        partial.replace(output)
    except OSError as error:
        raise EnvironmentProblem(
            f"-o {output} cannot be written ({error.strerror}); name another file."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _rows(reader: Reader, sweep: str | None, file: IO[str]) -> None:
    from db.reading import LongRow

    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(LongRow._fields)
    writer.writerows(reader.long_rows(sweep))


COMMANDS: list[click.Command] = [report, export]
