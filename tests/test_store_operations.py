"""The operator's hand: retry, cancel, void; and sweeps that grow."""

from __future__ import annotations

import dataclasses

import pytest

from conftest import a_history, a_run
from db.errors import NotFound, StoreError, Superseded
from db.exporting import long_rows
from db.records import Artifact, Claim, Provenance, Run
from db.store import Store
from reports import select

ENGINES = ("sqlite", "postgresql")
INPUTS = Provenance("host", "cpu", "data-1", "weights-1", {})
WEIGHTS = Artifact("weights", "x/weights", "sha", 3)


def register(store: Store, *runs: Run, name: str = "sweep") -> int:
    return store.register(name, "text", runs, {run.id for run in runs})


def claimed(store: Store, run: Run) -> Claim:
    claim = store.claim(store.find_run(run.id).key, store.enlist())
    assert claim is not None
    store.start(claim, (), INPUTS, None)
    return claim


def trained(store: Store, run: Run, value: float = 0.5) -> int:
    """Train a registered run to its end; returns its key."""
    claim = claimed(store, run)
    store.finish(claim, a_history(run, value=value), [WEIGHTS])
    return claim.run_key


def state(store: Store, run: Run) -> str:
    return store.states([run.id])[run.id]


# Cancel and retry


def test_a_cancelled_run_is_nobodys_until_it_is_retried(store: Store) -> None:
    waiting, running, done = (a_run(seed=seed) for seed in range(3))
    register(store, waiting, running, done)
    late = claimed(store, running)
    trained(store, done)
    keys = [stored.key for stored in store.runs()]
    assert store.cancel(keys) == 2
    assert store.cancel(keys) == 0
    assert [state(store, r) for r in (waiting, running, done)] == ["cancelled", "cancelled", "done"]
    assert store.attempts(late.run_key)[0].outcome == "cancelled"
    for message in (
        lambda: store.epoch(late, a_history(running)[0]),
        lambda: store.finish(late, a_history(running)),
        lambda: store.fail(late, "e", "t"),
    ):
        with pytest.raises(Superseded):
            message()
    assert store.claim(late.run_key, store.enlist()) is None
    assert store.retry(keys) == 2
    assert store.retry(keys) == 0
    assert trained(store, running) == late.run_key


def test_retrying_takes_what_ended_without_a_result(store: Store) -> None:
    runs = [a_run(seed=seed) for seed in range(5)]
    register(store, *runs)
    failed, diverged, voided = (claimed(store, run) for run in runs[:3])
    store.fail(failed, "e", "t")
    store.diverge(diverged, (), "nan")
    store.finish(voided, a_history(runs[2]))
    store.void(voided.run_key, "wrong data")
    store.cancel([store.find_run(runs[3].id).key])
    assert store.retry([stored.key for stored in store.runs()]) == 3
    states = [state(store, run) for run in runs]
    assert states == ["pending", "diverged", "pending", "pending", "pending"]


# Voiding


def test_voided_numbers_are_kept_and_in_no_table(store: Store) -> None:
    run, other = a_run(), a_run(seed=1)
    register(store, run, other)
    key = trained(store, run)
    trained(store, other)
    store.void(key, "the labels were wrong")

    stored = store.find_run(run.id)
    assert (stored.state, stored.void_reason) == ("voided", "the labels were wrong")
    assert (stored.data_fingerprint, stored.weights_sha256) == (None, None)
    assert store.history(key) == ()
    assert run.id not in store.artifacts()
    assert {row.run_id for row in long_rows(store) if row.value is not None} == {other.id}
    (void,) = store.voids(key)
    assert list(void.history) == a_history(run)
    assert (void.state, void.attempt, void.reason) == ("done", 1, "the labels were wrong")
    assert len(store.attempts(key)) == 1, "what was tried stays known"


def test_a_voided_run_counts_as_missing(store: Store) -> None:
    runs = [a_run(seed=0), a_run(seed=1), a_run(seed=0, learning_rate=0.2, epochs=3)]
    register(store, *runs)
    best = trained(store, runs[0], value=0.9)
    trained(store, runs[1], value=0.9)
    trained(store, runs[2], value=0.5)

    def cell() -> select.Cell:
        (found,) = select.cells(store, store.briefs("sweep"), "ood").values()
        return found

    assert cell().learning_rate == 0.1
    store.void(best, "wrong")
    assert (cell().learning_rate, cell().n, cell().expected) == (0.2, 2, 3)


def test_a_voided_run_starts_from_nothing(store: Store) -> None:
    run = a_run()
    register(store, run)
    key = trained(store, run)
    store.void(key, "wrong weights")
    assert store.claim(key, store.enlist()) is None
    assert store.retry([key]) == 1
    assert store.find_run(run.id).void_reason is None
    again = store.claim(key, store.enlist())
    assert again is not None
    assert (again.fence, again.data_fingerprint, again.weights_sha256) == (2, None, None)
    inputs = dataclasses.replace(INPUTS, data_fingerprint="data-2")
    store.start(again, (), inputs, None)
    store.finish(again, a_history(run, value=0.6), [WEIGHTS])
    assert store.find_run(run.id).data_fingerprint == "data-2"
    assert [a.data_fingerprint for a in store.attempts(key)] == ["data-1", "data-2"]
    assert not store.attempts(key)[0].irreproducible, "it was voided, not contradicted"
    store.void(key, "again")
    assert [void.history[0].metrics[0].value for void in store.voids(key)] == [0.5, 0.6]


def test_voiding_may_be_repeated_with_the_same_reason(store: Store) -> None:
    run = a_run()
    register(store, run)
    key = trained(store, run)
    for _ in range(2):
        store.void(key, "wrong")
    assert len(store.voids(key)) == 1
    with pytest.raises(StoreError, match="voided already"):
        store.void(key, "another reason")


def test_what_is_not_over_is_not_voided(store: Store) -> None:
    run = a_run()
    register(store, run)
    key = store.find_run(run.id).key
    with pytest.raises(StoreError, match=f"run {run.id} is pending; cancel it"):
        store.void(key, "x")
    claimed(store, run)
    with pytest.raises(StoreError, match="is running"):
        store.void(key, "x")


def test_weights_that_others_started_from_are_not_voided(store: Store) -> None:
    needed = a_run(kind="pretrain")
    wanted, later = (a_run(weights=f"run:{needed.id}", seed=seed) for seed in range(2))
    register(store, needed, wanted, later)
    key = trained(store, needed)
    claim = claimed(store, wanted)
    for end in (None, "paused", "failed", "done"):
        with pytest.raises(StoreError, match=f"{wanted.id} started from") as refused:
            store.void(key, "bad weights")
        assert later.id not in str(refused.value)
        if end == "paused":
            store.release(claim, end)
            claim = claimed(store, wanted)
        if end == "failed":
            store.fail(claim, "e", "t")
            store.retry([claim.run_key])
            claim = claimed(store, wanted)
            store.finish(claim, a_history(wanted))
    store.void(claim.run_key, "bad weights")
    store.void(key, "bad weights")
    assert store.claim(store.find_run(later.id).key, store.enlist()) is None, "it needs them anew"


# Growing


def test_an_extended_sweep_keeps_what_was_added(store: Store) -> None:
    runs = [a_run(learning_rate=rate) for rate in (0.1, 0.2)]
    added = [a_run(learning_rate=rate) for rate in (0.4, 0.8)]
    register(store, *runs)
    assert store.extend("sweep", [runs[0], *added]) == 2
    assert store.extend("sweep", added) == 0
    listed = store.runs("sweep")
    assert [s.run for s in listed] == [*runs, *added]
    assert [s.extended for s in listed] == [False, False, True, True]
    assert all(s.requested for s in listed)

    assert register(store, *runs) == 0
    assert [s.run for s in store.runs("sweep")] == [*runs, *added]


def test_an_added_run_that_the_file_names_is_the_files(store: Store) -> None:
    run, added = a_run(), a_run(learning_rate=0.2)
    register(store, run)
    store.extend("sweep", [added])
    register(store, added, run)
    assert [(s.run, s.extended) for s in store.runs("sweep")] == [(added, False), (run, False)]
    register(store, run)
    assert [s.run for s in store.runs("sweep")] == [run], "the file had it and dropped it"


@pytest.mark.parametrize("change", [{"batch_size": 64}, {"method": "adamw"}, {"model": "tiny"}])
def test_added_runs_go_with_their_cell(store: Store, change: dict[str, object]) -> None:
    kept, gone = a_run(), a_run(**change)
    register(store, kept, gone)
    added = [dataclasses.replace(run, learning_rate=0.2) for run in (kept, gone)]
    store.extend("sweep", added)
    register(store, kept)
    assert [s.run for s in store.runs("sweep")] == [kept, added[0]]
    assert len(store.runs()) == 4, "runs stay, whoever asks for them"


def test_only_a_known_sweep_grows(store: Store) -> None:
    with pytest.raises(NotFound, match="no sweep"):
        store.extend("none", [a_run()])
    register(store, a_run())
    orphan = a_run(weights="run:0123456789abcdef")
    with pytest.raises(StoreError, match="need 0123456789abcdef"):
        store.extend("sweep", [orphan])
    assert len(store.runs()) == 1


def test_many_runs_change_places(store: Store) -> None:
    runs = [a_run(seed=seed) for seed in range(3000)]
    assert register(store, *runs) == 3000
    assert register(store, *runs) == 0
    turned = [*runs[::-1][:2000], a_run(seed=3000)]
    assert register(store, *turned) == 1
    assert [s.run for s in store.runs("sweep")] == turned
    assert [s.run.seed for s in store.runs()] == [*range(3001)]
    assert store.states([r.id for r in turned[:2]]) == dict.fromkeys(
        (r.id for r in turned[:2]), "pending"
    )
