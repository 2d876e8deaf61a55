"""What result files tell of runs, gathered before a store is touched."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from db.records import EpochRecord, Metric, Run, State

SELECTION = "id"
"""The split that selects."""
FILE_BITS = 40
"""Of a number that says where a row is: its place in its file; above them, which file."""
UNTOLD = -1
"""In place of a count that is not told."""
Series = tuple[str, str, str]
"""Split, group, metric."""
Trained = tuple[float | None, ...]
"""The values of `fields.OF_EPOCH`."""
Key = tuple[str, str, str, float, int, str]
"""Model, dataset, method, learning rate, seed, hyperparameters as canonical JSON."""


class BadRow(ValueError):
    """What is wrong with a row, or a run, without its place; `where` it is, if elsewhere."""

    def __init__(self, text: str, where: int | None = None) -> None:
        super().__init__(text)
        self.where = where


@dataclass
class Shared:
    """What all runs of some files refer to by number."""

    files: list[str] = field(default_factory=list)
    """Each with what its rows are counted in: `figures.csv, line`."""
    series: list[Series] = field(default_factory=list)

    def place(self, where: int) -> str:
        """`figures.csv, line 12`."""
        return f"{self.files[where >> FILE_BITS]} {where & ((1 << FILE_BITS) - 1)}"


class Told:
    """A run as one sweep of the files tells of it; its numbers take 40 bytes each."""

    def __init__(self, shared: Shared, first: int, key: Key, run_id: str, state: State) -> None:
        self.shared = shared
        self.first = first
        """Where it is told of first."""
        self.key = key
        self.run_id = run_id
        """Empty where the file does not say: then it is a run that orch has not trained."""
        self.state = state
        self.variant = ""
        self.record: dict[str, Any] | None = None
        self.run: Run | None = None
        self.trained: dict[int, Trained] = {}
        self.where: array[int] = array("q")
        self.epochs: array[int] = array("l")
        self.kinds: array[int] = array("l")
        self.values: array[float] = array("d")
        self.correct: array[int] = array("l")
        self.n: array[int] = array("l")

    @property
    def last_epoch(self) -> int:
        """The highest epoch that is told of; 0 without any."""
        return max(max(self.epochs, default=0), max(self.trained, default=0))

    @property
    def selectable(self) -> bool:
        """Whether it has a number that an epoch can be chosen by."""
        chosen = {i for i, s in enumerate(self.shared.series) if s[:2] == (SELECTION, "")}
        return any(
            k in chosen and epoch > 0 for k, epoch in zip(self.kinds, self.epochs, strict=True)
        )

    def series(self, index: int) -> Series:
        """What a number is of."""
        return self.shared.series[self.kinds[index]]

    def order(self) -> list[int]:
        """Its numbers by epoch, split, group and metric."""
        return sorted(range(len(self.kinds)), key=lambda i: (self.epochs[i], self.series(i)))

    def records(self) -> list[EpochRecord]:
        """Its epochs, in order."""
        assert self.run is not None
        by_epoch: dict[int, list[Metric]] = {epoch: [] for epoch in self.trained}
        for i in self.order():
            counts = [None if c[i] == UNTOLD else c[i] for c in (self.correct, self.n)]
            metric = Metric(*self.series(i), self.values[i], *counts)
            by_epoch.setdefault(self.epochs[i], []).append(metric)
        records = []
        for epoch, metrics in sorted(by_epoch.items()):
            loss, accuracy, rate, seconds, speed = self.trained.get(epoch, (None,) * 5)
            if rate is None:
                rate = self.run.learning_rate
            clock = (seconds or 0.0, speed or 0.0)
            records.append(EpochRecord(epoch, loss, accuracy, rate, tuple(metrics), *clock))
        return records

    def place(self, epoch: int | None = None, split: str = "", group: str = "") -> str:
        """Where a number stands, such as `figures.csv, line 12`; without an epoch, the run."""
        if epoch is not None:
            for i, where in enumerate(self.where):
                if self.epochs[i] == epoch and (not split or self.series(i)[:2] == (split, group)):
                    return self.shared.place(where)
        return self.shared.place(self.first)


@dataclass
class Tale:
    """A sweep as the files tell of it."""

    runs: dict[tuple[Any, ...], Told] = field(default_factory=dict)
    yaml: str | None = None
    created: float | None = None


@dataclass
class Parsed:
    """What the files hold, checked as far as no store is needed."""

    sweeps: dict[str, Tale] = field(default_factory=dict)
    rows: int = 0
    notes: list[str] = field(default_factory=list)
    """What the user may want to know, a sentence each."""
