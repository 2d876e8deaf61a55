"""Gathering an audit from a study: the tables' own choice, with what it was made of."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from db.reading import Reader
from db.records import RESULTS, Attempt, Run
from reports import select
from reports.explain import words
from reports.explain.cell import OOD, Asking, OneCell, asking_for, identity_of, number, splits_of
from reports.explain.protocol import differences, published
from reports.explain.provenance import provenance, versions
from reports.explain.records import (
    Alternative,
    AttemptAudit,
    Audit,
    ChoiceAudit,
    Number,
    RateAudit,
    RunAudit,
    VoidAudit,
)
from reports.explain.variants import variants_of
from reports.select import RULES, Cell, Key
from reports.study import MINIATURE, RunScore, Study

TIE = 10
"""Decimals of a score in percent beyond which rates are equal, as the selection has it."""


def audit(study: Study, key: Key) -> Audit:
    """Where the number of the cell `key` comes from.

    A cell whose runs are of several variants has `variants`, each with its own number, and nothing
    after them. Raises `KeyError` for a cell without runs.
    """
    runs = study.members[key]
    rule = select.rule_of(runs, study.rule)
    asking = asking_for(study.reader, [run.key for run in runs], study.sweep)
    begun = Audit(
        *key,
        sweep=study.sweep,
        sweeps=tuple(dict.fromkeys(one.sweep for one in asking)),
        launched=_launched(asking),
        rule=rule,
        partial=study.partial,
        miniature=any((run.data_fingerprint or "").startswith(MINIATURE) for run in runs),
        why=(),
    )
    splits = splits_of(study.reader, [run.key for run in runs])
    if len({run.variant for run in runs}) > 1:
        variants = tuple(variants_of(study, key, splits, asking))
        return dataclasses.replace(begun, variants=variants, why=words.mixed(variants))
    return _whole(begun, OneCell(study, runs, rule), key, splits, asking)


def _launched(asking: Sequence[Asking]) -> str | None:
    """The sweep with a file that asks for most of the runs, of equals the one launched last."""
    asked = Counter(one.sweep for one in asking if one.launched)
    return asked.most_common(1)[0][0] if asked else None


def _whole(
    begun: Audit, study: Study, key: Key, splits: Sequence[str], asking: Sequence[Asking]
) -> Audit:
    """The audit of a cell of one variant, which all of `study` is about."""
    reader = study.reader
    contents = reader.contents([run.key for run in study.runs])
    scores = study.scores(key, splits)
    runs = tuple(_run(reader, contents[score.run.key], score, asking) for score in scores)
    rates = tuple(_rates(runs, splits))
    runs = tuple(_with_rates_reason(run, rates) for run in runs)
    numbers = tuple(number(study.cells(split)[key], split) for split in splits)
    cell = study.cells(OOD)[key]
    identity = identity_of(contents.values())
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
        provenance=provenance(
            measured, {score.run.id: (score.run, contents[score.run.key]) for score in scores}
        ),
        versions=versions(measured),
        events=tuple(words.events(runs, identity)),
        identity=identity,
        differences=tuple(differences(study.runs, identity, miniature=begun.miniature)),
        published=published(study, key, miniature=begun.miniature),
    )
    return dataclasses.replace(found, why=tuple(words.why(found)))


# Runs


def _run(reader: Reader, run: Run, score: RunScore, asking: Sequence[Asking]) -> RunAudit:
    brief = score.run
    attempts = tuple(_attempts(reader.attempts(brief.key)))
    voids = tuple(
        VoidAudit(
            void.voided,
            void.reason,
            void.state,
            void.attempt,
            sum(record.epoch > 0 for record in void.history),
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
    """What `orch extend --edges` will do something about: settled cells of runs trained here.

    It goes by ID validation and whole rates, whatever was asked here.
    """
    asked = begun.rule == "id_val" and not begun.partial and begun.launched is not None
    settled = all(
        run.state in (*RESULTS, "cancelled") and begun.launched in run.sweeps for run in runs
    )
    dead_end = cell.edge == "high" and cell.diverged
    if not cell.edge or not asked or not settled or dead_end or any(run.source for run in runs):
        return ""
    return f"orch extend --edges {begun.launched} && orch resume {begun.launched}"


# Other rules


def _alternatives(
    study: Study, key: Key, splits: Sequence[str], numbers: Sequence[Number]
) -> Iterator[Alternative]:
    own = {one.split: one.value for one in numbers}
    for rule in RULES:
        if rule == study.rule:
            continue
        other = OneCell(study, study.runs, rule)
        found = {split: other.cells(split)[key] for split in splits}
        cell = found[OOD]
        values = {split: one.value for split, one in found.items() if one.value is not None}
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
