"""A run in this process, without Ray: to debug it, or to check that it repeats."""

from __future__ import annotations

import dataclasses
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import worker
from db.errors import EnvironmentProblem, StoreError
from db.records import Claim, EpochRecord, Run, State, StoredRun
from db.store import Store
from orchestrator.engine.attempt import attempt, log_path, log_to
from orchestrator.engine.recorder import Recorder
from worker.context import Folders, Keep


@dataclass(frozen=True)
class Local:
    """Where a local run finds its files."""

    store: Store
    folders: Folders
    device: str
    keep: Keep = "none"

    def train(self, stored: StoredRun) -> State:
        """Claim, train and record a run; returns its state afterwards."""
        self.store.recover()
        if stored.state == "failed":
            self.store.retry([stored.key])
        owner = self.store.enlist()
        try:
            claim = self.store.claim(stored.key, owner)
            if claim is None:
                raise StoreError(
                    f"run {stored.id} is not to be had: another process trains it, or it needs "
                    f"{', '.join(stored.run.needs) or 'nothing'} to be done first."
                )
            return self._train(claim)
        finally:
            self.store.retire(owner, "paused")

    def _train(self, claim: Claim) -> State:
        recorder, state = Recorder(self.store, self.folders.runs), None
        context = worker.Context(
            **vars(self.folders),
            fence=claim.fence,
            device=self.device,
            keep=self.keep,
            data_fingerprint=claim.data_fingerprint,
            weights_sha256=claim.weights_sha256,
        )
        with _logged(log_path(context.folder(claim.run.id), claim.fence)):
            for event in attempt(claim.run, context):
                state = recorder.record(claim, event)
        return state or "pending"

    def repeat(self, stored: StoredRun) -> list[str]:
        """Train a finished run again beside its place; returns how it differs from what is stored.

        Where it does not, weights that it leaves and that are not in their place are moved there.
        """
        log_to(logging.StreamHandler(sys.stderr))
        with tempfile.TemporaryDirectory(dir=self.folders.runs, prefix=".repeat-") as beside:
            scratch = Path(beside)
            for need in stored.run.needs:
                (scratch / need).symlink_to(self.folders.runs / need)
            end = self._end(stored.run, scratch)
            stored_history = trained(stored.run, self.store.history(stored.key))
            differences = compare(stored_history, end.history)
            made = end.artifacts if isinstance(end, worker.Finished) and not differences else ()
            for artifact in made:
                place = self.folders.runs / artifact.path
                if not place.is_file():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    (scratch / artifact.path).replace(place)
                    self.store.left_later(stored.key, artifact)
        return differences

    def _end(self, run: Run, scratch: Path) -> worker.Finished | worker.Diverged:
        folders = {**vars(self.folders), "runs": scratch}
        context = worker.Context(**folders, device=self.device, keep=self.keep)
        for event in attempt(run, context):
            if isinstance(event, (worker.Finished, worker.Diverged)):
                return event
            if isinstance(event, worker.Failed):
                raise EnvironmentProblem(f"the repetition failed: {event.error}")
        raise EnvironmentProblem("the repetition ended without a result.")


def check_device(device: str) -> None:
    """Raise `EnvironmentProblem` where torch has no such device."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EnvironmentProblem(f"--device {device}: {reason}; use cpu or cuda:0.") from error


def trained(run: Run, history: tuple[EpochRecord, ...]) -> tuple[EpochRecord, ...]:
    """The history without the splits that `orch evaluate` added to it."""
    own = {*run.evaluate, *run.evaluate_on_improvement}
    return tuple(
        dataclasses.replace(r, metrics=tuple(m for m in r.metrics if m.split in own))
        for r in history
    )


def compare(stored: tuple[EpochRecord, ...], again: tuple[EpochRecord, ...]) -> list[str]:
    """Where two histories of a run differ, clock aside; empty where they are equal bit by bit."""
    differences = [
        f"epoch {one.epoch}: stored {one.measured()}, now {two.measured()}"
        for one, two in zip(stored, again, strict=False)
        if one.measured() != two.measured()
    ]
    if len(stored) != len(again):
        differences.append(f"{len(stored)} epochs are stored, {len(again)} were measured now")
    return differences


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """The log on stderr and in a file, until the block ends."""
    log_to(logging.StreamHandler(sys.stderr))
    loggers = [logging.getLogger(name) for name in ("orch", "worker")]
    with closing(logging.FileHandler(path)) as file:
        file.setFormatter(loggers[0].handlers[0].formatter)
        for logger in loggers:
            logger.addHandler(file)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(file)
