"""Stores that hold many made-up studies, each a sweep of its own, and how to write one down.

Values are given in 64ths, so that sums are exact in any order and ties are real ties.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.reading import EPOCHS, METRICS, RUNS
from db.records import EpochRecord, Metric, Provenance, Run, State
from db.store import Store
from db.writing import insert_all
from reports import select
from reports.select import Cell, Key, Rule
from reports.study import Study

RUN = Run(
    kind="finetune",
    model="tiny_vit",
    dataset="digits",
    method="sgd",
    learning_rate=1e-3,
    seed=0,
    epochs=2,
    batch_size=32,
    micro_batch=16,
    weight_decay=0.0,
    schedule="cosine_per_step",
    clip_norm=None,
    weights="pretrained",
    precision="fp32",
    threads=1,
    evaluate=("id", "ood"),
)
METRIC = {"id": "accuracy", "ood": "worst_group_accuracy", "id_test": "accuracy"}
Measured = tuple[float | None, ...]
"""The values of a split, an epoch each from 0; None where it was not evaluated."""


@dataclass(frozen=True)
class Made:
    """A run to store: where it got to, and the values of its epochs in 64ths."""

    run: Run
    state: State
    id: Measured
    ood: Measured
    id_test: Measured = ()

    @property
    def splits(self) -> dict[str, Measured]:
        """The values by split."""
        return {"id": self.id, "ood": self.ood, "id_test": self.id_test}

    def history(self) -> list[EpochRecord]:
        """Its epochs, with values of groups that must decide nothing."""
        return [
            EpochRecord(
                epoch,
                train_loss=1.0,
                train_accuracy=0.5,
                learning_rate=self.run.learning_rate,
                metrics=tuple(self._metrics(epoch)),
            )
            for epoch in range(len(self.id))
        ]

    def _metrics(self, epoch: int) -> Iterator[Metric]:
        for split, values in self.splits.items():
            value = values[epoch] if values else None
            if value is not None:
                yield Metric(split, "", METRIC[split], value / 64, None, 64)
                if math.isfinite(value):
                    yield Metric(split, "land", "accuracy", 1.0 - value / 64, None, None)


class Shelf:
    """One store for many examples, which are told apart by their runs' `threads`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = Store.open(url, create=True)
        self.owner = self.store.enlist()
        self.examples = itertools.count(2)

    def _register(self, made: Sequence[Made]) -> tuple[str, list[Made], dict[str, int]]:
        number = next(self.examples)
        name = f"example{number}"
        stored = [
            dataclasses.replace(m, run=dataclasses.replace(m.run, threads=number)) for m in made
        ]
        runs = [m.run for m in stored]
        self.store.register(name, "name: s", runs, {run.id for run in runs})
        return name, stored, {brief.id: brief.key for brief in self.store.briefs(name)}

    def put(self, made: Sequence[Made]) -> tuple[str, list[Made]]:
        """Store runs as a new sweep, as attempts do; returns its name and the runs as stored."""
        name, stored, keys = self._register(made)
        for one in stored:
            self._train(one, keys[one.run.id])
        return name, stored

    def _train(self, made: Made, key: int) -> None:
        if made.state == "pending":
            return
        claim = self.store.claim(key, self.owner)
        assert claim is not None
        history = made.history()
        self.store.start(claim, history[:1], Provenance(), None)
        for record in history[1:2]:
            self.store.epoch(claim, record)
        if made.state == "done":
            self.store.finish(claim, history)
        elif made.state == "diverged":
            self.store.diverge(claim, history, "the loss is nan")
        elif made.state == "failed":
            self.store.fail(claim, "OSError: no such file", "Traceback …")

    def fill(self, made: Sequence[Made]) -> tuple[str, list[Made]]:
        """The same as rows, whatever a store would say to them: what is in it must decide.

        Runs of every state have numbers here, and PostgreSQL has NaN (SQLite keeps none).
        """
        name, stored, keys = self._register(made)
        epochs: list[tuple[Any, ...]] = []
        metrics: list[tuple[Any, ...]] = []
        for one in stored:
            key = keys[one.run.id]
            for record in one.history():
                epochs.append((key, record.epoch, 1, 1.0 / (1 + record.epoch), 0.5, 1e-3, 1.0, 1.0))
                for m in record.metrics:
                    if self.keeps(m.value):
                        metrics.append(
                            (key, m.split, m.group, m.metric, record.epoch, m.value, None, m.n)
                        )
        with self.store.write() as connection:
            insert_all(connection, EPOCHS, EPOCHS.c.keys(), epochs)
            insert_all(connection, METRICS, METRICS.c.keys(), metrics)
            for state in {one.state for one in stored}:
                owner = self.owner if state == "running" else None
                mine = [keys[one.run.id] for one in stored if one.state == state]
                become = sa.update(RUNS).where(RUNS.c.key.in_(mine))
                connection.execute(become.values(state=state, owner_id=owner, fence=1))
        return name, stored

    def keeps(self, value: float) -> bool:
        """Whether the engine can hold a number at all."""
        return not (math.isnan(value) and self.store.engine.dialect.name == "sqlite")

    def study(self, name: str, rule: Rule = "id_val", *, partial: bool = False) -> Study:
        """The study of a sweep."""
        return Study(self.store, name, rule=rule, partial=partial)

    def cells(self, name: str, split: str = "ood") -> dict[Key, Cell]:
        """The cells of a sweep by the protocol's rule."""
        return select.cells(self.store, self.store.briefs(name), split)
