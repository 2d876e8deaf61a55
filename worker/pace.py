"""What happens between two steps of a run: it stops when told to, saves, gives signs of life."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from worker.checkpoint import Checkpoints
from worker.context import Context
from worker.disk import with_room
from worker.events import Doing, Event, Progress, Stopped
from worker.position import Position

T = TypeVar("T")

PROGRESS_SECONDS = 5.0
"""Between signs of life; a run that gives none for minutes is taken for frozen."""


class Pace:
    """The clocks of one attempt, and its way to the disk.

    `snapshot` gives everything that a checkpoint holds, as of now; `at` tells how far that is.
    """

    def __init__(
        self,
        context: Context,
        checkpoints: Checkpoints,
        at: Position,
        snapshot: Callable[[], dict[str, Any]],
    ) -> None:
        self.context = context
        self.checkpoints = checkpoints
        self.at = at
        self.snapshot = snapshot
        self._on_disk = at.mark()
        self._saved = self._told = time.monotonic()
        self._lap = time.perf_counter()

    def between(self, doing: Doing, step: int, steps: int) -> Iterator[Event]:
        """Called before every step and forward pass; its own time counts for no lap.

        Raises `Stopped` where the run is told to stop, what it has done being saved.
        """
        now, stop = time.monotonic(), self.context.should_stop()
        if stop or now - self._saved >= self.context.checkpoint_seconds:
            yield from self.save()
        if stop:
            raise Stopped
        if now - self._told > PROGRESS_SECONDS:
            self._told = now
            yield Progress(self.at.epoch, step, steps, doing)
        self.lap()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._lap = self._lap, time.perf_counter()
        return self._lap - before

    def save(self) -> Iterator[Event]:
        """Have what the run has done in a checkpoint, waiting for room where the disk is full."""
        if self.at.mark() != self._on_disk:
            yield from self.with_room(self._save)
            self._on_disk = self.at.mark()
        self._saved = time.monotonic()

    def _save(self) -> None:
        self.checkpoints.save(self.at.whole or 0, self.snapshot(), self.at.step)

    def with_room(self, write: Callable[[], T]) -> Generator[Event, None, T]:
        """What `write` returns, once there is room for it: see `wait_for_room`."""
        return (yield from with_room(write, self.context.should_stop))
