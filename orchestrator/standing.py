"""How far a sweep is, from the store alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from db.reading import Reader
from db.records import State, StoredRun
from orchestrator.cli.show import duration, plural

BAR = 30


@dataclass(frozen=True)
class Standing:
    """One sweep's progress."""

    name: str
    runs: list[StoredRun]
    epochs: dict[int, int]
    """Last stored epoch by run key."""
    seconds_left: float | None
    """Of training, at the speed of the runs that are done, with as many at once as now."""

    def counts(self) -> dict[str, int]:
        """Runs in each state."""
        found = Counter(run.state for run in self.runs)
        order: tuple[State, ...] = ("done", "running", "pending", "diverged", "failed")
        return {state: found[state] for state in order if found[state]}

    def as_json(self) -> dict[str, Any]:
        """What `orch status --json` prints."""
        return {
            "sweep": self.name,
            "runs": len(self.runs),
            "states": self.counts(),
            "seconds_left": self.seconds_left,
            "running": [
                {"id": r.id, "run": str(r.run), "epoch": self.epochs.get(r.key), "of": r.run.epochs}
                for r in self.runs
                if r.state == "running"
            ],
            "failed": [
                {"id": r.id, "run": str(r.run), "error": r.error}
                for r in self.runs
                if r.state == "failed"
            ],
        }

    def lines(self) -> list[str]:
        """What `orch status` prints."""
        final = sum(run.state in ("done", "diverged", "failed") for run in self.runs)
        filled = round(BAR * final / max(len(self.runs), 1))
        counts = ", ".join(f"{n:,} {state}" for state, n in self.counts().items())
        bar = "█" * filled + "·" * (BAR - filled)
        lines = [f"{self.name}  {bar}  {final}/{len(self.runs)} runs: {counts}"]
        if self.seconds_left is not None:
            lines.append(f"  about {duration(self.seconds_left)} left")
        for run in self.runs:
            if run.state == "running":
                epoch = self.epochs.get(run.key, 0)
                lines.append(f"  running  {run.id[:8]} {run.run}: epoch {epoch}/{run.run.epochs}")
        bad = [run for run in self.runs if run.state in ("failed", "diverged")]
        lines += [f"  {run.state:<8} {run.id[:8]} {run.run}: {run.error}" for run in bad]
        if any(run.state == "failed" for run in bad):
            lines.append(
                f"  reasons: orch runs show ID; again: orch resume {self.name} --retry-failed"
            )
        if blocked := self._blocked():
            lines.append(f"  {plural(blocked, 'run')} wait for what failed")
        return lines

    def _blocked(self) -> int:
        failed = {run.id for run in self.runs if run.state in ("failed", "diverged")}
        return sum(run.state == "pending" and bool(failed & {*run.run.needs}) for run in self.runs)


def of(reader: Reader, name: str) -> Standing:
    """The standing of the sweep called `name`."""
    runs = reader.runs(name)
    epochs = reader.latest_epochs([run.key for run in runs])
    return Standing(name, runs, epochs, _seconds_left(reader, runs, epochs))


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
