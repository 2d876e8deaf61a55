"""Everything that was measured as rows, in a fixed order: the long format of `orch export`.

A row is one number of one split after one epoch. What can be said once (a run's identity, a sweep's
file) stands in the `record` of the first row it belongs to, so that `db.importing` can rebuild the
runs as they are. A run without a number has one row without `epoch`, `split`, `metric` and `value`,
and an epoch without one a row without the last three: what is missing is told too.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from db.engines import among
from db.reading import ARTIFACTS, EPOCHS, METRICS, RUNS, SWEEP_RUNS, SWEEPS, VOIDS, Reader
from db.records import Artifact, canonical_json
from db.registering import PLACES, place

RUNS_AT_ONCE = 200
CLOCK = ("seconds", "images_per_second")
"""Columns that no repetition repeats; only with `times`."""


class LongRow(NamedTuple):
    """One measured number."""

    sweep: str
    model: str
    dataset: str
    method: str
    lr: float
    """The run's learning rate."""
    seed: int
    epoch: int | None
    split: str | None
    metric: str | None
    value: float | None
    """A fraction in [0, 1]."""
    group: str | None
    """Empty for the split's headline metric."""
    n: int | None
    """Images that the value is of."""
    hyperparameters: str
    """As canonical JSON."""
    variant: str
    run_id: str
    state: str
    """Of the run; one in training counts as pending, as nobody trains it where it is imported."""
    correct: int | None
    train_loss: float | None
    """Of the row's epoch, like the next two."""
    train_accuracy: float | None
    epoch_lr: float | None
    """The learning rate at the epoch's end."""
    record: str | None
    """On a run's first row: what else there is to know of it, as canonical JSON."""
    seconds: float | None
    images_per_second: float | None


def columns(*, times: bool = False) -> tuple[str, ...]:
    """The names of the columns, in order."""
    return LongRow._fields if times else LongRow._fields[: -len(CLOCK)]


def long_rows(
    reader: Reader, sweep: str | None = None, *, times: bool = False
) -> Iterator[LongRow]:
    """The rows of a sweep, or of all by name, as of one moment.

    A sweep's runs come in its order. Stores that measured the same give equal rows, unless `times`
    adds when and how long. Raises `NotFound` for an unknown sweep.
    """
    names = sorted(s.name for s in ([reader.sweep(sweep)] if sweep else reader.sweeps()))
    with reader.read(stream=True) as connection:
        for name in names:
            yield from _rows_of(connection, name, times)


def _rows_of(connection: sa.Connection, name: str, times: bool) -> Iterator[LongRow]:
    found = sa.select(SWEEPS.c.id, SWEEPS.c.yaml, SWEEPS.c.created).where(SWEEPS.c.name == name)
    sweep_id, text, created = connection.execute(found).one()
    about: dict[str, Any] | None = {"yaml": text} | ({"created": created} if times else {})
    listed = PLACES.where(SWEEP_RUNS.c.sweep_id == sweep_id)
    places = connection.execute(listed).all()
    for start in range(0, len(places), RUNS_AT_ONCE):
        batch = places[start : start + RUNS_AT_ONCE]
        keys = [place.run_key for place in batch]
        runs = {run.key: run for run in connection.execute(_RUNS, {"keys": keys})}
        more = _more(connection, keys, times)
        epochs = _by_run(connection, _EPOCHS, keys)
        metrics = _by_run(connection, _METRICS.where(_NUMBER), keys)
        for key, one in ((row.run_key, place(row)) for row in batch):
            said: dict[str, Any] = {"content": json.loads(runs[key].content)}
            said |= {"sweep": about} if about else {}
            said |= {} if one.requested else {"requested": False}
            said |= {"extended": True} if one.extended else {}
            said |= {"last": True} if one.last else {}
            said |= more.get(key, {})
            said |= {name: getattr(runs[key], name) for name in _INPUTS if getattr(runs[key], name)}
            about = None
            yield from _run_rows(
                name, runs[key], said, epochs.get(key, []), metrics.get(key, []), times
            )


def _run_rows(
    sweep: str,
    run: Any,
    said: dict[str, Any],
    epochs: list[tuple[Any, ...]],
    metrics: list[tuple[Any, ...]],
    times: bool,
) -> Iterator[LongRow]:
    first = (sweep, run.model, run.dataset, run.method, run.learning_rate, run.seed)
    middle = (run.hyperparameters, run.variant, run.id)
    state = "pending" if run.state == "running" else run.state
    record: str | None = canonical_json(said)
    by_epoch = {
        epoch: sorted(rows)
        for epoch, rows in itertools.groupby(sorted(metrics, key=_epoch_of), key=_epoch_of)
    }
    for epoch, loss, accuracy, rate, *clock in epochs or [(None,) * 6]:
        trained = (_finite(loss), _finite(accuracy), rate)
        ends = tuple(clock) if times else (None, None)
        for row in by_epoch.get(epoch) or [_NO_METRIC]:
            _, split, group, metric, value, correct, n = row
            yield LongRow(
                *first, epoch, split, metric, value, group, n, *middle, state, correct, *trained,
                record, *ends,
            )  # fmt: skip
            record = None


def _epoch_of(row: tuple[Any, ...]) -> int:
    return int(row[0])


def _finite(value: float | None) -> float | None:
    """SQLite keeps no NaN: it is nothing on both engines."""
    return None if value is None or math.isnan(value) else value


def _by_run(
    connection: sa.Connection, query: sa.Select[Any], keys: Sequence[int]
) -> dict[int, list[tuple[Any, ...]]]:
    """Rows without their first column, by it."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for key, *values in connection.execute(query, {"keys": keys}):
        found.setdefault(key, []).append(tuple(values))
    return found


def _more(connection: sa.Connection, keys: Sequence[int], times: bool) -> dict[int, dict[str, Any]]:
    """What the runs left, and why those that are voided are, by run."""
    found: dict[int, dict[str, Any]] = {}
    for key, *values in connection.execute(_ARTIFACTS, {"keys": keys}):
        artifact = dict(zip(Artifact.__dataclass_fields__, values, strict=True))
        found.setdefault(key, {}).setdefault("artifacts", []).append(artifact)
    for key, reason, state, attempt, voided in connection.execute(_VOIDS, {"keys": keys}):
        void = {"reason": reason, "state": state, "attempt": attempt}
        found.setdefault(key, {})["void"] = void | ({"voided": voided} if times else {})
    return found


# Without NaN, which SQLite cannot keep and no report reads; PostgreSQL sorts it above infinity.
_NUMBER = METRICS.c.value <= sa.literal(math.inf)
_NO_METRIC = (None,) * 7
_INPUTS = ("data_fingerprint", "weights_sha256")
_RUNS = sa.select(
    *(
        RUNS.c[name]
        for name in (
            "key", "id", "model", "dataset", "method", "learning_rate", "seed", "hyperparameters",
            "variant", "content", "state", *_INPUTS,
        )
    )
).where(among(RUNS.c.key, "keys"))  # fmt: skip
_EPOCHS = (
    sa.select(
        *(
            EPOCHS.c[name]
            for name in (
                "run_key", "epoch", "train_loss", "train_accuracy", "learning_rate", "seconds",
                "images_per_second",
            )
        )
    )
    .where(among(EPOCHS.c.run_key, "keys"))
    .order_by(EPOCHS.c.run_key, EPOCHS.c.epoch)
)  # fmt: skip
_METRICS = sa.select(
    *(
        METRICS.c[name]
        for name in ("run_key", "epoch", "split", "group", "metric", "value", "correct", "n")
    )
).where(among(METRICS.c.run_key, "keys"))
_ARTIFACTS = (
    sa.select(ARTIFACTS.c.run_key, *(ARTIFACTS.c[name] for name in Artifact.__dataclass_fields__))
    .where(among(ARTIFACTS.c.run_key, "keys"))
    .order_by(ARTIFACTS.c.name)
)
# The last one counts, so it comes last.
_VOIDS = (
    sa.select(VOIDS.c.run_key, VOIDS.c.reason, VOIDS.c.state, VOIDS.c.attempt, VOIDS.c.voided)
    .join(RUNS, RUNS.c.key == VOIDS.c.run_key)
    .where(among(VOIDS.c.run_key, "keys"), RUNS.c.state == "voided")
    .order_by(VOIDS.c.id)
)
