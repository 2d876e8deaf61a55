"""The engine's decisions without Ray: what is trained next, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import a_history, a_run
from db.errors import StoreError
from db.records import Claim, Provenance, Run, State
from db.store import Store
from orchestrator.engine.queue import Queue
from orchestrator.engine.session import MAX_DEATHS, Session, queue_of
from orchestrator.engine.task import Task
from orchestrator.spec import Resources
from orchestrator.sweep import Planned
from worker.context import Folders
from worker.events import Diverged, Epoch, Event, Failed, Finished, Started, to_json

PRETRAIN = a_run(kind="pretrain")
NEEDY = [a_run(weights=f"run:{PRETRAIN.id}", seed=seed) for seed in range(2)]


class Watcher:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, State, str | None]] = []
        self.lines: list[str] = []

    def claimed(self, claim: Claim) -> None: ...

    def said(self, claim: Claim, event: Event) -> None: ...

    def ended(self, claim: Claim, state: State, error: str | None) -> None:
        self.ends.append((claim.run.id, state, error))

    def line(self, text: str) -> None:
        self.lines.append(text)


def a_session(
    store: Store, runs: Sequence[Run], tmp_path: Path, concurrent: int | None = None
) -> Session:
    store.register("s", "text", runs, {run.id for run in runs})
    stored = store.runs("s")
    return Session(
        store=store,
        owner=store.enlist(),
        queue=queue_of(store, stored),
        stored={s.id: s for s in stored},
        planned={s.id: Planned(s.run, Resources()) for s in stored},
        folders=Folders(data=Path("data"), runs=tmp_path / "runs"),
        observer=Watcher(),
        max_claims=concurrent,
    )


def say(session: Session, trial: str, *events: Event, first: int = 0) -> None:
    for number, event in enumerate(events, first):
        session.message(trial, number, [json.dumps(to_json(event))])


def done(run: Run) -> list[Event]:
    history = tuple(a_history(run))
    epochs = [Epoch(record) for record in history]
    return [Started((), Provenance(), None), *epochs, Finished(history)]


def suggested(session: Session, trial: str) -> Run:
    task = session.suggest(trial)
    assert isinstance(task, Task)
    return Run.from_content(task.run)


def test_runs_come_in_order_and_end(store: Store, tmp_path: Path) -> None:
    runs = [a_run(seed=seed) for seed in range(3)]
    session = a_session(store, runs, tmp_path)
    for number, run in enumerate(runs):
        assert suggested(session, f"t{number}") == run
    assert session.suggest("t3") == "wait", "a running one may die and come back"
    for number, run in enumerate(runs):
        say(session, f"t{number}", *done(run))
    assert session.suggest("t3") == "finished"
    assert session.states == {"done": 3}


def test_what_needs_another_waits_for_it(store: Store, tmp_path: Path) -> None:
    free = a_run(seed=9)
    session = a_session(store, [PRETRAIN, *NEEDY, free], tmp_path)
    assert suggested(session, "a") == PRETRAIN
    assert suggested(session, "b") == free, "the blocked ones are passed over"
    assert session.suggest("c") == "wait"
    say(session, "a", *done(PRETRAIN))
    assert [suggested(session, "c"), suggested(session, "d")] == NEEDY


def test_what_needs_a_failed_run_never_starts(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [PRETRAIN, *NEEDY], tmp_path)
    suggested(session, "a")
    say(session, "a", Failed("ValueError: x", "trace"))
    assert session.suggest("b") == "finished"
    assert sorted(session.queue.blocked()) == sorted(run.id for run in NEEDY)


def test_no_more_at_once_than_asked(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run(seed=s) for s in range(3)], tmp_path, concurrent=2)
    first = suggested(session, "a")
    suggested(session, "b")
    assert session.suggest("c") == "wait"
    say(session, "a", *done(first))
    suggested(session, "c")


def test_a_repeated_report_counts_once(store: Store, tmp_path: Path) -> None:
    run = a_run()
    session = a_session(store, [run], tmp_path)
    suggested(session, "a")
    events = done(run)
    for number, event in enumerate(events):
        say(session, "a", event, first=number)
        say(session, "a", event, first=number)
    assert len(store.history(1)) == 4
    assert session.states == {"done": 1}


def test_a_death_is_retried_and_at_last_a_failure(store: Store, tmp_path: Path) -> None:
    run, other = a_run(), a_run(seed=1)
    session = a_session(store, [run, other], tmp_path)
    for attempt in range(1, MAX_DEATHS + 1):
        assert suggested(session, f"t{attempt}") == run, "it goes first again"
        session.trial_ended(f"t{attempt}", "killed")
    assert store.find_run(run.id).state == "failed"
    outcomes = [a.outcome for a in store.attempts(1)]
    assert outcomes == ["died"] * (MAX_DEATHS - 1) + ["failed"]
    assert suggested(session, "z") == other


def test_a_trial_that_ends_after_its_outcome_changes_nothing(store: Store, tmp_path: Path) -> None:
    run = a_run(model="toy_nan")
    session = a_session(store, [run], tmp_path)
    suggested(session, "a")
    say(session, "a", Diverged(tuple(a_history(run, 1)), 2, 5))
    session.trial_ended("a", None)
    watcher = session.observer
    assert isinstance(watcher, Watcher)
    assert [(s, e) for _, s, e in watcher.ends] == [("diverged", None)]
    assert store.find_run(run.id).state == "diverged"


def test_what_another_launch_took_is_left_to_it(store: Store, tmp_path: Path) -> None:
    runs = [a_run(seed=seed) for seed in range(3)]
    session = a_session(store, runs, tmp_path)
    other = store.enlist()
    assert store.claim(1, other)
    finished_elsewhere = store.claim(2, other)
    assert finished_elsewhere is not None
    store.finish(finished_elsewhere, a_history(runs[1]))
    assert suggested(session, "a") == runs[2]
    session.look_elsewhere()
    assert session.elsewhere == {runs[0].id}, "what is done there is no matter any more"


def test_a_launch_waits_for_what_another_one_is_making(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [PRETRAIN, *NEEDY], tmp_path)
    session._looked = -100.0
    theirs = store.claim(1, store.enlist())
    assert theirs is not None
    assert session.suggest("a") == "wait"
    store.finish(theirs, a_history(PRETRAIN))
    assert session.suggest("a") == "wait", "it looks once a second"
    session._looked = -100.0
    session.suggest("a")
    assert suggested(session, "b") in NEEDY


def test_what_another_launch_gives_up_is_taken(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [PRETRAIN, *NEEDY], tmp_path)
    theirs = store.claim(1, store.enlist())
    assert theirs is not None
    session._looked = -100.0
    assert session.suggest("a") == "wait"
    store.release(theirs, "died")
    session._looked = -100.0
    session.suggest("a")
    assert suggested(session, "b") == PRETRAIN


def test_a_claim_that_was_superseded_ends_alone(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run(), a_run(seed=1)], tmp_path)
    run = suggested(session, "a")
    store.retire(session.owner)
    assert store.claim(session.stored[run.id].key, store.enlist()) is not None
    session.trial_ended("a", "killed")
    assert not session.stop.is_set()
    assert run.id in session.elsewhere


def test_a_store_that_fails_for_a_moment_is_tried_again(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run()], tmp_path)
    faults = [StoreError("locked"), StoreError("locked")]

    def action() -> str:
        if faults:
            raise faults.pop()
        return "kept"

    assert session.guarded(action) == "kept"
    assert not session.stop.is_set()


def test_a_fault_in_the_driver_ends_the_launch_in_order(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run()], tmp_path)

    def fault() -> None:
        raise OSError("disk full")

    session.guarded(fault)
    assert session.stop.is_set()
    assert isinstance(session.failure, OSError)
    assert session.suggest("a") == "finished"


def test_finished_runs_leave_no_checkpoints(store: Store, tmp_path: Path) -> None:
    run = a_run()
    session = a_session(store, [run], tmp_path)
    folder = tmp_path / "runs" / run.id
    folder.mkdir(parents=True)
    for name in ("checkpoint-000001-000001-0.pt", ".partial-x", "attempt-1.log"):
        (folder / name).touch()
    suggested(session, "a")
    say(session, "a", *done(run))
    assert [path.name for path in folder.iterdir()] == ["attempt-1.log"]


@pytest.mark.parametrize("order", [1, -1])
def test_the_queue_is_deterministic(store: Store, order: int) -> None:
    runs = [PRETRAIN, *NEEDY, a_run(seed=5)][::order]
    store.register("s", "text", runs, set())
    queue = Queue(store.runs("s"), {})
    taken = []
    while run_id := queue.take():
        taken.append(run_id)
        queue.settle(run_id, "done")
    assert len(taken) == 4
    assert taken.index(PRETRAIN.id) < min(taken.index(run.id) for run in NEEDY)


def test_a_task_survives_json() -> None:
    task = Task(a_run().content(), 2, "d", "r", 1.0, 0.5, ("p.py",), "x", None)
    again = Task.from_json(task.to_json())
    assert again.plugins == task.plugins
    assert Run.from_content(again.run) == a_run()
