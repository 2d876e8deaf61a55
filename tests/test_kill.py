"""kill -9 of the driver at random moments: nothing lost, nothing trained twice, no bit moves."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, TOYS
from db.reading import Reader

TOY_SWEEP = """
name: kill
models: [toy_slow, toy]
datasets: [toy]
methods: [sgd, adamw]
weights: random
epochs: 4
learning_rates: [0.01, 0.1, 0.3]
"""


def command(folder: Path, *words: str) -> list[str]:
    shared = ["--plugin", str(TOYS), "--data", str(folder.parent / "data")]
    return [sys.executable, "-u", "-m", "orchestrator", *shared, *words]


def launch(folder: Path, sweep: Path) -> None:
    done = subprocess.run(
        command(folder, "launch", str(sweep)), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def launch_and_kill(folder: Path, sweep: Path, delay: float) -> int:
    """Start a launch, and kill its driver `delay` seconds after it claims its first run.

    Returns how many runs had ended by then.
    """
    output = folder / "killed.log"
    with output.open("w") as log, subprocess.Popen(
        command(folder, "launch", str(sweep)), cwd=folder, stdout=log, stderr=log,
        start_new_session=True,
    ) as process:  # fmt: skip
        while process.poll() is None and not _running(folder):
            time.sleep(0.05)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    return output.read_text().count("] done")


def _running(folder: Path) -> bool:
    database = folder / "orch.db"
    try:
        return any(s.state == "running" for s in Reader.open(str(database)).runs())
    except Exception:  # the launch is still making it
        return False


def everything(folder: Path) -> tuple[list[Any], str]:
    """Every row of epochs and metrics but the clock, and the report."""
    reader = Reader.open(str(folder / "orch.db"))
    rows = [
        (stored.id, stored.state, record.measured())
        for stored in reader.runs()
        for record in reader.history(stored.key)
    ]
    report = subprocess.run(
        command(folder, "report", "--table", "ood", "--table", "id", "--format", "csv"),
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return rows, report.stdout


def check_attempts(folder: Path) -> int:
    """What had a checkpoint went on from it. Returns how many attempts were resumed."""
    reader, resumed = Reader.open(str(folder / "orch.db")), 0
    for stored in reader.runs():
        attempts = reader.attempts(stored.key)
        assert [a.outcome for a in attempts[:-1]] == ["lost"] * (len(attempts) - 1)
        assert attempts[-1].outcome == "done"
        assert not any(a.irreproducible for a in attempts)
        reached = 0
        for attempt in attempts:
            if attempt.started is not None and (attempt.resumed_from or 0) < reached:
                raise AssertionError(f"{stored.run} started again before epoch {reached}")
            reached = max(reached, attempt.resumed_from or 0)
            resumed += attempt.resumed_from is not None
    return resumed


def compare_after_kills(tmp_path: Path, sweep: Path, kills: int, longest: float) -> None:
    seed = random.randrange(10**6)
    print(f"random delays from seed {seed}")
    drawn = random.Random(seed)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    launch(whole, sweep)
    for _ in range(kills):
        launch_and_kill(cut, sweep, drawn.uniform(0, longest))
    launch(cut, sweep)
    rows, report = everything(cut)
    expected_rows, expected_report = everything(whole)
    assert rows == expected_rows
    assert report == expected_report
    resumed = check_attempts(cut)
    print(f"{resumed} attempts went on from a checkpoint")
    folders = [sorted(p.name for p in folder.rglob("checkpoint-*")) for folder in (whole, cut)]
    assert folders == [[], []], "finished runs leave no checkpoints"


def test_killed_at_random_moments(tmp_path: Path) -> None:
    sweep = tmp_path / "kill.yaml"
    sweep.write_text(TOY_SWEEP)
    compare_after_kills(tmp_path, sweep, kills=3, longest=14)


@pytest.mark.slow
def test_the_demo_killed_at_random_moments(tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "x", "data", "make-mini"), cwd=tmp_path, check=True)
    compare_after_kills(tmp_path, ROOT / "sweeps" / "demo.yaml", kills=4, longest=40)
