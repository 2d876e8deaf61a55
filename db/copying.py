"""From one store into another: moving between engines, and merging what several machines measured.

Runs are told by their id, sweeps by their name, attempts by their process and the time of their
claim. A second copy of the same store changes nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from db.engines import among
from db.errors import StoreError
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
    VOIDS,
    Reader,
)
from db.records import RESULTS, EpochRecord
from db.registering import PLACES, keys_of, one_at_a_time, place, rearrange
from db.store import Store
from db.writing import insert_all, insert_new

BATCH = 200
"""Runs whose numbers are in memory at once: some 16,000 rows of metrics."""
Row = Sequence[Any]


@dataclass
class Copied:
    """What a copy did; runs by id."""

    runs: int = 0
    """Of the source, all in all."""
    new: int = 0
    """Runs that the target did not know."""
    taken: list[str] = field(default_factory=list)
    """Runs whose state, attempts and numbers the target took."""
    conflicts: list[str] = field(default_factory=list)
    """Results in both places with different numbers: the target's stay."""
    running: list[str] = field(default_factory=list)
    """Left alone, since they are being trained in either place."""
    sweeps: list[str] = field(default_factory=list)
    """Sweeps that are new in the target or that changed there."""
    voids: int = 0
    """Voided numbers that the target did not have."""

    @property
    def changed(self) -> bool:
        """Whether the target is another than before."""
        return bool(self.new or self.taken or self.sweeps or self.voids)


def copy(source: Reader, target: Store) -> Generator[tuple[int, int], None, Copied]:
    """Bring what `source` has into `target`; yields (runs done, all runs).

    Each batch of runs is a transaction of its own: one that is cut short is completed by the next.
    A run with a result (done, diverged) in the source and none in the target takes the source's
    numbers; one that the target never tried takes whatever became of it in the source. Numbers that
    were voided in one place do not stand in the other. Where both have results that differ, the
    target's stay.
    """
    if source.place == target.place:
        raise StoreError(f"{source.place} cannot be copied onto itself; name another target.")
    done = Copied()
    with source.read(stream=True) as reading:
        keys = _register(reading, target, done)
        done.runs = len(keys)
        owners = _Owners()
        counted = itertools.count(BATCH, BATCH)
        for batch in _batches(keys, BATCH):
            yield min(next(counted) - BATCH, len(keys)), len(keys)
            with target.write(durable=True) as writing:
                _Batch(reading, writing, batch, owners, done).merge()
        _sweeps(reading, target, keys, done)
    if done.changed and target.engine.dialect.name == "postgresql":
        with target.write() as writing:
            writing.exec_driver_sql("ANALYZE")  # many rows at once mislead its planner until then
    return done


def _batches(keys: dict[int, tuple[str, int]], size: int) -> Iterable[dict[int, tuple[str, int]]]:
    listed = iter(keys.items())
    while batch := dict(itertools.islice(listed, size)):
        yield batch


def _register(reading: sa.Connection, target: Store, done: Copied) -> dict[int, tuple[str, int]]:
    """Make every run known to the target; returns by source key the id and the target's key."""
    names = [c.name for c in RUNS.columns if c.name not in _OF_STORE]
    columns = [*names, "state", "fence"]
    query = sa.select(RUNS.c.key, *(RUNS.c[name] for name in names)).order_by(RUNS.c.key)
    keys: dict[int, tuple[str, int]] = {}
    for rows in reading.execute(query).partitions(5000):
        with target.write(durable=True) as writing:
            one_at_a_time(writing)
            there = keys_of(writing, (row.id for row in rows))
            new = [(*row[1:], "pending", 0) for row in rows if row.id not in there]
            insert_all(writing, RUNS, columns, new)
            there |= keys_of(writing, (row.id for row in rows if row.id not in there))
        done.new += len(new)
        keys |= {row.key: (row.id, there[row.id]) for row in rows}
    needs = reading.execute(sa.select(DEPENDENCIES.c.run_key, DEPENDENCIES.c.needs_key))
    for rows in needs.partitions(5000):
        with target.write() as writing:
            pairs = [{"run_key": keys[run][1], "needs_key": keys[need][1]} for run, need in rows]
            writing.execute(_DEPENDENCY, pairs)
    return keys


class _Owners:
    """The target's owner for each of the source's, made where it has none."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def of(self, reading: sa.Connection, writing: sa.Connection, ids: set[int]) -> dict[int, int]:
        missing = among(OWNERS.c.id, "ids", ids - self._known.keys())
        for row in reading.execute(sa.select(OWNERS).where(missing)).mappings().all():
            same = [OWNERS.c[name] == row[name] for name in _PROCESS]
            found = writing.scalar(sa.select(OWNERS.c.id).where(*same).limit(1))
            if found is None:
                # It holds nothing here, so here it is over.
                made = {**row, "ended": row["ended"] or row["heartbeat"]}
                del made["id"]
                insert = sa.insert(OWNERS).values(made).returning(OWNERS.c.id)
                found = writing.execute(insert).scalar_one()
            self._known[row["id"]] = found
        return self._known


class _Batch:
    """Some runs of the source and the same of the target, whose rows are held meanwhile."""

    def __init__(
        self,
        reading: sa.Connection,
        writing: sa.Connection,
        keys: dict[int, tuple[str, int]],
        owners: _Owners,
        done: Copied,
    ) -> None:
        self.reading, self.writing, self.keys = reading, writing, keys
        self.owners, self.done = owners, done
        mine = [key for _, key in keys.values()]
        runs = sa.select(RUNS).where(among(RUNS.c.key, "keys"))
        locked = runs.order_by(RUNS.c.key).with_for_update(key_share=True)
        self.theirs = {r.key: r for r in reading.execute(runs, {"keys": [*keys]})}
        self.ours = {r.key: r for r in writing.execute(locked, {"keys": mine})}
        self.their_voids = _voids(reading, [*keys])
        self.our_voids = _voids(writing, mine)

    def merge(self) -> None:
        """Take what the target lacks."""
        compared = [key for key, (_, mine) in self.keys.items() if self._compares(key, mine)]
        theirs = _numbers(self.reading, compared)
        ours = _numbers(self.writing, [self.keys[key][1] for key in compared])
        taken: list[int] = []
        for key, (run_id, mine) in self.keys.items():
            match self._verdict(key, mine, theirs.get(key), ours.get(mine)):
                case "take":
                    taken.append(key)
                    self.done.taken.append(run_id)
                case "conflict":
                    self.done.conflicts.append(run_id)
                case "running":
                    self.done.running.append(run_id)
        self._add_voids()
        if taken:
            self._take(taken)

    def _compares(self, key: int, mine: int) -> bool:
        """Whether the verdict needs numbers: of two results, or of one and what was voided."""
        results = (self.theirs[key].state in RESULTS) + (self.ours[mine].state in RESULTS)
        voids = key in self.their_voids or mine in self.our_voids
        return results == 2 or (results == 1 and voids)

    def _verdict(
        self, key: int, mine: int, theirs: Numbers | None, ours: Numbers | None
    ) -> Literal["take", "keep", "conflict", "running"]:
        there, here = self.theirs[key], self.ours[mine]
        if "running" in (there.state, here.state):
            return "running"
        both = there.state in RESULTS and here.state in RESULTS
        if both and (there.state, theirs) == (here.state, ours):
            return "keep"
        # A result stands where the other store has not voided those very numbers.
        theirs_stand = there.state in RESULTS and not _voided(theirs, self.our_voids.get(mine, ()))
        ours_stand = here.state in RESULTS and not _voided(ours, self.their_voids.get(key, ()))
        if both and theirs_stand == ours_stand:
            return "conflict"
        if theirs_stand or ours_stand:
            return "take" if theirs_stand else "keep"
        if here.state in RESULTS:
            return "take"
        untried = here.state == "pending" and here.fence == 0
        tried = there.state not in ("pending", *RESULTS) or there.fence > 0
        return "take" if untried and tried else "keep"

    def _add_voids(self) -> None:
        rows = [
            (self.keys[key][1], *void[1:])
            for key, voids in self.their_voids.items()
            for void in voids
            if void[1] not in {mine[1] for mine in self.our_voids.get(self.keys[key][1], ())}
        ]
        insert_all(self.writing, VOIDS, _VOID_COLUMNS, rows)
        self.done.voids += len(rows)

    def _take(self, taken: list[int]) -> None:
        """Replace the target's numbers by the source's, and add the attempts that it lacks."""
        mine = [self.keys[key][1] for key in taken]
        for table in (METRICS, EPOCHS, ARTIFACTS):
            gone = sa.delete(table).where(among(table.c.run_key, "keys"))
            self.writing.execute(gone, {"keys": mine})
        numbers, fences = self._add_attempts(taken)
        for table in (EPOCHS, METRICS, ARTIFACTS):
            columns = table.columns.keys()
            rows = []
            query = sa.select(table).where(among(table.c.run_key, "keys"))
            for key, *values in self.reading.execute(query, {"keys": taken}):
                if table is EPOCHS:
                    place = columns.index("attempt") - 1
                    # What was imported was measured by none of the store's attempts: 0.
                    values[place] = numbers[key, values[place]] if values[place] else 0
                rows.append((self.keys[key][1], *values))
            insert_all(self.writing, table, columns, rows)
        kept = ("state", "data_fingerprint", "weights_sha256")
        updates = [
            {"run": self.keys[key][1], "number": fences[key]}
            | {name: getattr(self.theirs[key], name) for name in kept}
            for key in taken
        ]
        self.writing.execute(_UPDATE, updates)

    def _add_attempts(self, taken: list[int]) -> tuple[dict[tuple[int, int], int], dict[int, int]]:
        """Returns the target's number of each attempt by (source key, number), and the fences."""
        fences = {key: self.ours[self.keys[key][1]].fence for key in taken}
        mine = [self.keys[key][1] for key in taken]
        known = {
            (row.run_key, *(row._mapping[name] for name in _SAME_ATTEMPT)): row.number
            for row in self.writing.execute(_ATTEMPTS, {"keys": mine})
        }
        numbers: dict[tuple[int, int], int] = {}
        rows = []
        attempts = self.reading.execute(_ATTEMPTS, {"keys": taken}).mappings().all()
        owners = self.owners.of(self.reading, self.writing, {row["owner_id"] for row in attempts})
        for row in attempts:
            key = row["run_key"]
            target = self.keys[key][1]
            number = known.get((target, *(row[name] for name in _SAME_ATTEMPT)))
            if number is None:
                number = max(fences[key] + 1, row["number"] if not fences[key] else 0)
                fences[key] = number
                changed = {"run_key": target, "number": number, "owner_id": owners[row["owner_id"]]}
                rows.append(tuple({**row, **changed}[name] for name in _ATTEMPT_COLUMNS))
            numbers[key, row["number"]] = number
        insert_all(self.writing, ATTEMPTS, _ATTEMPT_COLUMNS, rows)
        return numbers, fences


Numbers = tuple[frozenset[tuple[Any, ...]], frozenset[tuple[Any, ...]]]
"""Epochs and metrics of a run, without the clock: what `EpochRecord.measured` compares."""


def _numbers(connection: sa.Connection, keys: Collection[int]) -> dict[int, Numbers]:
    if not keys:
        return {}
    found: dict[int, tuple[set[tuple[Any, ...]], set[tuple[Any, ...]]]]
    found = {key: (set(), set()) for key in keys}
    for side, query in enumerate((_EPOCH_NUMBERS, _METRIC_NUMBERS)):
        for key, *values in connection.execute(query, {"keys": [*keys]}):
            found[key][side].add(tuple(values))
    return {key: (frozenset(a), frozenset(b)) for key, (a, b) in found.items()}


def _voids(connection: sa.Connection, keys: list[int]) -> dict[int, list[Row]]:
    query = sa.select(*(VOIDS.c[name] for name in _VOID_COLUMNS)).order_by(VOIDS.c.id)
    found: dict[int, list[Row]] = {}
    for row in connection.execute(query.where(among(VOIDS.c.run_key, "keys", keys))):
        found.setdefault(row.run_key, []).append(tuple(row))
    return found


def _voided(numbers: Numbers | None, voids: Iterable[Row]) -> bool:
    """Whether these very numbers were voided."""
    for void in voids:
        history = [EpochRecord.from_json(record) for record in json.loads(void[_HISTORY])]
        was: Numbers = (
            frozenset((r.epoch, r.train_loss, r.train_accuracy, r.learning_rate) for r in history),
            frozenset(
                (r.epoch, m.split, m.group, m.metric, m.value, m.correct, m.n)
                for r in history
                for m in r.metrics
            ),
        )
        if numbers == was:
            return True
    return False


def _sweeps(
    reading: sa.Connection, target: Store, keys: dict[int, tuple[str, int]], done: Copied
) -> None:
    """The newer text of a sweep stands; its list is that text's, and then what the other adds."""
    for theirs in reading.execute(sa.select(SWEEPS).order_by(SWEEPS.c.id)).all():
        asked = PLACES.where(SWEEP_RUNS.c.sweep_id == theirs.id)
        there = {keys[row[0]][1]: place(row) for row in reading.execute(asked)}
        with target.write(durable=True) as writing:
            one_at_a_time(writing)
            ours = writing.execute(
                sa.select(SWEEPS).where(SWEEPS.c.name == theirs.name)
            ).one_or_none()
            # A sweep that was imported without its file leaves the other store's file alone.
            newer = ours is None or (bool(theirs.yaml), theirs.created) > (
                bool(ours.yaml),
                ours.created,
            )
            text = {name: getattr(theirs, name) for name in _SWEEP_TEXT}
            if ours is None:
                insert = sa.insert(SWEEPS).values(text).returning(SWEEPS.c.id)
                sweep = writing.execute(insert).scalar_one()
            else:
                sweep = ours.id
                if newer:
                    writing.execute(sa.update(SWEEPS).where(SWEEPS.c.id == sweep).values(text))
            mine = PLACES.where(SWEEP_RUNS.c.sweep_id == sweep)
            here = {row[0]: place(row) for row in writing.execute(mine)}
            first, second = (there, here) if newer else (here, there)
            order = [*first, *(key for key in second if key not in first)]
            places = {key: first.get(key) or second[key] for key in order}
            if newer or len(order) > len(here):
                wanted = {k: places[k]._replace(position=i) for i, k in enumerate(order)}
                rearrange(writing, sweep, here, wanted)
                done.sweeps.append(theirs.name)


_OF_STORE = ("key", "state", "owner_id", "fence", "data_fingerprint", "weights_sha256")
_PROCESS = ("host", "pid", "boot_id", "process_started", "started")
_SWEEP_TEXT = ("name", "yaml", "spec_hash", "created")
_ATTEMPT_COLUMNS = tuple(c.name for c in ATTEMPTS.columns if c.name != "id")
_VOID_COLUMNS = tuple(c.name for c in VOIDS.columns if c.name != "id")
_HISTORY = _VOID_COLUMNS.index("history")
_SAME_ATTEMPT = ("claimed", "pid", "process_started")
_ATTEMPTS = (
    sa.select(ATTEMPTS, OWNERS.c.pid, OWNERS.c.process_started)
    .join(OWNERS, OWNERS.c.id == ATTEMPTS.c.owner_id)
    .where(among(ATTEMPTS.c.run_key, "keys"))
    .order_by(ATTEMPTS.c.run_key, ATTEMPTS.c.number)
)
_EPOCH_NUMBERS = sa.select(
    *(EPOCHS.c[n] for n in ("run_key", "epoch", "train_loss", "train_accuracy", "learning_rate"))
).where(among(EPOCHS.c.run_key, "keys"))
_METRIC_NUMBERS = sa.select(
    *(
        METRICS.c[n]
        for n in ("run_key", "epoch", "split", "group", "metric", "value", "correct", "n")
    )
).where(among(METRICS.c.run_key, "keys"))
_DEPENDENCY = insert_new(DEPENDENCIES)
_UPDATE = (
    sa.update(RUNS)
    .where(RUNS.c.key == sa.bindparam("run"))
    .values(
        fence=sa.bindparam("number"),
        **{n: sa.bindparam(n) for n in ("state", "data_fingerprint", "weights_sha256")},
    )
)
