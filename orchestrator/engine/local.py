"""A run in this process, without Ray: to debug it, or to check that it repeats."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import worker
from db.errors import EnvironmentProblem, MissingInputs, StoreError
from db.lease import Lease
from db.reading import Reader
from db.records import Claim, EpochRecord, Metric, Run, State, StoredRun
from db.store import Store
from orchestrator.engine.attempt import attempt, log_path, log_to
from orchestrator.engine.checkout import git_state
from orchestrator.engine.recorder import Recorder
from worker.checkpoint import file_digest
from worker.context import Folders, Keep
from worker.kept import evaluate_on


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
        if stored.state in ("failed", "cancelled", "voided"):
            self.store.retry([stored.key])
        with Lease(self.store) as lease, signalled() as stop:
            lease.outcome = "paused"
            claim = self.store.claim(stored.key, lease.owner, git_state())
            if claim is None:
                raise StoreError(
                    f"run {stored.id} is not to be had: another process trains it, or it needs "
                    f"{', '.join(stored.run.needs) or 'nothing'} to be done first."
                )
            return self._train(claim, stop)

    def _train(self, claim: Claim, stop: threading.Event) -> State:
        recorder, state = Recorder(self.store, self.folders.runs), None
        surroundings = context(
            self.folders,
            self.device,
            fence=claim.fence,
            keep=self.keep,
            data_fingerprint=claim.data_fingerprint,
            weights_sha256=claim.weights_sha256,
            head_sha256=claim.head_sha256,
            should_stop=stop.is_set,
        )
        with _logged(log_path(surroundings.folder(claim.run.id), claim.fence)):
            for event in attempt(claim.run, surroundings):
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
                if not place.is_file() or file_digest(place) != artifact.sha256:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    (scratch / artifact.path).replace(place)
                    self.store.left_later(stored.key, artifact)
        return differences

    def evaluate(
        self, stored: StoredRun, dataset: str, splits: Sequence[str], *, replace: bool
    ) -> tuple[int, tuple[Metric, ...]]:
        """Evaluate the weights that a run kept and store what training did not measure itself.

        Returns the epoch they are of, and the metrics. Raises `EnvironmentProblem`, storing
        nothing, where a number is another than before; `replace` takes it where it is not
        training's own.
        """
        check_artifacts(self.store, stored, self.folders.runs)
        fingerprint = stored.data_fingerprint
        surroundings = context(self.folders, self.device, data_fingerprint=fingerprint)
        epoch, metrics = evaluate_on(stored.id, dataset, splits, surroundings)
        before = {
            (m.split, m.group): m.value
            for record in self.store.history(stored.key)
            if record.epoch == epoch
            for m in record.metrics
        }
        own = own_splits(stored.run)
        for m in metrics:
            known = before.get((m.split, m.group), m.value)
            if known == m.value or (replace and m.split not in own):
                continue
            raise EnvironmentProblem(
                f"{m.split} {m.group}".strip() + f" was {known} before and is {m.value} on "
                f"{self.device} here: other data, another machine or other versions; nothing is "
                "stored." + ("" if m.split in own else " --replace takes the new numbers.")
            )
        self.store.measured_later(stored.key, epoch, [m for m in metrics if m.split not in own])
        return epoch, metrics

    def _end(self, run: Run, scratch: Path) -> worker.Finished | worker.Diverged:
        surroundings = context(self.folders, self.device, runs=scratch, keep=self.keep)
        for event in attempt(run, surroundings):
            if isinstance(event, (worker.Finished, worker.Diverged)):
                return event
            if isinstance(event, worker.Failed):
                raise EnvironmentProblem(f"the repetition failed: {event.error}")
        raise EnvironmentProblem("the repetition ended without a result.")


def context(folders: Folders, device: str, **others: Any) -> worker.Context:
    """The surroundings of work in this process, with the machine's cores at a GPU's service."""
    loaders = 0 if device == "cpu" else max(1, (os.cpu_count() or 1) - 1)
    if often := os.environ.get("ORCH_CHECKPOINT_EVERY"):  # `orch verify-resume` sets it
        others["checkpoint_seconds"] = float(often)
    return worker.Context(**{**vars(folders), "device": device, "loaders": loaders, **others})


def device_of(store: Reader, stored: StoredRun) -> str:
    """What a run's last attempt was trained on, as far as this machine has the like."""
    import torch

    trained_on = [a.device for a in store.attempts(stored.key) if a.device]
    on_gpu = bool(trained_on) and trained_on[-1] != "cpu"
    return "cuda:0" if on_gpu and torch.cuda.is_available() else "cpu"


def check_artifacts(store: Reader, stored: StoredRun, runs: Path) -> None:
    """Raise `MissingInputs` where a file that a run left is not as it was left."""
    for artifact in store.artifacts().get(stored.id, []):
        path = runs / artifact["path"]
        if path.is_file() and file_digest(path) != artifact["sha256"]:
            raise MissingInputs(
                f"{path} is not as run {stored.id[:8]} left it; make it anew with: "
                f"orch runs run {stored.id[:8]} --local --keep {artifact['name']}"
            )


def own_splits(run: Run) -> set[str]:
    """The splits that a run evaluates while it trains."""
    return {*run.evaluate, *run.evaluate_on_improvement}


def trained(run: Run, history: tuple[EpochRecord, ...]) -> tuple[EpochRecord, ...]:
    """The history without the splits that `orch evaluate` added to it."""
    own = own_splits(run)
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
def signalled() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that the run saves where it is; twice is at once."""
    stop = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield stop
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


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
