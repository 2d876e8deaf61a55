"""Which run and epoch stand for a cell, decided by in-distribution validation alone.

PROTOCOL section 4: a run's score is its best epoch by the `id` metric (first on ties, epoch 0 never
counts); the mean over seeds of that score chooses the learning rate (the smallest on ties); then
every other metric is read at those epochs and averaged over seeds.

The choice is made by window functions, the same on every engine, over no split but `id`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from db.engines import among
from db.errors import ReportError
from db.reading import METRICS, RUNS, Reader
from db.records import ADDED_LATER, CELL, CHOSEN_OVER, RESULTS, RunBrief

SELECTION_SPLIT = "id"
Z90 = 1.645
Key = tuple[str, str, str]
"""Model, dataset, method."""
Rule = Literal["id_val", "last", "ood-oracle", "id_test"]
"""By what the epoch and the rate are chosen; `id_val` is the protocol's."""
RULES: tuple[Rule, ...] = get_args(Rule)


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
    """The value of each of `runs`, in percent, unrounded."""
    seeds: int = 0
    """Seeds that `value` is the mean over."""
    seeds_expected: int = 0
    """Seeds that the chosen rate was asked for; of the rate with the most, where none is chosen."""
    rates: int = 0
    """Rates (with their hyperparameters) that competed."""
    rates_expected: int = 0

    @property
    def partial(self) -> bool:
        """Whether runs that could change the choice are still missing."""
        return self.n < self.expected


@dataclass(frozen=True)
class _Chosen:
    """A row of the selection: one seed of a cell's chosen rate."""

    run_key: int
    learning_rate: float
    metric: str
    value: float


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
    assert rule == "id_val"
    assert not partial
    by_cell: dict[Key, list[RunBrief]] = {}
    for run in runs:
        by_cell.setdefault(run.cell, []).append(run)
    _refuse_mixtures(reader, by_cell)
    chosen = _chosen(reader, runs, split)
    return {key: _cell(key, members, chosen.get(key, [])) for key, members in by_cell.items()}


def _refuse_mixtures(reader: Reader, by_cell: dict[Key, list[RunBrief]]) -> None:
    for key, members in by_cell.items():
        variants = {run.variant: run.key for run in members}
        if len(variants) == 1:
            continue
        contents = [run.content() for run in reader.contents([*variants.values()]).values()]
        # A later field is left out of a content where it is neutral (`ADDED_LATER`).
        names = dict.fromkeys(name for content in contents for name in content)
        spelled = {
            name: sorted({_spelled(c.get(name, ADDED_LATER.get(name))) for c in contents})
            for name in names
            if name not in (*CELL, *CHOSEN_OVER)
        }
        differ = {name: values for name, values in spelled.items() if len(values) > 1}
        raise ReportError(
            f"the cell {' '.join(key)} has runs of {len(variants)} variants, which one number "
            "cannot stand for; they differ in "
            + "; ".join(f"{name}: {' / '.join(values)}" for name, values in differ.items())
            + f". Choose with --sweep, or --where {next(iter(differ))}=…"
        )


def _spelled(value: object) -> str:
    """As `--where` reads it: lists as `a+b`."""
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _cell(key: Key, members: list[RunBrief], chosen: list[_Chosen]) -> Cell:
    final = [stored for stored in members if stored.state in RESULTS]
    model, dataset, method = key
    metric = chosen[0].metric if chosen else ""
    empty = Cell(model, dataset, method, metric, n=len(final), expected=len(members))
    if not chosen:
        return empty
    values = [100 * one.value for one in chosen]
    by_key = {stored.key: stored for stored in members}
    selected = [by_key[one.run_key] for one in chosen]
    rate = chosen[0].learning_rate
    return Cell(
        model,
        dataset,
        method,
        metric,
        n=empty.n,
        expected=empty.expected,
        value=math.fsum(values) / len(values),
        ci90=Z90 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        learning_rate=rate,
        edge=_edge(rate, {stored.learning_rate for stored in members}),
        diverged=any(stored.state == "diverged" for stored in selected),
        runs=tuple(stored.id for stored in selected),
    )


def _edge(rate: float, tried: Iterable[float]) -> str:
    rates = sorted(tried)
    if len(rates) < 2:
        return ""
    return {rates[0]: "low", rates[-1]: "high"}.get(rate, "")


def _chosen(reader: Reader, runs: Sequence[RunBrief], split: str) -> dict[Key, list[_Chosen]]:
    """The chosen rate's runs of each cell, one row a seed, with the `split` metric."""
    query = selection(runs, split)
    found: dict[Key, list[_Chosen]] = {}
    with reader.read() as connection:
        for model, dataset, method, *rest in connection.execute(query):
            found.setdefault((model, dataset, method), []).append(_Chosen(*rest))
    return found


_RATE = ("learning_rate", "hyperparameters")


def selection(runs: Sequence[RunBrief], split: str) -> sa.Select[Any]:
    """The selection as one statement.

    1. `scored`: the epochs of final runs, ranked by the selection metric.
    2. `best`: each run that is asked about, with its best epoch and score where it has one.
    3. `rates`: beside each run the mean over its rate's seeds, and how many of them have a score.
    4. `ranked`: the rates of a cell by that mean, where every seed it was asked for has a score.
    5. The chosen rate's runs with `split`'s headline metric at their best epochs.

    Tables are joined by a run's key alone: by the columns of a cell PostgreSQL expects one row,
    and goes through all of them for each.
    """
    ranked = _ranked(_rates(_best([stored.key for stored in runs])))
    return (
        sa.select(
            *(ranked.c[name] for name in CELL),
            ranked.c.key,
            ranked.c.learning_rate,
            METRICS.c.metric,
            METRICS.c.value,
        )
        .join(
            METRICS,
            (METRICS.c.run_key == ranked.c.key)
            & (METRICS.c.epoch == ranked.c.epoch)
            & (METRICS.c.split == split)
            & (METRICS.c.group == ""),
        )
        .where(ranked.c.place == 1)
        .order_by(*(ranked.c[name] for name in CELL), ranked.c.seed)
    )


def _best(keys: list[int]) -> sa.CTE:
    """Every run that is asked about, with its best epoch."""
    best_first = sa.func.row_number().over(
        partition_by=METRICS.c.run_key, order_by=(METRICS.c.value.desc(), METRICS.c.epoch)
    )
    scored = (
        sa.select(
            METRICS.c.run_key,
            METRICS.c.epoch,
            METRICS.c.value.label("score"),
            best_first.label("place"),
        )
        .join(RUNS, RUNS.c.key == METRICS.c.run_key)
        .where(
            among(METRICS.c.run_key, "keys", keys),
            RUNS.c.state.in_(RESULTS),
            METRICS.c.split == SELECTION_SPLIT,
            METRICS.c.group == "",
            METRICS.c.epoch > 0,
        )
        .cte("scored")
    )
    columns = [RUNS.c[name] for name in ("key", *CELL, *_RATE, "seed")]
    return (
        sa.select(*columns, scored.c.epoch, scored.c.score)
        .outerjoin(scored, (scored.c.run_key == RUNS.c.key) & (scored.c.place == 1))
        .where(among(RUNS.c.key, "keys", keys))
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


def _ranked(rates: sa.CTE) -> sa.CTE:
    """The runs of complete rates; those of each cell's chosen rate share place 1."""
    best_first = sa.func.rank().over(
        partition_by=[rates.c[name] for name in CELL],
        # Rounded: equal counts over seeds are a tie, whatever their sum's last bit says.
        order_by=(
            sa.func.round(sa.cast(rates.c.mean, sa.Numeric), 12).desc(),
            *(rates.c[name] for name in _RATE),
        ),
    )
    complete = rates.c.seeds == rates.c.scores
    return sa.select(*rates.c, best_first.label("place")).where(complete).cte("ranked")
