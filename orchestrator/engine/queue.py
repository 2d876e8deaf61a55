"""Which run next: the order of the sweep among the runs whose dependencies are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from db.records import FINAL_STATES, State, StoredRun

HOPELESS: tuple[State, ...] = tuple(state for state in FINAL_STATES if state != "done")
"""What another run needs will not come of these by itself."""


class Queue:
    """The runs of a launch that are not final yet, by id."""

    def __init__(self, runs: Iterable[StoredRun], known: Mapping[str, State]) -> None:
        """`runs` in their order; `known` the states of everything that they may need."""
        self._state: dict[str, State] = dict(known)
        self._needs: dict[str, tuple[str, ...]] = {}
        self._waiting: deque[str] = deque()
        for stored in runs:
            self._needs[stored.id] = stored.run.needs
            if stored.state in ("pending", "running"):
                self._waiting.append(stored.id)

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._waiting

    def __iter__(self) -> Iterator[str]:
        return iter(self._waiting)

    def open_needs(self) -> set[str]:
        """What waiting runs need that is not final yet."""
        return {
            need
            for run_id in self._waiting
            for need in self._needs[run_id]
            if self._state.get(need) not in FINAL_STATES
        }

    def take(self, unless: Callable[[str], bool] = lambda run_id: False) -> str | None:
        """The next run whose needs are met, out of the queue; None where all wait for others.

        Runs of which `unless` is true are passed over.
        """
        for position, run_id in enumerate(self._waiting):
            if self._is_ready(run_id) and not unless(run_id):
                del self._waiting[position]
                return run_id
        return None

    def _is_ready(self, run_id: str) -> bool:
        return all(self._state.get(need) == "done" for need in self._needs[run_id])

    def put_back(self, run_id: str) -> None:
        """A run whose attempt ended without an outcome goes first."""
        self._waiting.appendleft(run_id)

    def settle(self, run_id: str, state: State) -> None:
        """A run is final: what needs it may start, or never will."""
        self._state[run_id] = state

    def blocked(self) -> list[str]:
        """The waiting runs that can never start because what they need did not get done."""
        return [
            run_id
            for run_id in self._waiting
            if any(self._state.get(need) in HOPELESS for need in self._needs[run_id])
        ]
