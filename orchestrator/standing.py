"""How far a sweep is, from the store alone, and what became of what is not done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, get_args

from db.reading import Reader
from db.records import FINAL_STATES, Attempt, State, StoredRun
from orchestrator.advice import (
    AGAIN,
    TROUBLED,
    Family,
    advice,
    cause_of,
    family_of,
    gist,
    paused_families,
    spoken,
)
from orchestrator.cli.show import duration, plural

BAR = 30
MOST_RUNNING = 12
"""Runs in training that the text names; a screen holds no more."""
MOST_TROUBLES = 8
"""Kinds of trouble that the text tells."""
SINGLY = 3
"""Up to so many runs in the same trouble are named one by one."""
STATES: tuple[State, ...] = (
    "done", "running", "pending", "diverged", "failed", "cancelled", "voided",
)  # fmt: skip
assert set(STATES) == set(get_args(State))


@dataclass(frozen=True)
class Standing:
    """One sweep's progress."""

    name: str
    runs: list[StoredRun]
    epochs: dict[int, int]
    """Last stored epoch by run key."""
    seconds_left: float | None
    """Of training, at the speed of the runs that are done, with as many at once as now."""
    attempts: dict[int, Attempt] = field(default_factory=dict)
    """The last one, of the runs in training, by run key."""
    silent: dict[int, float] = field(default_factory=dict)
    """Seconds since the launch that holds a run was heard of, where that is too long, by key."""

    def counts(self) -> dict[str, int]:
        """Runs in each state."""
        found = Counter(run.state for run in self.runs)
        return {state: found[state] for state in STATES if found[state]}

    def paused(self) -> dict[Family, tuple[str, int]]:
        """The families that wait because of a bug: an error, and how many runs wait."""
        paused = paused_families(self.runs)
        waiting = Counter(family_of(run.run, paused) for run in self.runs if run.state == "pending")
        return {family: (error, waiting[family]) for family, error in paused.items()}

    def as_json(self) -> dict[str, Any]:
        """What `orch status --json` prints."""
        troubled = [r for state in TROUBLED for r in self.runs if r.state == state]
        return {
            "sweep": self.name,
            "runs": len(self.runs),
            "states": self.counts(),
            "imported": sum(bool(run.run.source) for run in self.runs),
            "seconds_left": self.seconds_left,
            "running": [self._running(r) for r in self.runs if r.state == "running"],
            "troubled": [_trouble(r) for r in troubled],
            "failed": [_trouble(r) for r in troubled if r.state == "failed"],
            "paused": [
                {"model": model, "method": method, "error": error, "waiting": waiting}
                for (model, method), (error, waiting) in self.paused().items()
            ],
        }

    def _running(self, stored: StoredRun) -> dict[str, Any]:
        attempt = self.attempts.get(stored.key)
        return {
            "id": stored.id,
            "run": str(stored.run),
            "epoch": self.epochs.get(stored.key),
            "of": stored.run.epochs,
            "host": attempt and attempt.host,
            "node": attempt and attempt.node,
            "device": attempt and attempt.device,
            "silent_seconds": self.silent.get(stored.key),
        }

    def lines(self) -> list[str]:
        """What `orch status` prints: a screen, however large the sweep."""
        final = sum(run.state in FINAL_STATES for run in self.runs)
        filled = round(BAR * final / max(len(self.runs), 1))
        counts = ", ".join(f"{n:,} {state}" for state, n in self.counts().items())
        elsewhere = sum(bool(run.run.source) for run in self.runs)
        counts += f" ({elsewhere:,} of them imported)" if elsewhere else ""
        bar = "█" * filled + "·" * (BAR - filled)
        lines = [f"{self.name}  {bar}  {final}/{len(self.runs)} runs: {counts}"]
        if self.seconds_left is not None:
            lines.append(f"  about {duration(self.seconds_left)} left")
        return lines + self._in_training() + self._troubles() + self._waiting()

    def _in_training(self) -> list[str]:
        running = [run for run in self.runs if run.state == "running"]
        lines = []
        for run in running[:MOST_RUNNING]:
            epoch, attempt = self.epochs.get(run.key, 0), self.attempts.get(run.key)
            places = (attempt.host, attempt.node, attempt.device) if attempt else ()
            place = ", ".join(dict.fromkeys(part for part in places if part))
            on = f" on {place}" if place else ""
            lines.append(f"  running  {run.id[:8]} {run.run}: epoch {epoch}/{run.run.epochs}{on}")
            if (seconds := self.silent.get(run.key)) is not None:
                lines.append(
                    f"           its launch has not been heard of for {duration(seconds)}; "
                    "the next launch takes it over"
                )
        return lines + _more(len(running) - MOST_RUNNING, "run", "orch runs list --state running")

    def _troubles(self) -> list[str]:
        kinds: dict[tuple[str, str | None, str], list[StoredRun]] = {}
        for state in TROUBLED:
            for run in self.runs:
                if run.state == state:
                    kinds.setdefault((state, cause_of(run), gist(_why(run))), []).append(run)
        few = sum(map(len, kinds.values())) <= MOST_TROUBLES
        lines = [
            line
            for runs in [*kinds.values()][:MOST_TROUBLES]
            for line in _trouble_lines(runs, singly=few and len(runs) <= SINGLY)
        ]
        return lines + _more(len(kinds) - MOST_TROUBLES, "other trouble", "orch status --json")

    def _waiting(self) -> list[str]:
        lines = [
            f"  paused   {spoken(family)}: {plural(waiting, 'run')} would fail alike "
            f"({_short(error)}); mend that, then: {AGAIN} --cause bug"
            for family, (error, waiting) in self.paused().items()
            if waiting
        ]
        lines = lines[:MOST_TROUBLES] + _more(
            len(lines) - MOST_TROUBLES, "paused family", "orch status --json"
        )
        hopeless = {r.id for r in self.runs if r.state in FINAL_STATES and r.state != "done"}
        blocked = sum(r.state == "pending" and bool(hopeless & {*r.run.needs}) for r in self.runs)
        if blocked:
            lines.append(f"  {plural(blocked, 'run')} cannot start: what they need is not done")
        return lines


def _more(count: int, noun: str, command: str) -> list[str]:
    if count <= 0:
        return []
    nouns = noun if count == 1 else noun.replace("family", "familie") + "s"
    return [f"  and {count:,} more {nouns}: {command}"]


def _why(stored: StoredRun) -> str:
    """The error that a run ended with; a cancelled or voided one's old errors explain nothing."""
    return (stored.error or "") if stored.state in ("failed", "diverged") else ""


def _short(error: str) -> str:
    line = error.strip().partition("\n")[0]
    return line if len(line) <= 120 else line[:119] + "…"


def _trouble(stored: StoredRun) -> dict[str, Any]:
    return {
        "id": stored.id,
        "run": str(stored.run),
        "state": stored.state,
        "cause": cause_of(stored),
        "error": stored.error,
        "advice": advice(stored),
    }


def _trouble_lines(runs: list[StoredRun], *, singly: bool) -> list[str]:
    """Runs in the same trouble, then what to do about it."""
    first, cause = runs[0], cause_of(runs[0])
    kind = f" [{cause}]" if cause not in (None, first.state) else ""
    if singly:
        lines = [
            f"  {r.state:<9}{r.id[:8]} {r.run}{kind}" + (f": {_short(_why(r))}" if _why(r) else "")
            for r in runs
        ]
    else:
        ids = ", ".join(r.id[:8] for r in runs[:SINGLY])
        more = f" and {len(runs) - SINGLY:,} more" if len(runs) > SINGLY else ""
        why = f": {_short(_why(first))}" if _why(first) else ""
        lines = [f"  {first.state:<9}{plural(len(runs), 'run')} ({ids}{more}){kind}{why}"]
    return [*lines, f"           {advice(first, len(runs))}"]


def of(reader: Reader, name: str) -> Standing:
    """The standing of the sweep called `name`."""
    runs = reader.runs(name)
    epochs = reader.latest_epochs([run.key for run in runs])
    attempts = {
        run.key: held[-1]
        for run in runs
        if run.state == "running" and (held := reader.attempts(run.key))
    }
    left = _seconds_left(reader, runs, epochs)
    return Standing(name, runs, epochs, left, attempts, reader.silent())


def _seconds_left(reader: Reader, runs: list[StoredRun], epochs: dict[int, int]) -> float | None:
    mean = reader.seconds_of_done()
    left = [run for run in runs if run.state in ("pending", "running")]
    if not left or not mean:
        return None
    usual = sum(mean.values()) / len(mean)
    total = 0.0
    for stored in left:
        run = stored.run
        share = 1 - epochs.get(stored.key, 0) / run.epochs
        total += mean.get((run.kind, run.model, run.dataset), usual) * share
    return total / max(1, sum(run.state == "running" for run in left))
