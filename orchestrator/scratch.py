"""Training a run in a process of its own, in a scratch folder that nobody else knows."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from db.errors import EnvironmentProblem
from db.reading import Reader
from db.records import Attempt, EpochRecord, Run, State
from worker.context import Folders, Keep

POLL_SECONDS = 0.02
"""Between looks at a child and its store: a kill's moment is as exact as that."""
SIGN_OF_LIFE = 30.0
"""Seconds between lines about a training that takes long."""
UNFINISHED: tuple[State, ...] = ("pending", "running")

Say = Callable[[str], None]


@dataclass(frozen=True)
class End:
    """What a training came to."""

    state: State
    error: str | None
    history: tuple[EpochRecord, ...]
    weights: str | None
    """SHA-256 of the file with the last epoch's weights; None where the run left none."""
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class Stage:
    """A scratch folder with a store, a runs folder and what the trainings in it printed."""

    folder: Path

    @property
    def store(self) -> Path:
        """The scratch store."""
        return self.folder / "orch.db"

    @property
    def runs(self) -> Path:
        """The scratch runs folder."""
        return self.folder / "runs"

    @property
    def output(self) -> Path:
        """What the trainings printed."""
        return self.folder / "output.log"

    def copied(self, name: str) -> Stage:
        """A copy beside this one; nobody may have the store open."""
        shutil.copytree(self.folder, self.folder.parent / name, symlinks=True)
        return Stage(self.folder.parent / name)

    def last_words(self) -> str:
        """The last line that was printed."""
        lines = self.output.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("orch: ") if lines else "it printed nothing"


@dataclass(frozen=True)
class Trainer:
    """How a run is trained here: the real command, each time in a new process."""

    folders: Folders
    plugins: tuple[str, ...]
    device: str
    say: Say
    checkpoint_seconds: float | None = None
    """At most so long between checkpoints; None: what `orch runs run` takes."""

    def command(self, stage: Stage, run_id: str, keep: Keep = "last") -> list[str]:
        """The command that trains a run of a stage."""
        folders = {
            "data": self.folders.data,
            "cache": self.folders.cache or "none",
            "weights": self.folders.weights,
            "runs": stage.runs,
            "store": stage.store,
        }
        options = [f"--{name}={path}" for name, path in folders.items() if path]
        options += [f"--plugin={path}" for path in self.plugins]
        words = ["runs", "run", run_id, "--local", f"--keep={keep}", f"--device={self.device}"]
        # Without -P the working directory comes first, where a folder may be called `db`.
        return [sys.executable, "-P", "-m", "orchestrator", *options, *words]

    def environment(self) -> dict[str, str]:
        """The child's: this very orch, and checkpoints often."""
        here = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
        often = self.checkpoint_seconds
        more = {"ORCH_CHECKPOINT_EVERY": str(often)} if often else {}
        return {**os.environ, **more, "PYTHONPATH": path}

    @contextmanager
    def process(
        self, stage: Stage, run_id: str, keep: Keep = "last"
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A training of a run; whatever is left of it is killed at the end."""
        with stage.output.open("ab") as output:
            child = subprocess.Popen(
                self.command(stage, run_id, keep),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield child
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def train(self, stage: Stage, run: Run, keep: Keep = "last") -> tuple[End, float]:
        """Train a run to its end; returns that, and how many seconds the start-up took."""
        reader = Reader.open(str(stage.store))
        key = reader.find_run(run.id).key
        began, told = time.time(), time.monotonic()
        with self.process(stage, run.id, keep) as child:
            while child.poll() is None:
                time.sleep(POLL_SECONDS)
                if time.monotonic() - told > SIGN_OF_LIFE:
                    told = time.monotonic()
                    self.say(f"epoch {latest(reader, key)} of {run.epochs}")
        end = ending(stage, run)
        if end.state in UNFINISHED:
            raise EnvironmentProblem(f"run {run.id} could not be trained: {stage.last_words()}")
        started = end.attempts[-1].started
        return end, (started or time.time()) - began


def ending(stage: Stage, run: Run) -> End:
    """What a training came to, from its store and its files."""
    reader = Reader.open(str(stage.store))
    stored = reader.find_run(run.id)
    left = [a["path"] for a in reader.artifacts().get(run.id, []) if a["name"] == "last"]
    return End(
        stored.state,
        stored.error,
        reader.history(stored.key),
        file_digest(stage.runs / left[0]) if left else None,
        tuple(reader.attempts(stored.key)),
    )


def latest(reader: Reader, key: int) -> int:
    """The last stored epoch, -1 before any."""
    return reader.latest_epochs([key]).get(key, -1)


def file_digest(path: Path) -> str | None:
    """The SHA-256 of a file's bytes, in hexadecimal; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
