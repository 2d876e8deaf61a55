"""Stores that hold given numbers, one run a cell and seed: the published figures, or others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from db.records import EpochRecord, Metric, Provenance, Run
from db.store import Store
from reports import published
from reports.declared import AVERAGE
from reports.select import Key
from reports.study import Study

Numbers = Mapping[Key, Mapping[str, Sequence[float]]]
"""Of each cell and split the values of its seeds, in percent."""
RUN = Run(
    kind="finetune",
    model="clip_vit_b16",
    dataset="living17",
    method="sgd",
    learning_rate=1e-3,
    seed=0,
    epochs=1,
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


def as_published(*, seeds: bool = False) -> dict[Key, dict[str, tuple[float, ...]]]:
    """What the paper prints: one seed a cell, or three where it prints an interval.

    Of three, x and x ± d with d = ci·√3/1.645 have the printed mean and interval.
    """
    found: dict[Key, dict[str, tuple[float, ...]]] = {}
    for (model, dataset, method, split), figure in published.by_place().items():
        if dataset == AVERAGE or figure.value is None:
            continue
        spread = (figure.ci90 or 0.0) * 3**0.5 / 1.645
        values = (figure.value - spread, figure.value, figure.value + spread)
        several = seeds and model == "clip_vit_b16" and dataset != "cifar10"
        cell = found.setdefault((model, dataset, method), {})
        cell[split] = values if several else (figure.value,)
        if split == "id_test":  # something must choose
            cell["id"] = cell[split]
    return found


def shifted(numbers: Numbers, by: Callable[[Key, str], float]) -> Numbers:
    """The same cells with something added to each split."""
    return {
        key: {split: tuple(v + by(key, split) for v in values) for split, values in cell.items()}
        for key, cell in numbers.items()
    }


def stored(
    path: Path,
    numbers: Numbers,
    *,
    changes: Callable[[Key], Mapping[str, Any]] = lambda key: {},
    fingerprint: Callable[[Key], str] = lambda key: "d" * 16,
    weights: Callable[[Key], str] = lambda key: "ab" * 32,
    pending: Iterable[Key] = (),
    needs: Run | None = None,
    sweep: str = "s",
) -> Study:
    """A study of a store with these numbers; `pending` cells have one more seed, not yet trained.

    `changes` are identity fields of a cell's runs; `needs` is a run that others start from.
    """
    store = Store.open(str(path), create=True)
    runs: dict[str, tuple[Run, int | None]] = {}
    waits = {*pending}
    for key, cell in numbers.items():
        count = max(map(len, cell.values()))
        for seed in range(count + (key in waits)):
            run = _run(key, seed, changes(key))
            runs[run.id] = run, seed if seed < count else None
    listed = [*([needs] if needs else []), *(run for run, _ in runs.values())]
    store.register(sweep, f"name: {sweep}", listed, set(runs))
    owner = store.enlist()
    if needs:
        claim = store.claim(store.runs(sweep)[0].key, owner)
        assert claim is not None
        store.start(claim, (), Provenance(), None)
        store.finish(claim, _history(needs, {"id": 50.0}))
    for one in store.runs(sweep)[bool(needs) :]:
        run, seed = runs[one.id]
        if seed is None:
            continue
        key = (run.model, run.dataset, run.method)
        claim = store.claim(one.key, owner)
        assert claim is not None
        store.start(
            claim,
            (),
            Provenance(data_fingerprint=fingerprint(key), weights_sha256=weights(key)),
            None,
        )
        store.finish(
            claim, _history(run, {s: v[min(seed, len(v) - 1)] for s, v in numbers[key].items()})
        )
    store.retire(owner)
    return Study(store, sweep)


def _run(key: Key, seed: int, changes: Mapping[str, Any]) -> Run:
    model, dataset, method = key
    decay = 0.01 if "adamw" in method else 0.0
    fields = {"model": model, "dataset": dataset, "method": method, "weight_decay": decay}
    return dataclasses.replace(RUN, seed=seed, **{**fields, **changes})


def _history(run: Run, values: Mapping[str, float]) -> list[EpochRecord]:
    metrics = tuple(
        Metric(split, "", "accuracy", v / 100, None, None) for split, v in values.items()
    )
    return [EpochRecord(epoch, 1.0, 0.5, 0.0, metrics) for epoch in range(run.epochs + 1)]
