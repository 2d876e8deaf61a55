"""What a store holds, in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from db.engines import now
from db.owners import Process, is_dead
from db.reading import ATTEMPTS, EPOCHS, METRICS, OWNERS, RUNS, SWEEPS, Reader
from db.records import CELL
from db.schema import HEAD


@dataclass(frozen=True)
class Holder:
    """A process that claims runs and has not ended in order."""

    host: str
    pid: int
    runs: int
    """That it holds."""
    silent: float
    """Seconds since it last renewed its lease."""
    alive: bool
    """False where its lease ran out, or its process on this host is gone."""


@dataclass(frozen=True)
class Summary:
    """Counts of rows, and who is at work."""

    engine: str
    place: str
    schema: str
    bytes: int
    """On disk, with what is not yet folded into the main file."""
    sweeps: int
    runs: Mapping[str, int]
    """By state."""
    epochs: int
    metrics: int
    attempts: int
    owners: tuple[Holder, ...]


def summary(reader: Reader) -> Summary:
    """The store as it is at this moment."""
    with reader.read() as connection:
        states = sa.select(RUNS.c.state, sa.func.count()).group_by(RUNS.c.state)
        counts = {
            table.name: connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for table in (SWEEPS, EPOCHS, METRICS, ATTEMPTS)
        }
        return Summary(
            engine=connection.dialect.name,
            place=reader.place.removeprefix("store "),
            schema=HEAD,
            bytes=_size(connection),
            runs=dict(sorted(connection.execute(states).tuples().all())),
            owners=tuple(_holders(connection)),
            **counts,
        )


def names(reader: Reader) -> dict[str, set[str]]:
    """The models, datasets and methods of the store's runs, by the name of the column."""
    with reader.read() as connection:
        return {name: set(connection.scalars(sa.select(RUNS.c[name]).distinct())) for name in CELL}


def _size(connection: sa.Connection) -> int:
    if connection.dialect.name == "postgresql":
        database = sa.func.pg_database_size(sa.func.current_database())
        return int(connection.scalar(sa.select(database)) or 0)
    path = str(connection.engine.url.database)
    files = [Path(path + end) for end in ("", "-wal")]
    return sum(file.stat().st_size for file in files if file.exists())


def _holders(connection: sa.Connection) -> list[Holder]:
    held = (
        sa.select(RUNS.c.owner_id, sa.func.count().label("runs"))
        .where(RUNS.c.state == "running")
        .group_by(RUNS.c.owner_id)
        .subquery()
    )
    query = (
        sa.select(
            OWNERS,
            sa.func.coalesce(held.c.runs, 0).label("runs"),
            (now() - OWNERS.c.heartbeat).label("silent"),
        )
        .outerjoin(held, held.c.owner_id == OWNERS.c.id)
        .where(OWNERS.c.ended.is_(None) | held.c.runs.is_not(None))
        .order_by(OWNERS.c.id)
    )
    return [
        Holder(
            row.host,
            row.pid,
            row.runs,
            max(0.0, row.silent),
            row.silent <= row.ttl
            and not is_dead(Process(row.host, row.pid, row.boot_id, row.process_started)),
        )
        for row in connection.execute(query)
    ]
