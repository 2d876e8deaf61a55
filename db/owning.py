"""Who trains what: owners with their leases, and their claims of runs."""

from __future__ import annotations

import json
import time
from collections.abc import Collection

import sqlalchemy as sa

from db.engines import among, now
from db.owners import Process, is_dead, this_process
from db.reading import ARTIFACTS, ATTEMPTS, DEPENDENCIES, OWNERS, RUNS
from db.records import HEAD_NAME, KEPT_NAMES, Claim, Run
from db.writing import Writer


class Owning(Writer):
    """Leases and claims.

    An owner is a process. It holds its lease as long as it renews it (`beat`) within its `ttl`
    seconds by the database's clock, and its process is not surely dead; after that anyone's
    `recover` gives its runs back, and its late messages are refused.
    """

    def enlist(self, ttl: float = 60.0) -> int:
        """Record this process as one that claims runs; returns its owner id.

        `ttl`: seconds without a `beat` after which it counts as lost.
        """
        me = this_process()
        row = {"host": me.host, "pid": me.pid, "boot_id": me.boot_id, "ttl": ttl}
        row |= {"process_started": me.started, "started": now(), "heartbeat": now()}
        with self.write() as connection:
            added = connection.execute(sa.insert(OWNERS).values(row).returning(OWNERS.c.id))
            return int(added.scalar_one())

    def beat(self, owner: int) -> bool:
        """Renew the lease; False where it had been lost, and the runs with it.

        Either way the owner lives from now on, and may claim again.
        """
        with self.write() as connection:
            renewed = connection.execute(_RENEW, {"me": owner}).rowcount
            if not renewed:
                connection.execute(_REVIVE, {"me": owner})
        return bool(renewed)

    def retire(self, owner: int, outcome: str = "lost") -> None:
        """The process is done; what it still held is pending again, its attempts `outcome`."""
        with self.write(durable=True) as connection:
            _requeue(connection, [owner], outcome, wait=True)
            ended = sa.update(OWNERS).where(OWNERS.c.id == owner).values(ended=now())
            connection.execute(ended)

    def recover(self) -> tuple[int, list[Process]]:
        """Requeue the runs of owners whose process is surely gone, or whose lease ran out.

        Returns how many came back, and the processes that still hold runs.
        """
        with self.read() as connection:
            owners = connection.execute(_HOLDING).all()
        holders = {row.id: Process(*row[1:5]) for row in owners}
        dead = [owner for owner, process in holders.items() if is_dead(process)]
        lost = dead + [row.id for row in owners if row.expired and row.id not in dead]
        count = 0
        if lost:
            with self.write(durable=True) as connection:
                # One that beat meanwhile is alive: the clock decides again, now with its row held.
                gone = [*connection.scalars(_END_LOST, {"lost": lost, "dead": dead})]
                count = _requeue(connection, gone, "lost", wait=False)
                for owner in gone:
                    del holders[owner]
        return count, [*holders.values()]

    def claim(self, run_key: int, owner: int, git: tuple[str, bool] | None = None) -> Claim | None:
        """Take a pending run whose dependencies are done; None where it is not to be had.

        An owner that holds the run already gets the claim that it has.
        """
        commit, dirty = git or (None, None)
        mine = {"run": run_key, "me": owner}
        try:
            with self.write() as connection:
                row = connection.execute(_CLAIM, mine).one_or_none()
                if row is not None:
                    attempt = {**mine, "number": row.fence, "claimed": time.time()}
                    connection.execute(_ATTEMPT, attempt | {"commit": commit, "dirty": dirty})
                else:
                    row = connection.execute(_HELD, mine).one_or_none()
                    if row is None:
                        return None
                run = Run.from_content(json.loads(row.content), id=row.id, variant=row.variant)
                left = _left(connection, mine) if run.needs else {}
                weights = row.weights_sha256 or left.get(run.pretraining)
        except _Voided:
            return None
        head = left.get(run.probe)
        return Claim(run, run_key, row.fence, row.data_fingerprint, weights, head)


class _Voided(Exception):
    """What a run needs was voided at the moment of its claim."""


def _left(connection: sa.Connection, mine: dict[str, int]) -> dict[str | None, str]:
    """The checksums of what the run starts from, by the run that left it.

    That cannot be voided before the claim is kept.
    """
    needed = connection.execute(_NEEDED, mine).all()
    if any(row.state != "done" for row in needed):
        raise _Voided
    return {row.id: row.sha256 for row in needed if row.sha256}


def _requeue(connection: sa.Connection, owners: Collection[int], outcome: str, wait: bool) -> int:
    """Give the owners' runs back. Without `wait`, leave those that a message is about just now."""
    mine = (RUNS.c.state == "running") & among(RUNS.c.owner_id, "owners", owners)
    locked = sa.select(RUNS.c.key).where(mine).order_by(RUNS.c.key)
    locked = locked.with_for_update(key_share=True, skip_locked=not wait)
    keys = [*connection.scalars(locked)]
    if keys:
        cause = "process_death" if outcome == "lost" else None
        closed = {"keys": keys, "outcome": outcome, "cause": cause, "ended": time.time()}
        connection.execute(CLOSE_ATTEMPTS, closed)
        connection.execute(MOVE_RUNS, {"keys": keys, "state": "pending"})
    return len(keys)


CLOSE_ATTEMPTS = (
    sa.update(ATTEMPTS)
    .where(among(ATTEMPTS.c.run_key, "keys"), ATTEMPTS.c.outcome.is_(None))
    .values({name: sa.bindparam(name) for name in ("outcome", "cause", "ended")})
)
"""End the open attempts of runs that are locked."""
MOVE_RUNS = (
    sa.update(RUNS)
    .where(among(RUNS.c.key, "keys"))
    .values(state=sa.bindparam("state"), owner_id=None)
)
"""Bring runs that are locked into a state in which nobody holds them."""

_RENEW = (
    sa.update(OWNERS)
    .where(OWNERS.c.id == sa.bindparam("me"), OWNERS.c.ended.is_(None))
    .values(heartbeat=now())
)
_REVIVE = (
    sa.update(OWNERS).where(OWNERS.c.id == sa.bindparam("me")).values(heartbeat=now(), ended=None)
)
_expired = OWNERS.c.heartbeat + OWNERS.c.ttl < now()
_HOLDING = sa.select(
    OWNERS.c.id,
    OWNERS.c.host,
    OWNERS.c.pid,
    OWNERS.c.boot_id,
    OWNERS.c.process_started,
    _expired.label("expired"),
).where(OWNERS.c.id.in_(sa.select(RUNS.c.owner_id).where(RUNS.c.state == "running")))
_END_LOST = (
    sa.update(OWNERS)
    .where(among(OWNERS.c.id, "lost"), _expired | among(OWNERS.c.id, "dead"))
    .values(ended=now())
    .returning(OWNERS.c.id)
)

_needed = RUNS.alias()
_claimed = (
    RUNS.c.fence,
    RUNS.c.id,
    RUNS.c.variant,
    RUNS.c.content,
    RUNS.c.data_fingerprint,
    RUNS.c.weights_sha256,
)
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
    .returning(*_claimed)
)
_HELD = sa.select(*_claimed).where(
    RUNS.c.key == sa.bindparam("run"),
    RUNS.c.state == "running",
    RUNS.c.owner_id == sa.bindparam("me"),
)
_ATTEMPT = sa.insert(ATTEMPTS).values(
    run_key=sa.bindparam("run"),
    number=sa.bindparam("number"),
    owner_id=sa.bindparam("me"),
    claimed=sa.bindparam("claimed"),
    git_commit=sa.bindparam("commit"),
    git_dirty=sa.bindparam("dirty"),
    irreproducible=False,
)
# Held until the claim is kept, so that nobody voids what the run is about to start from.
_NEEDED = (
    sa.select(_needed.c.id, _needed.c.state, ARTIFACTS.c.sha256)
    .join_from(DEPENDENCIES, _needed, _needed.c.key == DEPENDENCIES.c.needs_key)
    .outerjoin(
        ARTIFACTS,
        (ARTIFACTS.c.run_key == _needed.c.key)
        & ARTIFACTS.c.name.not_in(KEPT_NAMES)
        & ((_needed.c.kind != "linear_probe") | (ARTIFACTS.c.name == HEAD_NAME)),
    )
    .where(DEPENDENCIES.c.run_key == sa.bindparam("run"))
    .with_for_update(read=True, of=_needed)
)
