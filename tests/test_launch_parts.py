"""The pieces of a launch by themselves: its scratch folder, its reports, what it asks of a disk."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import a_history, a_run
from db.errors import EnvironmentProblem
from db.records import Provenance, StoredRun
from orchestrator.engine import tune as seam
from orchestrator.engine.launch import _check_address, _reserve, scratch_folder
from worker.events import Epoch, Event, Failed, Finished, Paused, Progress, Started


def test_folders_that_killed_launches_left_are_pruned() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    root = Path(tempfile.gettempdir())
    root = root if len(str(root)) <= 20 else Path("/tmp")
    left = root / f"orch-{os.getuid()}-{gone}"
    (left / "ray" / "session").mkdir(parents=True)
    with scratch_folder() as mine:
        assert mine.is_dir()
        assert not left.exists()
    assert not mine.exists()


RUN = a_run()
HISTORY = tuple(a_history(RUN))
LAST = st.sampled_from([Finished(HISTORY), Paused(1, 2), Failed("e", "t")])
MIDDLE = st.lists(st.sampled_from([*map(Epoch, HISTORY), Progress(1, 2, 3)]), max_size=8)


@given(middle=MIDDLE, last=LAST)
def test_nothing_is_lost_in_gathered_reports(middle: list[Event], last: Event) -> None:
    said: list[Event] = [Started((), Provenance()), *middle, last]
    reports = list(seam.gathered(iter(said)))
    told = [event for report in reports for event in report]
    assert all(reports), "no empty report"
    assert [e for e in told if e in said] == told
    left_out = [event for event in said if event not in told]
    assert all(isinstance(event, Epoch) for event in left_out)
    if left_out:
        assert isinstance(last, Finished), "only a run's end repeats every epoch"
    assert told[-1] == last


def test_slow_events_are_reported_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seam, "REPORT_SECONDS", 0.0)

    def events() -> Iterator[Event]:
        for record in HISTORY:
            yield Epoch(record)

    assert [len(report) for report in seam.gathered(events())] == [1] * len(HISTORY)


def test_a_disk_too_small_for_the_checkpoints_is_told_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [StoredRun(a_run(seed=seed), seed, "pending", 0, None) for seed in range(5)]
    one = _reserve(left, tmp_path, 1)
    monkeypatch.setattr("orchestrator.engine.launch.free_bytes", lambda folder: one)
    assert _reserve(left, tmp_path, 1) == one
    monkeypatch.setattr("orchestrator.engine.launch.free_bytes", lambda folder: one - 1)
    with pytest.raises(EnvironmentProblem, match=r"has \d+ MB free .* make space"):
        _reserve(left, tmp_path, 1)


@pytest.mark.parametrize("address", ["head", "ray://head", "127.0.0.1:1", "no.such.host.:6379"])
def test_a_cluster_that_is_not_there_is_said(address: str) -> None:
    with pytest.raises(EnvironmentProblem, match="--address"):
        _check_address(address)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library")
def test_memory_of_a_finished_run_is_given_back() -> None:
    """In a process of its own: what the C library keeps depends on all that went before."""
    code = """
import torch
from orchestrator.engine.tune import give_back, resident_bytes
before = resident_bytes()
blocks = [torch.ones(7_000_000) for _ in range(40)]  # 28 MB each: below what is mapped by itself
full = resident_bytes()
keep = torch.ones(10)
del blocks
give_back()
assert full - before > 1_000_000_000, (before, full)
assert resident_bytes() - before < 100_000_000, (before, resident_bytes())
"""
    subprocess.run([sys.executable, "-c", code], check=True)
