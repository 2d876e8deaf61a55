"""The seam to Ray Tune: a searcher that asks the session, a callback that tells it.

Tune pickles searcher, callback and stopper, so they hold only the name of a session in this
process. Importing this module imports Ray.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.search import Searcher

import worker
from db.records import Run
from orchestrator.engine import deaths
from orchestrator.engine.attempt import attempt, captured, flush, log_path, log_to, make_folder
from orchestrator.engine.bell import Bell, Listener, key_of
from orchestrator.engine.session import Session
from orchestrator.engine.task import Task
from orchestrator.engine.watch import Watch
from worker.catalog import load_plugins
from worker.events import (
    Epoch,
    Event,
    Failed,
    Finished,
    Paused,
    Progress,
    Shrunk,
    Started,
    Waiting,
    to_json,
)

SESSIONS: dict[str, Session] = {}
WATCHES: dict[str, Watch] = {}
LARGE_PROCESS = 1 << 30
"""Bytes: torch, timm and a tiny model with its data take about half of it."""
LEFT_ON_GPU = 64 << 20
"""Bytes that a finished run may leave allocated; with more, its process is not used again."""
REPORT_SECONDS = 0.2
"""Events closer together travel in one report: each costs the driver 3 ms."""
_GO_ON = (Started, Progress, Epoch, Shrunk, Waiting)
TASK, MESSAGES, NUMBER = "task", "messages", "number"


class StoreSearcher(Searcher):
    """Feeds Tune with the next ready run."""

    def __init__(self, session: str) -> None:
        super().__init__(metric=NUMBER, mode="max")
        self.session = session

    def suggest(self, trial_id: str) -> Any:
        """A trial's configuration, None to ask again later, FINISHED when there is nothing left."""
        session = SESSIONS[self.session]
        WATCHES[self.session].tick()  # with nothing in training Tune's loop stays here for minutes
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
        if MESSAGES in result:
            texts = json.loads(result[MESSAGES])
            session.guarded(lambda: session.message(trial.trial_id, result[NUMBER], texts))

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop goes round, ten times a second or more."""
        WATCHES[self.session].tick()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker process takes a trial up."""
        session = SESSIONS[self.session]
        session.begun(trial.trial_id)
        if isinstance(session.lane, RayLane):
            session.lane.actors[trial.trial_id] = trial.temporary_state.ray_actor

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's function returned, or Tune stopped it."""
        trial.last_result.pop(MESSAGES, None)  # Tune keeps it, and writes it out at the end
        self._ended(trial, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died."""
        self._ended(trial, _why(trial))

    def _ended(self, trial: Any, error: str | None) -> None:
        session = SESSIONS[self.session]
        session.guarded(lambda: session.trial_ended(trial.trial_id, error))
        if isinstance(session.lane, RayLane):
            session.lane.actors.pop(trial.trial_id, None)


def _why(trial: Any) -> str:
    try:
        page = Path(trial.error_file).read_text()
    except (OSError, TypeError):
        page = ""
    return deaths.sentence(page)


class StopWhenTold(Stopper):
    """Ends the experiment when the session says stop."""

    def __init__(self, session: str) -> None:
        self.session = session

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Single trials are never stopped."""
        return False

    def stop_all(self) -> bool:
        """Whether a stop in order, its grace or a fault ended the launch."""
        return SESSIONS[self.session].over.is_set()


class RayLane:
    """The way to worker processes: the bell, and Tune's own handles of them."""

    def __init__(self, name: str) -> None:
        """Start the bell under `name`, beside the driver."""
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        options = {"name": name, "num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        self._bell = ray.remote(Bell).options(**options).remote()
        self.actors: dict[str, Any] = {}
        """Of trials in training; only the newest of a process counts."""
        self._asked: Any = None
        self._known: Mapping[str, float] = {}

    def ring(self, keys: list[str] | None) -> None:
        """Have these attempts, or all of them, save where they are and end."""
        self._bell.ring.remote(keys)

    def silences(self) -> Mapping[str, float]:
        """As of the last answer; never waits for one."""
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                self._known = ray.get(self._asked)
            self._asked = None
        if self._asked is None:
            self._asked = self._bell.silences.remote()
        return self._known

    def kill(self, trial: str) -> None:
        """End a trial's process, a frozen one too."""
        if actor := self.actors.pop(trial, None):
            ray.kill(actor)


def resources_of(config: dict[str, Any]) -> PlacementGroupFactory:
    """What Tune reserves for a trial."""
    task = Task.from_json(config[TASK])
    return _reserved(task.cpus, task.gpus)


@functools.cache
def _reserved(cpus: float, gpus: float) -> PlacementGroupFactory:
    # One object for all trials alike: Tune looks for actors to reuse by comparing these, deeply.
    return PlacementGroupFactory([{"CPU": cpus} | ({"GPU": gpus} if gpus else {})])


def loaders(cpus: float) -> int:
    """Threads that prepare images while the GPU computes: all of the run's cores but one."""
    return max(1, int(cpus) - 1)


_listeners: dict[str, Listener] = {}
"""This process's, by the bell that it listens to."""


def _listener(bell: str) -> Listener:
    if bell not in _listeners:
        _listeners.clear()
        _listeners[bell] = Listener(ray.get_actor(bell))
    return _listeners[bell]


def train(config: dict[str, Any]) -> None:
    """The trainable: one attempt, its output in the run's folder, its events as Tune reports."""
    task = Task.from_json(config[TASK])
    load_plugins(task.plugins)
    run = Run.from_content(task.run)
    listener = _listener(task.bell)
    listener.begin(key_of(run.id, task.fence))
    device = "cuda:0" if task.gpus else "cpu"
    context = worker.Context(
        **task.places(),
        fence=task.fence,
        device=device,
        loaders=loaders(task.cpus) if task.gpus else 0,
        keep=task.keep,
        node=ray.get_runtime_context().get_node_id()[:8],
        checkpoint_seconds=task.checkpoint_seconds,
        data_fingerprint=task.data_fingerprint,
        weights_sha256=task.weights_sha256,
        head_sha256=task.head_sha256,
        should_stop=listener.should_stop,
    )
    if task.gpus:
        worker.limit_memory(device, task.gpus)
    number, broken = 0, False
    for event in make_folder(run, context):
        _report(number, [event])
        number += 1
        broken = not isinstance(event, Waiting)
    if broken:
        return
    with captured(log_path(context.folder(run.id), task.fence)):
        log_to(logging.StreamHandler(sys.stderr))
        for events in gathered(attempt(run, context)):
            if listener.orphaned and isinstance(events[-1], Paused):
                os._exit(1)  # its state is saved; a report would wait for ever
            _report(number, events)
            number += len(events)
            broken = isinstance(events[-1], Failed)
        listener.begin("")
        _leave_nothing_behind(device, broken)


def _report(number: int, events: list[Event]) -> None:
    texts = [json.dumps(to_json(event)) for event in events]
    tune.report({NUMBER: number, MESSAGES: json.dumps(texts)})


def gathered(events: Iterator[Event]) -> Iterator[list[Event]]:
    """Events in groups: what follows on an earlier report at once waits for the next event.

    A run's end repeats every epoch, so what still waits then need not be said. Nothing waits for
    long: a worker says something every few seconds.
    """
    waiting: list[Event] = []
    told = time.monotonic()
    for event in events:
        if isinstance(event, Finished):
            waiting = [earlier for earlier in waiting if not isinstance(earlier, Epoch)]
        waiting.append(event)
        last = not isinstance(event, _GO_ON)
        if last or time.monotonic() - told > REPORT_SECONDS:
            yield waiting
            waiting, told = [], time.monotonic()
    if waiting:
        yield waiting


def _leave_nothing_behind(device: str, broken: bool) -> None:
    """The actor is reused: the next run must find the memory free, and that is looked at.

    After a fault a GPU may refuse everything that this process asks of it, so it ends.
    """
    on_gpu = device != "cpu"
    large = resident_bytes() > LARGE_PROCESS
    if on_gpu or large:  # a collection costs 50 ms: tiny runs go without
        gc.collect()
    if large:
        give_back()
    if not on_gpu:
        return
    left = 0 if broken else worker.memory_left(device)
    if left > LEFT_ON_GPU:
        logging.getLogger("orch").warning("%d MB of GPU memory are not given back", left >> 20)
    if broken or left > LEFT_ON_GPU:
        flush()
        os._exit(0)  # everything is reported; Tune starts another process for the next run


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
