"""What a run says while it trains. Each event is plain data that survives JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from db.records import Artifact, EpochRecord, Provenance

History = tuple[EpochRecord, ...]


@dataclass(frozen=True)
class Started:
    """The attempt has its data, model and checkpoint; `history` is what the checkpoint carries."""

    history: History
    provenance: Provenance
    resumed_from: int | None = None
    """The last epoch of the checkpoint that was loaded; None when training starts afresh."""


@dataclass(frozen=True)
class Progress:
    """A sign of life inside an epoch; nothing to keep."""

    epoch: int
    step: int
    steps: int


@dataclass(frozen=True)
class Epoch:
    """An epoch is over and its checkpoint is on disk."""

    record: EpochRecord


@dataclass(frozen=True)
class Paused:
    """The run was told to stop; its newest checkpoint is where it goes on."""

    epoch: int


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


Event = Started | Progress | Epoch | Paused | Finished | Diverged | Failed
_EVENTS: dict[str, type[Event]] = {
    c.__name__: c for c in (Started, Progress, Epoch, Paused, Finished, Diverged, Failed)
}


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
