"""`orch export | import`: results out of a store and into one, as files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from db.errors import SpecError
from orchestrator.cli import Settings
from orchestrator.cli.show import counting, plural

if TYPE_CHECKING:
    from db.importing import Imported
    from orchestrator.exchange.told import Parsed

SHOWN = 5
"""Run ids, or sweeps, that a sentence names."""


@click.command()
@click.option("--sweep", help="Only the runs of this sweep; by default of all sweeps.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["csv", "parquet"]),
    help="By default as the output file is called, else csv.",
)
@click.option(
    "--times",
    is_flag=True,
    help="Also when and how long: what differs between two trainings that measured the same.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file."
)
@click.pass_obj
def export(
    settings: Settings, sweep: str | None, style: str | None, times: bool, output: Path | None
) -> None:
    """Write every measured number in the long format: a row a run, epoch, split, group and metric.

    Values are fractions in [0, 1], exact to the last bit. `orch import` makes the same runs of the
    file in another store; stores that measured the same export the same bytes.

    \b
    Examples:
      orch export --sweep demo -o demo.csv
      orch export --times -o everything.parquet
    """
    from db.exporting import columns, long_rows
    from db.reading import Reader
    from orchestrator.exchange import files

    if style is None:
        style = "parquet" if output and output.suffix.lower() in (".parquet", ".pq") else "csv"
    if style == "parquet" and output is None:
        raise SpecError("--format parquet: name the file with -o FILE.parquet.")
    rows = long_rows(Reader.open(settings.store), sweep, times=times)
    names = columns(times=times)
    if output is None:
        files.write_csv(rows, names, sys.stdout)
    elif style == "parquet":
        files.write(rows, names, "parquet", output)
    else:
        files.write(rows, names, "csv", output)


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.pass_obj
def import_command(settings: Settings, files: tuple[str, ...]) -> None:
    """Take results from files into the store: all of them, or nothing where a row is wrong.

    CSV or Parquet (`-` is stdin) with the columns sweep, model, dataset, method, lr, seed, epoch,
    split, metric, value, in any order. Splits are roles: `id` selects, `ood` is what tables show,
    others are kept; values are fractions in [0, 1]. Such runs are a variant of their own, which no
    launch trains. What `orch export` wrote comes back as the runs that it was. Importing again
    changes nothing; other numbers for a run that is there are refused. The store is made where it
    is missing.

    \b
    Examples:
      orch import figures.csv && orch report --sweep figures --table ood
      orch --store fresh.db import demo.csv
    """
    from orchestrator.exchange import rows, runs

    paths = [Path("/dev/stdin" if name == "-" else name) for name in files]
    parsed = counting("bytes read", rows.read(paths))
    for note in parsed.notes:
        click.echo(f"note: {note}", err=True)

    from db.errors import NotFound
    from db.importing import bring
    from db.records import StoredRun
    from db.store import Store

    store = Store.open(settings.store, create=True)

    def stored(sweep: str) -> list[StoredRun]:
        try:
            return store.runs(sweep)
        except NotFound:
            return []

    sweeps, incoming = runs.resolve(parsed, stored)
    done = counting("runs stored", bring(store, sweeps, incoming))
    _tell(parsed, done, len(incoming))


def _tell(parsed: Parsed, done: Imported, runs: int) -> None:
    told = f"{plural(parsed.rows, 'row')} of {plural(runs, 'run')}"
    if done.new or done.changed or done.sweeps:
        click.echo(
            f"{told}: {len(done.new):,} new, {len(done.changed):,} with more numbers or another "
            f"state, {done.same:,} as they were."
        )
    else:
        click.echo(f"{told}: nothing new.")
    if done.voided:
        click.echo(
            f"note: voided here, so these numbers do not come back: {_named(done.voided)}.",
            err=True,
        )
    if done.stands:
        click.echo(
            f"note: voided where the file comes from, and kept here: {_named(done.stands)}.",
            err=True,
        )
    for name in [*parsed.sweeps][:SHOWN] if done.new or done.changed else ():
        click.echo(f"Read the table with: orch report --sweep {name} --table ood")


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return ", ".join(run_id[:8] for run_id in ids[:SHOWN]) + more


COMMANDS: list[click.Command] = [export, import_command]
