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


def this_process() -> Process:
    """The process that asks."""
    boot = _read("/proc/sys/kernel/random/boot_id").strip()
    return Process(socket.gethostname(), os.getpid(), boot, _start_time(os.getpid()))


def is_dead(owner: Process) -> bool:
    """True where the owner ran on this host and is surely gone; another host's cannot be told."""
    here = this_process()
    if owner.host != here.host:
        return False
    if owner.boot_id != here.boot_id:
        return True
    if not here.started:  # no /proc: the pid alone must do
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False
    return _start_time(owner.pid) != owner.started
