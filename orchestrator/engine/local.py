"""A run in this process, without Ray: to debug it, or to check that it repeats."""

from __future__ import annotations

import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import worker
from db.errors import EnvironmentProblem, StoreError
from db.records import Claim, EpochRecord, Run, State, StoredRun
from db.store import Store
from orchestrator.engine.attempt import attempt, log_path, log_to
from orchestrator.engine.recorder import Recorder
from worker.models import ARTIFACT


@dataclass(frozen=True)
class Local:
    """Where a local run finds its files."""

    store: Store
    data: Path
    runs: Path
    device: str

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
        recorder, state = Recorder(self.store, self.runs), None
        context = worker.Context(
            data=self.data,
            runs=self.runs,
            fence=claim.fence,
            device=self.device,
            data_fingerprint=claim.data_fingerprint,
            weights_sha256=claim.weights_sha256,
        )
        _log_to_both(log_path(context.folder(claim.run.id), claim.fence))
        for event in attempt(claim.run, context):
            state = recorder.record(claim, event)
        return state or "pending"

    def repeat(self, stored: StoredRun) -> list[str]:
        """Train a finished run again beside its place; returns how it differs from what is stored.

        Only the artifact is moved into place, where one is missing.
        """
        log_to(logging.StreamHandler(sys.stderr))
        with tempfile.TemporaryDirectory(dir=self.runs, prefix=".repeat-") as beside:
            scratch = Path(beside)
            for need in stored.run.needs:
                (scratch / need).symlink_to(self.runs / need)
            history = self._history(stored.run, scratch)
            differences = compare(self.store.history(stored.key), history)
            made, place = scratch / stored.id / ARTIFACT, self.runs / stored.id / ARTIFACT
            if made.is_file() and not place.is_file() and not differences:
                place.parent.mkdir(parents=True, exist_ok=True)
                made.replace(place)
        return differences

    def _history(self, run: Run, scratch: Path) -> tuple[EpochRecord, ...]:
        context = worker.Context(data=self.data, runs=scratch, device=self.device)
        for event in attempt(run, context):
            if isinstance(event, (worker.Finished, worker.Diverged)):
                return event.history
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


def _log_to_both(path: Path) -> None:
    log_to(logging.StreamHandler(sys.stderr))
    file = logging.FileHandler(path)
    for name in ("orch", "worker"):
        logger = logging.getLogger(name)
        file.setFormatter(logger.handlers[0].formatter)
        logger.addHandler(file)
