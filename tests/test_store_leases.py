"""Who may train and tell: leases, takeovers, and messages whose acknowledgement was lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from conftest import PostgresServer, a_history, a_run
from db.errors import StoreUnreachable, Superseded
from db.lease import Lease
from db.records import Artifact, Claim, Provenance, Run
from db.store import Store

ENGINES = ("sqlite", "postgresql")
INPUTS = Provenance("host", "cpu", "data-1", "weights-1", {"torch": "2"}, "node-7", 2, "bf16", 8)
TTL = 60.0


def register(store: Store, *runs: Run) -> None:
    store.register("sweep", "text", runs, {run.id for run in runs})


def claimed(store: Store, run: Run | None = None, owner: int | None = None) -> Claim:
    run = run or a_run()
    register(store, run)
    claim = store.claim(store.find_run(run.id).key, owner or store.enlist())
    assert claim is not None
    return claim


def age(store: Store, owner: int, seconds: float) -> None:
    """Let the owner's last beat be so long ago."""
    with store.write() as connection:
        connection.execute(
            sa.text("UPDATE owners SET heartbeat = heartbeat - :s WHERE id = :o"),
            {"s": seconds, "o": owner},
        )


# Leases


@pytest.mark.parametrize(("silent", "ttl", "lost"), [(59, 60.0, 0), (61, 60.0, 1), (61, 300.0, 0)])
def test_a_lease_lasts_its_ttl(store: Store, silent: float, ttl: float, lost: int) -> None:
    owner = store.enlist(ttl)
    claim = claimed(store, owner=owner)
    age(store, owner, silent)
    count, holders = store.recover()
    assert count == lost
    assert len(holders) == 1 - lost
    assert store.find_run(claim.run.id).state == ("pending" if lost else "running")
    if lost:
        attempt = store.attempts(claim.run_key)[0]
        assert (attempt.outcome, attempt.cause) == ("lost", "process_death")


def test_a_beat_renews_by_the_databases_clock(store: Store) -> None:
    owner = store.enlist(TTL)
    claimed(store, owner=owner)
    age(store, owner, 1000)
    assert store.beat(owner), "late, but nobody took it"
    assert store.recover()[0] == 0
    with store.read() as connection:
        (heartbeat,) = connection.execute(sa.text("SELECT heartbeat FROM owners")).one()
    assert abs(heartbeat - time.time()) < 5.0


def test_a_lost_lease_is_told_and_revived(store: Store) -> None:
    owner = store.enlist(TTL)
    late = claimed(store, owner=owner)
    assert store.held(owner) == {late.run_key: late.fence}
    age(store, owner, 2 * TTL)
    store.recover()
    assert store.held(owner) == {}
    assert not store.beat(owner)
    assert store.beat(owner), "it lives again"
    with pytest.raises(Superseded):
        store.epoch(late, a_history(late.run)[0])
    again = store.claim(late.run_key, owner)
    assert again is not None
    assert store.held(owner) == {late.run_key: late.fence + 1}


def test_only_what_the_lost_one_held_comes_back(store: Store) -> None:
    register(store, *(a_run(seed=seed) for seed in range(4)))
    gone, alive = store.enlist(TTL), store.enlist(TTL)
    for key, owner in ((1, gone), (2, alive), (3, gone)):
        assert store.claim(key, owner) is not None
    age(store, gone, 2 * TTL)
    count, holders = store.recover()
    assert (count, len(holders)) == (2, 1)
    assert [s.state for s in store.runs()] == ["pending", "running", "pending", "pending"]
    assert store.recover() == (0, holders)


def test_a_frozen_owner_that_wakes_is_refused(store: Store, store_url: str) -> None:
    """SIGSTOP: the process lives, its lease runs out, another trains the run, then it wakes."""
    register(store, a_run())
    code = (
        "import sys\n"
        "from db.store import Store\n"
        "from db.errors import Superseded\n"
        "from conftest import a_history\n"
        f"store = Store.open({store_url!r})\n"
        "owner = store.enlist(0.2)\n"
        "claim = store.claim(1, owner)\n"
        "print('claimed', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    store.finish(claim, a_history(claim.run, value=0.1))\n"
        "except Superseded:\n"
        "    print('refused', store.beat(owner), flush=True)\n"
    )
    frozen = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert frozen.stdin is not None
    assert frozen.stdout is not None
    assert frozen.stdout.readline() == "claimed\n"
    os.kill(frozen.pid, signal.SIGSTOP)
    until(lambda: store.recover()[0] == 1)
    claim = claimed(store)
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.stdin.write("go on\n")
    frozen.stdin.close()
    assert frozen.stdout.readline() == "refused False\n"
    assert frozen.wait() == 0
    frozen.stdout.close()
    store.finish(claim, a_history(claim.run))
    assert list(store.history(claim.run_key)) == a_history(claim.run)


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what another process or the clock brings about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


# The thread that renews


def test_a_lease_renews_itself(store: Store) -> None:
    with Lease(store, ttl=0.5) as lease:
        claim = claimed(store, owner=lease.owner)
        end = time.monotonic() + 1.5  # three times its ttl
        while time.monotonic() < end:
            assert store.recover()[0] == 0
        assert store.held(lease.owner) == {claim.run_key: claim.fence}
        assert not lease.lost.is_set()
    assert store.attempts(claim.run_key)[0].outcome == "lost"
    assert store.find_run(claim.run.id).state == "pending"


def test_a_lease_ends_as_it_is_told(store: Store) -> None:
    with Lease(store, ttl=TTL) as lease:
        claim = claimed(store, owner=lease.owner)
        lease.outcome = "paused"
    attempt = store.attempts(claim.run_key)[0]
    assert (attempt.outcome, attempt.cause) == ("paused", None)


def test_a_lease_says_that_it_was_lost(store: Store) -> None:
    with Lease(store, ttl=1.0) as lease:
        claimed(store, owner=lease.owner)
        while not lease.lost.is_set():  # a beat may come between
            age(store, lease.owner, 100)
            store.recover()
        assert store.held(lease.owner) == {}


def test_a_lease_outlives_its_server(own_postgres: PostgresServer) -> None:
    store = Store.open(own_postgres.fresh(), create=True)
    with Lease(store, ttl=1.0) as lease:
        own_postgres.stop()
        with pytest.raises(StoreUnreachable):
            store.beat(lease.owner)
        own_postgres.start()
        claimed(store, owner=lease.owner)
        before = heartbeat(store)
        until(lambda: heartbeat(store) > before)


def heartbeat(store: Store) -> float:
    with store.read() as connection:
        return float(connection.execute(sa.text("SELECT heartbeat FROM owners")).scalar_one())


def test_a_lease_may_end_without_its_server(own_postgres: PostgresServer) -> None:
    store = Store.open(own_postgres.fresh(), create=True)
    with Lease(store, ttl=0.2) as lease:
        claim = claimed(store, owner=lease.owner)
        own_postgres.stop()
    own_postgres.start()
    until(lambda: store.recover()[0] == 1)
    assert store.find_run(claim.run.id).state == "pending"


# Messages that are repeated


def test_every_message_may_be_repeated(store: Store) -> None:
    owner = store.enlist()
    register(store, a_run())
    first = [store.claim(1, owner, ("c0ffee", True)) for _ in range(2)]
    assert first[0] == first[1] != None  # noqa: E711
    claim = first[0]
    assert claim is not None
    history = a_history(claim.run)
    for _ in range(2):
        store.start(claim, history[:1], INPUTS, 0, 5)
        store.shrunk(claim, 4)
        store.epoch(claim, history[1])
    for _ in range(2):
        store.finish(claim, history, [Artifact("weights", "x", "sha", 1)], peak_memory=7)
    assert list(store.history(1)) == history
    (attempt,) = store.attempts(1)
    assert (attempt.outcome, attempt.peak_memory, attempt.git_dirty) == ("done", 7, True)
    assert len(store.artifacts()[claim.run.id]) == 1
    for _ in range(2):
        store.retire(owner, "paused")
    assert store.find_run(claim.run.id).state == "done"


ENDS: dict[str, Callable[[Store, Claim], None]] = {
    "finish": lambda store, claim: store.finish(claim, a_history(claim.run)),
    "diverge": lambda store, claim: store.diverge(claim, a_history(claim.run, 1), "nan"),
    "fail": lambda store, claim: store.fail(claim, "e", "t", "bad_data"),
    "release": lambda store, claim: store.release(claim, "died", "oom", "process_death"),
}


@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_an_end_may_be_repeated_and_not_changed(store: Store, first: str, second: str) -> None:
    claim = claimed(store)
    ENDS[first](store, claim)
    was = store.attempts(claim.run_key), store.history(claim.run_key), store.runs()
    if first == second:
        ENDS[second](store, claim)
    else:
        with pytest.raises(Superseded):
            ENDS[second](store, claim)
    assert (store.attempts(claim.run_key), store.history(claim.run_key), store.runs()) == was
    with pytest.raises(Superseded):
        store.epoch(claim, a_history(claim.run)[0])


def test_causes_and_where_it_ran_are_kept(store: Store) -> None:
    claim = claimed(store)
    store.start(claim, (), INPUTS, 2, 17)
    store.shrunk(claim, 4)
    store.fail(claim, "out of memory\0 at \udc80", "t\0", "out_of_memory")
    (attempt,) = store.attempts(claim.run_key)
    assert (attempt.node, attempt.threads, attempt.precision) == ("node-7", 2, "bf16")
    assert (attempt.micro_batch, attempt.resumed_from, attempt.resumed_step) == (4, 2, 17)
    assert (attempt.data_fingerprint, attempt.weights_sha256) == ("data-1", "weights-1")
    assert attempt.error == r"out of memory\0 at \udc80", "what no engine could keep is spelled"
    assert attempt.cause == store.find_run(claim.run.id).cause == "out_of_memory"
    store.retry([claim.run_key])
    again = store.claim(claim.run_key, store.enlist())
    assert again is not None
    store.diverge(again, (), "nan")
    assert store.find_run(claim.run.id).cause == "diverged"
    assert store.attempts(claim.run_key)[1].micro_batch is None


# Races


def test_a_takeover_never_slips_into_a_message(store: Store, store_url: str) -> None:
    """One sends epochs, another takes the run over again and again: nothing of the old fence."""
    register(store, a_run(epochs=400))
    one, other = Store.open(store_url), Store.open(store_url)
    history = a_history(a_run(epochs=400))
    mine, its = one.enlist(TTL), other.enlist(TTL)
    stop = threading.Event()
    kept: list[tuple[int, int]] = []

    def send() -> None:
        owner = mine
        for record in history:
            claim = None
            while claim is None and not stop.is_set():
                claim = one.claim(1, owner)
            if claim is None:
                return
            try:
                one.epoch(claim, record)
                kept.append((record.epoch, claim.fence))
            except Superseded:
                pass

    sender = threading.Thread(target=send)
    sender.start()
    try:
        while sender.is_alive():
            age(other, mine, 2 * TTL)
            other.recover()
            if claim := other.claim(1, its):
                other.release(claim, "paused")
    finally:
        stop.set()
        sender.join()
    with store.read() as connection:
        stored = connection.execute(sa.text("SELECT epoch, attempt FROM epochs ORDER BY epoch"))
        assert [tuple(row) for row in stored] == kept
    fences = [attempt.number for attempt in store.attempts(1)]
    assert fences == list(range(1, len(fences) + 1))


@pytest.fixture
def claimers(store: Store, store_url: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Four processes that claim and finish all they can get, and say what they did."""
    register(store, *(a_run(seed=seed, epochs=1) for seed in range(40)))
    code = (
        "import json, sys\n"
        "from db.store import Store\n"
        "from conftest import a_history\n"
        f"store = Store.open({store_url!r})\n"
        "owner, won = store.enlist(), []\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for key in range(1, 41):\n"
        "    if claim := store.claim(key, owner):\n"
        "        store.finish(claim, a_history(claim.run))\n"
        "        won.append(key)\n"
        "print(json.dumps(won))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )
        for _ in range(4)
    ]  # fmt: skip
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_processes_never_train_a_run_twice(
    store: Store, claimers: list[subprocess.Popen[str]]
) -> None:
    for process in claimers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in claimers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [key for process in claimers for key in json.loads(process.stdout.readline())]  # type: ignore[union-attr]
    assert sorted(won) == list(range(1, 41))
    assert {s.state for s in store.runs()} == {"done"}
    assert all(len(store.attempts(key)) == 1 for key in range(1, 41))
