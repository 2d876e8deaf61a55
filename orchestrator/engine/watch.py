"""What a launch looks after between events: the clock, signals, frozen workers, the disk."""

from __future__ import annotations

import functools
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.engine.bell import key_of
from orchestrator.engine.session import Session

CLAIMS_SECONDS = 2.0
"""Between looks at what became of our claims."""
OTHERS_SECONDS = 5.0
"""Between looks at silent workers, dead launches and the disk."""
RING_SECONDS = 2.0
"""Between rings while stopping: a bell that was lost and came back has forgotten."""
SILENCE_SECONDS = 120.0
"""A worker process that says nothing for so long is frozen: it is ended, its run tried again."""


@dataclass
class Watch:
    """Called by Tune's loop several times a second; each duty keeps its own pace."""

    session: Session
    grace: float
    """Seconds that runs in training have to save where they are."""
    reserve: int
    """Bytes that must be free under the runs folder for another run to start."""
    deadline: float | None = None
    """When the launch stops by itself, by `time.monotonic()`."""
    silence: float = SILENCE_SECONDS
    timed_out: bool = False
    _stopping: float | None = None
    _done: dict[str, float] = field(default_factory=dict)
    _spoke: set[str] = field(default_factory=set)
    _silent_before: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.session.meanwhile = self._stop_if_told

    def tick(self) -> None:
        """Do what is due."""
        session = self.session
        self._stop_if_told()
        if session.stop.is_set():
            return
        if self._due("claims", CLAIMS_SECONDS):
            session.guarded(session.check_claims)
        if self._due("others", OTHERS_SECONDS):
            session.guarded(session.look_elsewhere)
            self._end_silent()
            self._watch_disk()

    def _due(self, duty: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._done.get(duty, 0.0) < seconds:
            return False
        self._done[duty] = now
        return True

    def _stop_if_told(self) -> None:
        """Begin or go on with a stop that a signal or the clock asks for."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.timed_out = self.timed_out or not self.session.stop.is_set()
            self.session.stop.set()
        if self.session.stop.is_set():
            self._stop()

    def _stop(self) -> None:
        """Have what is in training save where it is; after the grace, end it anyway."""
        session = self.session
        if self._stopping is None:
            self._stopping = time.monotonic()
            session.guarded(session.give_back_unbegun)
            if session.claims:
                session.observer.line(
                    f"stopping: {len(session.claims)} in training save where they are "
                    f"(at most {self.grace:g} s; again to stop at once)"
                )
        if session.claims and session.lane and self._due("ring", RING_SECONDS):
            session.lane.ring(None)
        if not session.claims or time.monotonic() - self._stopping > self.grace:
            session.over.set()

    def _end_silent(self) -> None:
        """End processes that said nothing for long, where two looks running find it so.

        One is not enough: after a pause of the whole machine the first answer is an old one.
        """
        session = self.session
        if session.lane is None:
            return
        silences = session.lane.silences()
        silent = {}
        for trial, claim in session.claims.items():
            heard = silences.get(key_of(claim.run.id, claim.fence))
            if heard is not None:
                self._spoke.add(trial)
            elif trial not in self._spoke:  # frozen before its first word
                heard = session.unheard(trial)
            if (heard or 0.0) > self.silence:
                silent[trial] = heard or 0.0
        for trial in silent.keys() & self._silent_before:
            session.guarded(functools.partial(session.silence, trial, silent[trial]))
        self._silent_before = set(silent)
        session.end_lost(self.grace)

    def _watch_disk(self) -> None:
        session, folder = self.session, self.session.folders.runs
        free = free_bytes(folder)
        full = free is not None and free < self.reserve
        if full and not session.pause:
            session.observer.line(
                f"paused: {folder} has {megabytes(free or 0)} free and a run needs "
                f"{megabytes(self.reserve)}; nothing more starts until there is room"
            )
        if session.pause and not full:
            session.observer.line(f"going on: {folder} has room again")
        session.pause = "disk" if full else None


def free_bytes(folder: Path) -> int | None:
    """What is free for us where `folder` is; None where it cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def megabytes(count: int) -> str:
    """`1,234 MB`."""
    return f"{count / 2**20:,.0f} MB"
