"""Processes that freeze and wake: their runs go on elsewhere, and nothing they do counts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.reading import Reader
from db.store import Store
from kills import below, command, everything, is_target, launch, left_over

SWEEP = """
name: frozen
models: [toy_long]
datasets: [toy]
methods: [sgd]
weights: random
epochs: 12
learning_rates: [0.01, 0.1]
keep: last
"""


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A sweep file, a folder with the sweep trained undisturbed, and one with an empty store."""
    sweep, whole, cut = tmp_path / "frozen.yaml", tmp_path / "whole", tmp_path / "cut"
    sweep.write_text(SWEEP)
    for folder in (whole, cut):
        folder.mkdir()
        Store.open(str(folder / "orch.db"), create=True).engine.dispose()
    launch(whole, str(whole / "orch.db"), sweep)
    return sweep, whole, cut


@contextlib.contextmanager
def launched(folder: Path, sweep: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A launch whose output can be read afterwards."""
    with subprocess.Popen(
        command(folder, str(folder / "orch.db"), "launch", str(sweep), *words), cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as driver:  # fmt: skip
        yield driver


def wait_for_epochs(store: str, runs: int) -> None:
    """Until so many runs in training have stored an epoch."""
    reader = Reader.open(store)
    while True:
        running = [s.key for s in reader.runs() if s.state == "running"]
        if sum(epoch > 0 for epoch in reader.latest_epochs(running).values()) >= runs:
            return
        time.sleep(0.1)


@pytest.mark.slow
def test_a_frozen_worker_is_ended_and_its_run_goes_on(folders: tuple[Path, Path, Path]) -> None:
    sweep, whole, cut = folders
    store = str(cut / "orch.db")
    with launched(cut, sweep, "--frozen-after", "10s", "--max-concurrent", "1") as driver:
        wait_for_epochs(store, 1)
        worker = next(pid for pid, name in below(driver.pid) if is_target(name, "worker"))
        os.kill(worker, signal.SIGSTOP)
        output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    assert "said nothing for" in output
    assert everything(whole, str(whole / "orch.db")) == everything(cut, store)
    reader = Reader.open(store)
    outcomes = sorted([a.outcome for a in reader.attempts(s.key)] for s in reader.runs())
    assert outcomes == [["died", "done"], ["done"]]


@pytest.mark.slow
def test_a_launch_that_freezes_and_wakes_changes_nothing(
    folders: tuple[Path, Path, Path],
) -> None:
    sweep, whole, cut = folders
    store = str(cut / "orch.db")
    with launched(cut, sweep, "--lease", "3s") as frozen:
        wait_for_epochs(store, 2)
        tree = [frozen.pid, *(pid for pid, _ in below(frozen.pid))]
        for pid in tree:  # driver, workers, raylet: all that could notice
            os.kill(pid, signal.SIGSTOP)
        try:
            launch(cut, store, sweep)
        finally:
            for pid in reversed(tree):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        output, _ = frozen.communicate(timeout=240)
    assert frozen.returncode == 0, output
    assert everything(whole, str(whole / "orch.db")) == everything(cut, store)
    reader = Reader.open(store)
    for stored in reader.runs():
        attempts = reader.attempts(stored.key)
        assert [a.outcome for a in attempts] == ["lost", "done"]
        assert attempts[1].resumed_from, "from the checkpoint of the one that froze"
        assert not any(a.irreproducible for a in attempts)
    assert left_over(cut) == []
