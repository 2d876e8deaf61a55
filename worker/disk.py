"""Disks that are full, and folders that cannot be written."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from db.errors import EnvironmentProblem
from worker.events import Event, Stopped, Waiting

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT)
LOOK_SECONDS = 1.0
"""Between looks at a full disk."""
SAY_SECONDS = 5.0
"""Between two words of a run that waits."""


class DiskFull(EnvironmentProblem):
    """A file does not fit into `folder`; it needs about `needed` bytes. A run waits for them."""

    def __init__(self, message: str, folder: Path, needed: int) -> None:
        super().__init__(message)
        self.folder = folder
        self.needed = needed

    def for_good(self) -> bool:
        """Whether the file is larger than the whole disk."""
        disk = _disk(self.folder)
        return disk is not None and self.needed > disk.f_blocks * disk.f_frsize > 0

    def over(self) -> bool:
        """Whether another try is worth it. Quotas do not show here: those, it finds out."""
        disk = _disk(self.folder)
        return disk is None or disk.f_bavail * disk.f_frsize >= self.needed


def _disk(folder: Path) -> os.statvfs_result | None:
    try:
        return os.statvfs(folder)
    except OSError:
        return None


def size(count: int) -> str:
    """Bytes for people."""
    if count >= 1e8:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 5e4 else f"{count / 1e3:.1f} kB"


@contextmanager
def writing(folder: Path, needed: int = 0) -> Iterator[None]:
    """Raise `DiskFull` or `EnvironmentProblem`, naming the folder, for what the system refuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            message = f"{folder} is full ({reason}): {size(needed)} needed; make room there."
            raise DiskFull(message, folder, needed) from error
        raise EnvironmentProblem(
            f"{folder} cannot be written ({reason}); see that it is there and writable, and launch "
            "again."
        ) from error


def wait_for_room(full: DiskFull, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Say that the disk is full until there is room.

    Raises `Stopped` where the run is told to stop meanwhile, and `full` where the file is larger
    than its disk.
    """
    if full.for_good():
        raise full
    reason = f"{full.folder} is full: {size(full.needed)} needed; make room there"
    told = None
    while told is None or not full.over():
        if told is None or time.monotonic() - told >= SAY_SECONDS:
            told = time.monotonic()
            yield Waiting(reason)
        if should_stop():
            raise Stopped
        time.sleep(LOOK_SECONDS)


def with_room(write: Callable[[], T], should_stop: Callable[[], bool]) -> Generator[Event, None, T]:
    """What `write` returns, once it finds room: see `wait_for_room`."""
    while True:
        try:
            return write()
        except DiskFull as full:
            problem = full
        yield from wait_for_room(problem, should_stop)
