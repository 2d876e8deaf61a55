"""`orch store info | upgrade | copy`: looking after the results database."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import click

from orchestrator.cli import Settings
from orchestrator.cli.show import counting, duration, format_option, plural, print_json, table

SHOWN = 5
"""Run ids that a sentence names."""


@click.group()
def store() -> None:
    """Look after the results database: what it holds, newer schemas, copies and merges.

    \b
    Example: orch store info
    """


@store.command("info")
@format_option
@click.pass_obj
def store_info(settings: Settings, style: str, as_json: bool) -> None:
    """Say where the store is, how big it is, what it holds and who is at work on it.

    \b
    Examples:
      orch store info
      orch --store postgresql://orch@db.example/orch store info --json
    """
    from db.reading import Reader
    from db.summary import summary

    found = summary(Reader.open(settings.store))
    if as_json or style == "json":
        print_json(dataclasses.asdict(found))
        return
    runs = ", ".join(f"{count:,} {state}" for state, count in found.runs.items())
    rows = {
        "engine": found.engine,
        "place": found.place,
        "schema": found.schema,
        "size": f"{found.bytes / 1e6:,.1f} MB",
        "sweeps": f"{found.sweeps:,}",
        "runs": f"{sum(found.runs.values()):,}" + (f" ({runs})" if runs else ""),
        "epochs": f"{found.epochs:,}",
        "metrics": f"{found.metrics:,}",
        "attempts": f"{found.attempts:,}",
        "owners": f"{sum(owner.alive for owner in found.owners)} alive, "
        f"{sum(not owner.alive for owner in found.owners)} dead",
    }
    for name, value in rows.items():
        click.echo(f"{name:<9} {value}")
    table(
        [
            {
                "owner": f"{owner.host} process {owner.pid}",
                "lease": "alive" if owner.alive else "dead",
                "heard": f"{duration(owner.silent)} ago",
                "runs": owner.runs,
            }
            for owner in found.owners
        ],
        right=("runs",),
    )


@store.command("upgrade")
@click.pass_obj
def store_upgrade(settings: Settings) -> None:
    """Bring a store that an older orch wrote to this version's schema.

    An SQLite file is copied to a new file beside it first; for PostgreSQL, run `pg_dump` before.
    All of the upgrade is one transaction: it happens as a whole or not at all. End launches first.

    \b
    Example: orch store upgrade
    """
    from db.connect import upgrade

    done = upgrade(settings.store)
    if done.before == done.after:
        click.echo(f"{done.place} has schema {done.after} already; nothing to do.")
        return
    if done.backup:
        click.echo(f"As it was: {done.backup}")
    click.echo(f"{done.place}: schema {done.before} is now {done.after}.")


@store.command("copy")
@click.argument("target", metavar="TARGET")
@format_option
@click.pass_obj
def store_copy(settings: Settings, target: str, style: str, as_json: bool) -> None:
    """Copy what --store holds into TARGET, a URL or a path, made where it is missing.

    Merges: runs are told by their id, sweeps by their name, so that results of several machines
    come together by copying each into one store. Again changes nothing. Where a run has different
    numbers in both, TARGET's stay, the run is named and the exit code is 1. Runs that are being
    trained in either are left alone. Files under --runs (weights, logs) are not copied.

    \b
    Examples:
      orch store copy postgresql://orch@db.example/orch
      orch --store results-of-b.db store copy orch.db
    """
    from db.copying import Copied, copy
    from db.reading import Reader
    from db.store import Store

    quiet = as_json or style == "json"
    source = Reader.open(settings.store)
    into = Store.open(target, create=True)
    done: Copied = counting("runs compared", copy(source, into), quiet=quiet)
    if quiet:
        values: dict[str, Any] = dataclasses.asdict(done)
        print_json({**values, "changed": done.changed, "target": into.place.removeprefix("store ")})
    else:
        _tell(done, into.place)
    sys.exit(1 if done.conflicts else 0)


def _tell(done: Any, place: str) -> None:
    if done.changed:
        click.echo(
            f"{place}: {plural(done.new, 'new run')}, numbers or state of "
            f"{plural(len(done.taken), 'run')} taken, {plural(len(done.sweeps), 'sweep')} new or "
            f"changed, {plural(done.voids, 'voided result')} added; "
            f"{plural(done.runs, 'run')} in all compared."
        )
    else:
        click.echo(f"{place}: nothing to copy; {plural(done.runs, 'run')} compared.")
    if done.running:
        click.echo(
            f"Left alone, being trained: {_named(done.running)}; copy again when they are done."
        )
    if done.conflicts:
        click.echo(
            f"Different numbers in both, the target's stay: {_named(done.conflicts)}. Look with "
            "`orch runs show` in each; `orch runs void` in one of them settles it."
        )


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more


COMMANDS: list[click.Command] = [store]
