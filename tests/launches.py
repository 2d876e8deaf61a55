"""Launches as their users see them: processes that print lines, and what they leave in a store."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner

from conftest import TOYS
from db.errors import StoreError
from db.reading import Reader
from db.records import Attempt, StoredRun
from orchestrator.cli import main

T = TypeVar("T")

PATIENCE = 240.0
"""Seconds for what a crowded machine does in thirty."""
Measured = dict[str, list[tuple[object, ...]]]
"""By run id, everything that its epochs measured but the clock."""


def command(*words: object) -> list[str]:
    """The real command with the toys."""
    python = [sys.executable, "-u", "-m", "orchestrator", "--plugin", str(TOYS)]
    return [*python, *map(str, words)]


class Launch:
    """A command under way, its lines read as they come; killed at the end of its block if need be.

    with Launch(tmp_path, "launch", path, ORCH_TOY_STEP="0.1") as launch:
        launch.sees("done")
        launch.ends(0)
    """

    def __init__(self, folder: Path, *words: object, **environment: str) -> None:
        self.process = subprocess.Popen(
            command(*words), cwd=folder, env={**os.environ, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    @property
    def output(self) -> str:
        """What it has said so far."""
        return "".join(self.lines)

    def sees(self, pattern: str) -> str:
        """The first line, so far or to come, that the pattern is found in."""
        deadline = time.monotonic() + PATIENCE
        seen = 0
        while True:
            with self._news:
                while seen == len(self.lines) and self._reader.is_alive():
                    assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.output}"
                    self._news.wait(1.0)
                fresh = self.lines[seen:]
            for line in fresh:
                if re.search(pattern, line):
                    return line
            seen += len(fresh)
            if not fresh and not self._reader.is_alive():
                raise AssertionError(f"no {pattern!r} in:\n{self.output}")

    def ends(self, code: int = 0) -> str:
        """Waits for its end with this exit code and without a traceback; returns what it said."""
        try:
            found = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output}") from None
        self._reader.join()
        assert found == code, f"exit code {found}:\n{self.output}"
        assert "Traceback" not in self.output, self.output
        return self.output

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def until(found: Callable[[], T]) -> T:
    """What `found` returns once that is true; a store that is not made yet counts as not."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if what := found():
                return what
        except StoreError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def runs_of(store: object) -> list[StoredRun]:
    """Every run of the store at a path or URL, in order."""
    return Reader.open(str(store)).runs()


def states_of(store: object) -> dict[str, str]:
    """`toy_long 0.1`: the state, of every run."""
    return {f"{s.run.model} {s.run.learning_rate:g}": s.state for s in runs_of(store)}


def a_run_under_way(store: object, model: str, epoch: int = 1) -> StoredRun:
    """Waits for a run of the model that is in training, `epoch` of it stored."""

    def found() -> StoredRun | None:
        reader = Reader.open(str(store))
        running = [s for s in reader.runs() if s.state == "running" and s.run.model == model]
        reached = reader.latest_epochs([s.key for s in running])
        return next((s for s in running if reached.get(s.key, -1) >= epoch), None)

    return until(found)  # type: ignore[return-value]


def attempts_of(store: object) -> dict[str, list[Attempt]]:
    """Every attempt, by run id."""
    reader = Reader.open(str(store))
    return {stored.id: reader.attempts(stored.key) for stored in reader.runs()}


def measured(store: object) -> Measured:
    """What the store's runs measured."""
    reader = Reader.open(str(store))
    return {s.id: [r.measured() for r in reader.history(s.key)] for s in reader.runs()}


LONG = """
name: long
datasets: [toy]
methods: [sgd]
weights: random
grids:
  - {models: [toy_long], learning_rates: [0.1]}
  - {models: [toy], learning_rates: [0.1, 0.2]}
"""
"""The sweep of tests that disturb a launch: a run of 130 times ORCH_TOY_STEP, and two short."""
_undisturbed: dict[str, tuple[Measured, str]] = {}


def undisturbed(factory: pytest.TempPathFactory, text: str = LONG) -> tuple[Measured, str]:
    """What a sweep measures in a launch that nothing happens to, and its export; made once."""
    if text not in _undisturbed:
        folder = factory.mktemp("undisturbed")
        path = folder / "sweep.yaml"
        path.write_text(text)
        run(folder, "launch", path, ORCH_TOY_STEP="0", ORCH_TOYS=str(folder))
        _undisturbed[text] = measured(folder / "orch.db"), told(folder, "export")
    return _undisturbed[text]


def told(folder: Path, *words: object) -> str:
    """What a command that only looks, or notes something, prints: the same, without a process."""
    shared = ["--store", folder / "orch.db", "--runs", folder / "runs"]
    found = CliRunner().invoke(main, [*map(str, shared), *map(str, words)])
    assert found.exit_code == 0, found.output
    return found.output


def run(folder: Path, *words: object, code: int = 0, **environment: Any) -> str:
    """What a command prints that ends by itself, with this exit code and without a traceback."""
    with Launch(folder, *words, **environment) as launch:
        return launch.ends(code)
