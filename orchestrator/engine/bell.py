"""How a launch reaches runs in training: a bell that every worker process listens to.

Tune can only kill a trial. A stop in order lets the worker save where it is first, and a launch
must notice a worker that is frozen; both need a word to and from processes on any node. The bell is
an actor beside the driver. Each worker process asks it once a second whether its run shall stop;
that it asks is the sign that it lives. Runs that are over within a second never trouble it.
Importing this module does not import Ray.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

LISTEN_SECONDS = 1.0
PATIENCE_SECONDS = 20.0
"""Of a worker for an answer; without one it goes on."""
LAST_SECONDS = 20.0
"""That a worker whose Ray has died has left to save its run."""


def key_of(run_id: str, fence: int) -> str:
    """What an attempt is called here."""
    return f"{run_id}/{fence}"


class Bell:
    """The actor."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[str, float]] = {}
        self._rung: set[str] = set()
        self._for_all = False

    def listen(self, worker: str, key: str) -> tuple[bool, bool]:
        """A worker process lives and trains the attempt `key`, or none.

        Returns whether that one shall stop, and whether all shall.
        """
        self._heard[worker] = (key, time.monotonic())
        return key in self._rung, self._for_all

    def silences(self) -> dict[str, float]:
        """Seconds since each attempt in training was heard of."""
        now = time.monotonic()
        return {key: now - heard for key, heard in self._heard.values() if key}

    def ring(self, keys: list[str] | None) -> None:
        """Tell these attempts to stop, or every one, those that start later too."""
        if keys is None:
            self._for_all = True
        else:
            self._rung.update(keys)


class Listener:
    """A worker process's ear: one thread that asks about the attempt that is in training."""

    def __init__(self, bell: Any) -> None:
        self._bell = bell
        self._key = ""
        self._told = ""
        self._all_told = False
        self.orphaned = False
        """Ray is gone, and with it everyone who would hear of this process."""
        self._parent = os.getppid()
        threading.Thread(target=self._listen, name="bell", daemon=True).start()

    def begin(self, key: str) -> None:
        """From now on, ask about this attempt; the empty key is none."""
        self._key = key

    def should_stop(self) -> bool:
        """Whether the attempt shall save where it is and end; asked before every step."""
        told = self._told != "" and self._told == self._key
        return told or self._all_told or self.orphaned

    def _listen(self) -> None:
        import ray

        worker = ray.get_runtime_context().get_worker_id()
        while not self.orphaned:
            time.sleep(LISTEN_SECONDS)
            key = self._key
            try:
                answer = self._bell.listen.remote(worker, key)
                this, self._all_told = ray.get(answer, timeout=PATIENCE_SECONDS)
                self._told = key if this else ""
            except Exception:  # its node is lost, or slow: training does not depend on it
                pass
            # The raylet, our parent, is gone: nobody hears of what comes, so save and end.
            self.orphaned = os.getppid() != self._parent
        time.sleep(LAST_SECONDS)
        os._exit(1)
