"""`orch extend`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from db.errors import SpecError
from orchestrator import extend as growing
from orchestrator import imported
from orchestrator import sweep as sweeps
from orchestrator.cli import Settings
from orchestrator.cli.show import format_option, plural, print_json

if TYPE_CHECKING:
    from db.reading import Reader
    from orchestrator.extend import Growth


@click.command()
@click.argument("name", metavar="SWEEP")
@click.option(
    "--edges",
    is_flag=True,
    help="Add rates to the cells whose best rate is the lowest or highest tried.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many rates to add beyond an edge.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be added, and stop.")
@format_option
@click.pass_obj
def extend(
    settings: Settings,
    name: str,
    edges: bool,
    steps: int,
    dry_run: bool,
    style: str,
    as_json: bool,
) -> None:
    """Add the next learning rates where the best one so far is the lowest or highest tried.

    SWEEP is the name of a launched sweep, or its file. Each cell's own spacing goes on, with the
    cell's seeds and settings. Cells that are incomplete are named and left as they are. Nothing is
    trained: `orch resume` does that. What moves to a new edge is extended further the next time.

    \b
    Examples:
      orch extend --edges demo --dry-run
      orch extend --edges sweeps/demo.yaml && orch resume demo
    """
    from db.store import Store

    if not edges:
        raise SpecError("say what to add: `orch extend --edges SWEEP` adds rates at the edges.")
    store = Store.open(settings.store)
    name = sweeps.load(Path(name)).name if _is_file(name) else name
    imported.refuse_sweep(store.sweep(name))  # raises, too, naming the sweeps there are
    grown = found(store, name, steps)
    runs = [run for growth in grown for run in growth.runs]
    new = 0 if dry_run or not runs else store.extend(name, runs)
    if as_json or style == "json":
        print_json(_json(name, grown, new, dry_run))
        return
    for line in _lines(name, grown, dry_run):
        click.echo(line)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def found(reader: Reader, name: str, steps: int) -> list[Growth]:
    """What `steps` rates at the edges of the sweep called `name` come to, cell by cell."""
    from reports import select

    grown = []
    briefs = {one.key: one for one in reader.briefs(name)}
    for runs in growing.partitions(reader.runs(name)):
        cells = select.cells(reader, [briefs[one.key] for one in runs], select.SELECTION_SPLIT)
        grown += growing.extensions(runs, cells.values(), steps)
    return grown


def _json(name: str, grown: Sequence[Growth], new: int, dry_run: bool) -> dict[str, Any]:
    return {
        "sweep": name,
        "dry_run": dry_run,
        "added": new,
        "cells": [growth.as_json() for growth in grown],
    }


def _lines(name: str, grown: Sequence[Growth], dry_run: bool) -> list[str]:
    lines = []
    for growth in grown:
        chosen = "" if growth.chosen is None else f"best rate {growth.chosen:g}"
        if growth.waits:
            lines.append(f"{growth.cell}: {chosen and chosen + ', '}{growth.waits}; left as it is")
            continue
        rates = ", ".join(f"{rate:g}" for rate in growth.rates)
        place = {"low": "lowest", "high": "highest"}[growth.edge]
        lines.append(
            f"{growth.cell}: {chosen} is the {place} tried; "
            f"adding {rates} ({plural(len(growth.runs), 'run')})"
        )
    count = sum(len(growth.runs) for growth in grown)
    cells = sum(bool(growth.runs) for growth in grown)
    if not count:
        lines.append(f"{name}: no complete cell has its best rate at an edge; nothing to add.")
    elif dry_run:
        lines.append(f"{name}: would add {plural(count, 'run')} to {plural(cells, 'cell')}.")
    else:
        lines.append(
            f"{name}: added {plural(count, 'run')} to {plural(cells, 'cell')}. "
            f"Train them with: orch resume {name}"
        )
    return lines


COMMANDS: list[click.Command] = [extend]
