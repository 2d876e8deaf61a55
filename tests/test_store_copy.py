"""From one store into another, and several into one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from conftest import Orch, PostgresServer, a_history, a_run
from db import copying
from db.copying import Copied, copy
from db.errors import StoreError
from db.exporting import long_rows
from db.records import Artifact, Provenance, Run
from db.store import Store

INPUTS = Provenance("host", "cpu", "data-1", "weights-1", {"torch": "2"}, "n", 1, "fp32", 16)
PAIRS = [("sqlite", "sqlite"), ("sqlite", "postgresql"), ("postgresql", "sqlite")]
T = TypeVar("T")


def drive(work: Generator[tuple[int, int], None, T]) -> T:
    """Run it to its end; what it says of its progress is in order."""
    said = []
    while True:
        try:
            said.append(next(work))
        except StopIteration as end:
            assert said == sorted(said)
            assert all(0 <= done <= total for done, total in said)
            return end.value  # type: ignore[no-any-return]


def copied(source: Store, target: Store) -> Copied:
    return drive(copy(source, target))


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgresServer
) -> Iterator[tuple[Store, Store]]:
    """Two empty stores, each on the engine that the test's name says."""
    with contextlib.ExitStack() as stack:
        stores = []
        for number, engine in enumerate(request.param):
            url = str(tmp_path / f"{number}.db") if engine == "sqlite" else postgres.fresh()
            if engine != "sqlite":
                stack.callback(postgres.drop, url)
            store = Store.open(url, create=True)
            stack.callback(store.engine.dispose)
            stores.append(store)
        yield stores[0], stores[1]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """Two empty stores."""
    stores = [Store.open(str(tmp_path / f"{name}.db"), create=True) for name in "ab"]
    yield stores[0], stores[1]
    for store in stores:
        store.engine.dispose()


def register(store: Store, *runs: Run, name: str = "sweep", text: str = "text") -> None:
    store.register(name, text, runs, {run.id for run in runs})


def train(store: Store, run: Run, end: str = "done", value: float = 0.5) -> int:
    """Bring a registered run to its end; returns its key."""
    claim = store.claim(store.find_run(run.id).key, store.enlist(), ("c0ffee", False))
    assert claim is not None
    history = a_history(run, value=value)
    store.start(claim, history[:1], INPUTS, None)
    if end == "done":
        store.finish(claim, history, [Artifact("weights", f"{run.id}/w", "sha", 1)], 7)
    elif end == "diverged":
        store.diverge(claim, history[:2], "nan")
    elif end == "failed":
        store.fail(claim, "ValueError: x", "Traceback …", "bad_data")
    elif end == "paused":
        store.release(claim, "paused")
    return claim.run_key


def told(store: Store) -> dict[str, object]:
    """Everything that the store says, by what is the same in every store."""
    runs = store.runs()
    return {
        "sweeps": store.sweeps(),
        "lists": {
            info.name: [(s.id, s.requested, s.extended) for s in store.runs(info.name)]
            for info in store.sweeps()
        },
        "runs": {
            s.id: (
                s.run, s.state, s.attempts, s.error, s.cause, s.void_reason, s.data_fingerprint,
                s.weights_sha256,
            )
            for s in runs
        },
        "attempts": {s.id: store.attempts(s.key) for s in runs},
        "histories": {s.id: store.history(s.key) for s in runs},
        "voids": {s.id: store.voids(s.key) for s in runs},
        "artifacts": {
            run_id: [{k: v for k, v in file.items() if k != "run_key"} for file in files]
            for run_id, files in store.artifacts().items()
        },
        "rows": list(long_rows(store, times=True)),
    }  # fmt: skip


def fill(store: Store) -> dict[str, Run]:
    """Runs in every state, with all that can be about them."""
    needed = a_run(kind="pretrain")
    runs = {
        "needed": needed,
        "done": a_run(weights=f"run:{needed.id}"),
        "diverged": a_run(seed=1),
        "failed": a_run(seed=2),
        "cancelled": a_run(seed=3),
        "voided": a_run(seed=4),
        "paused": a_run(seed=5),
        "pending": a_run(seed=6),
        "twice": a_run(seed=7),
    }
    register(store, *runs.values())
    register(store, runs["pending"], runs["done"], name="other", text="other text")
    for name in ("needed", "done", "diverged", "failed", "voided", "paused"):
        train(store, runs[name], "done" if name in ("needed", "voided") else name)
    train(store, runs["twice"], "paused")
    train(store, runs["twice"])
    store.cancel([store.find_run(runs["cancelled"].id).key])
    store.void(store.find_run(runs["voided"].id).key, "wrong labels")
    store.extend("sweep", [a_run(learning_rate=0.4)])
    return runs


def test_a_copy_says_the_same(pair: tuple[Store, Store]) -> None:
    source, target = pair
    fill(source)
    before = told(source)
    done = copied(source, target)
    assert told(target) == before == told(source)
    assert (done.runs, done.new, done.conflicts, done.running) == (10, 10, [], [])

    again = copied(source, target)
    assert not again.changed
    assert (again.runs, again.taken, again.conflicts) == (10, [], [])
    assert told(target) == before


def test_a_copy_of_a_copy_goes_back(pair: tuple[Store, Store]) -> None:
    source, target = pair
    runs = fill(source)
    copied(source, target)
    train(target, runs["pending"])
    assert target.retry([target.find_run(runs["failed"].id).key]) == 1
    train(target, runs["failed"])
    done = copied(target, source)
    assert sorted(done.taken) == sorted([runs["pending"].id, runs["failed"].id])
    assert told(source) == told(target)
    assert [a.outcome for a in source.attempts(source.find_run(runs["failed"].id).key)] == [
        "failed",
        "done",
    ]


def test_a_copied_store_goes_on(two: tuple[Store, Store]) -> None:
    source, target = two
    runs = fill(source)
    copied(source, target)
    train(target, runs["paused"])
    key = target.find_run(runs["paused"].id).key
    assert [(a.number, a.outcome) for a in target.attempts(key)] == [(1, "paused"), (2, "done")]
    register(target, a_run(seed=99))
    assert target.recover() == (0, [])


def test_results_of_machines_come_together(two: tuple[Store, Store], tmp_path: Path) -> None:
    runs = [a_run(seed=seed) for seed in range(6)]
    machines = list(two)
    for store, mine in zip(machines, (runs[:3], runs[2:5]), strict=True):
        register(store, *mine)
        for run in mine:
            train(store, run)
    main = Store.open(str(tmp_path / "main.db"), create=True)
    register(main, runs[5])
    train(main, runs[5], "failed")
    for machine in machines:
        assert copied(machine, main).conflicts == [], "the shared run has the same numbers"
    states = {s.run.seed: s.state for s in main.runs()}
    assert states == {**dict.fromkeys(range(5), "done"), 5: "failed"}
    assert {s.run.seed for s in main.runs("sweep")} == set(range(6))
    assert all(len(main.attempts(s.key)) == 1 for s in main.runs())
    assert not any(copied(machine, main).changed for machine in machines)
    main.engine.dispose()


def test_attempts_of_both_are_kept_without_clashes(two: tuple[Store, Store]) -> None:
    source, target = two
    for store in two:
        register(store, a_run())
        train(store, a_run(), "paused")
    train(source, a_run())
    copied(source, target)
    key = target.find_run(a_run().id).key
    attempts = target.attempts(key)
    assert [(a.number, a.outcome) for a in attempts] == [(1, "paused"), (2, "paused"), (3, "done")]
    assert target.find_run(a_run().id).attempts == 3
    assert list(target.history(key)) == a_history(a_run())
    assert not copied(source, target).changed


def test_different_numbers_are_a_conflict(two: tuple[Store, Store]) -> None:
    source, target = two
    for store, value in zip(two, (0.5, 0.6), strict=True):
        register(store, a_run(), a_run(seed=1))
        train(store, a_run(), value=value)
        train(store, a_run(seed=1), "diverged" if value == 0.5 else "done")
    before = told(target)
    done = copied(source, target)
    assert done.conflicts == [a_run().id, a_run(seed=1).id]
    assert done.taken == []
    assert told(target) == before


def test_the_clock_is_no_difference(two: tuple[Store, Store]) -> None:
    source, target = two
    for store in two:
        register(store, a_run())
        train(store, a_run())
    with target.write() as connection:
        connection.exec_driver_sql("UPDATE epochs SET seconds = 9, images_per_second = 9")
    assert copied(source, target).conflicts == []


def test_what_is_trained_is_left_alone(two: tuple[Store, Store]) -> None:
    source, target = two
    here, there = a_run(), a_run(seed=1)
    for store in two:
        register(store, here, there)
    train(source, here)
    train(target, there)
    assert target.claim(1, target.enlist()) is not None
    assert source.claim(2, source.enlist()) is not None
    done = copied(source, target)
    assert (done.running, done.taken) == ([here.id, there.id], [])
    assert [s.state for s in target.runs()] == ["running", "done"]


def test_a_void_follows_its_numbers(two: tuple[Store, Store]) -> None:
    source, target = two
    run = a_run()
    register(source, run)
    key = train(source, run)
    copied(source, target)
    source.void(key, "wrong labels")
    assert copied(source, target).taken == [run.id]
    assert told(target) == told(source)
    assert not copied(source, target).changed

    source.retry([key])
    train(source, run, value=0.7)
    assert copied(source, target).taken == [run.id], "new numbers in place of voided ones"
    assert list(target.history(target.find_run(run.id).key)) == a_history(run, value=0.7)
    assert not copied(source, target).changed


def test_voided_numbers_do_not_come_back(two: tuple[Store, Store]) -> None:
    source, target = two
    register(source, a_run())
    train(source, a_run())
    copied(source, target)
    key = target.find_run(a_run().id).key
    target.void(key, "wrong labels")
    assert not copied(source, target).changed
    assert target.find_run(a_run().id).state == "voided"
    target.retry([key])
    assert not copied(source, target).changed
    assert target.find_run(a_run().id).state == "pending"


def test_a_retry_in_the_target_stands(two: tuple[Store, Store]) -> None:
    source, target = two
    register(source, a_run())
    train(source, a_run(), "failed")
    copied(source, target)
    target.retry([1])
    assert not copied(source, target).changed
    assert target.find_run(a_run().id).state == "pending"


def test_the_newer_text_of_a_sweep_stands(two: tuple[Store, Store]) -> None:
    older, newer = two
    a, b, c = (a_run(seed=seed) for seed in range(3))
    register(older, a, b, text="older")
    register(newer, c, b, text="newer")
    copied(older, newer)
    assert newer.sweep("sweep").yaml == "newer"
    assert [s.run for s in newer.runs("sweep")] == [c, b, a]
    copied(newer, older)
    assert told(older)["lists"] == told(newer)["lists"]
    assert older.sweeps() == newer.sweeps()
    assert not copied(newer, older).changed
    assert not copied(older, newer).changed


def test_a_copy_that_was_cut_short_is_completed(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BATCH", 2)
    source, target = two
    fill(source)
    work = copy(source, target)
    for _ in range(3):
        next(work)
    work.close()
    assert target.sweeps() == []
    assert copied(source, target).changed
    assert told(target) == told(source)


def test_a_store_is_not_copied_onto_itself(two: tuple[Store, Store]) -> None:
    with pytest.raises(StoreError, match="onto itself"):
        copied(two[0], two[0])


def test_the_command_copies_and_names_conflicts(
    two: tuple[Store, Store], orch: Orch, tmp_path: Path
) -> None:
    source, target = two
    fill(source)
    names = {store: str(store.engine.url.database) for store in two}
    command = ("--store", names[source], "store", "copy")
    made = orch(*command, tmp_path / "made.db")
    assert "10 new runs" in made.stdout
    assert "nothing to copy; 10 runs compared" in orch(*command, tmp_path / "made.db").stdout

    register(target, a_run(seed=7))
    train(target, a_run(seed=7), value=0.9)
    done = orch(*command, names[target], "--format", "json", check=1)
    said = json.loads(done.stdout)
    assert (said["conflicts"], said["changed"]) == ([a_run(seed=7).id], True)
    again = orch(*command, names[target], check=1)
    assert f"Different numbers in both, the target's stay: {a_run(seed=7).id}" in again.stdout


def test_the_command_says_what_a_store_holds(store: Store, orch: Orch) -> None:
    fill(store)
    place = str(store.engine.url.database)
    said = json.loads(orch("--store", place, "store", "info", "--json").stdout)
    assert (said["engine"], said["place"], said["sweeps"]) == ("sqlite", place, 2)
    assert said["runs"] == {
        "cancelled": 1, "diverged": 1, "done": 3, "failed": 1, "pending": 3, "voided": 1,
    }  # fmt: skip
    assert (said["epochs"], said["attempts"]) == (4 * 3 + 2 + 1 + 1, 8)
    assert said["bytes"] > 4096
    assert all(owner["alive"] for owner in said["owners"])
    text = orch("--store", place, "store", "info").stdout
    assert "10 (1 cancelled, 1 diverged, 3 done, 1 failed, 3 pending, 1 voided)" in text
    assert "alive" in text


def test_info_of_a_server(postgres: PostgresServer, orch: Orch) -> None:
    url = postgres.fresh()
    store = Store.open(url)
    owner = store.enlist(0.0)
    register(store, a_run())
    store.claim(1, owner)
    said = json.loads(orch("--store", url, "store", "info", "--json").stdout)
    assert (said["engine"], said["runs"]) == ("postgresql", {"running": 1})
    assert [(o["runs"], o["alive"]) for o in said["owners"]] == [(1, False)]
    assert said["bytes"] > 1_000_000
    store.engine.dispose()
