"""Stores that go away, are read by many, or stop being a launch's own while it is frozen."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from conftest import PostgresServer
from db.errors import StoreMissing
from db.exporting import long_rows
from db.reading import Reader
from launches import (
    LONG,
    Launch,
    a_run_under_way,
    attempts_of,
    measured,
    run,
    runs_of,
    undisturbed,
    until,
)
from orchestrator import standing

READERS = 10


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "long.yaml"
    path.write_text(LONG)
    return path


@pytest.mark.slow
def test_a_server_stops_and_crashes_in_mid_sweep(
    tmp_path: Path,
    sweep: Path,
    own_postgres: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    store = own_postgres.fresh()
    words = ("--store", store, "launch", sweep, "--max-concurrent", 1)
    with Launch(tmp_path, *words, ORCH_TOY_STEP="0.1") as launch:
        a_run_under_way(store, "toy_long")
        for mode in ("fast", "immediate"):
            told = len(launch.lines)
            own_postgres.stop(mode)
            until(lambda: "waiting: store" in "".join(launch.lines[told:]))  # noqa: B023
            own_postgres.start()
            before = sum(Reader.open(store).latest_epochs([s.key for s in runs_of(store)]).values())
            until(
                lambda: sum(
                    Reader.open(store).latest_epochs([s.key for s in runs_of(store)]).values()
                ) > before  # noqa: B023
            )  # fmt: skip
        said = launch.ends(0)
    assert "cannot be reached" in said
    expected, export = undisturbed(tmp_path_factory)
    assert measured(store) == expected
    assert {len(attempts) for attempts in attempts_of(store).values()} == {1}
    assert run(tmp_path, "--store", store, "export") == export, "as SQLite has it"


def poll(store: Path, over: threading.Event, faults: list[BaseException]) -> int:
    """Read all that `orch status` and a table read, again and again; returns how often."""
    times = 0
    while not over.is_set():
        try:
            reader = Reader.open(str(store))
            for info in reader.sweeps():
                standing.of(reader, info.name).lines()
            sum(1 for _ in long_rows(reader))
            times += 1
        except StoreMissing:
            over.wait(0.1)
        except BaseException as fault:
            faults.append(fault)
        over.wait(0.2)
    return times


@pytest.mark.slow
def test_ten_readers_lock_nobody_out(
    tmp_path: Path, sweep: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store, over = tmp_path / "orch.db", threading.Event()
    faults: list[BaseException] = []
    counts: list[int] = []

    def read() -> None:
        counts.append(poll(store, over, faults))

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    try:
        said = run(tmp_path, "launch", sweep, ORCH_TOY_STEP="0.02")
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert faults == []
    assert len(counts) == READERS
    assert min(counts) >= 3
    assert "locked" not in said
    assert "waiting" not in said
    assert measured(store) == undisturbed(tmp_path_factory)[0]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_a_launch_that_was_frozen_finds_its_runs_taken_over(
    tmp_path: Path,
    sweep: Path,
    engine: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    store: object = tmp_path / "orch.db"
    if engine == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        store = server.fresh()
    words = ("--store", store, "launch", sweep, "--max-concurrent", 1, "--lease", "2s")
    with Launch(tmp_path, *words, ORCH_TOY_STEP="0.2") as frozen:
        going = a_run_under_way(store, "toy_long")
        os.kill(frozen.process.pid, signal.SIGSTOP)
        try:
            with Launch(tmp_path, *words, ORCH_TOY_STEP="0.2") as other:
                until(lambda: len(attempts_of(store)[going.id]) == 2)
                a_run_under_way(store, "toy_long")
                os.kill(frozen.process.pid, signal.SIGCONT)
                frozen.sees("another launch has taken over")
                other.ends(0)
        finally:
            os.kill(frozen.process.pid, signal.SIGCONT)
        frozen.ends(0)
    assert {s.state for s in runs_of(store)} == {"done"}
    assert measured(store) == undisturbed(tmp_path_factory)[0]
    attempts = attempts_of(store)
    assert [a.outcome for a in attempts[going.id]] == ["lost", "done"]
    assert not any(a.irreproducible for found in attempts.values() for a in found)
    assert not list((tmp_path / "runs").rglob("checkpoint-*"))
