"""One launch while it lasts: what to train next, what became of it. Knows no Ray and no torch."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from db.errors import StoreError, StoreUnreachable, Superseded
from db.records import FINAL_STATES, RESULTS, Cause, Claim, State, StoredRun
from db.store import Store
from orchestrator.advice import Family, family_of, paused_families, spoken
from orchestrator.engine.bell import key_of
from orchestrator.engine.queue import Queue
from orchestrator.engine.recorder import Recorder
from orchestrator.engine.task import Task
from orchestrator.sweep import Planned
from worker.context import Folders
from worker.events import Epoch, Event, Failed, Started, from_json

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between looks at what other launches hold."""
PATIENCE = (0.5, 2.0, 8.0)
"""Seconds between tries where the store refuses; each has waited for locks already."""
WAIT_SECONDS = 2.0
"""Between tries while the store is away or full: a server that restarts, a disk to be cleared."""
TELL_SECONDS = 30.0
"""Between words about such a wait."""
MAX_DEATHS = 3
"""Attempts that may die with their process before the run has failed, unless it gets further."""


class Observer(Protocol):
    """Somebody who watches a launch: the terminal, a pipe, a test."""

    def claimed(self, claim: Claim) -> None:
        """A run is about to be trained."""

    def said(self, claim: Claim, event: Event) -> None:
        """A worker told something."""

    def ended(self, claim: Claim, state: State, error: str | None) -> None:
        """An attempt is over; `pending` where the run will be tried again."""

    def line(self, text: str) -> None:
        """Something about the launch as a whole."""


class Lane(Protocol):
    """The way from a launch to its worker processes."""

    def ring(self, keys: list[str] | None) -> None:
        """Have these attempts, or all of them, save where they are and end."""

    def silences(self) -> Mapping[str, float]:
        """Seconds since each attempt in training was heard of, as far as known."""

    def kill(self, trial: str) -> None:
        """End a trial's process."""


@dataclass
class Session:
    """The state of a launch in its driver process; the only one who talks to the store."""

    store: Store
    owner: int
    queue: Queue
    stored: Mapping[str, StoredRun]
    """The launch's runs, by id."""
    planned: Mapping[str, Planned]
    folders: Folders
    observer: Observer
    max_claims: int | None = None
    """Runs held at once: those in training and those whose worker is about to start."""
    plugins: tuple[str, ...] = ()
    git: tuple[str, bool] | None = None
    checkpoint_seconds: float = 180.0
    stays: bool = True
    """Whether to wait for runs that other launches hold, to take them over if those die."""
    bell: str = ""
    lane: Lane | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    """Told to stop: nothing more is started, what is in training saves where it is."""
    over: threading.Event = field(default_factory=threading.Event)
    """The experiment ends now, whatever is in training."""
    pause: str | None = None
    """Why nothing more is started for the moment."""
    meanwhile: Callable[[], None] = lambda: None
    """Called again and again while the store is waited for: it may be told to stop then, too."""
    claims: dict[str, Claim] = field(default_factory=dict)
    """By trial."""
    states: Counter[State] = field(default_factory=Counter)
    """How many runs this launch brought to each final state."""
    elsewhere: set[str] = field(default_factory=set)
    """Runs that another launch holds."""
    families: dict[Family, str] = field(default_factory=dict)
    """(model, method) whose runs fail alike, `*` for any, with the error: none is started."""
    failure: BaseException | None = None
    progressed: bool = False
    """Whether this launch has brought any run further."""
    _failed: list[StoredRun] = field(default_factory=list)
    _looked: float = 0.0
    _deaths: Counter[str] = field(default_factory=Counter)
    _reached: dict[str, tuple[int, int]] = field(default_factory=dict)
    _heard: dict[str, int] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)
    _lost: dict[str, tuple[Claim, float]] = field(default_factory=dict)
    """Claims that were taken from trials that still train, and when that was found."""

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.store, self.folders.runs)

    def startable(self) -> bool:
        """Whether anything that is left may still be trained by this launch."""
        if self.stays and self.elsewhere:
            return True
        hopeless = {*self.queue.blocked(), *self.held_back()}
        return len(self.queue) > len(hopeless)

    def held_back(self) -> list[str]:
        """The waiting runs of paused families."""
        return [run_id for run_id in self.queue if self._in_paused_family(run_id)]

    def _in_paused_family(self, run_id: str) -> bool:
        return family_of(self.stored[run_id].run, self.families) is not None

    # What Tune asks and tells

    def suggest(self, trial: str) -> Task | Literal["wait", "finished"]:
        """The next run for a trial, `wait` while all wait for running ones, `finished` at the end.

        A run that dies is queued again, so nothing is finished while anything runs.
        """
        if self.stop.is_set():
            return "wait" if self.claims and not self.over.is_set() else "finished"
        if self.pause or (self.max_claims and len(self.claims) >= self.max_claims):
            return "wait"
        while run_id := self.queue.take(unless=self._in_paused_family):
            try:
                claim = self.store.claim(self.stored[run_id].key, self.owner, self.git)
            except BaseException:
                self.queue.put_back(run_id)  # asked again, perhaps with the claim kept already
                raise
            if claim is None:
                self.elsewhere.add(run_id)
                continue
            self.claims[trial] = claim
            self.observer.claimed(claim)
            return self._task(claim)
        if not self.claims and not self._waits_for_another():
            return "finished"
        return "wait"

    def _waits_for_another(self) -> bool:
        """Whether what is left is, or needs, a run that another launch is training."""
        needed = self.queue.open_needs()
        self.elsewhere |= needed - self.stored.keys()
        if (needed or self.elsewhere) and time.monotonic() - self._looked > LOOK_SECONDS:
            self.look_elsewhere()
        if self.stays and self.elsewhere:
            return True
        return bool(self.queue.open_needs() & self.elsewhere)

    def look_elsewhere(self) -> None:
        """Learn what became of runs that others hold; one that came back is ours to claim."""
        self._looked = time.monotonic()
        self.store.beat(self.owner)  # whoever asks lives, even if it was frozen until just now
        self.store.recover()
        for run_id, state in self.store.states([*self.elsewhere]).items():
            if state == "running":
                continue
            self.elsewhere.discard(run_id)
            if state in FINAL_STATES:
                self.queue.settle(run_id, state)
            elif run_id in self.stored and run_id not in self.queue:
                needs = self.stored[run_id].run.needs
                for need, now in self.store.states(needs).items():  # one may have been voided
                    self.queue.settle(need, now)
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
            head_sha256=claim.head_sha256,
            checkpoint_seconds=self.checkpoint_seconds,
            bell=self.bell,
        )

    def begun(self, trial: str) -> None:
        """A worker process has taken the trial up."""
        self._begun[trial] = time.monotonic()

    def message(self, trial: str, number: int, texts: Sequence[str]) -> None:
        """A trial reported events; Tune may deliver a report twice, so they are numbered."""
        for place, text in enumerate(texts, number):
            claim = self.claims.get(trial)
            if claim is None or place <= self._heard.get(trial, -1):
                continue
            event = from_json(json.loads(text))
            state = self.recorder.record(claim, event)
            self._heard[trial] = place  # after it is kept: a try that failed is repeated
            self.observer.said(claim, event)
            run_id = claim.run.id
            self._note_position(run_id, event)
            if isinstance(event, Failed) and state == "failed":
                self._note_failure(claim, event.error, event.cause)
            if state is not None:
                self._close(trial, claim, state, getattr(event, "error", None))

    def _note_position(self, run_id: str, event: Event) -> None:
        position = _position(event)
        if isinstance(event, Started) and run_id not in self._reached:
            self._reached[run_id] = position  # where it stood is no progress
        elif position > self._reached.get(run_id, (0, 0)):
            self._reached[run_id] = position
            self._deaths[run_id] = 0  # it gets somewhere: preempted, not broken
            self.progressed = True

    def _note_failure(self, claim: Claim, error: str, cause: Cause) -> None:
        stored = self.stored[claim.run.id]
        self._failed.append(dataclasses.replace(stored, state="failed", error=error, cause=cause))
        paused = paused_families(self._failed)
        for family, reason in paused.items():
            if family not in self.families:
                self.observer.line(
                    f"paused   {spoken(family)}: three runs failed alike ({reason}); "
                    "the rest goes on"
                )
        self.families = paused

    def trial_ended(self, trial: str, error: str | None) -> None:
        """A trial is over; one whose run has no outcome yet died with its process."""
        claim = self.claims.get(trial)
        if claim is None:
            self._clear_after(trial)
            return
        try:
            if self.stop.is_set():
                self.store.release(claim, "paused")
                self._close(trial, claim, "pending", None)
            else:
                self._died(trial, claim, error or "the worker process ended without an outcome")
        except Superseded:
            self._let_go(trial)
            self.elsewhere.add(claim.run.id)

    def _clear_after(self, trial: str) -> None:
        """A trial that had lost its run trains no more; what it wrote since is of no use."""
        if lost := self._lost.get(trial):
            claim, _ = lost
            state = self.store.states([claim.run.id])[claim.run.id]
            if state in (*RESULTS, "voided"):
                self.recorder.clear(claim.run.id)
            del self._lost[trial]

    def _died(self, trial: str, claim: Claim, reason: str) -> None:
        run_id = claim.run.id
        deaths = self._deaths[run_id] + 1
        cause: Cause = "out_of_memory" if "OutOfMemory" in reason else "process_death"
        # A death is counted when the store has it: what could not be kept is repeated as a whole.
        if deaths < MAX_DEATHS:
            self.store.release(claim, "died", reason, cause)
            self._deaths[run_id] = deaths
            self._close(trial, claim, "pending", reason)
            return
        reason += f" ({MAX_DEATHS} times)"
        self.store.fail(claim, reason, "", cause)
        self._deaths[run_id] = deaths
        self._close(trial, claim, "failed", reason)

    def _close(self, trial: str, claim: Claim, state: State, error: str | None) -> None:
        self._let_go(trial)
        if state == "pending":
            self.queue.put_back(claim.run.id)
        else:
            self.states[state] += 1
            self.progressed = True
            self.queue.settle(claim.run.id, state)
        self.observer.ended(claim, state, error)

    def _let_go(self, trial: str) -> None:
        del self.claims[trial]
        self._heard.pop(trial, None)
        self._begun.pop(trial, None)

    # What the watch does

    def give_back_unbegun(self) -> None:
        """Release the claims that no worker process has taken up yet: there is nothing to save."""
        for trial, claim in list(self.claims.items()):
            if trial not in self._begun:
                self.trial_ended(trial, None)
                log.info("run %s was not begun", claim.run.id)

    def unheard(self, trial: str) -> float:
        """Seconds since a trial was taken up, where nothing was reported since; else 0."""
        if trial in self._heard or trial not in self._begun:
            return 0.0
        return time.monotonic() - self._begun[trial]

    def silence(self, trial: str, seconds: float) -> None:
        """A worker is frozen: its run is to be tried again by another, its process ended."""
        self.trial_ended(trial, f"the worker process said nothing for {seconds:.0f} s")
        if self.lane:
            self.lane.kill(trial)

    def check_claims(self) -> None:
        """Stop what is ours no more: cancelled, or taken over while this launch was frozen."""
        held = self.store.held(self.owner)
        for trial, claim in list(self.claims.items()):
            if held.get(claim.run_key) == claim.fence:
                continue
            state = self.store.states([claim.run.id])[claim.run.id]
            if self.lane:
                self.lane.ring([key_of(claim.run.id, claim.fence)])
            self._lost[trial] = (claim, time.monotonic())
            self._let_go(trial)
            if state in FINAL_STATES:
                self.queue.settle(claim.run.id, state)
                by_hand = state == "cancelled"
                self.observer.ended(claim, state, "by hand" if by_hand else "by another launch")
            else:
                self.elsewhere.add(claim.run.id)
                who = "another launch has taken over" if state == "running" else "lease ran out for"
                self.observer.line(f"{who} {claim.run}")

    def end_lost(self, grace: float) -> None:
        """End the processes that still train what is ours no more, though told to stop."""
        for trial, (_, since) in list(self._lost.items()):
            if self.lane and time.monotonic() - since > grace:
                self.lane.kill(trial)

    def guarded(self, action: Callable[[], Any]) -> Any:
        """Do something on Tune's behalf; a fault ends the launch in order, not inside Tune.

        A store that is away or full is waited for; what else it refuses is tried a few times.
        """
        try:
            pauses = iter(PATIENCE)
            told = -TELL_SECONDS
            while True:
                try:
                    return action()
                except StoreUnreachable as fault:
                    if time.monotonic() - told > TELL_SECONDS:
                        told = time.monotonic()
                        self.observer.line(f"waiting: {fault}")
                    self.meanwhile()
                    if self.over.wait(WAIT_SECONDS):
                        return None  # its checkpoint has all that is not kept here
                except StoreError as fault:
                    pause = next(pauses, None)
                    if pause is None:
                        raise
                    log.warning("%s; trying again", fault)
                    self.over.wait(pause)
        except BaseException as fault:
            self.failure = self.failure or fault
            self.stop.set()
            self.over.set()
            return None


def _position(event: Event) -> tuple[int, int]:
    """How far a run is known to be: whole epochs, and steps of the next one."""
    match event:
        case Started():
            return (event.resumed_from or 0, event.resumed_step)
        case Epoch():
            return (event.record.epoch, 0)
    return (0, 0)


def queue_of(store: Store, runs: Sequence[StoredRun]) -> Queue:
    """The queue for a launch over `runs`, in their order."""
    needed = {need for stored in runs for need in stored.run.needs}
    return Queue(runs, store.states([*needed]))
