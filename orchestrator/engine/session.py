"""One launch while it lasts: what to train next, what became of it. Knows no Ray and no torch."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from db.errors import StoreError, Superseded
from db.records import FINAL_STATES, Claim, State, StoredRun, canonical_json
from db.store import Store
from orchestrator.engine.queue import Queue
from orchestrator.engine.recorder import Recorder
from orchestrator.sweep import Planned
from worker.context import Folders, Keep
from worker.events import Event, from_json

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between looks at what other launches hold, while there is nothing else to do."""
PATIENCE = (0.5, 2.0, 8.0)
"""Seconds between tries where the store cannot be written; each has waited for locks already."""
MAX_DEATHS = 3
"""Attempts that may die with their process before the run counts as failed."""


class Observer(Protocol):
    """Somebody who watches a launch: the terminal, a pipe, a test."""

    def claimed(self, claim: Claim) -> None:
        """A run is about to be trained."""

    def said(self, claim: Claim, event: Event) -> None:
        """A worker told something."""

    def ended(self, claim: Claim, state: State, error: str | None) -> None:
        """An attempt is over; `pending` where the run will be tried again."""


@dataclass(frozen=True)
class Task:
    """All that a worker process needs to train a run: plain JSON values."""

    run: dict[str, Any]
    fence: int
    folders: dict[str, str | None]
    cpus: float
    gpus: float
    keep: Keep = "none"
    plugins: tuple[str, ...] = ()
    data_fingerprint: str | None = None
    weights_sha256: str | None = None

    def to_json(self) -> str:
        """One string, so that Tune has nothing to copy, flatten or print."""
        return canonical_json(self.__dict__)

    def places(self) -> dict[str, Any]:
        """The folders as paths, for `worker.Context`."""
        return {name: Path(path) if path else None for name, path in self.folders.items()}

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "plugins": tuple(values["plugins"])})


@dataclass
class Session:
    """The state of a launch in its driver process; the only one who talks to the store."""

    store: Store
    owner: int
    queue: Queue
    keys: dict[str, int]
    planned: Mapping[str, Planned]
    folders: Folders
    observer: Observer
    max_claims: int | None = None
    """Runs held at once: those in training and those whose worker is about to start."""
    plugins: tuple[str, ...] = ()
    git: tuple[str, bool] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    states: Counter[State] = field(default_factory=Counter)
    """How many runs this launch brought to each final state."""
    elsewhere: set[str] = field(default_factory=set)
    """Runs that another launch holds."""
    _looked: float = 0.0
    _claims: dict[str, Claim] = field(default_factory=dict)
    _deaths: Counter[str] = field(default_factory=Counter)
    _heard: dict[str, int] = field(default_factory=dict)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.store, self.folders.runs)

    def startable(self) -> bool:
        """Whether anything that is left may still be trained by this launch."""
        return len(self.queue) > len(self.queue.blocked())

    def suggest(self, trial: str) -> Task | Literal["wait", "finished"]:
        """The next run for a trial, `wait` while all wait for running ones, `finished` at the end.

        A run that dies is queued again, so nothing is finished while anything runs.
        """
        if self.stop.is_set():
            return "finished"
        if self.max_claims and len(self._claims) >= self.max_claims:
            return "wait"
        while run_id := self.queue.take():
            claim = self.store.claim(self.keys[run_id], self.owner, self.git)
            if claim is None:
                self.elsewhere.add(run_id)
                self._look_elsewhere()
                continue
            self._claims[trial] = claim
            self.observer.claimed(claim)
            return self._task(claim)
        if not self._claims and not self._waits_for_another():
            return "finished"
        return "wait"

    def _waits_for_another(self) -> bool:
        """Whether what is left needs a run that another launch is training."""
        needed = self.queue.open_needs()
        if needed and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self.elsewhere |= needed
            self.store.recover()
            self._look_elsewhere()
        return bool(self.queue.open_needs() & self.elsewhere)

    def _look_elsewhere(self) -> None:
        """Learn what became of runs that others hold; one that came back is ours to claim."""
        for run_id, state in self.store.states([*self.elsewhere]).items():
            if state == "running":
                continue
            self.elsewhere.discard(run_id)
            if state in FINAL_STATES:
                self.queue.settle(run_id, state)
            elif run_id in self.keys and run_id not in self.queue:
                self.queue.put_back(run_id)

    def _task(self, claim: Claim) -> Task:
        planned = self.planned[claim.run.id]
        return Task(
            run=claim.run.content(),
            fence=claim.fence,
            folders={k: v and str(v) for k, v in vars(self.folders).items()},
            cpus=planned.resources.cpus,
            gpus=planned.resources.gpus,
            keep=planned.keep,
            plugins=self.plugins,
            data_fingerprint=claim.data_fingerprint,
            weights_sha256=claim.weights_sha256,
        )

    def message(self, trial: str, number: int, text: str) -> None:
        """A trial reported; Tune may deliver its last report twice, so they are numbered."""
        claim = self._claims.get(trial)
        if claim is None or number <= self._heard.get(trial, -1):
            return
        event = from_json(json.loads(text))
        state = self.recorder.record(claim, event)
        self._heard[trial] = number  # after it is kept: a try that failed is repeated
        self.observer.said(claim, event)
        if state is not None:
            error = getattr(event, "error", None)
            self._close(trial, claim, state, error)

    def trial_ended(self, trial: str, error: str | None) -> None:
        """A trial is over; one whose run has no outcome yet died with its process."""
        claim = self._claims.get(trial)
        if claim is None or self.stop.is_set():
            return
        run_id, reason = claim.run.id, error or "the worker process ended without an outcome"
        self._deaths[run_id] += 1
        try:
            if self._deaths[run_id] < MAX_DEATHS:
                self.store.release(claim, "died", reason)
                self._close(trial, claim, "pending", reason)
                return
            reason += f" ({MAX_DEATHS} times)"
            self.store.fail(claim, reason, "")
            self._close(trial, claim, "failed", reason)
        except Superseded:
            del self._claims[trial]
            self.elsewhere.add(run_id)

    def _close(self, trial: str, claim: Claim, state: State, error: str | None) -> None:
        del self._claims[trial]
        self._heard.pop(trial, None)
        if state == "pending":
            self.queue.put_back(claim.run.id)
        else:
            self.states[state] += 1
            self.queue.settle(claim.run.id, state)
        self.observer.ended(claim, state, error)

    def guarded(self, action: Callable[[], Any]) -> Any:
        """Do something on Tune's behalf; a fault ends the launch in order, not inside Tune."""
        try:
            for pause in PATIENCE:
                try:
                    return action()
                except StoreError as fault:
                    log.warning("%s; trying again", fault)
                    self.stop.wait(pause)
            return action()
        except BaseException as fault:
            self.failure = self.failure or fault
            self.stop.set()
            return None


def queue_of(store: Store, runs: Sequence[StoredRun]) -> Queue:
    """The queue for a launch over `runs`."""
    needed = {need for stored in runs for need in stored.run.needs}
    return Queue(runs, store.states([*needed]))
