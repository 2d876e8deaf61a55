"""The truth: what there is to train, who trains it, what was measured.

The contract, without SQL, the same on SQLite and PostgreSQL:

- A run is registered once, whatever sweeps ask for it.
- An owner is a process with a lease. It loses it when its process is surely gone, or when it let
  more than its `ttl` pass without a `beat`; then its runs are anybody's (`db.owning`, `db.lease`).
- `claim` gives a run to one caller and raises its fence; every later message carries the claim and
  is refused with `Superseded` once the run was requeued, cancelled or claimed again. The check
  holds until the message is kept: nothing comes between.
- Every message may be repeated as it was when its acknowledgement was lost. A claim that is held
  is given again; an attempt that ended as the message says changes nothing.
- An epoch is kept once. The same values again change nothing; different values mark the attempts
  that wrote the old ones irreproducible and replace the history from there: never two spliced.
- A run is `done` only with every epoch from 0 to its last. Numbers that orch did not measure
  (`Run.source`) come in by `db.importing` alone, done, with the epochs that they are told of.
- How an attempt ended survives a power cut; its epochs may not, but the worker's checkpoint has
  them, and the next message with a history makes them good.
- A voided run's numbers are kept, and in no table (`db.operating`).
- Each method is one transaction: all of it or none. `StoreUnreachable` tells of faults that pass;
  the store itself tries nothing twice, but connects anew with the next call.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from db.errors import StoreError, Superseded
from db.operating import Operating
from db.owning import Owning
from db.reading import ARTIFACTS, ATTEMPTS, EPOCHS, METRICS, RUNS
from db.records import (
    Artifact,
    Cause,
    Claim,
    EpochRecord,
    Metric,
    Provenance,
    State,
    canonical_json,
)
from db.registering import Registering
from db.writing import insert_new, plain


class Store(Registering, Owning, Operating):
    """A store that this process may write to, and what attempts say to it."""

    def start(
        self,
        claim: Claim,
        history: Sequence[EpochRecord],
        provenance: Provenance,
        resumed_from: int | None,
        resumed_step: int = 0,
    ) -> None:
        """The attempt has its inputs, and `history` from its checkpoint.

        `resumed_from` is the last epoch that the checkpoint has, None without one; `resumed_step`
        the steps that it has of the epoch after.
        """
        with self.write() as connection:
            self._check(connection, claim)
            where = {"run": claim.run_key, "fence": claim.fence, "now": time.time()}
            inputs = {"data": provenance.data_fingerprint, "weights": provenance.weights_sha256}
            connection.execute(_INPUTS, {**where, **inputs})
            told = {name: getattr(provenance, name) for name in _PROVENANCE}
            told |= {"versions": canonical_json(dict(provenance.versions))}
            told |= {"resumed_from": resumed_from, "resumed_step": resumed_step}
            connection.execute(_START, {**where, **inputs, **told})
            self._keep(connection, claim, history)

    def shrunk(self, claim: Claim, micro_batch: int) -> None:
        """Memory ran out; from here on a forward pass takes `micro_batch` images."""
        with self.write() as connection:
            self._check(connection, claim)
            mine = {"run": claim.run_key, "fence": claim.fence}
            connection.execute(_SHRUNK, {**mine, "images": micro_batch})

    def epoch(self, claim: Claim, record: EpochRecord) -> None:
        """The attempt measured an epoch."""
        with self.write() as connection:
            self._check(connection, claim)
            self._keep(connection, claim, [record])
            heard = {"run": claim.run_key, "fence": claim.fence, "now": time.time()}
            connection.execute(_HEARD, heard)

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
            if self._check(connection, claim, "done"):
                return
            self._keep(connection, claim, history)
            if artifacts:
                rows = [{"run_key": claim.run_key, **vars(artifact)} for artifact in artifacts]
                connection.execute(_INSERT_ARTIFACTS, rows)
            self._end(connection, claim, "done", "done", peak_memory=peak_memory)

    def diverge(self, claim: Claim, history: Sequence[EpochRecord], error: str) -> None:
        """The loss stopped being finite: a result, with the epochs before it."""
        with self.write(durable=True) as connection:
            if self._check(connection, claim, "diverged"):
                return
            self._keep(connection, claim, history)
            self._forget_from(connection, claim, len(history))
            self._end(connection, claim, "diverged", "diverged", error=error, cause="diverged")

    def fail(self, claim: Claim, error: str, traceback: str, cause: Cause = "bug") -> None:
        """The run cannot be trained as things are; it waits for a retry."""
        with self.write(durable=True) as connection:
            if not self._check(connection, claim, "failed"):
                self._end(
                    connection, claim, "failed", "failed",
                    error=error, traceback=traceback, cause=cause,
                )  # fmt: skip

    def release(
        self, claim: Claim, outcome: str, error: str | None = None, cause: Cause | None = None
    ) -> None:
        """The attempt ended without an outcome of the run (`paused` or `died`): pending again."""
        with self.write(durable=True) as connection:
            if not self._check(connection, claim, outcome):
                self._end(connection, claim, "pending", outcome, error=error, cause=cause)

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
                .with_for_update(key_share=True, of=RUNS)
            )
            found = connection.execute(query).one_or_none()
            if found is None or found.state != "done":
                raise StoreError(f"epoch {epoch} is not one of a finished run.")
            _refuse_not_finite(found.id, [EpochRecord(epoch, None, None, 0.0, (*metrics,))])
            splits = {metric.split for metric in metrics}
            same = of_run & (METRICS.c.epoch == epoch) & METRICS.c.split.in_(splits)
            connection.execute(sa.delete(METRICS).where(same))
            rows = [{"run_key": run_key, "epoch": epoch, **vars(metric)} for metric in metrics]
            if rows:
                connection.execute(_INSERT_METRICS, rows)

    def left_later(self, run_key: int, artifact: Artifact) -> None:
        """A finished run, trained again to the same numbers, left this file."""
        same = (ARTIFACTS.c.run_key == run_key) & (ARTIFACTS.c.name == artifact.name)
        with self.write(durable=True) as connection:
            connection.execute(sa.delete(ARTIFACTS).where(same))
            connection.execute(_INSERT_ARTIFACTS, [{"run_key": run_key, **vars(artifact)}])

    # Inside a transaction

    def _check(self, connection: sa.Connection, claim: Claim, outcome: str = "") -> bool:
        """Hold the run's row for a message that its owner sends; raises `Superseded` for others.

        True where the attempt has ended already, with the `outcome` that the message tells of.
        """
        state, fence = connection.execute(_OWNERSHIP, {"run": claim.run_key}).one()
        if (state, fence) == ("running", claim.fence):
            return False
        if outcome and fence == claim.fence:
            mine = {"run": claim.run_key, "fence": claim.fence}
            if connection.scalar(_OUTCOME, mine) == outcome:
                return True
        raise Superseded(f"attempt {claim.fence} of run {claim.run.id} no longer owns it.")

    def _end(
        self,
        connection: sa.Connection,
        claim: Claim,
        state: State,
        outcome: str,
        *,
        error: str | None = None,
        traceback: str | None = None,
        cause: Cause | None = None,
        peak_memory: int | None = None,
    ) -> None:
        mine = {"run": claim.run_key, "fence": claim.fence}
        connection.execute(_END_RUN, {**mine, "state": state})
        said: dict[str, Any] = {"outcome": outcome, "cause": cause, "peak_memory": peak_memory}
        said |= {"error": error and plain(error), "traceback": traceback and plain(traceback)}
        connection.execute(_END_ATTEMPT, {**mine, **said, "now": time.time()})

    def _keep(
        self, connection: sa.Connection, claim: Claim, records: Sequence[EpochRecord]
    ) -> None:
        """Insert what is new; where a stored epoch differs, replace the history from there."""
        if len(records) == 1 and self._kept_new(connection, claim, records):
            return
        if not records:
            return
        if connection.scalar(_LAST_EPOCH, {"run": claim.run_key}) is None:
            self._kept_new(connection, claim, records)
            return
        history = self._history(connection, claim.run_key, records[0].epoch)
        stored = {record.epoch: record.measured() for record in history}
        new: list[EpochRecord] = []
        for record in records:
            if record.epoch in stored and stored[record.epoch] != record.measured():
                self._forget_from(connection, claim, record.epoch)
                stored = {}
            if record.epoch not in stored:
                new.append(record)
        self._kept_new(connection, claim, new)

    def _kept_new(
        self, connection: sa.Connection, claim: Claim, records: Sequence[EpochRecord]
    ) -> bool:
        """Insert epochs and their metrics; False, changing nothing, where the one is there."""
        if not records:
            return True
        _refuse_not_finite(claim.run.id, records)
        rows = [_epoch_row(claim, record) for record in records]
        if connection.execute(_INSERT_EPOCHS, rows).rowcount == 0:
            return False
        metrics = [
            {"run_key": claim.run_key, "epoch": record.epoch, **vars(metric)}
            for record in records
            for metric in record.metrics
        ]
        if metrics:
            connection.execute(_INSERT_METRICS, metrics)
        return True

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


def _refuse_not_finite(run_id: str, records: Sequence[EpochRecord]) -> None:
    """Raise `StoreError` for NaN and infinities, which the worker stops before they get here."""
    for record in records:
        if wrong := record.not_finite():
            raise StoreError(f"{wrong}, of run {run_id}: only finite numbers are kept.")


def _epoch_row(claim: Claim, record: EpochRecord) -> dict[str, object]:
    row = {**vars(record), "run_key": claim.run_key, "attempt": claim.fence}
    del row["metrics"]
    return row


# What every run and epoch executes is built once: half of a message's time went into composing
# the same statements.
_PROVENANCE = ("host", "device", "node", "threads", "precision", "micro_batch")
_LAST_EPOCH = sa.select(sa.func.max(EPOCHS.c.epoch)).where(EPOCHS.c.run_key == sa.bindparam("run"))
_mine = sa.and_(
    ATTEMPTS.c.run_key == sa.bindparam("run"), ATTEMPTS.c.number == sa.bindparam("fence")
)


def _of_attempt(*same: str, **named: str) -> sa.Update:
    """Update the attempt's columns from parameters of the same name, or `column=parameter`."""
    columns = {name: name for name in same} | named
    values: dict[str, sa.BindParameter[Any]] = {
        column: sa.bindparam(name) for column, name in columns.items()
    }
    return sa.update(ATTEMPTS).where(_mine).values(values)


_INPUTS = (
    sa.update(RUNS)
    .where(RUNS.c.key == sa.bindparam("run"))
    .values(
        data_fingerprint=sa.func.coalesce(RUNS.c.data_fingerprint, sa.bindparam("data")),
        weights_sha256=sa.func.coalesce(RUNS.c.weights_sha256, sa.bindparam("weights")),
    )
)
_START = _of_attempt(
    *_PROVENANCE,
    "versions",
    "resumed_from",
    "resumed_step",
    started="now",
    data_fingerprint="data",
    weights_sha256="weights",
)
_SHRUNK = _of_attempt(micro_batch="images")
_HEARD = _of_attempt(heartbeat="now")
_OUTCOME = sa.select(ATTEMPTS.c.outcome).where(_mine)
_END_ATTEMPT = _of_attempt("outcome", "cause", "error", "traceback", "peak_memory", ended="now")
_END_RUN = (
    sa.update(RUNS)
    .where(RUNS.c.key == sa.bindparam("run"))
    .values(state=sa.bindparam("state"), owner_id=None)
)
_OWNERSHIP = (
    sa.select(RUNS.c.state, RUNS.c.fence)
    .where(RUNS.c.key == sa.bindparam("run"))
    .with_for_update(key_share=True)
)
_INSERT_EPOCHS = insert_new(EPOCHS)
_INSERT_METRICS, _INSERT_ARTIFACTS = sa.insert(METRICS), sa.insert(ARTIFACTS)
