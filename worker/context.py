"""What a run needs to know that does not change its numbers: where files are, when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from worker.disk import writing


def _never() -> bool:
    return False


Keep = Literal["none", "best", "last"]
"""Which epoch's weights a finished run leaves: none, the one that selection picks, the last."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where files are."""

    data: Path
    """The data root; only read."""
    runs: Path
    """The folder that holds one folder per run id: checkpoints, logs, artifacts."""
    cache: Path | None = None
    """Decoded images, shared by this machine's runs; None: decode anew each time."""
    weights: Path | None = None
    """Published weights, looked through before the libraries' own caches."""


@dataclass(frozen=True, kw_only=True)
class Context(Folders):
    """The surroundings of one attempt at a run.

    `fence` is the attempt's number: checkpoints carry it in their name, so a process that was
    frozen, replaced and woken cannot overwrite what its successor wrote.
    """

    fence: int = 1
    device: str = "cpu"
    loaders: int = 0
    """Threads that prepare images ahead of training; 0: training prepares its own."""
    keep: Keep = "none"
    node: str = ""
    """Of a Ray cluster; recorded with the attempt."""
    checkpoint_seconds: float = 180.0
    """At most so long between checkpoints: inside long epochs, too."""
    data_fingerprint: str | None = None
    """Of the first attempt, where there was one; other data is refused."""
    weights_sha256: str | None = None
    """The same for the weights that training starts from."""
    head_sha256: str | None = None
    """Of the head that the run's linear probe left, where it has one."""
    should_stop: Callable[[], bool] = field(default=_never)
    """Asked before every step and forward pass; a run told to stop yields `Paused` and ends."""

    def folder(self, run_id: str) -> Path:
        """The run's own folder, made on first use; `EnvironmentProblem` where it cannot be."""
        path = self.runs / run_id
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return path
