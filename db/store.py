"""The truth: what there is to train, who trains it, what was measured.

The contract, without SQL:

- A run is registered once, whatever sweeps ask for it.
- `claim` gives a run to one caller and raises its fence; every later message carries the claim and
  is refused with `Superseded` once another claim has a higher fence.
- An epoch is kept once. The same values again change nothing; different values mark the attempts
  that wrote the old ones irreproducible and replace the history from there: never two spliced.
- A run is `done` only with every epoch from 0 to its last, and that survives a power cut.
- Each method is one transaction: all of it or none.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from db.connect import open_engine, translated
from db.errors import StoreError, Superseded
from db.owners import Process, is_dead, this_process
from db.reading import (
    ARTIFACTS,
    ATTEMPTS,
    DEPENDENCIES,
    EPOCHS,
    METRICS,
    OWNERS,
    RUNS,
    SWEEP_RUNS,
    SWEEPS,
    Reader,
)
from db.records import (
    Artifact,
    Claim,
    EpochRecord,
    Metric,
    Provenance,
    Run,
    State,
    canonical_json,
    digest,
)


class Store(Reader):
    """A store that this process may write to. One writer at a time; others wait their turn."""

    @classmethod
    def open(cls, url: str, *, create: bool = False) -> Store:
        """The store at a URL or path; see `db.connect.open_engine` for what is refused."""
        return cls(open_engine(url, create=create))

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        """The only place that commits or rolls back. `durable` also survives a power cut."""
        options = self.engine.execution_options(writes=True, durable=durable)
        with translated(self.place), options.begin() as connection:
            yield connection

    # Sweeps and runs

    def register(self, name: str, text: str, runs: Sequence[Run], requested: set[str]) -> int:
        """Make a sweep ask for exactly `runs`, in that order; returns how many are new.

        `requested` are the ids that the sweep names; the others are what those need.
        """
        rows = {run.id: _run_row(run) for run in runs}
        with self.write(durable=True) as connection:
            before = connection.scalar(sa.select(sa.func.count()).select_from(RUNS)) or 0
            if rows:
                connection.execute(
                    sqlite.insert(RUNS).on_conflict_do_nothing(), list(rows.values())
                )
            after = connection.scalar(sa.select(sa.func.count()).select_from(RUNS)) or 0
            keys: dict[str, int] = {
                run_id: key
                for run_id, key in connection.execute(sa.select(RUNS.c.id, RUNS.c.key))
                if run_id in rows
            }
            sweep_id = self._upsert_sweep(connection, name, text)
            connection.execute(sa.delete(SWEEP_RUNS).where(SWEEP_RUNS.c.sweep_id == sweep_id))
            _insert_many(
                connection,
                SWEEP_RUNS,
                (
                    {
                        "sweep_id": sweep_id,
                        "run_key": keys[run_id],
                        "position": position,
                        "requested": run_id in requested,
                    }
                    for position, run_id in enumerate(rows)
                ),
            )
            _insert_many(
                connection,
                DEPENDENCIES,
                (
                    {"run_key": keys[run_id], "needs_key": keys[needed]}
                    for run_id, run in zip(rows, runs, strict=True)
                    for needed in run.needs
                ),
            )
        return after - before

    def _upsert_sweep(self, connection: sa.Connection, name: str, text: str) -> int:
        values = {"yaml": text, "spec_hash": digest(text), "created": time.time()}
        insert = sqlite.insert(SWEEPS).values(name=name, **values)
        upsert = insert.on_conflict_do_update(index_elements=["name"], set_=values)
        return int(connection.execute(upsert.returning(SWEEPS.c.id)).scalar_one())

    # Owners and claims

    def enlist(self) -> int:
        """Record this process as one that claims runs; returns its owner id."""
        me, now = this_process(), time.time()
        with self.write() as connection:
            row = {"host": me.host, "pid": me.pid, "boot_id": me.boot_id, "started": now}
            row |= {"process_started": me.started, "heartbeat": now}
            return int(
                connection.execute(
                    sa.insert(OWNERS).values(row).returning(OWNERS.c.id)
                ).scalar_one()
            )

    def retire(self, owner: int, outcome: str = "lost") -> None:
        """The process is done; what it still held is pending again, its attempts `outcome`."""
        with self.write(durable=True) as connection:
            self._requeue(connection, [owner], outcome)
            ended = sa.update(OWNERS).where(OWNERS.c.id == owner).values(ended=time.time())
            connection.execute(ended)

    def recover(self) -> tuple[int, list[Process]]:
        """Requeue the runs of processes of this host that are gone.

        Returns how many came back, and the processes that are alive, or elsewhere, and hold runs.
        """
        holding = sa.select(OWNERS).where(OWNERS.c.id.in_(sa.select(RUNS.c.owner_id)))
        with self.write(durable=True) as connection:
            owners = {
                row.id: Process(row.host, row.pid, row.boot_id, row.process_started)
                for row in connection.execute(holding)
            }
            dead = [owner for owner, process in owners.items() if is_dead(process)]
            count = self._requeue(connection, dead, "lost")
        return count, [process for owner, process in owners.items() if owner not in dead]

    def _requeue(self, connection: sa.Connection, owners: list[int], outcome: str) -> int:
        held = RUNS.c.owner_id.in_(owners)
        closing = (
            sa.update(ATTEMPTS)
            .where(ATTEMPTS.c.run_key.in_(sa.select(RUNS.c.key).where(held)))
            .where(ATTEMPTS.c.outcome.is_(None))
            .values(outcome=outcome, ended=time.time())
        )
        connection.execute(closing)
        freed = sa.update(RUNS).where(held).values(state="pending", owner_id=None)
        return connection.execute(freed).rowcount

    def claim(self, run_key: int, owner: int, git: tuple[str, bool] | None = None) -> Claim | None:
        """Take a pending run whose dependencies are done; None where it is not to be had."""
        commit, dirty = git or (None, None)
        with self.write() as connection:
            row = connection.execute(_CLAIM, {"run": run_key, "me": owner}).one_or_none()
            if row is None:
                return None
            fence, content, fingerprint, weights = row
            attempt = {"run_key": run_key, "number": fence, "owner_id": owner}
            attempt |= {"claimed": time.time(), "irreproducible": False}
            connection.execute(_ATTEMPT, attempt | {"git_commit": commit, "git_dirty": dirty})
            run = Run.from_content(json.loads(content))
            if weights is None and run.needs:
                weights = connection.execute(_NEEDED_WEIGHTS, {"run": run_key}).scalar()
        return Claim(run, run_key, fence, fingerprint, weights)

    def retry(self, run_keys: Sequence[int]) -> int:
        """Make failed runs pending again; returns how many were failed."""
        again = sa.update(RUNS).where(RUNS.c.key.in_(run_keys), RUNS.c.state == "failed")
        with self.write(durable=True) as connection:
            return connection.execute(again.values(state="pending")).rowcount

    # What attempts say

    def start(
        self,
        claim: Claim,
        history: Sequence[EpochRecord],
        provenance: Provenance,
        resumed_from: int | None,
    ) -> None:
        """The attempt has its inputs, and `history` from its checkpoint."""
        with self.write() as connection:
            self._check(connection, claim)
            inputs = {"data": provenance.data_fingerprint, "weights": provenance.weights_sha256}
            connection.execute(_INPUTS, {"run": claim.run_key, **inputs})
            self._update_attempt(
                connection,
                claim,
                host=provenance.host,
                device=provenance.device,
                versions=canonical_json(dict(provenance.versions)),
                started=time.time(),
                resumed_from=resumed_from,
            )
            self._keep(connection, claim, history)

    def epoch(self, claim: Claim, record: EpochRecord) -> None:
        """The attempt measured an epoch."""
        with self.write() as connection:
            self._check(connection, claim)
            self._keep(connection, claim, [record])
            mine = {"key": claim.run_key, "fence": claim.fence, "now": time.time()}
            connection.execute(_HEARTBEAT, mine)

    def finish(
        self,
        claim: Claim,
        history: Sequence[EpochRecord],
        artifacts: Sequence[Artifact] = (),
        peak_memory: int | None = None,
    ) -> None:
        """The run is done; raises `StoreError`, storing nothing, where an epoch is missing."""
        if [record.epoch for record in history] != list(range(claim.run.epochs + 1)):
            raise StoreError(f"run {claim.run.id} says it is done without all of its epochs.")
        with self.write(durable=True) as connection:
            self._check(connection, claim)
            self._keep(connection, claim, history)
            connection.execute(sa.delete(ARTIFACTS).where(ARTIFACTS.c.run_key == claim.run_key))
            _insert_many(
                connection,
                ARTIFACTS,
                ({"run_key": claim.run_key, **dataclasses.asdict(a)} for a in artifacts),
            )
            self._end(connection, claim, "done", "done", peak_memory=peak_memory)

    def diverge(self, claim: Claim, history: Sequence[EpochRecord], error: str) -> None:
        """The loss stopped being finite: a result, with the epochs before it."""
        with self.write(durable=True) as connection:
            self._check(connection, claim)
            self._keep(connection, claim, history)
            self._forget_from(connection, claim, len(history))
            self._end(connection, claim, "diverged", "diverged", error=error)

    def fail(self, claim: Claim, error: str, traceback: str) -> None:
        """The run raised; it waits for `--retry-failed`."""
        with self.write(durable=True) as connection:
            self._check(connection, claim)
            self._end(connection, claim, "failed", "failed", error=error, traceback=traceback)

    def release(self, claim: Claim, outcome: str, error: str | None = None) -> None:
        """The attempt ended without an outcome of the run (`paused` or `died`): pending again."""
        with self.write(durable=True) as connection:
            self._check(connection, claim)
            self._end(connection, claim, "pending", outcome, error=error)

    def measured_later(self, run_key: int, epoch: int, metrics: Sequence[Metric]) -> None:
        """Add splits to an epoch of a finished run, in place of what the same splits had there.

        Raises `StoreError`, storing nothing, where the run has no such epoch or is being trained.
        """
        of_run = METRICS.c.run_key == run_key
        with self.write(durable=True) as connection:
            query = (
                sa.select(RUNS.c.id, RUNS.c.state)
                .join(EPOCHS, EPOCHS.c.run_key == RUNS.c.key)
                .where(RUNS.c.key == run_key, EPOCHS.c.epoch == epoch)
            )
            found = connection.execute(query).one_or_none()
            if found is None or found.state != "done":
                raise StoreError(f"epoch {epoch} is not one of a finished run.")
            splits = {metric.split for metric in metrics}
            same = of_run & (METRICS.c.epoch == epoch) & METRICS.c.split.in_(splits)
            connection.execute(sa.delete(METRICS).where(same))
            rows = (
                {"run_key": run_key, "epoch": epoch, **dataclasses.asdict(metric)}
                for metric in metrics
            )
            _insert_many(connection, METRICS, rows)

    def left_later(self, run_key: int, artifact: Artifact) -> None:
        """A finished run, trained again to the same numbers, left this file."""
        same = (ARTIFACTS.c.run_key == run_key) & (ARTIFACTS.c.name == artifact.name)
        with self.write(durable=True) as connection:
            connection.execute(sa.delete(ARTIFACTS).where(same))
            row = {"run_key": run_key, **dataclasses.asdict(artifact)}
            _insert_many(connection, ARTIFACTS, [row])

    # Inside a transaction

    def _check(self, connection: sa.Connection, claim: Claim) -> None:
        found = connection.execute(_OWNERSHIP, {"key": claim.run_key}).one()
        if tuple(found) != ("running", claim.fence):
            raise Superseded(f"attempt {claim.fence} of run {claim.run.id} no longer owns it.")

    def _update_attempt(self, connection: sa.Connection, claim: Claim, **values: object) -> None:
        mine = (ATTEMPTS.c.run_key == claim.run_key) & (ATTEMPTS.c.number == claim.fence)
        connection.execute(sa.update(ATTEMPTS).where(mine).values(values))

    def _end(
        self, connection: sa.Connection, claim: Claim, state: State, outcome: str, **values: object
    ) -> None:
        mine = RUNS.c.key == claim.run_key
        connection.execute(sa.update(RUNS).where(mine).values(state=state, owner_id=None))
        self._update_attempt(connection, claim, outcome=outcome, ended=time.time(), **values)

    def _keep(
        self, connection: sa.Connection, claim: Claim, records: Sequence[EpochRecord]
    ) -> None:
        """Insert what is new; where a stored epoch differs, replace the history from there."""
        if not records:
            return
        stored: dict[int, object] = {}
        last = connection.execute(_LAST_EPOCH, {"key": claim.run_key}).scalar()
        if last is not None and last >= records[0].epoch:
            history = self._history(connection, claim.run_key, records[0].epoch)
            stored = {record.epoch: record.measured() for record in history}
        new: list[EpochRecord] = []
        for record in records:
            if record.epoch in stored and stored[record.epoch] != record.measured():
                self._forget_from(connection, claim, record.epoch)
                stored = {}
            if record.epoch not in stored:
                new.append(record)
        _insert_many(connection, EPOCHS, (_epoch_row(claim, record) for record in new))
        _insert_many(
            connection,
            METRICS,
            (
                {"run_key": claim.run_key, "epoch": record.epoch, **dataclasses.asdict(metric)}
                for record in new
                for metric in record.metrics
            ),
        )

    def _forget_from(self, connection: sa.Connection, claim: Claim, epoch: int) -> None:
        wrong = (EPOCHS.c.run_key == claim.run_key) & (EPOCHS.c.epoch >= epoch)
        writers = sa.select(EPOCHS.c.attempt).where(wrong)
        marked = (
            sa.update(ATTEMPTS)
            .where(ATTEMPTS.c.run_key == claim.run_key, ATTEMPTS.c.number.in_(writers))
            .where(ATTEMPTS.c.number != claim.fence)
            .values(irreproducible=True)
        )
        connection.execute(marked)
        later = (METRICS.c.run_key == claim.run_key) & (METRICS.c.epoch >= epoch)
        connection.execute(sa.delete(METRICS).where(later))
        connection.execute(sa.delete(EPOCHS).where(wrong))


def _run_row(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "kind": run.kind,
        "model": run.model,
        "dataset": run.dataset,
        "method": run.method,
        "learning_rate": run.learning_rate,
        "hyperparameters": canonical_json(dict(run.hyperparameters)),
        "seed": run.seed,
        "variant": run.variant,
        "epochs": run.epochs,
        "content": canonical_json(run.content()),
        "state": "pending",
        "fence": 0,
    }


def _epoch_row(claim: Claim, record: EpochRecord) -> dict[str, object]:
    values = {k: v for k, v in dataclasses.asdict(record).items() if k != "metrics"}
    return {"run_key": claim.run_key, "attempt": claim.fence, **values}


def _insert_many(
    connection: sa.Connection, table: sa.Table, rows: Iterable[dict[str, object]]
) -> None:
    listed = list(rows)
    if listed:
        connection.execute(_INSERTS[table], listed)


# What every run and epoch executes is built once: half of a message's time went into composing
# the same statements.
_needed = RUNS.alias()
_CLAIM = (
    sa.update(RUNS)
    .where(
        RUNS.c.key == sa.bindparam("run"),
        RUNS.c.state == "pending",
        ~sa.select(DEPENDENCIES.c.run_key)
        .join(_needed, _needed.c.key == DEPENDENCIES.c.needs_key)
        .where(DEPENDENCIES.c.run_key == RUNS.c.key, _needed.c.state != "done")
        .exists(),
    )
    .values(state="running", owner_id=sa.bindparam("me"), fence=RUNS.c.fence + 1)
    .returning(RUNS.c.fence, RUNS.c.content, RUNS.c.data_fingerprint, RUNS.c.weights_sha256)
)
_ATTEMPT = sa.insert(ATTEMPTS)
_NEEDED_WEIGHTS = (
    sa.select(ARTIFACTS.c.sha256)
    .join(DEPENDENCIES, DEPENDENCIES.c.needs_key == ARTIFACTS.c.run_key)
    .where(DEPENDENCIES.c.run_key == sa.bindparam("run"))
)
_INPUTS = (
    sa.update(RUNS)
    .where(RUNS.c.key == sa.bindparam("run"))
    .values(
        data_fingerprint=sa.func.coalesce(RUNS.c.data_fingerprint, sa.bindparam("data")),
        weights_sha256=sa.func.coalesce(RUNS.c.weights_sha256, sa.bindparam("weights")),
    )
)
_OWNERSHIP = sa.select(RUNS.c.state, RUNS.c.fence).where(RUNS.c.key == sa.bindparam("key"))
_LAST_EPOCH = sa.select(sa.func.max(EPOCHS.c.epoch)).where(EPOCHS.c.run_key == sa.bindparam("key"))
_HEARTBEAT = (
    sa.update(ATTEMPTS)
    .where(ATTEMPTS.c.run_key == sa.bindparam("key"), ATTEMPTS.c.number == sa.bindparam("fence"))
    .values(heartbeat=sa.bindparam("now"))
)
_INSERTS: dict[sa.Table, sa.Insert] = {
    table: sa.insert(table) for table in (SWEEP_RUNS, EPOCHS, METRICS, ARTIFACTS)
} | {DEPENDENCIES: sqlite.insert(DEPENDENCIES).on_conflict_do_nothing()}
