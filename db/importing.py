"""Numbers that were measured elsewhere come into a store: all of what is given, or none of it.

A run that the store has not is taken as it is told, state included. One that it has keeps its
numbers: what is told anew joins them (an epoch of a run that is not done, a split), what is told
differently refuses everything. The same again changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Protocol

import sqlalchemy as sa

from db.engines import among
from db.errors import StoreError
from db.reading import (
    ARTIFACTS,
    DEPENDENCIES,
    EPOCHS,
    METRICS,
    RUNS,
    SWEEP_RUNS,
    SWEEPS,
    VOIDS,
)
from db.records import RESULTS, Artifact, EpochRecord, Run, State, digest
from db.registering import (
    PLACES,
    RUN_COLUMNS,
    Place,
    keys_of,
    one_at_a_time,
    place,
    rearrange,
    run_row,
)
from db.store import Store
from db.writing import insert_all, insert_new, plain

RUNS_AT_ONCE = 500
NAMED = 3
"""Conflicts that a refusal tells one by one."""
Epoch = tuple[float | None, float | None, float]
"""Training loss and accuracy, learning rate."""
MetricKey = tuple[int, str, str, str]
"""Epoch, split, group, metric."""
Value = tuple[float, int | None, int | None]
"""Value, correct, n."""


class Numbers(Protocol):
    """What a run measured, and where that is told."""

    def records(self) -> Sequence[EpochRecord]:
        """Its epochs in order; made anew at each call, as many runs are not held at once."""

    def place(self, epoch: int | None = None, split: str = "", group: str = "") -> str:
        """Where a number stands, such as `figures.csv, line 12`; without an epoch, the run."""


@dataclass(frozen=True)
class Withdrawn:
    """That a run was voided where it comes from."""

    reason: str
    state: State
    """What it was before."""
    attempt: int
    voided: float | None = None
    """When, in seconds since 1970."""


@dataclass(frozen=True)
class Incoming:
    """A run from elsewhere."""

    run: Run
    state: State
    """Never `running`."""
    numbers: Numbers
    data_fingerprint: str | None = None
    weights_sha256: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    void: Withdrawn | None = None


@dataclass(frozen=True)
class IncomingSweep:
    """A sweep from elsewhere, with the runs that it lists, in order."""

    name: str
    runs: tuple[tuple[str, Place], ...]
    """Ids, each with its place in the list."""
    yaml: str | None = None
    """Empty where there is no sweep file, None where it is not told."""
    created: float | None = None


@dataclass
class Imported:
    """What an import changed."""

    new: list[str] = field(default_factory=list)
    """Runs that the store did not have."""
    changed: list[str] = field(default_factory=list)
    """Runs that it had, and that have more numbers or another state now."""
    same: int = 0
    voided: list[str] = field(default_factory=list)
    """Runs whose very numbers were voided here: they do not come back."""
    stands: list[str] = field(default_factory=list)
    """Runs that are voided where they come from, and have numbers here."""
    sweeps: list[str] = field(default_factory=list)
    """Sweeps that are new, or list more runs."""


def bring(
    store: Store, sweeps: Sequence[IncomingSweep], runs: Sequence[Incoming]
) -> Generator[tuple[int, int], None, Imported]:
    """Take runs and the sweeps that list them in one transaction; yields (runs taken, all runs).

    Raises `StoreError`, changing nothing, where a run has other numbers in the store or is being
    trained, and where imported numbers would join a launched sweep.
    """
    done = Imported()
    with store.write(durable=True) as connection:
        one_at_a_time(connection)
        for sweep in sweeps:
            _refuse_mixture(connection, sweep, runs)
        conflicts: list[str] = []
        for start in range(0, len(runs), RUNS_AT_ONCE):
            yield start, len(runs)
            conflicts += _Batch(connection, runs[start : start + RUNS_AT_ONCE], done).merge()
        if conflicts:
            more = f"\nand {len(conflicts) - NAMED:,} more" if len(conflicts) > NAMED else ""
            raise StoreError("\n".join(conflicts[:NAMED]) + more + "\nNothing was imported.")
        _depend(connection, [one.run for one in runs])
        for sweep in sweeps:
            if _list(connection, sweep):
                done.sweeps.append(sweep.name)
    if (done.new or done.changed) and store.engine.dialect.name == "postgresql":
        with store.write() as connection:
            connection.exec_driver_sql("ANALYZE")  # many rows at once mislead its planner
    return done


def _refuse_mixture(
    connection: sa.Connection, sweep: IncomingSweep, runs: Sequence[Incoming]
) -> None:
    """A sweep whose file says what to train holds no numbers that nothing can train."""
    stored = connection.scalar(sa.select(SWEEPS.c.yaml).where(SWEEPS.c.name == sweep.name))
    ids = {run_id for run_id, _ in sweep.runs}
    sourced = next((one for one in runs if one.run.source and one.run.id in ids), None)
    if sourced and (stored or sweep.yaml):
        raise StoreError(
            f'{sourced.numbers.place()}: "{sweep.name}" is a sweep of a sweep file, which numbers '
            "from elsewhere cannot join; give them another name in the column `sweep`."
        )
    if stored == "" and sweep.yaml and _sources(connection, sweep.name):
        raise StoreError(
            f'"{sweep.name}" in the store holds imported numbers, which a sweep with a sweep file '
            "cannot join; import it into another --store."
        )


def _sources(connection: sa.Connection, name: str) -> bool:
    contents = (
        sa.select(RUNS.c.content)
        .join(SWEEP_RUNS, SWEEP_RUNS.c.run_key == RUNS.c.key)
        .join(SWEEPS, SWEEPS.c.id == SWEEP_RUNS.c.sweep_id)
        .where(SWEEPS.c.name == name)
    )
    return any(json.loads(text).get("source") for text in connection.scalars(contents))


class _Batch:
    """Some runs, and the same of the store, whose rows are held meanwhile."""

    def __init__(self, connection: sa.Connection, runs: Sequence[Incoming], done: Imported) -> None:
        self.connection, self.done = connection, done
        self.runs = {one.run.id: one for one in runs}
        known = keys_of(connection, self.runs)
        locked = _LOCKED.with_for_update(key_share=True)
        keys = [*known.values()]
        rows = connection.execute(locked, {"keys": keys}).all() if keys else []
        self.here = {row.id: row for row in rows}
        self.epochs, self.metrics = _stored(connection, keys)
        self.voids = _voids(connection, [row.key for row in rows if row.state == "voided"])
        self.rows: dict[sa.Table, list[tuple[Any, ...]]] = {
            table: [] for table in (EPOCHS, METRICS, ARTIFACTS, VOIDS)
        }

    def merge(self) -> list[str]:
        """Take what the store lacks; returns what it has differently, a sentence each."""
        new = [one for run_id, one in self.runs.items() if run_id not in self.here]
        added = [(*run_row(one.run)[:-2], one.state, 0, *_inputs(one)) for one in new]
        insert_all(self.connection, RUNS, (*RUN_COLUMNS, *_INPUTS), added)
        keys = keys_of(self.connection, [one.run.id for one in new])
        conflicts: list[str] = []
        for one in new:
            self._take(keys[one.run.id], 0, one, one.numbers.records())
            self.done.new.append(one.run.id)
        for run_id, row in self.here.items():
            if conflict := self._join(row, self.runs[run_id]):
                conflicts.append(conflict)
        self.rows[METRICS].sort(key=itemgetter(0, 1, 2, 3, 4))  # as they are clustered
        for table, rows in self.rows.items():
            insert_all(self.connection, table, _COLUMNS[table], rows)
        return conflicts

    def _join(self, here: Any, one: Incoming) -> str:
        """Take what a run has beyond the store's numbers of it; returns the conflict, if any."""
        records = one.numbers.records()
        if here.state == "voided":
            return self._revive(here, one, records)
        if one.state == "voided":
            self.done.stands += [one.run.id] if here.state in RESULTS else []
            self.done.same += 1
            return ""
        ours, measured = self.epochs.get(here.key, {}), self.metrics.get(here.key, {})
        if difference := _difference(one, records, ours, measured):
            return difference
        fresh = [_fresh(record, ours, measured) for record in records]
        more = [record for record in fresh if record.metrics or record.epoch not in ours]
        beyond = [record.epoch for record in more if record.epoch not in ours]
        if beyond and here.state in RESULTS:
            return (
                f"{one.numbers.place(beyond[0])}: {_named(one.run)} is {here.state} in the store "
                f"without an epoch {beyond[0]}; {_remedy(one.run)}"
            )
        state = _state(here, one.state)
        if state is None:
            return (
                f"{one.numbers.place()}: {_named(one.run)} is {here.state} in the store and "
                f"{one.state} here, with the same numbers; {_remedy(one.run)}"
            )
        if not more and state == here.state:
            self.done.same += 1
            return ""
        if here.state == "running":
            return (
                f"{one.numbers.place()}: {_named(one.run)} is being trained just now; import "
                "again when that is over."
            )
        self._take(here.key, here.fence, one, more)
        self._become(here.key, state, one)
        self.done.changed.append(one.run.id)
        return ""

    def _revive(self, here: Any, one: Incoming, records: Sequence[EpochRecord]) -> str:
        """A voided run takes other numbers than those that were voided."""
        told = {record.measured() for record in records}
        if any(told <= voided for voided in self.voids.get(here.key, [set()])):
            self.done.voided += [one.run.id] if records else []
            self.done.same += 1
            return ""
        self._take(here.key, here.fence, one, records)
        self._become(here.key, one.state, one)
        self.done.changed.append(one.run.id)
        return ""

    def _take(self, key: int, attempt: int, one: Incoming, records: Iterable[EpochRecord]) -> None:
        known = self.epochs.get(key, {})
        for r in records:
            if r.epoch not in known:
                self.rows[EPOCHS].append(
                    (
                        key, r.epoch, attempt, r.train_loss, r.train_accuracy, r.learning_rate,
                        r.seconds, r.images_per_second,
                    )
                )  # fmt: skip
            self.rows[METRICS] += [
                (key, m.split, m.group, m.metric, r.epoch, m.value, m.correct, m.n)
                for m in r.metrics
            ]
        if one.artifacts:
            gone = sa.delete(ARTIFACTS).where(ARTIFACTS.c.run_key == key)
            self.connection.execute(gone)
            self.rows[ARTIFACTS] += [
                (key, a.name, a.path, a.sha256, a.bytes) for a in one.artifacts
            ]
        if void := one.void:
            when = time.time() if void.voided is None else void.voided
            row = (key, when, plain(void.reason), void.state, void.attempt, "[]", "[]")
            self.rows[VOIDS].append(row)

    def _become(self, key: int, state: str, one: Incoming) -> None:
        inputs = dict(zip(_INPUTS, _inputs(one), strict=True))
        values: dict[str, Any] = {name: value for name, value in inputs.items() if value}
        self.connection.execute(
            sa.update(RUNS).where(RUNS.c.key == key).values(state=state, **values)
        )


def _state(here: Any, told: State) -> str | None:
    """What the store's run becomes; None where both are results and differ."""
    if here.state in RESULTS:
        return here.state if told in ("pending", here.state) or told not in RESULTS else None
    if told in RESULTS or (here.state == "pending" and here.fence == 0):
        return told
    return str(here.state)


def _difference(
    one: Incoming,
    records: Sequence[EpochRecord],
    ours: Mapping[int, Epoch],
    measured: Mapping[MetricKey, Value],
) -> str:
    """The first number that is another in the store, as a sentence."""
    for r in records:
        for m in r.metrics:
            stored = measured.get((r.epoch, m.split, m.group, m.metric))
            told = (m.value, m.correct, m.n)
            if stored is None or all(map(_agree, told, stored)):
                continue
            what = " ".join(part for part in (m.split, m.group, m.metric) if part)
            a, b = (stored[0], m.value) if stored[0] != m.value else (stored[1:], told[1:])
            return (
                f"{one.numbers.place(r.epoch, m.split, m.group)}: {_named(one.run)} has {what} "
                f"{a} after epoch {r.epoch} in the store, and {b} here; {_remedy(one.run)}"
            )
        trained = (r.train_loss, r.train_accuracy, r.learning_rate)
        if r.epoch in ours and not all(map(_agree, trained, ours[r.epoch])):
            return (
                f"{one.numbers.place(r.epoch)}: {_named(one.run)} was trained with other losses "
                f"or rates up to epoch {r.epoch} in the store; {_remedy(one.run)}"
            )
    return ""


def _agree(told: float | None, stored: float | None) -> bool:
    return told is None or told == stored or (stored is not None and told != told != stored)


def _fresh(
    record: EpochRecord, ours: Mapping[int, Epoch], measured: Mapping[MetricKey, Value]
) -> EpochRecord:
    """The record with the metrics alone that the store has not."""
    metrics = tuple(
        m for m in record.metrics if (record.epoch, m.split, m.group, m.metric) not in measured
    )
    return EpochRecord(**{**vars(record), "metrics": metrics})


def _named(run: Run) -> str:
    return f"run {run.id[:8]} ({run})"


def _remedy(run: Run) -> str:
    void = f"orch runs void {run.id[:8]} --reason …"
    if run.source:
        return f"give these another name in the column `sweep`, or first take those out: {void}"
    return f"import them into another --store, or first take those out: {void}"


def _inputs(one: Incoming) -> tuple[str | None, str | None]:
    return one.data_fingerprint, one.weights_sha256


def _stored(
    connection: sa.Connection, keys: list[int]
) -> tuple[dict[int, dict[int, Epoch]], dict[int, dict[MetricKey, Value]]]:
    epochs: dict[int, dict[int, Epoch]] = {}
    metrics: dict[int, dict[MetricKey, Value]] = {}
    if keys:
        for key, epoch, *trained in connection.execute(_EPOCHS, {"keys": keys}):
            epochs.setdefault(key, {})[epoch] = (trained[0], trained[1], trained[2])
        for key, epoch, split, group, metric, *value in connection.execute(
            _METRICS, {"keys": keys}
        ):
            at = (epoch, split, group, metric)
            metrics.setdefault(key, {})[at] = (value[0], value[1], value[2])
    return epochs, metrics


def _voids(connection: sa.Connection, keys: list[int]) -> dict[int, list[set[Any]]]:
    """The epochs of each history that was voided, by run."""
    found: dict[int, list[set[Any]]] = {}
    query = sa.select(VOIDS.c.run_key, VOIDS.c.history).where(among(VOIDS.c.run_key, "keys"))
    for key, history in connection.execute(query, {"keys": keys}) if keys else ():
        records = map(EpochRecord.from_json, json.loads(history))
        found.setdefault(key, []).append({record.measured() for record in records})
    return found


def _depend(connection: sa.Connection, runs: Sequence[Run]) -> None:
    """Note what runs need, as far as the store has it."""
    needs = [(run.id, needed) for run in runs for needed in run.needs]
    keys = keys_of(connection, {run_id for pair in needs for run_id in pair})
    rows = [{"run_key": keys[a], "needs_key": keys[b]} for a, b in needs if b in keys]
    if rows:
        connection.execute(_DEPENDENCY, rows)


def _list(connection: sa.Connection, sweep: IncomingSweep) -> bool:
    """Add runs to a sweep's list, and make the sweep where it is new; whether anything changed."""
    found = connection.execute(sa.select(SWEEPS).where(SWEEPS.c.name == sweep.name)).one_or_none()
    text = sweep.yaml or ""
    if found is None:
        created = time.time() if sweep.created is None else sweep.created
        row = {"name": sweep.name, "yaml": text, "spec_hash": digest(text), "created": created}
        insert = sa.insert(SWEEPS).values(row).returning(SWEEPS.c.id)
        sweep_id = connection.execute(insert).scalar_one()
    else:
        sweep_id = found.id
    completed = found is not None and not found.yaml and text != ""
    if completed:
        values = {"yaml": text, "spec_hash": digest(text)}
        connection.execute(sa.update(SWEEPS).where(SWEEPS.c.id == sweep_id).values(values))
    keys = keys_of(connection, [run_id for run_id, _ in sweep.runs])
    stored: dict[int, Place] = {
        row[0]: place(row)
        for row in connection.execute(PLACES.where(SWEEP_RUNS.c.sweep_id == sweep_id))
    }
    wanted = dict(stored)
    first = max((one.position for one in stored.values()), default=-1) + 1
    for run_id, one in sweep.runs:
        position = first + len(wanted) - len(stored)
        wanted.setdefault(keys[run_id], one._replace(position=position))
    rearrange(connection, sweep_id, stored, wanted)
    return found is None or completed or len(wanted) > len(stored)


_INPUTS = ("data_fingerprint", "weights_sha256")
_COLUMNS: Mapping[sa.Table, tuple[str, ...]] = {
    EPOCHS: (
        "run_key", "epoch", "attempt", "train_loss", "train_accuracy", "learning_rate", "seconds",
        "images_per_second",
    ),
    METRICS: ("run_key", "split", "group", "metric", "epoch", "value", "correct", "n"),
    ARTIFACTS: ("run_key", "name", "path", "sha256", "bytes"),
    VOIDS: ("run_key", "voided", "reason", "state", "attempt", "history", "artifacts"),
}  # fmt: skip
_LOCKED = (
    sa.select(RUNS.c.key, RUNS.c.id, RUNS.c.state, RUNS.c.fence)
    .where(among(RUNS.c.key, "keys"))
    .order_by(RUNS.c.key)
)
_EPOCHS = sa.select(
    *(EPOCHS.c[n] for n in ("run_key", "epoch", "train_loss", "train_accuracy", "learning_rate"))
).where(among(EPOCHS.c.run_key, "keys"))
_METRICS = sa.select(
    *(
        METRICS.c[n]
        for n in ("run_key", "epoch", "split", "group", "metric", "value", "correct", "n")
    )
).where(among(METRICS.c.run_key, "keys"))
_DEPENDENCY = insert_new(DEPENDENCIES)
