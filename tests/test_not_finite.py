"""NaN and infinities: they end a run in its worker, and no store keeps them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker
from conftest import a_history, a_run
from db.errors import StoreError
from db.records import EpochRecord, Metric, Provenance, Run
from db.store import Store
from worker.events import Epoch, Event, Failed, Finished, Started
from worker.kinds import KINDS, Kind

ENGINES = ("sqlite", "postgresql")
ODD = (math.nan, math.inf, -math.inf)


def record(epoch: int, value: float, loss: float = 1.0) -> EpochRecord:
    """An epoch whose OOD value, or loss, may be none."""
    metrics = (Metric("id", "", "accuracy", 0.5, 1, 2), Metric("ood", "land", "f1", value, None, 2))
    return EpochRecord(epoch, loss, 0.5, 0.1, metrics)


@pytest.mark.parametrize("odd", ODD)
def test_a_store_refuses_them_by_name_and_keeps_nothing(store: Store, odd: float) -> None:
    store.register("s", "name: s", [run := a_run()], {run.id})
    owner = store.enlist()
    (stored,) = store.runs()
    claim = store.claim(stored.key, owner)
    assert claim is not None

    with pytest.raises(StoreError, match=rf"the f1 of the split ood land of epoch 1 is {odd}, of"):
        store.epoch(claim, record(1, odd))
    with pytest.raises(StoreError, match=rf"the training loss of epoch 0 is {odd}"):
        store.start(claim, [record(0, 0.5, loss=odd)], Provenance(), None)
    history = [*a_history(run)[:-1], record(run.epochs, odd)]
    with pytest.raises(StoreError, match=f"of run {run.id}: only finite numbers are kept"):
        store.finish(claim, history)
    assert store.history(stored.key) == ()

    store.finish(claim, whole := a_history(run))
    with pytest.raises(StoreError, match=f"the accuracy of the split late of epoch 1 is {odd}"):
        store.measured_later(stored.key, 1, [Metric("late", "", "accuracy", odd, None, 2)])
    assert store.history(stored.key) == tuple(whole)


def measures(run: Run, context: worker.Context) -> Iterator[Event]:
    """A kind of run that a plugin could declare: epoch 2 has no OOD value that is a number."""
    yield Started((), Provenance(), None)
    history = [record(epoch, math.nan if epoch == 2 else 0.5) for epoch in range(run.epochs + 1)]
    for one in history:
        yield Epoch(one)
    yield Finished(tuple(history))


def test_a_run_that_measures_one_fails_there_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Kind(id="measures", run="test_not_finite:measures")
    monkeypatch.setattr(KINDS, "_entries", {**KINDS, "measures": kind})

    events = [*worker.run(a_run(kind="measures"), worker.Context(data=tmp_path, runs=tmp_path))]

    assert [type(event) for event in events] == [Started, Epoch, Epoch, Failed]
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert failed.cause == "bug"
    assert "the f1 of the split ood land of epoch 2 is nan" in failed.error
    assert "Traceback" in failed.traceback


def test_all_finite_numbers_pass() -> None:
    assert record(1, 1e300, loss=-1e300).not_finite() == ""
    assert EpochRecord(0, None, None, 0.1, ()).not_finite() == ""
