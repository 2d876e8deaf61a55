"""What can be asked of a store. Reading never changes it."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import sqlalchemy as sa

from db import schema
from db.connect import open_engine
from db.engines import among, now, place_of, reading, translated
from db.errors import NotFound
from db.records import (
    Attempt,
    EpochRecord,
    Metric,
    Run,
    RunBrief,
    State,
    StoredRun,
    SweepInfo,
    Void,
)

RUNS = cast("sa.Table", schema.RunRow.__table__)
SWEEPS = cast("sa.Table", schema.Sweep.__table__)
SWEEP_RUNS = cast("sa.Table", schema.SweepRun.__table__)
DEPENDENCIES = cast("sa.Table", schema.Dependency.__table__)
OWNERS = cast("sa.Table", schema.Owner.__table__)
ATTEMPTS = cast("sa.Table", schema.Attempt.__table__)
EPOCHS = cast("sa.Table", schema.EpochRow.__table__)
METRICS = cast("sa.Table", schema.MetricRow.__table__)
ARTIFACTS = cast("sa.Table", schema.ArtifactRow.__table__)
VOIDS = cast("sa.Table", schema.VoidRow.__table__)


class Reader:
    """Finders over one store. Thread-safe: each call takes its own connection.

    Raises `StoreUnreachable` for faults of the engine that pass (the next call connects anew), and
    `StoreError` for the others, both with the store's place; `NotFound` for a sweep or run that it
    does not hold.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        weakref.finalize(self, engine.dispose)  # nobody has to remember to close a store
        self.place = place_of(engine.url)
        """The store as messages name it, without a password."""
        self._reading = reading(engine)
        self._streaming = self._reading.execution_options(unhurried=True)

    @classmethod
    def open(cls, url: str, *, create: bool = False) -> Self:
        """The store at a URL or path; see `db.connect.open_engine` for what is refused."""
        return cls(open_engine(url, create=create))

    @contextmanager
    def read(self, *, stream: bool = False) -> Iterator[sa.Connection]:
        """A connection that sees one moment of the store.

        With `stream` results come in batches, however many rows they have and however long their
        reader takes.
        """
        engine = self._streaming if stream else self._reading
        with translated(self.engine.url), engine.begin() as connection:
            yield connection.execution_options(yield_per=10_000) if stream else connection

    def sweeps(self) -> list[SweepInfo]:
        """Every sweep, the one launched last first."""
        query = sa.select(SWEEPS.c.name, SWEEPS.c.yaml, SWEEPS.c.created)
        with self.read() as connection:
            rows = connection.execute(query.order_by(SWEEPS.c.created.desc(), SWEEPS.c.id.desc()))
            return [SweepInfo(*row) for row in rows]

    def sweep(self, name: str) -> SweepInfo:
        """The sweep called `name`; raises `NotFound` with the names there are."""
        known = self.sweeps()
        for sweep in known:
            if sweep.name == name:
                return sweep
        names = ", ".join(s.name for s in known) or "none yet"
        raise NotFound(f'{self.place} has no sweep "{name}"; it has: {names}.')

    def runs(self, sweep: str | None = None) -> list[StoredRun]:
        """The runs of a sweep in its order, or all in the order they were registered."""
        if sweep is None:
            asked = sa.exists().where(SWEEP_RUNS.c.run_key == RUNS.c.key, SWEEP_RUNS.c.requested)
            return self._stored(_STORED.add_columns(asked, sa.false()).order_by(RUNS.c.key))
        self.sweep(sweep)
        return self._stored(
            _STORED.add_columns(SWEEP_RUNS.c.requested, SWEEP_RUNS.c.extended)
            .join(SWEEP_RUNS, SWEEP_RUNS.c.run_key == RUNS.c.key)
            .join(SWEEPS, SWEEPS.c.id == SWEEP_RUNS.c.sweep_id)
            .where(SWEEPS.c.name == sweep)
            .order_by(SWEEP_RUNS.c.position)
        )

    def briefs(self, sweep: str | None = None) -> list[RunBrief]:
        """The runs that a sweep asks for (all sweeps: None), without what only those need."""
        query = sa.select(*(RUNS.c[name] for name in RunBrief._fields if name != "last"))
        if sweep is None:
            asked = sa.exists().where(SWEEP_RUNS.c.run_key == RUNS.c.key, SWEEP_RUNS.c.requested)
            query = query.add_columns(asked.where(SWEEP_RUNS.c.last))
            query = query.where(asked).order_by(RUNS.c.key)
        else:
            self.sweep(sweep)
            query = (
                query.add_columns(SWEEP_RUNS.c.last)
                .join(SWEEP_RUNS, SWEEP_RUNS.c.run_key == RUNS.c.key)
                .join(SWEEPS, SWEEPS.c.id == SWEEP_RUNS.c.sweep_id)
                .where(SWEEPS.c.name == sweep, SWEEP_RUNS.c.requested)
                .order_by(SWEEP_RUNS.c.position)
            )
        with self.read() as connection:
            return [RunBrief._make(row) for row in connection.execute(query)]

    def contents(self, run_keys: Sequence[int]) -> dict[int, Run]:
        """The whole identity of runs, by key."""
        query = sa.select(RUNS.c.key, RUNS.c.content, RUNS.c.id, RUNS.c.variant)
        with self.read() as connection:
            rows = connection.execute(query.where(among(RUNS.c.key, "keys")), {"keys": run_keys})
            return {
                key: Run.from_content(json.loads(content), id=run_id, variant=variant)
                for key, content, run_id, variant in rows
            }

    def find_run(self, prefix: str) -> StoredRun:
        """The run whose id starts with `prefix`; raises `NotFound` for none or several."""
        asked = sa.exists().where(SWEEP_RUNS.c.run_key == RUNS.c.key, SWEEP_RUNS.c.requested)
        # Ids are hexadecimal, so what starts with the prefix lies between it and it and an x.
        query = _STORED.where(RUNS.c.id >= prefix, RUNS.c.id < prefix + "x").order_by(RUNS.c.id)
        found = self._stored(query.add_columns(asked, sa.false()).limit(6))
        if not found:
            raise NotFound(f'{self.place} has no run "{prefix}"; `orch runs list` shows the ids.')
        if len(found) > 1:
            ids = ", ".join(stored.id for stored in found)
            raise NotFound(f'"{prefix}" begins several run ids ({ids}); give more of it.')
        return found[0]

    def _stored(self, query: sa.Select[Any]) -> list[StoredRun]:
        with self.read() as connection:
            return [
                StoredRun(
                    Run.from_content(json.loads(content), id=run_id, variant=variant),
                    key,
                    state,
                    attempts,
                    error,
                    bool(requested),
                    data,
                    weights,
                    cause,
                    reason,
                    bool(extended),
                )
                for (
                    content, run_id, variant, key, state, attempts, error, data, weights, cause,
                    reason, requested, extended,
                ) in connection.execute(query)
            ]  # fmt: skip

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        """The state of each of the runs that the store knows."""
        query = sa.select(RUNS.c.id, RUNS.c.state).where(among(RUNS.c.id, "ids"))
        with self.read() as connection:
            rows = connection.execute(query, {"ids": ids})
            return {run_id: cast("State", state) for run_id, state in rows}

    def held(self, owner: int) -> dict[int, int]:
        """The runs that a process holds now, by key, with the fence of its claim of each."""
        mine = (RUNS.c.state == "running") & (RUNS.c.owner_id == owner)
        with self.read() as connection:
            rows = connection.execute(sa.select(RUNS.c.key, RUNS.c.fence).where(mine))
            return dict(rows.tuples().all())

    def silent(self) -> dict[int, float]:
        """Seconds since the launch of a run in training was heard of, where its lease ran out."""
        seconds = now() - OWNERS.c.heartbeat
        query = (
            sa.select(RUNS.c.key, seconds)
            .join(OWNERS, OWNERS.c.id == RUNS.c.owner_id)
            .where(RUNS.c.state == "running", seconds > OWNERS.c.ttl)
        )
        with self.read() as connection:
            return dict(connection.execute(query).tuples().all())

    def attempts(self, run_key: int) -> list[Attempt]:
        """Every execution of a run, oldest first."""
        names = [f for f in Attempt.__dataclass_fields__ if f not in ("pid", "versions")]
        query = (
            sa.select(*(ATTEMPTS.c[name] for name in names), ATTEMPTS.c.versions, OWNERS.c.pid)
            .join(OWNERS, OWNERS.c.id == ATTEMPTS.c.owner_id)
            .where(ATTEMPTS.c.run_key == run_key)
            .order_by(ATTEMPTS.c.number)
        )
        with self.read() as connection:
            return [
                Attempt(**{**row, "versions": json.loads(row["versions"] or "{}")})
                for row in connection.execute(query).mappings()
            ]

    def voids(self, run_key: int) -> list[Void]:
        """What was taken out of the tables of a run, oldest first."""
        names = [name for name in Void.__dataclass_fields__ if name != "history"]
        query = (
            sa.select(VOIDS.c.history, *(VOIDS.c[name] for name in names))
            .where(VOIDS.c.run_key == run_key)
            .order_by(VOIDS.c.id)
        )
        with self.read() as connection:
            return [
                Void(
                    **{
                        **row,
                        "history": tuple(map(EpochRecord.from_json, json.loads(row["history"]))),
                    }
                )
                for row in connection.execute(query).mappings()
            ]

    def history(self, run_key: int) -> tuple[EpochRecord, ...]:
        """Every epoch of a run with its metrics, in order."""
        with self.read() as connection:
            return self._history(connection, run_key, 0)

    def _history(
        self, connection: sa.Connection, run_key: int, first: int
    ) -> tuple[EpochRecord, ...]:
        metrics: dict[int, list[Metric]] = {}
        columns = [METRICS.c[name] for name in ("epoch", *Metric.__dataclass_fields__)]
        query = (
            sa.select(*columns)
            .where(METRICS.c.run_key == run_key, METRICS.c.epoch >= first)
            .order_by(METRICS.c.split, METRICS.c.group, METRICS.c.metric)
        )
        for epoch, *values in connection.execute(query):
            metrics.setdefault(epoch, []).append(Metric(*values))
        names = [name for name in EpochRecord.__dataclass_fields__ if name != "metrics"]
        epochs = (
            sa.select(*(EPOCHS.c[name] for name in names))
            .where(EPOCHS.c.run_key == run_key, EPOCHS.c.epoch >= first)
            .order_by(EPOCHS.c.epoch)
        )
        return tuple(
            EpochRecord(**{**row, "metrics": tuple(metrics.get(row["epoch"], ()))})
            for row in connection.execute(epochs).mappings()
        )

    def latest_epochs(self, run_keys: Sequence[int]) -> dict[int, int]:
        """The last epoch that each run has stored."""
        query = (
            sa.select(EPOCHS.c.run_key, sa.func.max(EPOCHS.c.epoch))
            .where(among(EPOCHS.c.run_key, "keys"))
            .group_by(EPOCHS.c.run_key)
        )
        with self.read() as connection:
            return dict(connection.execute(query, {"keys": run_keys}).tuples().all())

    def seconds_of_done(self) -> dict[tuple[str, str, str], float]:
        """Mean seconds of a finished run, by (kind, model, dataset): what ETAs go by."""
        total = (
            sa.select(EPOCHS.c.run_key, sa.func.sum(EPOCHS.c.seconds).label("seconds"))
            .group_by(EPOCHS.c.run_key)
            .subquery()
        )
        group = (RUNS.c.kind, RUNS.c.model, RUNS.c.dataset)
        query = (
            sa.select(*group, sa.func.avg(total.c.seconds))
            .join(total, total.c.run_key == RUNS.c.key)
            .where(RUNS.c.state == "done", total.c.seconds > 0)  # what was imported has no times
            .group_by(*group)
        )
        with self.read() as connection:
            return {
                (kind, model, dataset): s for kind, model, dataset, s in connection.execute(query)
            }

    def artifacts(self) -> dict[str, list[dict[str, Any]]]:
        """The files that finished runs left, by run id."""
        query = sa.select(RUNS.c.id, *ARTIFACTS.c).join(
            ARTIFACTS, ARTIFACTS.c.run_key == RUNS.c.key
        )
        found: dict[str, list[dict[str, Any]]] = {}
        with self.read() as connection:
            for row in connection.execute(query).mappings():
                found.setdefault(row["id"], []).append(dict(row))
        return found


_last = ATTEMPTS.alias()
_void_reason = (
    sa.select(VOIDS.c.reason)
    .where(VOIDS.c.run_key == RUNS.c.key, RUNS.c.state == "voided")
    .order_by(VOIDS.c.id.desc())
    .limit(1)
    .scalar_subquery()
)
# What `StoredRun` is made of, but for what the sweep says of it.
_STORED: sa.Select[Any] = sa.select(
    RUNS.c.content,
    RUNS.c.id,
    RUNS.c.variant,
    RUNS.c.key,
    RUNS.c.state,
    RUNS.c.fence,
    _last.c.error,
    RUNS.c.data_fingerprint,
    RUNS.c.weights_sha256,
    _last.c.cause,
    _void_reason,
).outerjoin_from(RUNS, _last, (_last.c.run_key == RUNS.c.key) & (_last.c.number == RUNS.c.fence))
