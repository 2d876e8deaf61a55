"""Which run and epoch stand for a cell, decided by in-distribution validation alone.

PROTOCOL section 4: a run's score is its best epoch by the `id` metric (first on ties, epoch 0 never
counts); the mean over seeds of that score chooses the learning rate (the smallest on ties) with the
hyperparameters tuned beside it; then every other metric is read at those epochs and averaged over
seeds. Other rules put another epoch, or another split, in the place of the first step (`Rule`).

The choice is made by window functions, the same on every engine. It looks at one split, and at no
other: what a table shows is read afterwards, at the epochs that were chosen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import sqlalchemy as sa

from db.engines import among, epochs_of
from db.errors import ReportError
from db.reading import METRICS, RUNS, Reader
from db.records import ADDED_LATER, CELL, CHOSEN_OVER, RESULTS, RunBrief

SELECTION_SPLIT = "id"
Z90 = 1.645
Key = tuple[str, str, str]
"""Model, dataset, method."""
RateKey = tuple[float, str]
"""A learning rate and the hyperparameters tuned with it, as canonical JSON."""
Rule = Literal["id_val", "last", "ood-oracle", "id_test"]
"""By what the epoch and the rate are chosen.

`id_val`: the best epoch by the `id` split, the protocol's. `last`: the last epoch, and the rate by
`id` there. `ood-oracle`: the best epoch by the `ood` split itself, which no honest choice can see.
`id_test`: the best epoch by that split, where it was evaluated.
"""
RULES: tuple[Rule, ...] = get_args(Rule)
SCORED_BY: Mapping[Rule, str] = {
    "id_val": SELECTION_SPLIT,
    "last": SELECTION_SPLIT,
    "ood-oracle": "ood",
    "id_test": "id_test",
}
"""The one split that a rule looks at."""


@dataclass(frozen=True)
class Cell:
    """One number of a table: a model, a dataset and a method, with how it was chosen.

    Values and intervals are in percent, unrounded.
    """

    model: str
    dataset: str
    method: str
    metric: str
    n: int
    """Runs that are final."""
    expected: int
    """Runs that the sweep asks for: rates × seeds."""
    value: float | None = None
    """Mean over seeds; None where no rate has all of its seeds."""
    ci90: float | None = None
    """Half-width of the 90% interval over seeds; None for one seed."""
    learning_rate: float | None = None
    edge: str = ""
    """`low` or `high` where the chosen rate ends its list: a better one may lie beyond."""
    diverged: bool = False
    """A chosen run's loss stopped being finite; its epochs before that compete."""
    runs: tuple[str, ...] = ()
    """Ids of the chosen rate's runs, one a seed."""
    rule: Rule = "id_val"
    hyperparameters: str = "{}"
    """Tuned values that were chosen with the rate, as canonical JSON."""
    score: float | None = None
    """What the rate was chosen by: the mean over seeds of the best epoch's score, in percent."""
    epochs: tuple[int, ...] = ()
    """The chosen epoch of each of `runs`."""
    values: tuple[float, ...] = ()
    """The value of each of `runs`, in percent, unrounded; empty where `value` is None."""
    seeds: int = 0
    """Seeds that `value` is the mean over."""
    seeds_expected: int = 0
    """Seeds that the chosen rate was asked for; of the rate with the most, where none is chosen."""
    rates: int = 0
    """Rates (with their hyperparameters) that competed."""
    rates_expected: int = 0
    reason: str = ""
    """Why there is no value, where there is none: half a sentence to print."""

    @property
    def partial(self) -> bool:
        """Whether runs that could change the choice are still missing."""
        return self.n < self.expected


class Best(NamedTuple):
    """The epoch that stands for a run, and its score there as a fraction."""

    run_key: int
    epoch: int
    score: float


@dataclass(frozen=True)
class Choice:
    """The rate that stands for a cell."""

    best: tuple[Best, ...]
    """Its runs that have a score, in the order of their seeds."""
    competed: int
    """Rates that had a score from every seed; with `partial`, from any."""


def cells(
    reader: Reader,
    runs: Sequence[RunBrief],
    split: str,
    rule: Rule = "id_val",
    *,
    partial: bool = False,
) -> dict[Key, Cell]:
    """Every cell of `runs` with its `split` metric at the selected rate and epochs.

    With `partial` a rate may be chosen that lacks seeds. Raises `ReportError` where runs of one
    cell differ in more than what is chosen over.
    """
    members = by_cell(runs)
    chosen = choices(reader, members, rule, partial=partial)
    return read(reader, members, chosen, split, rule)


def by_cell(runs: Iterable[RunBrief]) -> dict[Key, tuple[RunBrief, ...]]:
    """The runs of each cell, in their order."""
    found: dict[Key, list[RunBrief]] = {}
    for run in runs:
        found.setdefault(run.cell, []).append(run)
    return {key: tuple(members) for key, members in found.items()}


def choices(
    reader: Reader,
    members: Mapping[Key, Sequence[RunBrief]],
    rule: Rule = "id_val",
    *,
    partial: bool = False,
) -> dict[Key, Choice]:
    """The chosen rate of each cell that has one; raises `ReportError` where variants mix."""
    refuse_mixtures(reader, members)
    asked = [run for runs in members.values() for run in runs]
    found: dict[Key, list[Best]] = {}
    competed: dict[Key, int] = {}
    with reader.read() as connection:
        for row in connection.execute(selection(asked, rule, partial=partial)):
            model, dataset, method, run_key, epoch, score, rates = row
            key = (model, dataset, method)
            found.setdefault(key, []).append(Best(run_key, epoch, score))
            competed[key] = rates
    return {key: Choice(tuple(best), competed[key]) for key, best in found.items()}


def refuse_mixtures(reader: Reader, members: Mapping[Key, Sequence[RunBrief]]) -> None:
    """Raise `ReportError` where a cell has runs of two variants, with what they differ in."""
    for key, runs in members.items():
        variants = {run.variant: run.key for run in runs}
        if len(variants) == 1:
            continue
        contents = [run.content() for run in reader.contents([*variants.values()]).values()]
        # A later field is left out of a content where it is neutral (`ADDED_LATER`).
        names = dict.fromkeys(name for content in contents for name in content)
        found = {
            name: [_spelled(content.get(name, ADDED_LATER.get(name))) for content in contents]
            for name in names
            if name not in (*CELL, *CHOSEN_OVER)
        }
        differ = {
            name: sorted({*values})
            for name, values in found.items()
            # Of a head that a probe left, its variant decides: seeds have probes of their own.
            if len({v.rpartition("/")[2] if name == "head" else v for v in values}) > 1
        }
        raise ReportError(
            f"the cell {' '.join(key)} has runs of {len(variants)} variants, which one number "
            "cannot stand for; they differ in "
            + "; ".join(f"{name}: {' / '.join(values)}" for name, values in differ.items())
            + f". Choose with --sweep, or --where {next(iter(differ))}=…"
        )


def _spelled(value: object) -> str:
    """As `--where` reads it: lists as `a+b`, nothing as `none`."""
    return ("+".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "none"


def read(
    reader: Reader,
    members: Mapping[Key, Sequence[RunBrief]],
    chosen: Mapping[Key, Choice],
    split: str,
    rule: Rule,
) -> dict[Key, Cell]:
    """Every cell with the `split` metric of its chosen runs at their chosen epochs."""
    found = values(reader, (best for choice in chosen.values() for best in choice.best), split)
    final = [
        run
        for key, runs in members.items()
        if key not in chosen
        for run in runs
        if run.state in RESULTS
    ]
    scored = {best.run_key for best in best_epochs(reader, final, rule)}
    return {
        key: _cell(key, runs, chosen[key], split, rule, found)
        if key in chosen
        else _empty(key, runs, rule, any(run.key in scored for run in runs))
        for key, runs in members.items()
    }


def _empty(key: Key, members: Sequence[RunBrief], rule: Rule, scored: bool) -> Cell:
    """A cell in which no rate was chosen, and why."""
    states = Counter(run.state for run in members)
    final = sum(states[state] for state in RESULTS)
    if not final:
        told = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
        reason = f"no run is finished ({told})"
    elif scored:
        reason = "no rate has a score from every seed"
    else:
        reason = f"no finished run has a value of the split {SCORED_BY[rule]}"
    seeds = Counter((run.learning_rate, run.hyperparameters) for run in members)
    return Cell(
        *key,
        metric="",
        n=final,
        expected=len(members),
        rule=rule,
        seeds_expected=max(seeds.values()),
        rates_expected=len(seeds),
        reason=reason,
    )


def _cell(
    key: Key,
    members: Sequence[RunBrief],
    choice: Choice,
    split: str,
    rule: Rule,
    found: Mapping[int, tuple[str, float]],
) -> Cell:
    by_key = {run.key: run for run in members}
    one = by_key[choice.best[0].run_key]
    rate = (one.learning_rate, one.hyperparameters)
    seeds = Counter((run.learning_rate, run.hyperparameters) for run in members)
    shown = [best for best in choice.best if best.run_key in found]
    whole = len(shown) == len(choice.best)
    shares = [100 * found[best.run_key][1] for best in shown] if whole else []
    selected = [by_key[best.run_key] for best in choice.best]
    return Cell(
        *key,
        metric=found[shown[0].run_key][0] if shown else "",
        n=sum(run.state in RESULTS for run in members),
        expected=len(members),
        value=mean(shares) if shares else None,
        ci90=interval(shares),
        learning_rate=one.learning_rate,
        edge=_edge(one.learning_rate, {run.learning_rate for run in members}),
        diverged=any(run.state == "diverged" for run in selected),
        runs=tuple(run.id for run in selected),
        rule=rule_of(members, rule),
        hyperparameters=one.hyperparameters,
        score=100 * mean([best.score for best in choice.best]),
        epochs=tuple(best.epoch for best in choice.best),
        values=tuple(shares),
        seeds=len(shares),
        seeds_expected=seeds[rate],
        rates=choice.competed,
        rates_expected=len(seeds),
        reason="" if shares else f"the split {split} has no value at a chosen epoch",
    )


def mean(shares: Sequence[float]) -> float:
    """The plain mean."""
    return math.fsum(shares) / len(shares)


def interval(shares: Sequence[float]) -> float | None:
    """Half-width of the 90% interval, 1.645·s/√n with n − 1 in s; None for fewer than two."""
    if len(shares) < 2:
        return None
    middle = mean(shares)
    variance = math.fsum((share - middle) ** 2 for share in shares) / (len(shares) - 1)
    return Z90 * math.sqrt(variance / len(shares))


def _edge(rate: float, tried: Iterable[float]) -> str:
    rates = sorted(tried)
    if len(rates) < 2:
        return ""
    return {rates[0]: "low", rates[-1]: "high"}.get(rate, "")


def rule_of(members: Iterable[RunBrief], rule: Rule) -> Rule:
    """The rule of a cell: a sweep may have the last epoch stand for its runs (`select: last`)."""
    return "last" if rule == "id_val" and any(run.last for run in members) else rule


def best_epochs(reader: Reader, runs: Sequence[RunBrief], rule: Rule) -> list[Best]:
    """The epoch that stands for each run, by the rule; runs without a score are left out."""
    if not runs:
        return []
    best = _best(runs, rule)
    query = sa.select(best.c.key, best.c.epoch, best.c.score).where(best.c.epoch.is_not(None))
    with reader.read() as connection:
        return [Best._make(row) for row in connection.execute(query)]


def values(reader: Reader, best: Iterable[Best], split: str) -> dict[int, tuple[str, float]]:
    """The headline metric of a split at each run's epoch, a fraction, with its name, by run."""
    pairs = [(one.run_key, one.epoch) for one in best]
    if not pairs:
        return {}
    at = epochs_of("best", pairs)
    query = sa.select(METRICS.c.run_key, METRICS.c.metric, METRICS.c.value).join_from(
        at,
        METRICS,
        (METRICS.c.run_key == at.c.run_key)
        & (METRICS.c.epoch == at.c.epoch)
        & (METRICS.c.split == split)
        & (METRICS.c.group == "")
        & METRICS.c.value.between(-_LARGEST, _LARGEST),
    )
    with reader.read() as connection:
        return {key: (metric, value) for key, metric, value in connection.execute(query)}


_RATE = ("learning_rate", "hyperparameters")
_LARGEST = 1.7976931348623157e308
"""PostgreSQL keeps NaN and infinities, and sorts NaN above every number."""


def selection(runs: Sequence[RunBrief], rule: Rule, *, partial: bool = False) -> sa.Select[Any]:
    """The selection as one statement: the runs of each cell's chosen rate that have a score.

    1. `scored`: the epochs of each run that is asked about, where it is final, beside what the
       rule makes the most of in that run.
    2. `first`: the first epoch that has it. `best`: that of each run, none where it has no score.
    3. `rates`: beside each run the mean over its rate's seeds, and how many of them have a score.
    4. `ranked`: the rates of a cell by that mean, where every seed it was asked for has a score.
    5. The runs of the best rate, with how many rates competed.

    Two million epochs may pass through the first step, so it carries few columns and, as the key
    of the metrics begins with the run, sorts nothing. No step is joined with another but by the
    key of a run, from the step that has few of them: both planners get that right, whatever they
    guess of a list's length.
    """
    ranked = _ranked(_rates(_best(runs, rule)), partial=partial)
    cell = [ranked.c[name] for name in CELL]
    counted = sa.select(
        *ranked.c, sa.func.max(ranked.c.number).over(partition_by=cell).label("competed")
    ).subquery("counted")
    columns = (*CELL, "key", "epoch", "score", "competed")
    return (
        sa.select(*(counted.c[name] for name in columns))
        .where(counted.c.number == 1, counted.c.epoch.is_not(None))
        .order_by(*(counted.c[name] for name in CELL), counted.c.seed)
    )


def _best(runs: Sequence[RunBrief], rule: Rule) -> sa.CTE:
    """Every run that is asked about, with the epoch that stands for it."""
    keys = [run.key for run in runs]
    # Where sweeps share a cell and one goes by the last epoch, all its runs compete by that.
    cells_by_last = {run.cell for run in runs if run.last} if rule == "id_val" else ()
    by_last = [run.key for run in runs if run.cell in cells_by_last] if cells_by_last else []
    most: sa.ColumnElement[Any] = METRICS.c.epoch if rule == "last" else METRICS.c.value
    if by_last:
        most = sa.case((among(RUNS.c.key, "by_last", by_last), METRICS.c.epoch), else_=most)
    scored = (
        sa.select(
            RUNS.c.key.label("run_key"),
            METRICS.c.epoch,
            METRICS.c.value.label("score"),
            most.label("own"),
            sa.func.max(most).over(partition_by=RUNS.c.key).label("most"),
        )
        .outerjoin(
            METRICS,
            (METRICS.c.run_key == RUNS.c.key)
            & among(METRICS.c.run_key, "keys", keys)
            & RUNS.c.state.in_(RESULTS)
            & (METRICS.c.split == SCORED_BY[rule])
            & (METRICS.c.group == "")
            & (METRICS.c.epoch > 0)
            & METRICS.c.value.between(-_LARGEST, _LARGEST),
        )
        .where(among(RUNS.c.key, "keys", keys))
        .cte("scored")
    )
    first = (
        sa.select(scored.c.run_key, sa.func.min(scored.c.epoch).label("epoch"), scored.c.score)
        .where((scored.c.own == scored.c.most) | scored.c.most.is_(None))
        .group_by(scored.c.run_key, scored.c.score)
        .cte("first")
    )
    columns = [RUNS.c[name] for name in ("key", *CELL, *_RATE, "seed")]
    return (
        sa.select(*columns, first.c.epoch, first.c.score)
        .join_from(first, RUNS, RUNS.c.key == first.c.run_key)
        .cte("best")
    )


def _rates(best: sa.CTE) -> sa.CTE:
    """Each run with its rate's mean score, its seeds, and how many of them have a score."""
    rate = [best.c[name] for name in (*CELL, *_RATE)]
    return sa.select(
        *best.c,
        sa.func.count().over(partition_by=rate).label("seeds"),
        sa.func.count(best.c.score).over(partition_by=rate).label("scores"),
        sa.func.avg(best.c.score).over(partition_by=rate).label("mean"),
    ).cte("rates")


def _ranked(rates: sa.CTE, *, partial: bool) -> sa.CTE:
    """The runs of the rates that compete, numbered from a cell's best rate on."""
    best_first = sa.func.dense_rank().over(
        partition_by=[rates.c[name] for name in CELL],
        # Rounded: equal counts over seeds are a tie, whatever their sum's last bit says.
        order_by=(
            sa.func.round(sa.cast(rates.c.mean, sa.Numeric), 12).desc(),
            *(rates.c[name] for name in _RATE),
        ),
    )
    competes = rates.c.scores > 0 if partial else rates.c.seeds == rates.c.scores
    return sa.select(*rates.c, best_first.label("number")).where(competes).cte("ranked")
