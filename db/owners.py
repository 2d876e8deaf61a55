"""Who claims runs: a process, told from any other by host, boot, pid and start time."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that holds, or held, runs."""

    host: str
    pid: int
    boot_id: str
    started: str

    def is_here(self) -> bool:
        """Whether it ran on this host, whatever became of it."""
        return self.host == socket.gethostname()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat, clock ticks after boot; empty where there is no such process."""
    after_name = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # A killed process stays as a zombie until its parent looks; it holds nothing any more.
    return after_name[19] if len(after_name) > 19 and after_name[0] not in "ZX" else ""


def _boot_id() -> str:
    """This boot of this machine, and the space in which process numbers mean something.

    A container has a space of its own: its processes cannot be told from outside, nor ours inside.
    """
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return _read("/proc/sys/kernel/random/boot_id").strip() + space


def this_process() -> Process:
    """The process that asks."""
    return Process(socket.gethostname(), os.getpid(), _boot_id(), _start_time(os.getpid()))


def is_dead(owner: Process) -> bool:
    """True where the owner ran on this host and is surely gone; another host's cannot be told."""
    here = this_process()
    if not owner.is_here():
        return False
    if owner.boot_id != here.boot_id:
        # Another container; or another machine of the same name, or this one before a restart:
        # those cannot be told apart, and the lease decides.
        return False
    if not here.started:  # no /proc: the pid alone must do
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False
    return _start_time(owner.pid) != owner.started
