"""What a run says while it trains. Each event is plain data that survives JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from db.records import Artifact, Cause, EpochRecord, Provenance

History = tuple[EpochRecord, ...]
Doing = Literal["decoding", "training", "evaluating", "extracting", "fitting"]


@dataclass(frozen=True)
class Started:
    """The attempt has its data, model and checkpoint; `history` is what the checkpoint carries."""

    history: History
    provenance: Provenance
    resumed_from: int | None = None
    """The last whole epoch of the checkpoint that was loaded; None: training starts afresh."""
    resumed_step: int = 0
    """Steps of the next epoch that the checkpoint already has."""


@dataclass(frozen=True)
class Progress:
    """A sign of life, every few seconds; nothing to keep."""

    epoch: int
    step: int
    """Of training; images that are decoded, evaluated or turned into features; fits of a path."""
    steps: int
    """In all: of the epoch, the dataset, the split, every split, the path."""
    doing: Doing = "training"


@dataclass(frozen=True)
class Epoch:
    """An epoch is over and its checkpoint is on disk."""

    record: EpochRecord


@dataclass(frozen=True)
class Shrunk:
    """Memory ran out; the run goes on with smaller micro-batches, the same effective batch."""

    epoch: int
    step: int
    """Of the whole run, from 0: the first one that took `micro_batch` images at a time."""
    micro_batch: int


@dataclass(frozen=True)
class Waiting:
    """The run stands still until something outside changes, such as a full disk."""

    reason: str


@dataclass(frozen=True)
class Paused:
    """The run was told to stop; its newest checkpoint is where it goes on."""

    epoch: int
    """Whole epochs that the checkpoint has."""
    step: int = 0
    """Steps of the next epoch that it has."""


class Stopped(Exception):
    """Raised between two steps of a run that was told to stop; becomes its `Paused`."""


@dataclass(frozen=True)
class Finished:
    """The run is over, with everything it measured once more, so that no message can be missed."""

    history: History
    artifacts: tuple[Artifact, ...] = ()
    peak_memory: int | None = None
    """Bytes, of the accelerator; None on the CPU, whose memory runs share."""


@dataclass(frozen=True)
class Diverged:
    """The loss stopped being a number. A result: the epochs before it count."""

    history: History
    epoch: int
    step: int


@dataclass(frozen=True)
class Failed:
    """The run raised; the traceback is for `orch runs show`."""

    error: str
    traceback: str
    cause: Cause = "bug"


Event = Started | Progress | Epoch | Shrunk | Waiting | Paused | Finished | Diverged | Failed
_EVENTS: dict[str, type[Event]] = {
    c.__name__: c
    for c in (Started, Progress, Epoch, Shrunk, Waiting, Paused, Finished, Diverged, Failed)
}


def measured(event: Event) -> History:
    """The epochs that an event tells of."""
    match event:
        case Epoch():
            return (event.record,)
        case Started() | Finished() | Diverged():
            return event.history
    return ()


def to_json(event: Event) -> dict[str, Any]:
    """The event as JSON values, with its name under `event`."""
    return {"event": type(event).__name__, **dataclasses.asdict(event)}


def from_json(message: Mapping[str, Any]) -> Event:
    """The inverse of `to_json`; floats come back exactly."""
    values = {k: v for k, v in message.items() if k != "event"}
    if "history" in values:
        values["history"] = tuple(EpochRecord.from_json(r) for r in values["history"])
    if "record" in values:
        values["record"] = EpochRecord.from_json(values["record"])
    if "provenance" in values:
        values["provenance"] = Provenance(**values["provenance"])
    if "artifacts" in values:
        values["artifacts"] = tuple(Artifact(**a) for a in values["artifacts"])
    return _EVENTS[message["event"]](**values)
