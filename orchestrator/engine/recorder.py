"""From what a worker says to what the store keeps: the one writer's one way in."""

from __future__ import annotations

import logging
from pathlib import Path

from db.errors import Superseded
from db.records import Claim, State
from db.store import Store
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

log = logging.getLogger(__name__)


class Recorder:
    """Writes the events of attempts into a store and clears away what finished runs leave."""

    def __init__(self, store: Store, runs: Path) -> None:
        self.store = store
        self.runs = runs

    def record(self, claim: Claim, event: Event) -> State | None:
        """Keep an event; returns the run's new state where it ends the attempt.

        A late message of an attempt that was replaced is dropped: its successor repeats it.
        """
        try:
            return self._keep(claim, event)
        except Superseded as late:
            log.info("%s", late)
            return None

    def _keep(self, claim: Claim, event: Event) -> State | None:
        match event:
            case Started():
                self.store.start(
                    claim,
                    event.history,
                    event.provenance,
                    event.resumed_from,
                    resumed_step=event.resumed_step,
                )
            case Shrunk():
                self.store.shrunk(claim, event.micro_batch)
            case Epoch():
                self.store.epoch(claim, event.record)
            case Finished():
                self.store.finish(claim, event.history, event.artifacts, event.peak_memory)
                self.clear(claim.run.id)
                return "done"
            case Diverged():
                where = f"the loss is not finite at epoch {event.epoch}, step {event.step}"
                self.store.diverge(claim, event.history, where)
                self.clear(claim.run.id)
                return "diverged"
            case Failed():
                self.store.fail(claim, event.error, event.traceback, event.cause)
                return "failed"
            case Paused():
                self.store.release(claim, "paused")
                return "pending"
            case Progress() | Waiting():
                pass
        return None

    def clear(self, run_id: str) -> None:
        """Drop a final run's checkpoints and unfinished files; logs and artifacts stay."""
        clear(self.runs / run_id)


def clear(folder: Path) -> None:
    """Drop the checkpoints and unfinished files in a run's folder; logs and artifacts stay."""
    for pattern in ("checkpoint-*.pt", "candidate-*.safetensors", ".partial-*"):
        for path in folder.glob(pattern):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # the run's outcome is stored; what stays costs space only
                log.warning("%s stays: %s", path, error)
