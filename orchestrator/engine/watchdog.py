"""What notices that Ray died under a living launch: Tune would wait for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 1.0
LIST_SECONDS = 5.0
"""Between looks at which processes there are: workers come and go."""
CONNECT_SECONDS = 5.0
MISSES = 5
"""Looks in a row that must fail before a cluster's head counts as lost."""


@dataclass(frozen=True)
class Child:
    """A process: its number and start time tell it from any other."""

    pid: int
    parent: int
    started: str
    name: str
    """Of the file that it runs."""


def look_up(pid: int) -> Child | None:
    """None where there is no such process, or only what its parent has not buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Child(pid, int(fields[1]), fields[19], Path(words[0].decode(errors="replace")).name)


def descendants(ancestor: int) -> list[Child]:
    """Every living process that `ancestor` started, or those did."""
    every = [look_up(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")]
    found: list[Child] = []
    generation = {ancestor}
    while generation:
        children = [child for child in every if child and child.parent in generation]
        found += children
        generation = {child.pid for child in children}
    return found


class Watchdog:
    """Looks after Ray's processes from a thread, and calls `bark(reason)` once if they are gone."""

    def __init__(self, bark: Callable[[str], None], head: tuple[str, int] | None) -> None:
        """`head` is the address of a cluster's control store; None: Ray is ours, on this host."""
        self._bark = bark
        self._head = head
        self._processes = [] if head else descendants(os.getpid())
        self._vital = [c for c in self._processes if c.name in ("raylet", "gcs_server")]
        self._over = threading.Event()
        self._misses = 0
        self._listed = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def end_processes(self, seconds: float) -> None:
        """Give a dead Ray's workers so long to save their runs, then kill what is left of it."""
        before = time.monotonic()
        workers = [child for child in self._processes if child.name.startswith("ray::Implicit")]
        while any(map(_lives, workers)) and time.monotonic() - before < seconds:
            time.sleep(0.1)
        end(self._processes)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if reason := self._lost():
                self._bark(reason)
                return
            if self._head is None and time.monotonic() - self._listed > LIST_SECONDS:
                self._listed = time.monotonic()
                self._processes = descendants(os.getpid())

    def _lost(self) -> str | None:
        if self._head is None:
            gone = [child.name for child in self._vital if not _lives(child)]
            return f"Ray's {gone[0]} ended" if gone else None
        try:
            socket.create_connection(self._head, CONNECT_SECONDS).close()
            self._misses = 0
        except OSError:
            self._misses += 1
        host, port = self._head
        return f"the Ray cluster at {host}:{port} is lost" if self._misses >= MISSES else None


def _lives(child: Child) -> bool:
    now = look_up(child.pid)
    return now is not None and now.started == child.started


def end(processes: Iterable[Child]) -> None:
    """Kill those that still live."""
    for child in processes:
        if _lives(child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
