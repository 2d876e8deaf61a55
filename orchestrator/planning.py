"""How much a sweep is, and how much of it is left: runs of each cell, hours, disk."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from db.errors import StoreMissing
from db.records import FINAL_STATES, Run, State, StoredRun
from orchestrator.estimate import (
    Estimate,
    Setting,
    checkpoint_bytes,
    features_bytes,
    flops,
    weights_bytes,
)
from orchestrator.sweep import Planned
from worker.data import DATASETS, MINIATURE

HOUR = 3600.0
PETA = 1e15
SIZES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
STATES: tuple[State, ...] = (
    "done", "running", "pending", "diverged", "failed", "cancelled", "voided",
)  # fmt: skip
"""In the order that counts are told in."""


MANY_METHODS = 5
"""Columns of a plan that a terminal has room for: the paper's grid has as many."""


@dataclass(frozen=True)
class Effort:
    """What training some runs takes."""

    flops: float
    """Floating-point operations, forward and backward."""
    gpu_hours: float | None
    """Half a GPU for an hour is half of one; None where nothing was timed yet."""
    cpu_hours: float | None
    """Of the runs that use no GPU."""
    checkpoint_bytes: int
    """Most that the checkpoints of one run take while it trains."""
    kept_bytes: int
    """What the runs leave for good: kept weights, and those that others start from."""
    features_bytes: int = 0
    """The features of linear probes, which stay, too."""

    def __str__(self) -> str:
        hours = {"GPU-hours": self.gpu_hours, "CPU-hours": self.cpu_hours}
        known = [f"{_number(h)} {unit}" for unit, h in hours.items() if h]
        time = f"about {' and '.join(known)}, by this store's timings"
        if not known:
            time = f"{_number(self.flops / PETA)} PFLOPs; no run was timed yet"
        sizes = {"weights": self.kept_bytes, "features": self.features_bytes}
        stays = " and ".join(f"{_size(size)} of {what}" for what, size in sizes.items() if size)
        kept = f", {stays} stay" if stays else ""
        disk = f"up to {_size(self.checkpoint_bytes)} of checkpoints a run in training{kept}"
        return f"left: {time}; {disk}"


@dataclass(frozen=True)
class Plan:
    """A sweep's runs with the state of each."""

    name: str
    planned: tuple[Planned, ...]
    states: Mapping[str, State]
    """Of the runs that the store knows."""
    estimate: Estimate = field(default_factory=Estimate)

    @cached_property
    def requested(self) -> tuple[Run, ...]:
        """The runs that the sweep asks for."""
        return tuple(p.run for p in self.planned if p.requested)

    @cached_property
    def needed(self) -> tuple[Run, ...]:
        """The runs that those need."""
        return tuple(p.run for p in self.planned if not p.requested)

    def state(self, run: Run) -> State:
        """Pending where the store has never heard of it."""
        return self.states.get(run.id, "pending")

    def count(self, runs: Iterable[Run]) -> dict[str, int]:
        """How many runs are in each state, without the empty states."""
        found = Counter(self.state(run) for run in runs)
        return {state: found[state] for state in STATES if found[state]}

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

    def left(self) -> Effort:
        """What everything takes that is not final, by the store's timings where it has some."""
        ids = {run.id for run in self.to_do()}
        left = [p for p in self.planned if p.run.id in ids]
        gpu = [self.estimate.seconds(p.run) * p.resources.gpus for p in left]
        cpu = [self._cpu_seconds(p) for p in left]
        timed = self.estimate.timed
        return Effort(
            flops=math.fsum(flops(Setting.of(p.run)) for p in left),
            gpu_hours=math.fsum(gpu) / HOUR if timed else None,
            cpu_hours=math.fsum(cpu) / HOUR if timed else None,
            checkpoint_bytes=max((checkpoint_bytes(p.run) for p in left), default=0),
            kept_bytes=sum(weights_bytes(p.run) for p in left if p.leaves_weights),
            features_bytes=sum(features_bytes(p.run) for p in left),
        )

    def _cpu_seconds(self, planned: Planned) -> float:
        resources = planned.resources
        return 0.0 if resources.gpus else self.estimate.seconds(planned.run) * resources.cpus

    def as_json(self) -> dict[str, Any]:
        """What `orch plan --format json` prints."""
        return {
            "sweep": self.name,
            "runs": len(self.requested),
            "cells": len(self.cells()),
            "pretraining": sum(run.kind == "pretrain" for run in self.needed),
            "probes": sum(run.kind == "linear_probe" for run in self.needed),
            "to_do": len(self.to_do()),
            "states": self.count(self.requested),
            "left": dataclasses.asdict(self.left()),
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
        """`done/runs`, a row a model and dataset and a column a method.

        Where more methods than datasets would be wider than a terminal, methods are the rows.
        """
        rows: dict[tuple[str, str], dict[str, object]] = {}
        counts: Counter[tuple[str, str, str]] = Counter()
        done: Counter[tuple[str, str, str]] = Counter()
        for run in self.requested:
            cell = (run.model, run.dataset, run.method)
            counts[cell] += 1
            done[cell] += self.state(run) in ("done", "diverged")
        methods = dict.fromkeys(run.method for run in self.requested)
        datasets = dict.fromkeys(run.dataset for run in self.requested)
        beside, columns = ("dataset", methods)
        if len(methods) > max(MANY_METHODS, len(datasets)):
            beside, columns = ("method", datasets)
        for model, dataset, method in counts:
            first, column = (dataset, method) if beside == "dataset" else (method, dataset)
            blank: dict[str, object] = {"model": model, beside: first}
            row = rows.setdefault((model, first), blank | columns)
            cell = (model, dataset, method)
            row[column] = f"{done[cell]}/{counts[cell]}"
        return list(rows.values())


def _number(value: float) -> str:
    """Two digits of a small number, all of a large one's before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _size(count: int) -> str:
    """Bytes as `650 kB` or `7.3 GB`."""
    unit = next((u for u in ("kB", "MB", "GB") if count < 1000 * SIZES[u]), "TB")
    return f"{_number(count / SIZES[unit])} {unit}"


def on_miniature(stored: StoredRun) -> bool:
    """Whether a run of a real dataset's name trained on a miniature of it."""
    made = (stored.data_fingerprint or "").startswith(MINIATURE)
    return made and bool(DATASETS[stored.run.dataset].images)


def plan(name: str, planned: Iterable[Planned], store: str) -> Plan:
    """Plan a sweep against the store, where there is one yet."""
    listed = tuple(planned)
    if not surely_absent(store):
        from db.reading import Reader
        from orchestrator.durations import timings

        with contextlib.suppress(StoreMissing):
            reader = Reader.open(store)
            states = reader.states([p.run.id for p in listed])
            return Plan(name, listed, states, Estimate(timings(reader)))
    return Plan(name, listed, {})


def surely_absent(store: str) -> bool:
    """Whether the store is a file that is not there yet, told without importing SQLAlchemy.

    That import takes half of what planning a thousand runs may take in all.
    """
    scheme, _, path = store.rpartition("///")
    return scheme in ("", "sqlite:") and "://" not in path and not Path(path).exists()
