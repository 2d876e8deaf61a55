"""The store's contract, stated without SQL in db/store.py."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from conftest import a_history, a_run
from db import schema
from db.connect import open_engine
from db.errors import NotFound, StoreError, StoreMissing, StoreVersion, Superseded
from db.owners import Process, is_dead, this_process
from db.reading import Reader
from db.records import Artifact, Claim, Metric, Provenance, Run
from db.store import Store

ENGINES = ("sqlite", "postgresql")
INPUTS = Provenance("host", "cpu", "data-1", "weights-1", {"torch": "2"})


def register(store: Store, *runs: Run, name: str = "sweep") -> None:
    store.register(name, "text", runs, {run.id for run in runs})


def claimed(store: Store, run: Run | None = None) -> Claim:
    run = run or a_run()
    register(store, run)
    claim = store.claim(store.find_run(run.id).key, store.enlist())
    assert claim is not None
    return claim


def state(store: Store, run: Run) -> str:
    return store.states([run.id])[run.id]


# Registering


def test_registering_twice_changes_nothing(store: Store) -> None:
    runs = [a_run(seed=seed) for seed in range(3)]
    assert store.register("a", "text", runs, {r.id for r in runs}) == 3
    assert store.register("a", "text", runs, {r.id for r in runs}) == 0
    assert [stored.run for stored in store.runs("a")] == runs


def test_sweeps_share_runs_and_keep_their_own_order(store: Store) -> None:
    one, two, three = (a_run(seed=seed) for seed in range(3))
    register(store, one, two, name="a")
    register(store, three, two, name="b")
    assert [s.run.seed for s in store.runs("a")] == [0, 1]
    assert [s.run.seed for s in store.runs("b")] == [2, 1]
    assert len(store.runs()) == 3


def test_a_sweep_that_changed_asks_for_what_it_says_now(store: Store) -> None:
    one, two = a_run(seed=1), a_run(seed=2)
    register(store, one, two)
    register(store, two)
    assert [s.run for s in store.runs("sweep")] == [two]
    assert len(store.runs()) == 2


def test_what_is_needed_is_not_requested(store: Store) -> None:
    needed = a_run(kind="pretrain")
    wanted = a_run(weights=f"run:{needed.id}")
    store.register("a", "text", [needed, wanted], {wanted.id})
    assert [s.requested for s in store.runs("a")] == [False, True]
    assert [s.requested for s in store.runs()] == [False, True]


# Claiming


def test_one_claim_wins(store: Store) -> None:
    claimed(store)
    assert store.claim(1, store.enlist()) is None


def test_threads_never_claim_a_run_twice(store: Store, store_url: str) -> None:
    runs = [a_run(seed=seed) for seed in range(40)]
    register(store, *runs)
    won: list[str] = []

    def work() -> None:
        mine = Store.open(store_url)
        owner = mine.enlist()
        for key in range(1, 41):
            if claim := mine.claim(key, owner):
                won.append(claim.run.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(run.id for run in runs)


def test_a_run_waits_for_what_it_needs(store: Store) -> None:
    needed = a_run(kind="pretrain")
    wanted = a_run(weights=f"run:{needed.id}")
    register(store, needed, wanted)
    owner = store.enlist()
    key = store.find_run(wanted.id).key
    assert store.claim(key, owner) is None
    claim = store.claim(store.find_run(needed.id).key, owner)
    assert claim is not None
    assert store.claim(key, owner) is None, "it is only being trained"
    store.finish(claim, a_history(needed))
    assert store.claim(key, owner) is not None


def test_each_claim_has_a_higher_fence_and_is_an_attempt(store: Store) -> None:
    first = claimed(store)
    store.release(first, "died", "killed")
    second = store.claim(first.run_key, store.enlist())
    assert second is not None
    assert second.fence == first.fence + 1
    attempts = store.attempts(first.run_key)
    assert [(a.number, a.outcome, a.error) for a in attempts] == [
        (1, "died", "killed"),
        (2, None, None),
    ]
    assert attempts[0].pid == os.getpid()


def test_a_claim_carries_the_first_attempts_inputs(store: Store) -> None:
    first = claimed(store)
    store.start(first, (), INPUTS, None)
    store.release(first, "paused")
    again = store.claim(first.run_key, store.enlist())
    assert again is not None
    assert (again.data_fingerprint, again.weights_sha256) == ("data-1", "weights-1")


# Recording


def test_a_finished_run_has_all_its_numbers(store: Store) -> None:
    claim = claimed(store)
    history = a_history(claim.run)
    store.start(claim, history[:2], INPUTS, 1)
    for record in history[2:]:
        store.epoch(claim, record)
    artifact = Artifact("weights", "x/weights", "sha", 3)
    store.finish(claim, history, [artifact], peak_memory=7)
    assert list(store.history(claim.run_key)) == history
    assert state(store, claim.run) == "done"
    attempt = store.attempts(claim.run_key)[0]
    assert (attempt.outcome, attempt.resumed_from, attempt.peak_memory) == ("done", 1, 7)
    assert attempt.versions == {"torch": "2"}
    assert store.artifacts()[claim.run.id][0]["sha256"] == "sha"


def test_a_finish_makes_good_every_lost_message(store: Store) -> None:
    claim = claimed(store)
    store.finish(claim, a_history(claim.run))
    assert list(store.history(claim.run_key)) == a_history(claim.run)


def test_half_a_history_is_not_done(store: Store) -> None:
    claim = claimed(store)
    with pytest.raises(StoreError, match="all of its epochs"):
        store.finish(claim, a_history(claim.run)[:-1])
    assert state(store, claim.run) == "running"
    assert store.history(claim.run_key) == ()


def test_the_same_epoch_again_changes_nothing(store: Store) -> None:
    claim = claimed(store)
    history = a_history(claim.run)
    for record in (*history, *history):
        slower = dataclasses.replace(record, seconds=record.seconds + 1)
        store.epoch(claim, slower)
    assert [r.seconds for r in store.history(claim.run_key)] == [1.0] * len(history)
    assert not store.attempts(claim.run_key)[0].irreproducible


@pytest.mark.parametrize("through", ["start", "epoch", "finish"])
def test_other_values_replace_the_history_and_mark_the_older_attempt(
    store: Store, through: str
) -> None:
    first = claimed(store)
    store.start(first, a_history(first.run, 2, value=0.5), INPUTS, None)
    store.release(first, "died")
    second = store.claim(first.run_key, store.enlist())
    assert second is not None
    other = a_history(second.run, value=0.6)
    if through == "start":
        store.start(second, other, INPUTS, 2)
    elif through == "epoch":
        for record in other:
            store.epoch(second, record)
    else:
        store.finish(second, other)
    assert list(store.history(first.run_key)) == other, "never two spliced"
    assert [a.irreproducible for a in store.attempts(first.run_key)] == [True, False]


def test_a_difference_from_some_epoch_on_keeps_what_is_equal(store: Store) -> None:
    first = claimed(store)
    store.start(first, a_history(first.run), INPUTS, None)
    store.release(first, "died")
    second = store.claim(first.run_key, store.enlist())
    assert second is not None
    changed = a_history(first.run)
    changed[2] = dataclasses.replace(changed[2], train_loss=9.0)
    for record in changed[:3]:
        store.epoch(second, record)
    assert list(store.history(first.run_key)) == changed[:3], "what followed came of other values"
    store.finish(second, changed)
    assert list(store.history(first.run_key)) == changed


@pytest.mark.parametrize("message", ["start", "epoch", "finish", "diverge", "fail", "release"])
def test_a_late_message_is_refused(store: Store, message: str) -> None:
    late = claimed(store)
    history = a_history(late.run)
    store.release(late, "died")
    current = store.claim(late.run_key, store.enlist())
    assert current is not None
    send = {
        "start": lambda: store.start(late, history, INPUTS, None),
        "epoch": lambda: store.epoch(late, history[0]),
        "finish": lambda: store.finish(late, history),
        "diverge": lambda: store.diverge(late, history, "nan"),
        "fail": lambda: store.fail(late, "e", "t"),
        "release": lambda: store.release(late, "died"),
    }[message]
    with pytest.raises(Superseded):
        send()
    assert store.history(late.run_key) == ()
    store.finish(current, history)


def test_a_diverged_run_is_a_result_with_its_epochs(store: Store) -> None:
    claim = claimed(store)
    store.diverge(claim, a_history(claim.run, 1), "not finite")
    assert state(store, claim.run) == "diverged"
    assert len(store.history(claim.run_key)) == 2


def test_a_divergence_drops_what_an_attempt_that_got_further_left(store: Store) -> None:
    first = claimed(store)
    store.start(first, a_history(first.run), INPUTS, None)
    store.release(first, "died")
    second = store.claim(first.run_key, store.enlist())
    assert second is not None
    store.diverge(second, a_history(second.run, 1), "not finite")
    assert [r.epoch for r in store.history(first.run_key)] == [0, 1]
    assert store.attempts(first.run_key)[0].irreproducible


def test_weights_must_be_those_that_were_recorded(store: Store) -> None:
    needed = a_run(kind="pretrain")
    wanted = a_run(weights=f"run:{needed.id}")
    register(store, needed, wanted)
    owner = store.enlist()
    claim = store.claim(store.find_run(needed.id).key, owner)
    assert claim is not None
    left = [Artifact(n, "x", f"sha-of-{n}", 1) for n in ("best", "last", "weights")]
    store.finish(claim, a_history(needed), left)
    dependent = store.claim(store.find_run(wanted.id).key, owner)
    assert dependent is not None
    assert dependent.weights_sha256 == "sha-of-weights"


def test_a_failed_run_keeps_its_traceback_and_waits_to_be_retried(store: Store) -> None:
    claim = claimed(store)
    store.fail(claim, "ValueError: x", "Traceback…")
    assert state(store, claim.run) == "failed"
    assert store.find_run(claim.run.id).error == "ValueError: x"
    assert store.attempts(claim.run_key)[0].traceback == "Traceback…"
    assert store.claim(claim.run_key, store.enlist()) is None
    assert store.retry([claim.run_key]) == 1
    assert store.claim(claim.run_key, store.enlist()) is not None


def test_groups_and_floats_come_back_exactly(store: Store) -> None:
    claim = claimed(store, a_run(epochs=1))
    history = a_history(claim.run)
    metrics = (
        Metric("id", "", "weighted_accuracy", 0.1 + 0.2, None, 3),
        Metric("id", "land", "accuracy", 1 / 3, 1, 3),
    )
    history[1] = dataclasses.replace(history[1], metrics=metrics, train_loss=2 / 3)
    store.finish(claim, history)
    assert store.history(claim.run_key)[1].measured() == history[1].measured()


# Owners


def test_runs_of_a_dead_process_come_back(store: Store, store_url: str) -> None:
    code = (
        "import sys, os, signal\n"
        "from db.store import Store\n"
        f"store = Store.open({store_url!r})\n"
        "assert store.claim(1, store.enlist())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    register(store, a_run(), a_run(seed=1))
    subprocess.run([sys.executable, "-c", code], check=False)
    mine = store.claim(2, store.enlist())
    assert mine is not None
    assert store.find_run(a_run().id).state == "running"
    count, holders = store.recover()
    assert count == 1
    assert [h.pid for h in holders] == [os.getpid()], "the living keep theirs"
    assert store.find_run(a_run().id).state == "pending"
    assert store.attempts(1)[0].outcome == "lost"


def test_death_is_told_by_start_time_boot_and_host() -> None:
    me = this_process()
    assert not is_dead(me)
    assert is_dead(dataclasses.replace(me, started="1")), "another process got the pid"
    other = dataclasses.replace(me, boot_id="before", started="1")
    assert not is_dead(other), "restarted, or another machine of this name: the lease decides"
    boot = me.boot_id.partition("pid:")[0]
    contained = dataclasses.replace(me, boot_id=f"{boot}pid:[1]", started="1")
    assert not is_dead(contained), "another container's process cannot be told from here"
    assert not is_dead(Process("elsewhere", 1, "", "")), "cannot be told from here"


def test_retiring_gives_back_what_is_held(store: Store) -> None:
    register(store, a_run())
    owner = store.enlist()
    assert store.claim(1, owner) is not None
    store.retire(owner, "paused")
    assert store.find_run(a_run().id).state == "pending"
    assert store.attempts(1)[0].outcome == "paused"


# Finding


def test_finding_by_prefix(store: Store) -> None:
    runs = [a_run(seed=seed) for seed in range(20)]
    register(store, *runs)
    assert store.find_run(runs[3].id[:10]).run == runs[3]
    with pytest.raises(NotFound, match="no run"):
        store.find_run("zzz")
    with pytest.raises(NotFound, match="several"):
        store.find_run("")
    with pytest.raises(NotFound, match="no run"):
        store.find_run("%")


def test_an_unknown_sweep_is_named_with_those_there_are(store: Store) -> None:
    register(store, a_run(), name="mine")
    with pytest.raises(NotFound, match=r'no sweep "yours"; it has: mine'):
        store.runs("yours")


# Opening


def test_only_some_commands_create(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="does not exist"):
        Reader.open(str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not a url://x", "not a database URL"),
        ("mysql://host/db", "is no store"),
        ("sqlite://", "a store is a file"),
        ("/nonexistent/folder/orch.db", "does not exist"),
    ],
)
def test_a_bad_place_is_refused(text: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        open_engine(text, create=True)


def test_what_is_no_store_is_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.db"
    text.write_text("these are notes\n" * 100)
    with pytest.raises(StoreError, match="is not a database"):
        Store.open(str(text), create=True)
    assert text.read_text().startswith("these are notes")

    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = other.read_bytes()
    with pytest.raises(StoreVersion, match="not of orch"):
        Store.open(str(other), create=True)
    assert other.read_bytes() == before
    with pytest.raises(StoreError, match="is a folder"):
        Store.open(str(tmp_path), create=True)


def test_a_newer_schema_is_refused(store: Store, store_url: str) -> None:
    with store.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreVersion, match=r"schema 9999.*install a newer orch"):
        Store.open(store_url)


def test_migrations_make_what_the_schema_declares(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with store.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.Base.metadata) == []
        assert context.get_current_revision() == schema.HEAD
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_the_database_itself_enforces_identity(store: Store) -> None:
    claim = claimed(store)
    wrong = [
        "INSERT INTO runs SELECT 99, id, kind, model, dataset, method, learning_rate, "
        "hyperparameters, seed, variant, epochs, content, state, owner_id, fence, "
        "data_fingerprint, weights_sha256 FROM runs",
        "UPDATE runs SET state = 'finished'",
        "UPDATE runs SET owner_id = NULL",
        "UPDATE attempts SET outcome = 'good'",
        "INSERT INTO metrics VALUES (77, 'id', '', 'accuracy', 1, 0.5, 1, 2)",
    ]
    for statement in wrong:
        with pytest.raises(StoreError, match="constraint"), store.write() as connection:
            connection.execute(sa.text(statement))
    assert state(store, claim.run) == "running"


def test_readers_do_not_wait_for_the_writer(store: Store, store_url: str) -> None:
    register(store, a_run())
    reader = Reader.open(store_url)
    with store.write() as connection:
        connection.execute(sa.text("UPDATE runs SET seed = 5"))
        assert reader.runs()[0].run.seed == 0
