"""What there is to train: sweeps and their runs."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from db.engines import among
from db.errors import StoreError
from db.reading import DEPENDENCIES, RUNS, SWEEP_RUNS, SWEEPS
from db.records import Run, digest
from db.writing import Writer, insert_all, insert_new

# Held while runs are registered in a PostgreSQL database; the number means nothing.
_REGISTER_LOCK = 7_305_611_000_002


class Place(NamedTuple):
    """Where a run stands in a sweep's list."""

    position: int
    requested: bool
    """Whether it is asked for, or only needed by others."""
    extended: bool = False
    """Whether `orch extend` added it, and not the sweep's file."""
    last: bool = False
    """Whether its last epoch stands in the sweep's tables, not its best."""


class Registering(Writer):
    """Sweeps and runs come into the store here, and only here."""

    def register(
        self,
        name: str,
        text: str,
        runs: Sequence[Run],
        requested: set[str],
        last: Collection[tuple[str, str, str]] = (),
    ) -> int:
        """Make a sweep ask for exactly `runs`, in that order; returns how many are new.

        `requested` are the ids that the sweep names; the others are what those need. `last` are the
        cells (model, dataset, method) whose runs stand in tables with their last epoch. Runs that
        `extend` added follow, as long as their cell (model, dataset, method, variant) is one of
        `runs`; one that the sweep now names itself counts as extended no more.
        """
        listed = {run.id: run for run in runs}
        with self.write(durable=True) as connection:
            one_at_a_time(connection)
            keys, new = _add(connection, listed)
            sweep = connection.execute(
                _UPSERT,
                {"name": name, "yaml": text, "spec_hash": digest(text), "created": time.time()},
            ).scalar_one()
            wanted: dict[int, Place] = {
                keys[run_id]: Place(
                    position,
                    run_id in requested,
                    last=run_id in requested and (run.model, run.dataset, run.method) in last,
                )
                for position, (run_id, run) in enumerate(listed.items())
            }
            cells = {(r.model, r.dataset, r.method, r.variant) for r in listed.values()}
            stored: dict[int, Place] = {}
            for key, place, cell in _places(connection, sweep):
                stored[key] = place
                if place.extended and key not in wanted and cell in cells:
                    wanted[key] = Place(len(wanted), True, extended=True, last=cell[:3] in last)
            rearrange(connection, sweep, stored, wanted)
        return new

    def extend(self, name: str, runs: Sequence[Run]) -> int:
        """Add runs to a sweep beyond what its file names; returns how many joined it.

        They come after its last one. Raises `NotFound` for an unknown sweep, and `StoreError` for a
        run that needs one which the store has not.
        """
        self.sweep(name)
        listed = {run.id: run for run in runs}
        with self.write(durable=True) as connection:
            one_at_a_time(connection)
            keys, _ = _add(connection, listed)
            sweep = connection.execute(
                sa.select(SWEEPS.c.id).where(SWEEPS.c.name == name)
            ).scalar_one()
            last = sa.select(sa.func.max(SWEEP_RUNS.c.position))
            first = connection.scalar(last.where(SWEEP_RUNS.c.sweep_id == sweep))
            position = -1 if first is None else first
            query = sa.select(SWEEP_RUNS.c.run_key).where(SWEEP_RUNS.c.sweep_id == sweep)
            there = set(
                connection.scalars(query.where(among(SWEEP_RUNS.c.run_key, "keys", keys.values())))
            )
            by_last = _last_cells(connection, sweep)
            joining = [run for run_id, run in listed.items() if keys[run_id] not in there]
            places = [
                Place(position + i, True, True, (run.model, run.dataset, run.method) in by_last)
                for i, run in enumerate(joining, 1)
            ]
            joined = (keys[run.id] for run in joining)
            _insert_places(connection, sweep, zip(joined, places, strict=True))
        return len(joining)


def one_at_a_time(connection: sa.Connection) -> None:
    """Two that insert the same runs in another order would wait for each other."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_REGISTER_LOCK)))


def _add(connection: sa.Connection, runs: dict[str, Run]) -> tuple[dict[str, int], int]:
    """Insert the runs that are new, with what they need; returns all their keys, and how many."""
    keys = keys_of(connection, runs)
    new = [run for run_id, run in runs.items() if run_id not in keys]
    insert_all(connection, RUNS, RUN_COLUMNS, [run_row(run) for run in new])
    keys |= keys_of(connection, [run.id for run in new])
    needs = [(run.id, needed) for run in new for needed in run.needs]
    if needs:
        needed = {needed for _, needed in needs}
        known = keys | keys_of(connection, needed - keys.keys())
        if missing := needed - known.keys():
            raise StoreError(f"runs need {', '.join(sorted(missing))}, which the store has not.")
        rows = [{"run_key": keys[run_id], "needs_key": known[need]} for run_id, need in needs]
        connection.execute(_DEPENDENCY, rows)
    return {run_id: keys[run_id] for run_id in runs}, len(new)


def keys_of(connection: sa.Connection, ids: Iterable[str]) -> dict[str, int]:
    """The keys of those runs that the store has."""
    listed = [*ids]
    if not listed:
        return {}
    return dict(connection.execute(_KEYS, {"ids": listed}).tuples().all())


def _last_cells(connection: sa.Connection, sweep: int) -> set[tuple[str, ...]]:
    """Model, dataset and method of the runs of a sweep whose last epoch stands for them."""
    query = sa.select(RUNS.c.model, RUNS.c.dataset, RUNS.c.method).distinct()
    query = query.join(SWEEP_RUNS, SWEEP_RUNS.c.run_key == RUNS.c.key)
    found = connection.execute(query.where(SWEEP_RUNS.c.sweep_id == sweep, SWEEP_RUNS.c.last))
    return {tuple(row) for row in found}


def _places(connection: sa.Connection, sweep: int) -> Iterable[tuple[int, Place, tuple[str, ...]]]:
    """What a sweep's list holds, with the cell of each extended run."""
    cell = (RUNS.c.model, RUNS.c.dataset, RUNS.c.method, RUNS.c.variant)
    query = PLACES.add_columns(*cell).outerjoin(
        RUNS, (RUNS.c.key == SWEEP_RUNS.c.run_key) & SWEEP_RUNS.c.extended
    )
    for row in connection.execute(query.where(SWEEP_RUNS.c.sweep_id == sweep)):
        yield row[0], place(row), tuple(row[5:])


def place(row: Sequence[Any]) -> Place:
    """The place that a row of `PLACES` says."""
    return Place(row[1], bool(row[2]), bool(row[3]), bool(row[4]))


def rearrange(
    connection: sa.Connection, sweep: int, stored: dict[int, Place], wanted: dict[int, Place]
) -> None:
    """Bring a sweep's list to what is wanted, touching only the rows that differ."""
    wrong = [key for key, place in stored.items() if wanted.get(key) != place]
    if wrong:
        gone = sa.delete(SWEEP_RUNS).where(SWEEP_RUNS.c.sweep_id == sweep)
        connection.execute(gone.where(among(SWEEP_RUNS.c.run_key, "keys", wrong)))
    _insert_places(
        connection, sweep, ((k, place) for k, place in wanted.items() if stored.get(k) != place)
    )


def _insert_places(
    connection: sa.Connection, sweep: int, places: Iterable[tuple[int, Place]]
) -> None:
    columns = ("sweep_id", "run_key", *Place._fields)
    insert_all(connection, SWEEP_RUNS, columns, [(sweep, key, *place) for key, place in places])


RUN_COLUMNS = (
    "id", "kind", "model", "dataset", "method", "learning_rate", "hyperparameters", "seed",
    "variant", "epochs", "content", "state", "fence",
)  # fmt: skip


def run_row(run: Run) -> tuple[object, ...]:
    """A new run as a row of `RUN_COLUMNS`: pending, and never tried."""
    return (
        run.id, run.kind, run.model, run.dataset, run.method, run.learning_rate,
        run.spelled_hyperparameters, run.seed, run.variant, run.epochs, run.spelled, "pending", 0,
    )  # fmt: skip


PLACES = sa.select(SWEEP_RUNS.c.run_key, *(SWEEP_RUNS.c[name] for name in Place._fields)).order_by(
    SWEEP_RUNS.c.position
)
"""The list of a sweep, which is to be named by `where`."""
_KEYS = sa.select(RUNS.c.id, RUNS.c.key).where(among(RUNS.c.id, "ids"))
_DEPENDENCY = insert_new(DEPENDENCIES)
_UPSERT = sa.text(
    "INSERT INTO sweeps (name, yaml, spec_hash, created) "
    "VALUES (:name, :yaml, :spec_hash, :created) ON CONFLICT (name) DO UPDATE SET "
    "yaml = excluded.yaml, spec_hash = excluded.spec_hash, created = excluded.created "
    "RETURNING id"
)
