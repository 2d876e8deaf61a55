"""Gathering an audit from a study: the tables' own choice, with what it was made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from db.engines import among
from db.reading import METRICS, SWEEP_RUNS, SWEEPS, Reader
from db.records import ADDED_LATER, CELL, CHOSEN_OVER, RESULTS, Attempt, Run, RunBrief
from reports import select
from reports.explain import words
from reports.explain.protocol import differences
from reports.explain.records import (
    Alternative,
    AttemptAudit,
    Audit,
    ChoiceAudit,
    Number,
    RateAudit,
    RunAudit,
    Shared,
    VariantAudit,
    VoidAudit,
)
from reports.select import RULES, Cell, Key, Rule
from reports.study import MINIATURE, RunScore, Study

OOD = "ood"
SHOWN_FIRST = (OOD, select.SELECTION_SPLIT)
"""Splits in the order of the tables; the others follow by name."""
TIE = 10
"""Decimals of a score in percent beyond which rates are equal, as the selection has it."""


@dataclass(frozen=True)
class _Asking:
    """A sweep that asks for a run."""

    sweep: str
    run_key: int
    extended: bool


class _OneCell(Study):
    """The question of another study about some of its runs, perhaps by another rule."""

    def __init__(self, study: Study, runs: Sequence[RunBrief], rule: Rule | None = None) -> None:
        super().__init__(study.reader, study.sweep, rule=rule or study.rule, partial=study.partial)
        self._runs = tuple(runs)

    @cached_property
    def runs(self) -> tuple[RunBrief, ...]:
        return self._runs


def audit(study: Study, key: Key) -> Audit:
    """Where the number of the cell `key` comes from.

    A cell whose runs are of several variants has `variants`, each with its own number, and nothing
    after them. Raises `KeyError` for a cell without runs.
    """
    runs = study.members[key]
    asking = _asking(study.reader, [run.key for run in runs], study.sweep)
    begun = Audit(
        *key,
        sweep=study.sweep,
        sweeps=tuple(dict.fromkeys(one.sweep for one in asking)),
        rule=study.rule,
        partial=study.partial,
        miniature=any((run.data_fingerprint or "").startswith(MINIATURE) for run in runs),
        why=(),
    )
    splits = _splits(study.reader, [run.key for run in runs])
    if len({run.variant for run in runs}) > 1:
        variants = tuple(_variants(study, key, splits, asking))
        return dataclasses.replace(begun, variants=variants, why=words.mixed(variants))
    return _whole(begun, _OneCell(study, runs), key, splits, asking)


def _whole(
    begun: Audit, study: Study, key: Key, splits: Sequence[str], asking: Sequence[_Asking]
) -> Audit:
    """The audit of a cell of one variant, which all of `study` is about."""
    reader = study.reader
    contents = reader.contents([run.key for run in study.runs])
    scores = study.scores(key, splits)
    runs = tuple(_run(reader, contents[score.run.key], score, asking) for score in scores)
    rates = tuple(_rates(runs, splits))
    runs = tuple(_with_rates_reason(run, rates) for run in runs)
    numbers = tuple(_number(study.cells(split)[key], split) for split in splits)
    cell = study.cells(OOD)[key]
    identity = {
        name: value
        for name, value in _identity(next(iter(contents.values()))).items()
        if name not in (*CELL, *CHOSEN_OVER)
    }
    measured = [one for one in runs if one.score is not None]
    found = dataclasses.replace(
        begun,
        numbers=numbers,
        choice=_choice(begun, cell, rates, runs),
        n=cell.n,
        expected=cell.expected,
        seeds=sum(run.chosen for run in runs),
        seeds_expected=cell.seeds_expected,
        rates_competing=cell.rates,
        rates_expected=cell.rates_expected,
        rates=rates,
        runs=runs,
        alternatives=tuple(_alternatives(study, key, splits, numbers)),
        provenance=_provenance(measured, {score.run.id: score.run for score in scores}),
        versions=_versions(measured),
        events=tuple(words.events(runs, identity)),
        identity=identity,
        differences=tuple(differences(study.runs, identity, miniature=begun.miniature)),
    )
    return dataclasses.replace(found, why=tuple(words.why(found)))


def _asking(reader: Reader, run_keys: Sequence[int], sweep: str | None) -> list[_Asking]:
    """Which sweeps ask for the runs, the one launched last first."""
    query = (
        sa.select(SWEEPS.c.name, SWEEP_RUNS.c.run_key, SWEEP_RUNS.c.extended)
        .join(SWEEPS, SWEEPS.c.id == SWEEP_RUNS.c.sweep_id)
        .where(among(SWEEP_RUNS.c.run_key, "keys"), SWEEP_RUNS.c.requested)
        .order_by(SWEEPS.c.created.desc(), SWEEPS.c.id.desc(), SWEEP_RUNS.c.position)
    )
    if sweep is not None:
        query = query.where(SWEEPS.c.name == sweep)
    with reader.read() as connection:
        return [_Asking(*row) for row in connection.execute(query, {"keys": run_keys})]


def _splits(reader: Reader, run_keys: Sequence[int]) -> tuple[str, ...]:
    """The splits that the runs evaluated, in the order of `SHOWN_FIRST`, which are always there."""
    query = sa.select(METRICS.c.split).where(among(METRICS.c.run_key, "keys")).distinct()
    with reader.read() as connection:
        found = set(connection.scalars(query, {"keys": run_keys}))
    return (*SHOWN_FIRST, *sorted(found.difference(SHOWN_FIRST)))


def _identity(run: Run) -> dict[str, Any]:
    """Every field that decides the numbers, those that joined later too, in their order."""
    content = {**ADDED_LATER, **run.content()}
    return {name: content[name] for name in Run.__dataclass_fields__}


def _number(cell: Cell, split: str) -> Number:
    shown = "—" if cell.value is None else f"{cell.value:.1f}"
    return Number(split, cell.metric, cell.value, cell.ci90, shown, cell.values, cell.reason)


# Variants


def _variants(
    study: Study, key: Key, splits: Sequence[str], asking: Sequence[_Asking]
) -> Iterator[VariantAudit]:
    members: dict[str, list[RunBrief]] = {}
    for run in study.members[key]:
        members.setdefault(run.variant, []).append(run)
    contents = study.reader.contents([runs[0].key for runs in members.values()])
    fields = {
        variant: {
            name: words.spelled(value)
            for name, value in _identity(contents[runs[0].key]).items()
            if name not in (*CELL, *CHOSEN_OVER)
        }
        for variant, runs in members.items()
    }
    differing = [
        name
        for name in next(iter(fields.values()))
        if len({spelled[name] for spelled in fields.values()}) > 1
    ]
    for variant, runs in members.items():
        one = _OneCell(study, runs)
        cells = [one.cells(split)[key] for split in splits]
        differs = {name: fields[variant][name] for name in differing}
        yield VariantAudit(
            variant,
            differs,
            tuple(_sweeps_of({run.key for run in runs}, asking)),
            _choosing(variant, differs, members, asking),
            tuple(run.id for run in runs),
            cells[0].n,
            cells[0].expected,
            cells[0].learning_rate,
            tuple(_number(cell, split) for cell, split in zip(cells, splits, strict=True)),
        )


def _sweeps_of(run_keys: set[int], asking: Sequence[_Asking]) -> dict[str, None]:
    return dict.fromkeys(one.sweep for one in asking if one.run_key in run_keys)


def _choosing(
    variant: str,
    differs: Mapping[str, str],
    members: Mapping[str, Sequence[RunBrief]],
    asking: Sequence[_Asking],
) -> str:
    """`--sweep`, where one asks for these runs alone; else `--where` with what is theirs alone."""
    others = {run.key for name, runs in members.items() if name != variant for run in runs}
    mixed = _sweeps_of(others, asking)
    for sweep in _sweeps_of({run.key for run in members[variant]}, asking):
        if sweep not in mixed:
            return f"--sweep {sweep}"
    return "--where '" + " ".join(f"{name}={value}" for name, value in differs.items()) + "'"


# Runs


def _run(reader: Reader, run: Run, score: RunScore, asking: Sequence[_Asking]) -> RunAudit:
    brief = score.run
    attempts = tuple(_attempts(reader.attempts(brief.key)))
    voids = tuple(
        VoidAudit(
            void.voided, void.reason, void.state, sum(record.epoch > 0 for record in void.history)
        )
        for void in reader.voids(brief.key)
    )
    asked = [one for one in asking if one.run_key == brief.key]
    audited = RunAudit(
        brief.id,
        brief.learning_rate,
        json.loads(brief.hyperparameters),
        brief.seed,
        brief.state,
        run.source,
        tuple(one.sweep for one in asked),
        bool(asked) and all(one.extended for one in asked),
        brief.epochs,
        score.epochs_stored,
        score.best_epoch,
        score.score,
        score.values,
        score.last_epoch,
        score.last,
        score.oracle_epoch,
        score.oracle,
        counts=score.competes and score.score is not None,
        chosen=score.chosen and score.score is not None,
        reason="",
        attempts=attempts,
        voids=voids,
    )
    return dataclasses.replace(audited, reason=words.reason(audited))


def _attempts(attempts: Sequence[Attempt]) -> Iterator[AttemptAudit]:
    """Every attempt; those from the last fresh start on are where the run's numbers come from."""
    started = [one for one in attempts if one.started is not None]
    fresh = [one.number for one in started if one.resumed_from is None and not one.resumed_step]
    own = set(AttemptAudit.__dataclass_fields__) & set(Attempt.__dataclass_fields__)
    for one in attempts:
        values = {name: getattr(one, name) for name in own - {"error"}}
        yield AttemptAudit(
            **values,
            error=words.first_line(one.error),
            contributes=one in started and one.number >= max(fresh, default=0),
        )


def _rates(runs: Sequence[RunAudit], splits: Sequence[str]) -> Iterator[RateAudit]:
    """One for each rate and hyperparameters, in the order of the runs, which is by these."""
    for (rate, hyperparameters), group in groupby(
        runs, lambda run: (run.learning_rate, run.hyperparameters)
    ):
        seeds = [*group]
        scored = [run for run in seeds if run.score is not None]
        yield RateAudit(
            rate,
            hyperparameters,
            len(scored),
            len(seeds),
            select.mean([run.score for run in scored if run.score is not None]) if scored else None,
            {
                split: select.mean([run.values[split] for run in scored])
                for split in splits
                if scored and all(split in run.values for run in scored)
            },
            competes=any(run.counts for run in seeds),
            chosen=any(run.chosen for run in seeds),
            lacks=words.lacks([run for run in seeds if run.score is None]),
        )


def _with_rates_reason(run: RunAudit, rates: Sequence[RateAudit]) -> RunAudit:
    """A run with a score does not count where its rate lacks other runs."""
    if run.counts or run.reason:
        return run
    own = (run.learning_rate, run.hyperparameters)
    lacks = next(r.lacks for r in rates if (r.learning_rate, r.hyperparameters) == own)
    return dataclasses.replace(run, reason=words.incomplete(lacks))


def _choice(
    begun: Audit, cell: Cell, rates: Sequence[RateAudit], runs: Sequence[RunAudit]
) -> ChoiceAudit | None:
    chosen = next((rate for rate in rates if rate.chosen), None)
    if chosen is None or chosen.score is None:
        return None
    others = [rate for rate in rates if rate.competes and not rate.chosen]
    runner_up = max(others, key=lambda rate: round(rate.score or 0.0, TIE), default=None)
    tied = [one for one in others if round((one.score or 0.0) - chosen.score, TIE) == 0]
    margin = chosen.score - (runner_up.score or 0.0) if runner_up else None
    return ChoiceAudit(
        chosen.learning_rate,
        chosen.hyperparameters,
        chosen.score,
        runner_up,
        margin,
        tuple(tied),
        cell.edge,
        _remedy(begun, cell, runs),
    )


def _remedy(begun: Audit, cell: Cell, runs: Sequence[RunAudit]) -> str:
    """What `orch extend --edges` will do something about: settled cells of runs trained here."""
    settled = all(run.state in (*RESULTS, "cancelled") for run in runs)
    helps = settled and not (cell.edge == "high" and cell.diverged)
    if not cell.edge or not helps or not begun.sweeps:
        return ""
    return f"orch extend --edges {begun.sweeps[0]} && orch resume {begun.sweeps[0]}"


# Other rules


def _alternatives(
    study: Study, key: Key, splits: Sequence[str], numbers: Sequence[Number]
) -> Iterator[Alternative]:
    own = {number.split: number.value for number in numbers}
    for rule in RULES:
        if rule == study.rule:
            continue
        other = _OneCell(study, study.runs, rule)
        cells = {split: other.cells(split)[key] for split in splits}
        cell = cells[OOD]
        values = {split: one.value for split, one in cells.items() if one.value is not None}
        yield Alternative(
            rule,
            cell.learning_rate,
            json.loads(cell.hyperparameters),
            cell.epochs,
            values,
            {
                split: value - mine
                for split, value in values.items()
                if (mine := own[split]) is not None
            },
            "" if cell.learning_rate is not None else cell.reason,
        )


# Provenance


def _provenance(runs: Iterable[RunAudit], briefs: Mapping[str, RunBrief]) -> dict[str, Shared]:
    """What the stored numbers were measured with; a run that changed machines has several."""
    found: dict[str, dict[str, list[str]]] = {}

    def note(what: str, value: object, run_id: str) -> None:
        ids = found.setdefault(what, {}).setdefault(str(value), [])
        if run_id not in ids:
            ids.append(run_id)

    for run in runs:
        for one in run.attempts:
            if one.contributes:
                note("commit", words.commit(one), run.id)
                for what in ("host", "device", "precision", "threads", "micro_batch"):
                    if (value := getattr(one, what)) is not None:
                        note(what, value, run.id)
        brief = briefs[run.id]
        if brief.data_fingerprint:
            note("data", brief.data_fingerprint, run.id)
        if brief.weights_sha256 is not None:
            note("weights", brief.weights_sha256 or "random", run.id)
    return _frozen(found)


def _versions(runs: Iterable[RunAudit]) -> dict[str, Shared]:
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for one in run.attempts:
            for name, version in one.versions.items() if one.contributes else ():
                ids = found.setdefault(name, {}).setdefault(version, [])
                if run.id not in ids:
                    ids.append(run.id)
    return _frozen(found)


def _frozen(found: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Shared]:
    return {
        what: {value: tuple(ids) for value, ids in values.items()} for what, values in found.items()
    }
