"""How much a sweep is, and how much of it is left: counts by model, dataset and method."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.errors import StoreMissing
from db.records import FINAL_STATES, Run, State, StoredRun
from orchestrator.sweep import Planned
from worker.data import DATASETS, MINIATURE


@dataclass(frozen=True)
class Plan:
    """A sweep's runs with the state of each."""

    name: str
    requested: tuple[Run, ...]
    needed: tuple[Run, ...]
    states: Mapping[str, State]
    """Of the runs that the store knows."""

    def state(self, run: Run) -> State:
        """Pending where the store has never heard of it."""
        return self.states.get(run.id, "pending")

    def count(self, runs: Iterable[Run]) -> dict[str, int]:
        """How many runs are in each state, without the empty states."""
        found = Counter(self.state(run) for run in runs)
        return {state: found[state] for state in ("done", "running", "pending", "diverged",
                                                  "failed") if found[state]}  # fmt: skip

    def cells(self) -> dict[tuple[str, str, str, str], list[Run]]:
        """The requested runs by (model, dataset, method, variant), in order."""
        cells: dict[tuple[str, str, str, str], list[Run]] = {}
        for run in self.requested:
            cells.setdefault((run.model, run.dataset, run.method, run.variant), []).append(run)
        return cells

    def to_do(self) -> list[Run]:
        """Every run that is not final, needed ones included."""
        everything = (*self.needed, *self.requested)
        return [run for run in everything if self.state(run) not in FINAL_STATES]

    def as_json(self) -> dict[str, Any]:
        """What `orch plan --format json` prints."""
        return {
            "sweep": self.name,
            "runs": len(self.requested),
            "cells": len(self.cells()),
            "pretraining": len(self.needed),
            "to_do": len(self.to_do()),
            "states": self.count(self.requested),
            "by_cell": [
                {
                    "model": model,
                    "dataset": dataset,
                    "method": method,
                    "variant": variant,
                    "runs": len(runs),
                    "done": sum(self.state(run) in ("done", "diverged") for run in runs),
                    "learning_rates": sorted({run.learning_rate for run in runs}),
                    "seeds": sorted({run.seed for run in runs}),
                    "epochs": runs[0].epochs,
                }
                for (model, dataset, method, variant), runs in self.cells().items()
            ],
        }

    def rows(self) -> list[dict[str, object]]:
        """One row a model and dataset, one column a method: `done/runs`."""
        rows: dict[tuple[str, str], dict[str, object]] = {}
        counts: Counter[tuple[str, str, str]] = Counter()
        done: Counter[tuple[str, str, str]] = Counter()
        for run in self.requested:
            cell = (run.model, run.dataset, run.method)
            counts[cell] += 1
            done[cell] += self.state(run) in ("done", "diverged")
        methods = list(dict.fromkeys(run.method for run in self.requested))
        for model, dataset, method in counts:
            blank: dict[str, object] = {"model": model, "dataset": dataset}
            row = rows.setdefault((model, dataset), blank | dict.fromkeys(methods))
            cell = (model, dataset, method)
            row[method] = f"{done[cell]}/{counts[cell]}"
        return list(rows.values())


def on_miniature(stored: StoredRun) -> bool:
    """Whether a run of a real dataset's name trained on a miniature of it."""
    made = (stored.data_fingerprint or "").startswith(MINIATURE)
    return made and bool(DATASETS[stored.run.dataset].images)


def plan(name: str, planned: Iterable[Planned], store: str) -> Plan:
    """Plan a sweep against the store, where there is one yet."""
    listed = list(planned)
    requested = tuple(p.run for p in listed if p.requested)
    needed = tuple(p.run for p in listed if not p.requested)
    states: Mapping[str, State] = {}
    if not _surely_absent(store):
        from db.reading import Reader

        with contextlib.suppress(StoreMissing):
            states = Reader.open(store).states([run.id for run in (*requested, *needed)])
    return Plan(name, requested, needed, states)


def _surely_absent(store: str) -> bool:
    """Whether the store is a file that is not there yet, told without importing SQLAlchemy.

    That import takes half of what planning a thousand runs may take in all.
    """
    scheme, _, path = store.rpartition("///")
    return scheme in ("", "sqlite:") and "://" not in path and not Path(path).exists()
