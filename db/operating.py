"""The operator's hand: trying again, cancelling, and taking numbers out of every table."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from db.engines import among
from db.errors import StoreError
from db.owning import CLOSE_ATTEMPTS, MOVE_RUNS
from db.reading import ARTIFACTS, DEPENDENCIES, EPOCHS, METRICS, RUNS, VOIDS
from db.records import RESULTS, Artifact, State, canonical_json
from db.writing import Writer, plain

RETRIED: tuple[State, ...] = ("failed", "cancelled", "voided")
VOIDABLE: tuple[State, ...] = (*RESULTS, "failed", "cancelled")


class Operating(Writer):
    """What no launch does by itself."""

    def retry(self, run_keys: Sequence[int]) -> int:
        """Make failed, cancelled and voided runs pending again; returns how many were.

        A failed or cancelled one goes on from its checkpoint, a voided one starts from nothing.
        """
        with self.write(durable=True) as connection:
            keys = _locked(connection, run_keys, RETRIED)
            connection.execute(MOVE_RUNS, {"keys": keys, "state": "pending"})
        return len(keys)

    def cancel(self, run_keys: Sequence[int]) -> int:
        """Take pending and running runs out of every launch until a retry; returns how many.

        What a running one's attempt says from now on is refused.
        """
        with self.write(durable=True) as connection:
            keys = _locked(connection, run_keys, ("pending", "running"))
            closed = {"outcome": "cancelled", "cause": None, "ended": time.time()}
            connection.execute(CLOSE_ATTEMPTS, {"keys": keys, **closed})
            connection.execute(MOVE_RUNS, {"keys": keys, "state": "cancelled"})
        return len(keys)

    def void(self, run_key: int, reason: str) -> None:
        """Take a run's numbers and artifacts out of every table, keeping them with the reason.

        Its data and weights count as unknown again, so that a retry may have others. Raises
        `StoreError` for a run that is pending, running or voided for another reason, and while a
        run that started from what it left stands: its numbers would come from nowhere.
        """
        reason = plain(reason)
        with self.write(durable=True) as connection:
            run = connection.execute(_LOCKED, {"run": run_key}).one()
            if run.state == "voided":
                if self._last_void(connection, run_key) != reason:
                    raise StoreError(f"run {run.id} is voided already.")
                return
            if run.state not in VOIDABLE:
                raise StoreError(f"run {run.id} is {run.state}; cancel it, then void it.")
            if standing := list(connection.scalars(_STANDING, {"run": run_key})):
                raise StoreError(
                    f"run {run.id} cannot be voided: what it left is what "
                    f"{', '.join(standing)} started from; void those first."
                )
            history = self._history(connection, run_key, 0)
            artifacts = connection.execute(_ARTIFACTS, {"run": run_key}).mappings()
            row = {
                "run_key": run_key,
                "voided": time.time(),
                "reason": reason,
                "state": run.state,
                "attempt": run.fence,
                "history": canonical_json([dataclasses.asdict(record) for record in history]),
                "artifacts": canonical_json([dict(artifact) for artifact in artifacts]),
            }
            connection.execute(sa.insert(VOIDS), row)
            forget(connection, run_key)
            connection.execute(_VOID, {"run": run_key})

    def _last_void(self, connection: sa.Connection, run_key: int) -> str | None:
        query = sa.select(VOIDS.c.reason).where(VOIDS.c.run_key == run_key)
        return connection.scalar(query.order_by(VOIDS.c.id.desc()).limit(1))


def forget(connection: sa.Connection, run_key: int) -> None:
    """Delete a run's numbers and artifacts; the caller holds its row."""
    for table in (METRICS, EPOCHS, ARTIFACTS):
        connection.execute(sa.delete(table).where(table.c.run_key == run_key))


def _locked(
    connection: sa.Connection, run_keys: Sequence[int], states: Collection[State]
) -> list[int]:
    """Those of the runs that are in one of the states, none of which changes until we commit."""
    query = sa.select(RUNS.c.key).where(among(RUNS.c.key, "keys"), RUNS.c.state.in_(states))
    locked = query.order_by(RUNS.c.key).with_for_update(key_share=True)
    return [*connection.scalars(locked, {"keys": run_keys})]


_dependent = RUNS.alias()
_LOCKED = (
    sa.select(RUNS.c.id, RUNS.c.state, RUNS.c.fence)
    .where(RUNS.c.key == sa.bindparam("run"))
    .with_for_update(key_share=True)
)
_STANDING = (
    sa.select(_dependent.c.id)
    .join(DEPENDENCIES, DEPENDENCIES.c.run_key == _dependent.c.key)
    .where(
        DEPENDENCIES.c.needs_key == sa.bindparam("run"),
        _dependent.c.state.in_(("running", *RESULTS, "failed"))
        | _dependent.c.weights_sha256.is_not(None),
    )
    .order_by(_dependent.c.key)
)
_ARTIFACTS = sa.select(*(ARTIFACTS.c[name] for name in Artifact.__dataclass_fields__)).where(
    ARTIFACTS.c.run_key == sa.bindparam("run")
)
_VOID = (
    sa.update(RUNS)
    .where(RUNS.c.key == sa.bindparam("run"))
    .values(state="voided", data_fingerprint=None, weights_sha256=None)
)
