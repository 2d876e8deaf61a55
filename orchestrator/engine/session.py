"""One launch while it lasts: what to train next, what became of it. Knows no Ray and no torch."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from db.records import FINAL_STATES, Claim, State, StoredRun, canonical_json
from db.store import Store
from orchestrator.engine.queue import Queue
from orchestrator.engine.recorder import Recorder
from orchestrator.spec import Resources
from worker.events import Event, from_json

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
    data: str
    runs: str
    cpus: float
    gpus: float
    plugins: tuple[str, ...] = ()
    data_fingerprint: str | None = None
    weights_sha256: str | None = None

    def to_json(self) -> str:
        """One string, so that Tune has nothing to copy, flatten or print."""
        return canonical_json(self.__dict__)

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
    resources: dict[str, Resources]
    data: Path
    runs: Path
    observer: Observer
    max_claims: int | None = None
    """Runs held at once: those in training and those whose worker is about to start."""
    plugins: tuple[str, ...] = ()
    git: tuple[str, bool] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    states: Counter[State] = field(default_factory=Counter)
    """How many runs this launch brought to each final state."""
    taken_elsewhere: list[str] = field(default_factory=list)
    _claims: dict[str, Claim] = field(default_factory=dict)
    _deaths: Counter[str] = field(default_factory=Counter)
    _heard: dict[str, int] = field(default_factory=dict)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.store, self.runs)

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
                self._lost(run_id)
                continue
            self._claims[trial] = claim
            self.observer.claimed(claim)
            return self._task(claim)
        return "wait" if self._claims else "finished"

    def _lost(self, run_id: str) -> None:
        """Another launch has the run, or has finished it."""
        state = self.store.states([run_id])[run_id]
        if state in FINAL_STATES:
            self.queue.settle(run_id, state)
        else:
            self.taken_elsewhere.append(run_id)

    def _task(self, claim: Claim) -> Task:
        resources = self.resources[claim.run.id]
        return Task(
            run=claim.run.content(),
            fence=claim.fence,
            data=str(self.data),
            runs=str(self.runs),
            cpus=resources.cpus,
            gpus=resources.gpus,
            plugins=self.plugins,
            data_fingerprint=claim.data_fingerprint,
            weights_sha256=claim.weights_sha256,
        )

    def message(self, trial: str, number: int, text: str) -> None:
        """A trial reported; Tune may deliver its last report twice, so they are numbered."""
        claim = self._claims.get(trial)
        if claim is None or number <= self._heard.get(trial, -1):
            return
        self._heard[trial] = number
        event = from_json(json.loads(text))
        self.observer.said(claim, event)
        state = self.recorder.record(claim, event)
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
        if self._deaths[run_id] >= MAX_DEATHS:
            text = f"{reason} ({MAX_DEATHS} times)"
            self.store.fail(claim, text, "")
            self._close(trial, claim, "failed", text)
            return
        self.store.release(claim, "died", reason)
        self._close(trial, claim, "pending", reason)

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
            return action()
        except BaseException as fault:
            self.failure = self.failure or fault
            self.stop.set()
            return None


def queue_of(store: Store, runs: Sequence[StoredRun]) -> Queue:
    """The queue for a launch over `runs`."""
    needed = {need for stored in runs for need in stored.run.needs}
    return Queue(runs, store.states([*needed]))
