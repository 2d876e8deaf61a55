"""`orch claims`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator import where
from orchestrator.cli import Settings


@click.command()
@click.option(
    "--sweep",
    metavar="NAME|FILE.yaml",
    help="Only the runs of this sweep; by default of all sweeps.",
)
@click.option("--where", "conditions", multiple=True, help="Only runs with these fields.")
@click.option(
    "--partial",
    is_flag=True,
    help="Judge by the cells there are, and by rates that lack seeds, where not all are finished.",
)
@click.option(
    "--rehearse",
    is_flag=True,
    help="Take the same contrasts of whatever models and data there are: no test of the paper.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "csv", "json"]),
    default="text",
    show_default=True,
    help="csv and json have one row a claim, unrounded.",
)
@click.pass_obj
def claims(
    settings: Settings,
    sweep: str | None,
    conditions: tuple[str, ...],
    partial: bool,
    rehearse: bool,
    style: str,
) -> None:
    """Test the paper's claims on what is stored: effect, interval, verdict.

    Each claim is a contrast of accuracies, averaged over models and datasets, with a bootstrap
    interval over cells and seeds. Only the paper's models with pretrained weights, on the real
    data, count. What is missing is said, with the command that makes it.

    \b
    Examples:
      orch claims
      orch claims --sweep full_grid --format markdown
      orch claims --sweep demo --rehearse
    """
    from db import summary
    from db.reading import Reader
    from reports import claims as declared
    from reports.study import Study

    reader = Reader.open(settings.store)
    wanted = where.parse(conditions, lambda: summary.names(reader))
    study = Study(
        reader,
        _sweep(sweep),
        matches=(lambda stored: wanted.matches(stored.run)) if conditions else None,
        partial=partial,
    )
    judged = declared.judge(study, rehearse=rehearse)
    if not judged and style == "text":
        click.echo("There is no run that a claim could be rehearsed on; widen --sweep or --where.")
        return
    click.echo(declared.render(judged, style, colour=sys.stdout.isatty()), nl=False)


def _sweep(asked: str | None) -> str | None:
    """The name of a sweep that is given by name or file."""
    if asked is None or not asked.endswith((".yaml", ".yml")):
        return asked
    from orchestrator import sweep as sweeps

    return sweeps.load(Path(asked)).name


COMMANDS: list[click.Command] = [claims]
