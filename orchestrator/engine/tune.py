"""The seam to Ray Tune: a searcher that asks the session, a callback that tells it.

Tune pickles searcher, callback and stopper, so they hold only the name of a session in this
process. Importing this module imports Ray.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.search import Searcher

import worker
from db.records import Run
from orchestrator.engine.attempt import attempt, captured, log_path, log_to
from orchestrator.engine.session import Session, Task
from worker.catalog import load_plugins
from worker.events import to_json

SESSIONS: dict[str, Session] = {}
LARGE_PROCESS = 1 << 30
"""Bytes: torch, timm and a tiny model with its data take about half of it."""
TASK, MESSAGE, NUMBER = "task", "message", "number"


class StoreSearcher(Searcher):
    """Feeds Tune with the next ready run."""

    def __init__(self, session: str) -> None:
        super().__init__(metric=NUMBER, mode="max")
        self.session = session

    def suggest(self, trial_id: str) -> Any:
        """A trial's configuration, None to ask again later, FINISHED when there is nothing left."""
        session = SESSIONS[self.session]
        found = session.guarded(lambda: session.suggest(trial_id))
        if isinstance(found, Task):
            return {TASK: found.to_json()}
        return None if found == "wait" else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The callback hears of it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store remembers."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: every launch is a fresh experiment."""


class StoreCallback(Callback):
    """Hands what trials report to the session, in the driver, one at a time."""

    def __init__(self, session: str) -> None:
        self.session = session

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A worker reported an event."""
        session = SESSIONS[self.session]
        if MESSAGE in result:
            session.guarded(
                lambda: session.message(trial.trial_id, result[NUMBER], result[MESSAGE])
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's function returned, or Tune stopped it."""
        session = SESSIONS[self.session]
        session.guarded(lambda: session.trial_ended(trial.trial_id, None))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died."""
        session = SESSIONS[self.session]
        session.guarded(lambda: session.trial_ended(trial.trial_id, _last_line(trial)))


def _last_line(trial: Any) -> str:
    try:
        lines = Path(trial.error_file).read_text().strip().splitlines()
    except (OSError, TypeError):
        lines = []
    return lines[-1] if lines else "the worker process died"


class StopWhenTold(Stopper):
    """Ends the experiment when the session says stop."""

    def __init__(self, session: str) -> None:
        self.session = session

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Single trials are never stopped."""
        return False

    def stop_all(self) -> bool:
        """Whether a signal or a fault ended the launch."""
        return SESSIONS[self.session].stop.is_set()


def resources_of(config: dict[str, Any]) -> PlacementGroupFactory:
    """What Tune reserves for a trial."""
    task = Task.from_json(config[TASK])
    bundle = {"CPU": task.cpus} | ({"GPU": task.gpus} if task.gpus else {})
    return PlacementGroupFactory([bundle])


def loaders(cpus: float) -> int:
    """Threads that prepare images while the GPU computes: all of the run's cores but one."""
    return max(1, int(cpus) - 1)


def train(config: dict[str, Any]) -> None:
    """The trainable: one attempt, its output in the run's folder, its events as Tune reports."""
    task = Task.from_json(config[TASK])
    load_plugins(task.plugins)
    run = Run.from_content(task.run)
    context = worker.Context(
        **task.places(),
        fence=task.fence,
        device="cuda:0" if task.gpus else "cpu",
        loaders=loaders(task.cpus) if task.gpus else 0,
        keep=task.keep,
        data_fingerprint=task.data_fingerprint,
        weights_sha256=task.weights_sha256,
    )
    with captured(log_path(context.folder(run.id), task.fence)):
        log_to(logging.StreamHandler(sys.stderr))
        for number, event in enumerate(_without_last_epoch(run, attempt(run, context))):
            tune.report({NUMBER: number, MESSAGE: json.dumps(to_json(event))})
    _leave_nothing_behind(task.gpus > 0)


def _without_last_epoch(run: Run, events: Iterator[worker.Event]) -> Iterator[worker.Event]:
    """Leave out the last epoch's own message: the end follows at once and tells everything."""
    for event in events:
        if not (isinstance(event, worker.Epoch) and event.record.epoch == run.epochs):
            yield event


def _leave_nothing_behind(on_gpu: bool) -> None:
    """The actor is reused: the next run must find the memory free."""
    large = resident_bytes() > LARGE_PROCESS
    if on_gpu or large:  # a collection costs 50 ms: tiny runs go without
        gc.collect()
    if large:
        give_back()
    if on_gpu:
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def resident_bytes() -> int:
    """Memory that is this process's own, without mapped files; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def give_back() -> None:
    """Have the C library return what it holds free.

    It keeps blocks of up to 32 MB for later, and a big model's weights are such blocks: without
    this, runs of a ViT-L/14 occupied 19 GB of a machine one after the other, with it 6.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
