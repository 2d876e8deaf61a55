"""What a launch looks after between events, without Ray: stops, silence, lost claims, the disk."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import sqlalchemy as sa

from conftest import a_history, a_run
from db.errors import StoreUnreachable
from db.records import Provenance
from db.store import Store
from orchestrator.cli.durations import DURATION
from orchestrator.engine.bell import Bell, key_of
from orchestrator.engine.watch import Watch
from orchestrator.engine.watchdog import Watchdog, descendants
from test_session import Watcher, a_session, done, say, suggested
from worker.events import Epoch, Failed, Paused, Started


class Lane:
    """The bell itself, without its actor."""

    def __init__(self, silences: Mapping[str, float] | None = None) -> None:
        self.bell = Bell()
        self.told = silences or {}
        self.killed: list[str] = []

    def ring(self, keys: list[str] | None) -> None:
        self.bell.ring(keys)

    def silences(self) -> Mapping[str, float]:
        return self.told

    def kill(self, trial: str) -> None:
        self.killed.append(trial)


def test_a_stop_gives_back_what_was_not_begun_and_waits_for_the_rest(
    store: Store, tmp_path: Path
) -> None:
    session = a_session(store, [a_run(seed=s) for s in range(3)], tmp_path)
    session.lane = lane = Lane()
    watch = Watch(session, grace=60, reserve=0)
    trained = suggested(session, "a")
    session.begun("a")
    waiting = suggested(session, "b")
    session.stop.set()
    watch.tick()
    assert store.find_run(waiting.id).state == "pending"
    assert [a.outcome for a in store.attempts(2)] == ["paused"]
    assert lane.bell.listen("worker", "any") == (False, True), "the bell rings for all"
    assert session.suggest("c") == "wait"
    assert not session.over.is_set()
    say(session, "a", Paused(1, 7))
    watch.tick()
    assert session.over.is_set()
    assert store.find_run(trained.id).state == "pending"
    assert session.suggest("c") == "finished"


def test_the_grace_ends(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run()], tmp_path)
    suggested(session, "a")
    session.begun("a")
    watch = Watch(session, grace=0.0, reserve=0, deadline=time.monotonic() - 1)
    watch.tick()
    watch.tick()
    assert session.over.is_set()
    assert watch.timed_out


def test_a_silent_worker_is_ended_and_its_run_tried_again(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run()], tmp_path)
    run = suggested(session, "a")
    session.lane = lane = Lane({key_of(run.id, 1): 500.0})
    watch = Watch(session, grace=1, reserve=0)
    watch.tick()
    assert lane.killed == [], "one answer may be an old one"
    watch._done.clear()
    watch.tick()
    assert lane.killed == ["a"]
    assert [a.outcome for a in store.attempts(1)] == ["died"]
    assert suggested(session, "b") == run


def test_a_worker_frozen_before_its_first_word_is_ended(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run()], tmp_path)
    suggested(session, "a")
    session.begun("a")
    session.lane = lane = Lane()
    watch = Watch(session, grace=1, reserve=0, silence=0.0)
    for _ in range(2):
        watch._done.clear()
        watch.tick()
    assert lane.killed == ["a"]


def test_a_cancelled_run_that_hangs_is_ended(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run()], tmp_path)
    session.lane = lane = Lane()
    suggested(session, "a")
    store.cancel([1])
    watch = Watch(session, grace=0.0, reserve=0)
    watch.tick()
    assert lane.killed == ["a"]


class Away(Store):
    """A store that is away for so many writes."""

    refusals = 0

    @contextlib.contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnreachable("the server restarts")
        with super().write(durable=durable) as connection:
            yield connection


@pytest.fixture
def away(store: Store, monkeypatch: pytest.MonkeyPatch) -> Away:
    monkeypatch.setattr("orchestrator.engine.session.WAIT_SECONDS", 0.001)
    return Away(store.engine)


def test_no_run_is_lost_to_claims_while_the_store_is_away(away: Away, tmp_path: Path) -> None:
    runs = [a_run(seed=seed) for seed in range(5)]
    session = a_session(away, runs, tmp_path)
    away.refusals = 3
    assert session.guarded(lambda: session.suggest("a")).run == runs[0].content()
    assert len(session.queue) == 4


def test_a_death_while_the_store_is_away_counts_once(away: Away, tmp_path: Path) -> None:
    session = a_session(away, [a_run()], tmp_path)
    suggested(session, "a")
    away.refusals = 5
    session.guarded(lambda: session.trial_ended("a", "killed"))
    assert away.find_run(a_run().id).state == "pending"


def test_a_cancelled_run_is_told_to_stop(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run(), a_run(seed=1)], tmp_path)
    session.lane = lane = Lane()
    run = suggested(session, "a")
    store.cancel([session.stored[run.id].key])
    session.check_claims()
    assert lane.bell.listen("worker", key_of(run.id, 1)) == (True, False)
    say(session, "a", Paused(0))
    session.trial_ended("a", None)
    assert store.find_run(run.id).state == "cancelled"
    assert suggested(session, "b") != run


def test_what_was_taken_over_is_left_and_cleared_once_done(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run()], tmp_path)
    session.lane = Lane()
    run = suggested(session, "a")
    store.retire(session.owner)  # the lease ran out while this process was frozen
    other = store.claim(1, store.enlist())
    assert other is not None
    session.check_claims()
    assert session.elsewhere == {run.id}
    say(session, "a", *done(run))
    assert store.find_run(run.id).state == "running", "late messages are refused"
    store.finish(other, a_history(run))
    late = tmp_path / "runs" / run.id / "checkpoint-000001-000002-000000-00000000.pt"
    late.parent.mkdir(parents=True)
    late.touch()
    session.trial_ended("a", None)
    assert not late.exists()


def test_three_bugs_alike_pause_their_family(store: Store, tmp_path: Path) -> None:
    broken = [a_run(method="adamw", learning_rate=rate / 10) for rate in range(1, 7)]
    others = [a_run(seed=seed) for seed in range(2)]
    session = a_session(store, [*broken, *others], tmp_path)
    for trial in "abc":
        suggested(session, trial)
        say(session, trial, Failed("ValueError: no such layer", "trace"))
    assert session.families == {("toy", "adamw"): "ValueError: no such layer"}
    assert suggested(session, "d") == others[0]
    assert suggested(session, "e") == others[1]
    for trial, run in zip("de", others, strict=True):
        say(session, trial, *done(run))
    assert session.suggest("f") == "finished"
    assert not session.startable()
    assert len(session.held_back()) == 3
    watcher = session.observer
    assert isinstance(watcher, Watcher)
    assert any("three runs failed alike" in line for line in watcher.lines)


def test_getting_further_makes_good_for_deaths(store: Store, tmp_path: Path) -> None:
    run = a_run(epochs=9)
    session = a_session(store, [run], tmp_path)
    for attempt in range(8):
        trial = f"t{attempt}"
        suggested(session, trial)
        say(session, trial, Started((), Provenance(), attempt or None, attempt))
        if attempt % 2:
            say(session, trial, Epoch(a_history(run)[attempt]), first=1)
        session.trial_ended(trial, "killed")
    assert store.find_run(run.id).state == "pending"


def test_a_store_that_is_away_is_waited_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.engine.session.WAIT_SECONDS", 0.01)
    session = a_session(store, [a_run()], tmp_path)
    away = [StoreUnreachable("the server restarts")] * 20

    def action() -> str:
        if away:
            raise away.pop()
        return "kept"

    assert session.guarded(action) == "kept"
    assert session.failure is None


def test_a_nearly_full_disk_pauses_the_launch(store: Store, tmp_path: Path) -> None:
    session = a_session(store, [a_run()], tmp_path)
    session.folders.runs.mkdir(parents=True)
    watch = Watch(session, grace=1, reserve=1 << 60)
    watch.tick()
    assert session.suggest("a") == "wait"
    watch.reserve = 0
    watch._done.clear()
    watch.tick()
    assert suggested(session, "a")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_the_watchdog_barks_when_a_vital_process_is_gone(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.engine.watchdog.LOOK_SECONDS", 0.01)
    heard: list[str] = []
    barked = threading.Event()

    def bark(reason: str) -> None:
        heard.append(reason)
        barked.set()

    found = next(c for c in descendants(os.getpid()) if c.pid == child.pid)
    dog = Watchdog(bark, None)
    dog._vital = [found]
    with dog:
        assert not barked.wait(0.1)
        child.kill()
        assert barked.wait(10)
    assert heard == [f"Ray's {found.name} ended"]


def test_the_watchdog_misses_a_cluster_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.engine.watchdog.LOOK_SECONDS", 0.01)
    barked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        dog = Watchdog(lambda reason: barked.set(), address)
        with dog:
            assert not barked.wait(0.2)
            server.close()
            assert barked.wait(10)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("45s", 45), ("30min", 1800), ("4h", 14400), ("1h30min", 5400), ("0.5 h", 1800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "soon", "4 weeks", "-5", "0", "1h x", "h4"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Exception, match=r"not a duration|unknown unit"):
        DURATION.convert(text, None, None)
