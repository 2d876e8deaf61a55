"""Which runs of a store the files tell of, and whether each makes sense as a whole."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from db.errors import SpecError
from db.importing import Incoming, IncomingSweep, Withdrawn
from db.records import RESULTS, Artifact, Run, StoredRun
from db.registering import Place
from orchestrator.exchange.told import SELECTION, BadRow, Key, Parsed, Series, Tale, Told
from orchestrator.where import CATALOGS

SOURCE = "import:"
"""How `Run.source` begins, before the sweep's name."""
NOTES = 5
"""Runs, or names, that are named in notes."""
MOST_NAMES = 50
"""Unknown names that are compared with all known ones."""


def check(told: Told, tale: Tale) -> None:
    """Raises `BadRow` where the numbers of a run cannot be a run's, or not those of this one."""
    _check_once(told)
    if told.run_id:
        _check_exported(told, tale)
    elif told.last_epoch == 0:
        raise BadRow(
            "its run has no epoch but 0, which is before training and never counts; say after "
            "which epoch it was measured"
        )


def notes(parsed: Parsed) -> list[str]:
    """What the user may want to know of the runs, a sentence each."""
    everything = [told for tale in parsed.sweeps.values() for told in tale.runs.values()]
    lost = [told for told in everything if not told.run_id and not told.selectable]
    return _unselectable(lost) + _unknown([told.key for told in everything])


def _check_once(told: Told) -> None:
    """No number is told twice; of a run from elsewhere each split has one metric, the headline."""
    seen: tuple[int, Series] | None = None
    last = 0
    for i in told.order():
        split, group, metric = told.series(i)
        at = (told.epochs[i], (split, group, metric))
        if seen == at:
            raise BadRow(
                f"{_spoken(split, group, metric)} of this run after epoch {told.epochs[i]} is in "
                f"{told.shared.place(told.where[last])} already",
                told.where[i],
            )
        if seen and not told.run_id and (seen[0], *seen[1][:2]) == (at[0], split, group):
            raise BadRow(
                f"{_spoken(split, group)} of this run is {seen[1][2]} in "
                f"{told.shared.place(told.where[last])}, and {metric} here; one metric stands for "
                "a split, others need a `group`",
                told.where[i],
            )
        seen, last = at, i


def _spoken(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _check_exported(told: Told, tale: Tale) -> None:
    """The record, the columns and the numbers of a run that orch exported agree; its identity."""
    if told.record is None:
        raise BadRow(
            f"run {told.run_id} has no row with its record; export it again with all rows, or "
            "leave out the columns run_id, variant and state to import the numbers as they are"
        )
    try:
        run = Run.from_content(told.record["content"])
        told_run = (run.id, run.variant, run.model, run.dataset, run.method)
        rest = (run.learning_rate, run.seed, dict(run.hyperparameters))
        whole = isinstance(run.epochs, int)
        _from_record(told.record)
        if about := told.record.get("sweep"):
            tale.yaml, tale.created = str(about["yaml"]), about.get("created")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRow(
            f"the record of run {told.run_id} is none that this version of orch reads"
        ) from error
    model, dataset, method, rate, seed, hyperparameters = told.key
    columns = (told.run_id, told.variant, model, dataset, method)
    if (told_run, rest) != (columns, (rate, seed, json.loads(hyperparameters))) or not whole:
        raise BadRow(f"the record of run {told.run_id} is not of the run that its columns say")
    told.run = run
    epochs = {*told.epochs, *told.trained}
    if told.state == "done" and not run.source and epochs != {*range(run.epochs + 1)}:
        raise BadRow(
            f"run {run.id} is said to be done, and rows of some of its epochs 0 to {run.epochs} "
            "are missing; export it again with all rows"
        )
    if (run.source and told.state not in (*RESULTS, "voided")) or (
        told.state == "voided" and epochs
    ):
        raise BadRow(f"run {run.id} cannot be {told.state} with these rows; export it again")


def _from_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says beside the identity, as fields of `Incoming`."""
    void = record.get("void")
    return {
        "data_fingerprint": record.get("data_fingerprint"),
        "weights_sha256": record.get("weights_sha256"),
        "artifacts": tuple(Artifact(**artifact) for artifact in record.get("artifacts", ())),
        "void": void and Withdrawn(**void),
    }


def _unselectable(runs: Sequence[Told]) -> list[str]:
    found = []
    for told in runs[:NOTES]:
        splits = ", ".join(sorted({told.series(i)[0] for i in range(len(told.kinds))}))
        found.append(
            f"{told.place()}: a run without an `{SELECTION}` row after an epoch cannot be selected "
            f"for a table (it has: {splits})."
        )
    if len(runs) > NOTES:
        found.append(f"… and {len(runs) - NOTES:,} more runs that cannot be selected.")
    return found


def _unknown(keys: Sequence[Key]) -> list[str]:
    """Names that this version cannot train: a typo, or results from elsewhere."""
    found = []
    for place, (noun, catalog) in enumerate(CATALOGS.items()):
        strange = [n for n in dict.fromkeys(str(key[place]) for key in keys) if n not in catalog]
        like = {name: difflib.get_close_matches(name, catalog, 1) for name in strange[:MOST_NAMES]}
        found += [
            f'"{name}" is no {noun} that this orch trains; did you mean "{close[0]}"?'
            for name, close in like.items()
            if close
        ]
        if others := [name for name in strange if not like.get(name)]:
            more = f" and {len(others) - NOTES:,} more" if len(others) > NOTES else ""
            found.append(f"no {noun} that this orch trains: {', '.join(others[:NOTES])}{more}.")
    return found


def resolve(
    parsed: Parsed, stored: Callable[[str], Sequence[StoredRun]]
) -> tuple[list[IncomingSweep], list[Incoming]]:
    """The sweeps and runs that the files tell of; `stored` gives a sweep's runs in the store.

    A run that orch has not trained gets the identity that it has in the store already, else the
    paper protocol's, with as many epochs as its cell has. Raises `SpecError` where two sweeps tell
    of one run otherwise, or a cell has more epochs than in the store.
    """
    sweeps: list[IncomingSweep] = []
    runs: dict[str, Incoming] = {}
    first: dict[str, Told] = {}
    for name, tale in parsed.sweeps.items():
        own = [told for told in tale.runs.values() if told.run is None]
        if own:
            _identify(name, own, stored(name))
        listed: dict[str, Place] = {}
        for told in tale.runs.values():
            assert told.run is not None
            run_id, record = told.run.id, told.record or {}
            listed.setdefault(
                run_id,
                Place(
                    len(listed),
                    bool(record.get("requested", True)),
                    bool(record.get("extended", False)),
                    bool(record.get("last", False)),
                ),
            )
            if run_id in first:
                _check_same(first[run_id], told)
                continue
            first[run_id] = told
            runs[run_id] = Incoming(told.run, told.state, told, **_from_record(record))
        sweeps.append(IncomingSweep(name, tuple(listed.items()), tale.yaml, tale.created))
    return sweeps, [*runs.values()]


def _check_same(first: Told, again: Told) -> None:
    if (first.state, repr(first.records())) != (again.state, repr(again.records())):
        assert again.run is not None
        raise SpecError(
            f"{again.place()}: run {again.run.id} is told of otherwise in {first.place()}. "
            "Nothing was imported."
        )


def _identify(sweep: str, runs: Sequence[Told], stored: Sequence[StoredRun]) -> None:
    """Give the runs of a sweep that orch has not trained their identity."""
    source = SOURCE + sweep
    there = {_key(s.run): s.run for s in stored if s.run.source == source}
    epochs: dict[tuple[str, str, str], int] = {key[:3]: run.epochs for key, run in there.items()}
    most: dict[tuple[str, str, str], Told] = {}
    for told in runs:
        cell = told.key[:3]
        if cell not in most or told.last_epoch > most[cell].last_epoch:
            most[cell] = told
    for cell, told in most.items():
        if told.last_epoch > epochs.setdefault(cell, told.last_epoch):
            raise SpecError(
                f"{told.place(told.last_epoch)}: {' '.join(cell)} has runs of {epochs[cell]} "
                f'epochs in sweep "{sweep}" of the store, and of {told.last_epoch} here; one '
                "number of a table cannot stand for both: give these another name in the column "
                "`sweep`. Nothing was imported."
            )
    for told in runs:
        told.run = there.get(told.key) or _paper_run(told.key, epochs[told.key[:3]], source)


def _key(run: Run) -> Key:
    return (
        run.model, run.dataset, run.method, run.learning_rate, run.seed,
        run.spelled_hyperparameters,
    )  # fmt: skip


def _paper_run(key: Key, epochs: int, source: str) -> Run:
    """A run by the paper's protocol, whatever this version's catalogs know of its names.

    Nothing here may depend on them: the same file shall be the same runs in later versions too.
    """
    model, dataset, method, rate, seed, hyperparameters = key
    return Run(
        kind="finetune",
        model=model,
        dataset=dataset,
        method=method,
        learning_rate=rate,
        seed=seed,
        epochs=epochs,
        batch_size=32,
        micro_batch=16,
        weight_decay=0.01 if method.startswith("adamw") else 0.0,
        schedule="cosine_per_step",
        clip_norm=None,
        weights="pretrained",
        precision="fp32",
        threads=1,
        evaluate=(SELECTION, "ood"),
        hyperparameters=tuple(sorted(json.loads(hyperparameters).items())),
        source=source,
    )
