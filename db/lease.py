"""Holding runs for as long as a program lives: a lease that renews itself."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from db.errors import StoreError, StoreUnreachable
from db.store import Store

log = logging.getLogger(__name__)

BEATS = 5
"""Times that a lease is renewed in its ttl: four may be missed."""


PATIENCE = 5.0
"""Seconds that an end waits for a beat that is under way."""


class Lease:
    """An owner of runs, alive while the `with` block lasts.

        with Lease(store, ttl=60.0) as lease:
            claim = store.claim(key, lease.owner)

    A thread renews it every `ttl / 5` seconds over a connection of its own, and goes on trying
    where the store cannot be reached. At the end what it still holds is given back, its attempts
    ending as `outcome` says; where the store cannot be reached then, the ttl runs out by itself.
    """

    def __init__(self, store: Store, ttl: float = 60.0) -> None:
        self.store = store
        self.ttl = ttl
        self.owner = 0
        """The id that claims take; set by entering."""
        self.outcome = "lost"
        """What becomes of open attempts at the end: `lost`, or `paused` where that is meant."""
        self.lost = threading.Event()
        """Set when the lease was found taken: runs held before may be trained by others by now.

        The owner lives on and may claim again; `store.held` says what it has left.
        """
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self.owner = self.store.enlist(self.ttl)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(PATIENCE)
        try:
            self.store.retire(self.owner, self.outcome)
        except StoreUnreachable as fault:
            log.warning("%s What is held comes back in %g s.", fault, self.ttl)

    def _beat(self) -> None:
        pause, failing = self.ttl / BEATS, False
        while not self._over.wait(pause):
            try:
                if not self.store.beat(self.owner):
                    self.lost.set()
                pause, failing = self.ttl / BEATS, False
            except StoreError as fault:
                (log.info if failing else log.warning)("the lease is not renewed: %s", fault)
                pause, failing = self.ttl / BEATS / 4, True
