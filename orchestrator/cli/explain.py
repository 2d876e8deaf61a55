"""`orch explain`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from db.errors import ReportError
from orchestrator import where
from orchestrator.cli import Settings
from worker.catalog import nearest
from worker.data import DATASETS

if TYPE_CHECKING:
    from reports.select import Key
    from reports.study import Study


@click.command()
@click.argument("model")
@click.argument("dataset")
@click.argument("method")
@click.option(
    "--sweep",
    metavar="NAME|FILE.yaml",
    help="Only the runs of this sweep; by default of all sweeps.",
)
@click.option("--where", "conditions", multiple=True, help="Only runs with these fields.")
@click.option(
    "--select",
    "rule",
    type=click.Choice(["id_val", "last", "ood-oracle", "id_test"]),
    default="id_val",
    show_default=True,
    help="What the epoch and the rate are chosen by.",
)
@click.option("--partial", is_flag=True, help="Let rates compete that lack seeds.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
    help="To read, to paste, or for a program.",
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.pass_obj
def explain(
    settings: Settings,
    model: str,
    dataset: str,
    method: str,
    sweep: str | None,
    conditions: tuple[str, ...],
    rule: str,
    partial: bool,
    style: str,
    as_json: bool,
) -> None:
    """Say where a cell's number comes from.

    Shows every run of the cell, which learning rate and epoch were chosen and why, what does not
    count and why, what other rules would have given, and what the runs were measured with.

    \b
    Examples:
      orch explain tiny_vit mini_waterbirds adamw
      orch explain tiny_vit digits sgd --sweep demo --format markdown
    """
    from db.reading import Reader
    from orchestrator.cli.reporting import labels
    from reports import explain as explaining
    from reports.select import RULES
    from reports.study import Study

    wanted = where.parse(conditions)
    study = Study(
        Reader.open(settings.store),
        _sweep(sweep),
        matches=(lambda stored: wanted.matches(stored.run)) if conditions else None,
        rule=next(known for known in RULES if known == rule),
        partial=partial,
    )
    audit = explaining.audit(study, _key(study, (model, dataset, method)))
    known = DATASETS.get(audit.dataset)
    stand_in = {audit.dataset} if audit.miniature and known and known.images else set()
    colour = sys.stdout.isatty()
    shown = explaining.render(audit, "json" if as_json else style, labels(stand_in), colour=colour)
    click.echo(shown, nl=False)


def _sweep(asked: str | None) -> str | None:
    """The name of a sweep that is given by name or file."""
    if asked is None or not asked.endswith((".yaml", ".yml")):
        return asked
    from orchestrator import sweep as sweeps

    return sweeps.load(Path(asked)).name


def _key(study: Study, asked: Key) -> Key:
    """The cell, if it has runs; raises `ReportError` with the nearest name of those that do."""
    if asked in study.members:
        return asked
    if not study.members:
        raise ReportError(
            f"{study.reader.place} has no run that a table could show; widen --sweep or --where, "
            "or launch a sweep."
        )
    for noun, part in (("model", 0), ("dataset", 1), ("method", 2)):
        known = {key[part] for key in study.members}
        if asked[part] not in known:
            raise ReportError(
                f'no run here is of the {noun} "{asked[part]}"; {nearest(asked[part], known)}'
            )
    model, dataset, _ = asked
    methods = sorted(key[2] for key in study.members if key[:2] == (model, dataset))
    if methods:
        raise ReportError(
            f"no run here is of {' '.join(asked)}; {model} on {dataset} has: {', '.join(methods)}."
        )
    datasets = sorted({key[1] for key in study.members if key[0] == model})
    raise ReportError(
        f"no run here is of {model} on {dataset}; {model} has runs on: {', '.join(datasets)}."
    )


COMMANDS: list[click.Command] = [explain]
