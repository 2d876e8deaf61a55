"""Stores filled with made-up numbers, fast: whole histories as rows, without training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import sqlalchemy as sa

from conftest import a_run
from db.reading import ATTEMPTS, EPOCHS, METRICS, RUNS
from db.records import Run, State
from db.store import Store
from orchestrator import sweep

GRID = Path(__file__).parent.parent / "sweeps" / "full_grid.yaml"
HARD = {"living17": 0.96, "waterbirds": 0.90, "domainnet": 0.85, "fmow": 0.60, "camelyon17": 0.97}
"""About the best ID accuracy of each dataset; others: 0.9."""


def grid_runs() -> list[Run]:
    """The 1,050 runs of the paper's grid."""
    return sweep.load(GRID).requested


NASTY = """<script>alert('x')</script> & "quoted" ${7*7}"""
"""A name that a page must print and not obey."""


def odd_runs() -> list[Run]:
    """A study in which everything happens that a report must cope with: 144 runs in 18 cells."""
    return [
        a_run(
            model=model,
            dataset=dataset,
            method=method,
            learning_rate=rate,
            seed=seed,
            epochs=5,
            weights="pretrained",
            hyperparameters=tuned,
        )
        for model in ("clip_vit_b16", "bit_r50_in21k")
        for dataset in ("living17", "waterbirds", "fmow")
        for method in ("sgd", "adamw", "adam_spd")
        for rate in ((3e-4, 1e-3, 3e-3) if method == "sgd" else (1e-6, 3e-6, 1e-5))
        for seed in (0, 1)
        for tuned in (((("lambda", 0.1),), (("lambda", 1.0),)) if method == "adam_spd" else ((),))
    ]


def odd_state(run: Run) -> State:
    """Cells without a run, without a choice, with missing seeds, with failures; most are done."""
    if run.dataset == "fmow" and run.method == "adamw":
        return "pending"
    if run.dataset == "waterbirds" and run.method == "adam_spd" and run.seed == 1:
        return "cancelled"
    if run.dataset == "waterbirds" and run.learning_rate == 1e-3:
        return "failed" if run.seed else "done"
    if run.dataset == "living17" and run.learning_rate == 3e-4:
        return "diverged"
    return "done"


def fill(
    url: str,
    runs: Iterable[Run],
    *,
    name: str = "made_up",
    epochs: int | None = None,
    state: Callable[[Run], State] = lambda run: "done",
    fingerprint: str = "d" * 16,
    splits: tuple[str, ...] = ("id", "ood"),
) -> Store:
    """A store in which `runs` have histories of smooth curves with noise, in the given states.

    The best rate is about the third of its family's list; OOD follows ID with a gap that grows with
    the rate. The same runs give the same numbers. `epochs` (default: the run's own) are stored of
    final runs, half of them of diverged ones, none of the others.
    """
    runs = list(runs)
    store = Store.open(url, create=True)
    text = f"name: {name}\n# <made up> & quick\n"
    store.register(name, text, runs, {run.id for run in runs})
    owner = store.enlist()
    keys = {brief.id: brief.key for brief in store.briefs(name)}
    tables: dict[sa.Table, list[dict[str, object]]] = {EPOCHS: [], METRICS: [], ATTEMPTS: []}
    states: list[dict[str, object]] = []
    for run in runs:
        key, became = keys[run.id], state(run)
        if became == "pending":
            continue
        states.append({"b_key": key, "b_state": became})
        tables[ATTEMPTS].append(_attempt(key, owner, became))
        stored = epochs or run.epochs
        if became in ("done", "diverged"):
            last = stored if became == "done" else (stored + 1) // 2
            _history(run, key, last, splits, tables)
    with store.engine.begin() as connection:
        for table, rows in tables.items():
            if rows:
                connection.execute(sa.insert(table), rows)
        if states:
            update = sa.update(RUNS).where(RUNS.c.key == sa.bindparam("b_key"))
            values = {
                "state": sa.bindparam("b_state"),
                "fence": 1,
                "data_fingerprint": fingerprint,
                "weights_sha256": "ab" * 32,
            }
            connection.execute(update.values(values), states)
    return store


def _attempt(key: int, owner: int, state: State) -> dict[str, object]:
    failed = state == "failed"
    return {
        "run_key": key,
        "number": 1,
        "owner_id": owner,
        "host": "node<1>",
        "device": "cpu",
        "versions": "{}",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "claimed": 1.0e9,
        "outcome": state if state in ("done", "diverged", "failed") else None,
        "error": "ValueError: <b>bad</b> label" if failed else None,
        "cause": "bug" if failed else None,
    }


def _history(
    run: Run,
    key: int,
    epochs: int,
    splits: tuple[str, ...],
    tables: dict[sa.Table, list[dict[str, object]]],
) -> None:
    noise = random.Random(run.id)
    best = 3e-4 if run.method.startswith("sgd") else 3e-6
    steps = math.log10(run.learning_rate / best)
    top = HARD.get(run.dataset, 0.9)
    gain = 0.05 if run.method != "sgd" and not run.model.startswith("bit") else 0.0
    final_id = top - 0.03 * steps**2 + noise.gauss(0, 0.004)
    final_ood = 0.8 * top + gain - 0.05 * steps**2 - 0.02 * steps + noise.gauss(0, 0.01)
    for epoch in range(epochs + 1):
        grown = 1 - math.exp(-5 * epoch / epochs)
        values = {
            "id": max(0.02, final_id * (0.1 + 0.9 * grown) + noise.gauss(0, 0.003)),
            "ood": max(0.02, final_ood * (0.1 + 0.9 * grown) + noise.gauss(0, 0.008)),
        }
        tables[EPOCHS].append(
            {
                "run_key": key,
                "epoch": epoch,
                "attempt": 1,
                "train_loss": None if epoch == 0 else 2.5 * math.exp(-4 * grown) + 0.02,
                "train_accuracy": None if epoch == 0 else values["id"],
                "learning_rate": run.learning_rate * (1 - epoch / epochs),
                "seconds": 1.0,
                "images_per_second": 100.0,
            }
        )
        tables[METRICS].extend(
            {
                "run_key": key,
                "split": split,
                "group": "",
                "metric": "accuracy",
                "epoch": epoch,
                "value": min(value, 1.0),
                "correct": None,
                "n": 1000,
            }
            for split, value in values.items()
            if split in splits
        )
