"""How far a run has come: what a checkpoint holds beside tensors and random states."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from db.records import EpochRecord, Metric
from worker.evaluate import Tally


@dataclass
class Position:
    """Where a run stands between two steps, or two forward passes of an evaluation."""

    micro_batch: int
    """Images a forward pass of training takes: fewer than the run's after memory ran out."""
    tally: Tally
    """The evaluation of the epoch under way."""
    history: list[EpochRecord] = field(default_factory=list)
    """The whole epochs; 0 is the evaluation before training."""
    step: int = 0
    """Steps done of the epoch under way."""
    loss: float = 0.0
    """Sum over the images of those steps, each at the step that saw it."""
    hits: int = 0
    """Images that were right, each at the step that saw it."""
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0

    @property
    def whole(self) -> int | None:
        """The last whole epoch."""
        return self.history[-1].epoch if self.history else None

    @property
    def epoch(self) -> int:
        """The epoch under way."""
        return self.history[-1].epoch + 1 if self.history else 0

    def close(self, record: EpochRecord) -> None:
        """The epoch under way is whole; the next one begins."""
        self.history.append(record)
        self.step, self.loss, self.hits = 0, 0.0, 0
        self.training_seconds = self.evaluation_seconds = 0.0
        self.tally = Tally(self.tally.batch)

    def mark(self) -> tuple[int, ...]:
        """Another one wherever something would be lost."""
        tally = self.tally
        done = (len(self.history), self.step, len(tally.metrics), tally.seen)
        return (*done, self.micro_batch, tally.batch)

    def to_state(self) -> dict[str, Any]:
        """As plain values and tensors, under keys of a checkpoint."""
        values = dataclasses.asdict(self)
        return {"history": values.pop("history"), "under_way": values}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], fresh: Position) -> Position:
        """The inverse; a checkpoint of old knows only of whole epochs, the rest is `fresh`'s."""
        history = [EpochRecord.from_json(record) for record in state["history"]]
        if "under_way" not in state:
            return dataclasses.replace(fresh, history=history)
        values = dict(state["under_way"])
        tally = values.pop("tally")
        metrics = [Metric(**metric) for metric in tally["metrics"]]
        return cls(history=history, tally=Tally(**{**tally, "metrics": metrics}), **values)
