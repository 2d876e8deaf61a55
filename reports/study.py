"""One question put to a store: which runs it is about, and how their numbers are chosen.

Tables, comparisons, claims, figures and pages all read from a `Study`, so that they agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import sqlalchemy as sa

from db.engines import among
from db.errors import ReportError
from db.reading import EPOCHS, METRICS, Reader
from db.records import RunBrief, StoredRun
from reports import select
from reports.select import Best, Cell, Choice, Key, RateKey, Rule

KINDS = ("finetune", "linear_probe")
"""Kinds of run whose accuracies tables show."""
MINIATURE = "miniature-"
"""How the fingerprint of data begins that was generated in a real dataset's place."""

Point = tuple[int, dict[str, float], float | None]
"""An epoch, the value of each split in percent, and the training loss."""


@dataclass(frozen=True)
class RunScore:
    """What a run of a cell came to; values are in percent, unrounded."""

    run: RunBrief
    epochs_stored: int
    """Epochs after training began: without the evaluation before it."""
    best_epoch: int | None
    """By the study's rule; None where the run has no score."""
    score: float | None
    """What the run competes with: the rule's split at `best_epoch`."""
    values: Mapping[str, float]
    """Each split at `best_epoch`, where it was evaluated."""
    last_epoch: int | None
    """The last one stored; None without one."""
    last: Mapping[str, float]
    """Each split at `last_epoch`, where it was evaluated."""
    oracle_epoch: int | None
    """The best epoch by the `ood` split, which no honest choice can see."""
    oracle: Mapping[str, float]
    """Each split at `oracle_epoch`, where it was evaluated."""
    competes: bool
    """Whether its rate has a score from every seed; with `partial`, from any."""
    chosen: bool
    """Whether its rate stands for the cell."""


@dataclass(frozen=True)
class RatePoint:
    """One rate of a cell, with its hyperparameters; values are in percent, unrounded."""

    learning_rate: float
    hyperparameters: str
    """As canonical JSON, `{}` where nothing is tuned."""
    seeds: int
    """Runs that have a value."""
    seeds_expected: int
    mean: float | None
    """Over seeds, of a split at the runs' best epochs; None where no run has a value."""
    ci90: float | None
    """Half-width of the 90% interval over seeds; None for one seed."""
    chosen: bool


class Study:
    """The runs of a sweep, or of all, and the cells that are chosen among them.

    Everything is read when it is first asked for, and kept. A rule other than `id_val` is not the
    protocol's; with `partial` a rate may be chosen that lacks seeds.
    """

    def __init__(
        self,
        reader: Reader,
        sweep: str | None = None,
        *,
        matches: Callable[[StoredRun], bool] | None = None,
        rule: Rule = "id_val",
        partial: bool = False,
    ) -> None:
        self.reader = reader
        self.sweep = sweep
        self.rule: Rule = rule
        self.partial = partial
        self._matches = matches
        self._cells: dict[str, Mapping[Key, Cell]] = {}

    @cached_property
    def runs(self) -> tuple[RunBrief, ...]:
        """The runs that were asked for, whatever became of them.

        Raises `NotFound` for a sweep that the store has not, with the names there are.
        """
        found = (run for run in self.reader.briefs(self.sweep) if run.kind in KINDS)
        if self._matches is None:
            return tuple(found)
        wanted = {one.key for one in self.reader.runs(self.sweep) if self._matches(one)}
        return tuple(run for run in found if run.key in wanted)

    @cached_property
    def members(self) -> Mapping[Key, tuple[RunBrief, ...]]:
        """The runs of each cell."""
        return select.by_cell(self.runs)

    @cached_property
    def _choices(self) -> Mapping[Key, Choice]:
        return select.choices(self.reader, self.members, self.rule, partial=self.partial)

    @cached_property
    def _best(self) -> Sequence[Best]:
        """The epoch that stands for each run that has one."""
        return select.best_epochs(self.reader, self.runs, self.rule)

    def cells(self, split: str) -> Mapping[Key, Cell]:
        """Every cell with its `split` value; chosen once for all splits.

        Raises `ReportError` where a cell has runs of two variants.
        """
        if split not in self._cells:
            self._cells[split] = select.read(
                self.reader, self.members, self._choices, split, self.rule
            )
        return self._cells[split]

    @cached_property
    def miniature(self) -> frozenset[str]:
        """Datasets of which a run had generated data in the real one's place."""
        return frozenset(
            run.dataset for run in self.runs if (run.data_fingerprint or "").startswith(MINIATURE)
        )

    def rates(
        self, split: str, keys: Iterable[Key] | None = None
    ) -> dict[Key, tuple[RatePoint, ...]]:
        """What each rate of the cells came to in `split`, by rate and then hyperparameters.

        Of all cells, or of those in `keys`. Raises `ReportError` where variants mix, and for a cell
        that has no run.
        """
        if keys is None:
            wanted, best = self.members, self._best
        else:
            wanted = {key: self._runs_of(key) for key in keys}
            listed = [run for runs in wanted.values() for run in runs]
            best = select.best_epochs(self.reader, listed, self.rule)
        found = select.values(self.reader, best, split)
        return {key: self._points(key, runs, found) for key, runs in wanted.items()}

    def _points(
        self, key: Key, runs: Sequence[RunBrief], found: Mapping[int, tuple[str, float]]
    ) -> tuple[RatePoint, ...]:
        chosen = self._chosen_rate(key)
        points = []
        for rate, seeds in sorted(_by_rate(runs).items()):
            shares = [100 * found[run.key][1] for run in seeds if run.key in found]
            points.append(
                RatePoint(
                    *rate,
                    seeds=len(shares),
                    seeds_expected=len(seeds),
                    mean=select.mean(shares) if shares else None,
                    ci90=select.interval(shares),
                    chosen=rate == chosen,
                )
            )
        return tuple(points)

    def _runs_of(self, key: Key) -> tuple[RunBrief, ...]:
        if key not in self.members:
            raise ReportError(
                f"there is no run of {' '.join(key)}; `orch runs list` shows what there is."
            )
        return self.members[key]

    def _chosen_rate(self, key: Key) -> RateKey | None:
        if key not in self._choices:
            return None
        first = self._choices[key].best[0].run_key
        return next(_rate(run) for run in self.members[key] if run.key == first)

    def scores(self, key: Key, splits: Iterable[str]) -> tuple[RunScore, ...]:
        """Every run of a cell, ordered by rate, hyperparameters and seed, whatever its state.

        Raises `ReportError` where runs of two variants share a cell, and for one that has no run.
        """
        runs = self._runs_of(key)
        listed = tuple(splits)
        keys = [run.key for run in runs]
        best = {one.run_key: one for one in select.best_epochs(self.reader, runs, self.rule)}
        oracle = {one.run_key: one for one in select.best_epochs(self.reader, runs, "ood-oracle")}
        curves = self.curves(keys, listed)
        chosen = self._chosen_rate(key)
        scores = []
        for rate, seeds in sorted(_by_rate(runs).items()):
            scored = sum(run.key in best for run in seeds)
            for run in sorted(seeds, key=lambda run: run.seed):
                at = {epoch: measured for epoch, measured, _ in curves[run.key] if epoch}
                last = max(at, default=None)
                own, ideal = best.get(run.key), oracle.get(run.key)
                scores.append(
                    RunScore(
                        run,
                        epochs_stored=len(at),
                        best_epoch=own and own.epoch,
                        score=own and 100 * own.score,
                        values=at.get(own.epoch, {}) if own else {},
                        last_epoch=last,
                        last={} if last is None else at[last],
                        oracle_epoch=ideal and ideal.epoch,
                        oracle=at.get(ideal.epoch, {}) if ideal else {},
                        competes=scored > 0 if self.partial else scored == len(seeds),
                        chosen=rate == chosen,
                    )
                )
        return tuple(scores)

    def curves(self, run_keys: Iterable[int], splits: Iterable[str]) -> dict[int, list[Point]]:
        """The epochs of runs, in order, with each split that was evaluated; epoch 0 too.

        Runs without an epoch have an empty list, and are in the mapping.
        """
        keys = [*run_keys]
        found: dict[int, list[Point]] = {key: [] for key in keys}
        losses = (
            sa.select(EPOCHS.c.run_key, EPOCHS.c.epoch, EPOCHS.c.train_loss)
            .where(among(EPOCHS.c.run_key, "keys", keys))
            .order_by(EPOCHS.c.run_key, EPOCHS.c.epoch)
        )
        measured = sa.select(
            METRICS.c.run_key, METRICS.c.epoch, METRICS.c.split, METRICS.c.value
        ).where(
            among(METRICS.c.run_key, "keys", keys),
            METRICS.c.split.in_([*splits]),
            METRICS.c.group == "",
        )
        with self.reader.read() as connection:
            at: dict[tuple[int, int], dict[str, float]] = {}
            for run_key, epoch, split, value in connection.execute(measured):
                if math.isfinite(value):
                    at.setdefault((run_key, epoch), {})[split] = 100 * value
            for run_key, epoch, loss in connection.execute(losses):
                found[run_key].append((epoch, at.get((run_key, epoch), {}), loss))
        return found


def _rate(run: RunBrief) -> RateKey:
    return run.learning_rate, run.hyperparameters


def _by_rate(runs: Iterable[RunBrief]) -> dict[RateKey, list[RunBrief]]:
    found: dict[RateKey, list[RunBrief]] = {}
    for run in runs:
        found.setdefault(_rate(run), []).append(run)
    return found
