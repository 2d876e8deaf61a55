"""One training, start to end: models, methods, data and the loop. Knows neither Ray nor SQL.

Importing this package is cheap; torch is imported when a run starts:

    for event in worker.run(run, worker.Context(data=Path("data"), runs=Path("runs"))):
        print(event)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worker.context import Context, Folders
from worker.events import (
    Diverged,
    Epoch,
    Event,
    Failed,
    Finished,
    Paused,
    Progress,
    Shrunk,
    Started,
    Waiting,
)
from worker.kinds import run

if TYPE_CHECKING:
    from torch import nn


def load(run_id: str, runs: str | Path = "runs") -> nn.Module:
    """The model of a finished run with the weights that it kept (`keep: best | last`).

    It takes images (N, 3, side, side) in [0, 1] and returns logits (N, classes); on the CPU.
    Raises `db.errors.MissingInputs` where the run kept none.
    """
    from worker import kept

    return kept.load(run_id, runs)


def limit_memory(device: str, share: float) -> None:
    """Let this process allocate at most `share` (0 to 1] of a GPU's memory; on the CPU, nothing.

    It holds until it is set again: a process that is reused sets it before each run.
    """
    from worker import device as devices

    devices.limit_memory(device, share)


def memory_left(device: str) -> int:
    """Bytes that this process still holds on a GPU between two runs; 0 on the CPU."""
    from worker import device as devices

    return devices.memory_left(device)


__all__ = [
    "Context",
    "Diverged",
    "Epoch",
    "Event",
    "Failed",
    "Finished",
    "Folders",
    "Paused",
    "Progress",
    "Shrunk",
    "Started",
    "Waiting",
    "limit_memory",
    "load",
    "memory_left",
    "run",
]
