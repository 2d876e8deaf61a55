"""Every cell down to its runs, as the page shows it."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from markupsafe import Markup

from db.engines import among
from db.reading import ATTEMPTS, RUNS
from db.records import RunBrief, StoredRun
from reports.figures.series import OOD_SPLIT, SHOWN, curve_panels, rate_panels, shared_limits
from reports.figures.sheets import ordered
from reports.figures.style import spell_rate
from reports.page import pictures
from reports.select import Cell, Key, best_epochs
from reports.study import Point, Study
from reports.tables import Labels

NOTHING = "–"


@dataclass(frozen=True)
class RunView:
    """One row of a cell's runs."""

    run: RunBrief
    rate: str
    tuned: str
    epoch: str
    numbers: tuple[str, ...]
    """ID and OOD at the epoch that counts, then at the last."""
    chosen: bool
    """Whether its rate stands for the cell."""
    waits: bool
    """Whether it has a score, but its rate cannot be chosen for want of other seeds."""
    note: str
    """Why it has no number, where it has none."""


@dataclass(frozen=True)
class CellView:
    """One cell with its runs."""

    anchor: str
    cell: Cell
    names: tuple[str, str, str]
    """Of its model, dataset and method."""
    said: str
    """How its numbers came about."""
    rates: Markup
    curves: Markup
    runs: tuple[RunView, ...]
    tuned: bool
    """Whether hyperparameters were tuned beside the rate."""
    origin: tuple[tuple[str, str], ...]
    """What its runs were trained with: (what, which)."""
    command: str


@dataclass(frozen=True)
class ModelView:
    """The cells of a model, row by row as in the tables."""

    title: str
    datasets: tuple[str, ...]
    rows: tuple[tuple[str, tuple[CellView | None, ...]], ...]
    """Each method with a cell, or None, for each dataset."""

    @property
    def cells(self) -> list[CellView]:
        """Those that there are."""
        return [cell for _, row in self.rows for cell in row if cell is not None]


def anchors(keys: Sequence[Key]) -> dict[Key, str]:
    """An id for each cell, readable and safe whatever the names are made of."""
    found: dict[Key, str] = {}
    taken: Counter[str] = Counter()
    for key in keys:
        slug = re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(("cell", *key)))
        taken[slug] += 1
        found[key] = slug if taken[slug] == 1 else f"{slug}-{taken[slug]}"
    return found


class Cells:
    """The cells of a study as views, model by model; `stored` are its runs by id."""

    def __init__(
        self,
        study: Study,
        labels: Labels,
        ids: Mapping[Key, str],
        stored: Mapping[str, StoredRun],
    ) -> None:
        self._study = study
        self._labels = labels
        self._ids = ids
        self._stored = stored
        self._rates, self._curves = rate_panels(study), curve_panels(study)
        self._outside = study.cells(OOD_SPLIT)
        self._commits = _commits(study)

    def models(self) -> Iterator[ModelView]:
        """Models, and their methods and datasets, in the order of the labels."""
        labels = self._labels
        for model in ordered({key[0] for key in self._ids}, labels.models):
            own = [key for key in self._ids if key[0] == model]
            datasets = ordered({key[1] for key in own}, labels.datasets)
            methods = ordered({key[2] for key in own}, labels.methods)
            views = self._views(own)
            yield ModelView(
                labels.models.get(model, model),
                tuple(labels.datasets.get(d, d) for d in datasets),
                tuple(
                    (labels.methods.get(m, m), tuple(views.get((model, d, m)) for d in datasets))
                    for m in methods
                ),
            )

    def _views(self, keys: Sequence[Key]) -> dict[Key, CellView]:
        """Cells of one model; the pictures of a dataset share their axis."""
        rate_axes = shared_limits({key: self._rates[key] for key in keys})
        curve_axes = shared_limits({key: self._curves[key] for key in keys})
        runs = self._runs(keys)
        return {
            key: self._view(
                key,
                pictures.rates(self._rates[key], f"r-{self._ids[key]}", rate_axes.get(key[1])),
                pictures.curves(self._curves[key], f"k-{self._ids[key]}", curve_axes.get(key[1])),
                runs[key],
            )
            for key in keys
        }

    def _view(self, key: Key, rates: Markup, curves: Markup, runs: tuple[RunView, ...]) -> CellView:
        model, dataset, method = key
        labels, study = self._labels, self._study
        cell = self._rates[key].cell
        sweep = f" --sweep {shlex.quote(study.sweep)}" if study.sweep else ""
        return CellView(
            self._ids[key],
            cell,
            (
                labels.models.get(model, model),
                labels.datasets.get(dataset, dataset),
                labels.methods.get(method, method),
            ),
            _said(cell, self._outside[key]),
            rates,
            curves,
            runs,
            any(view.tuned for view in runs),
            tuple(self._origin(runs)),
            f"orch explain {shlex.join(key)}{sweep}",
        )

    def _runs(self, keys: Sequence[Key]) -> dict[Key, tuple[RunView, ...]]:
        """The rows of some cells, read together: `Study.scores` asks the store once a cell."""
        study = self._study
        members = [run for key in keys for run in study.members[key]]
        best = {b.run_key: b.epoch for b in best_epochs(study.reader, members, study.rule)}
        histories = study.curves([run.key for run in members], SHOWN)
        return {
            key: tuple(self._row(run, key, best, histories[run.key]) for run in _in_order(runs))
            for key, runs in ((key, study.members[key]) for key in keys)
        }

    def _row(
        self, run: RunBrief, key: Key, best: Mapping[int, int], history: Sequence[Point]
    ) -> RunView:
        at = {epoch: values for epoch, values, _ in history if epoch}
        epoch = best.get(run.key)
        rate = run.learning_rate, run.hyperparameters
        missing = any(
            other.key not in best
            for other in self._study.members[key]
            if (other.learning_rate, other.hyperparameters) == rate
        )
        return RunView(
            run,
            spell_rate(run.learning_rate),
            _tuned(run.hyperparameters),
            NOTHING if epoch is None else f"{epoch} of {run.epochs}",
            tuple(
                f"{values[split]:.1f}" if split in values else NOTHING
                for values in (at.get(epoch or 0, {}), at[max(at)] if at else {})
                for split in SHOWN
            ),
            run.id in self._rates[key].cell.runs,
            epoch is not None and missing and not self._study.partial,
            why(self._stored[run.id]),
        )

    def _origin(self, runs: Sequence[RunView]) -> Iterator[tuple[str, str]]:
        """Where the numbers come from; what differs among the runs with how many have it."""
        columns = {
            "numbers": [self._stored[view.run.id].run.source for view in runs],
            "commit": [self._commits.get(view.run.key, "") for view in runs],
            "weights": [(view.run.weights_sha256 or "")[:12] for view in runs],
            "data": [(view.run.data_fingerprint or "")[:24] for view in runs],
        }
        for what, values in columns.items():
            counts = Counter(value for value in values if value)
            if len(counts) == 1:
                yield what, next(iter(counts))
            elif counts:
                told = (f"{value} ({count} runs)" for value, count in counts.most_common())
                yield what, ", ".join(told)


def _in_order(runs: Sequence[RunBrief]) -> list[RunBrief]:
    return sorted(runs, key=lambda run: (run.learning_rate, run.hyperparameters, run.seed))


def _said(cell: Cell, outside: Cell) -> str:
    """One sentence of how a cell's numbers came about."""
    runs = f"{cell.n} of {cell.expected} runs are final"
    if cell.learning_rate is None:
        return f"No number: {cell.reason or 'no rate was chosen'}; {runs}."
    rate = f"learning rate {spell_rate(cell.learning_rate)}"
    if cell.hyperparameters != "{}":
        rate += f" with {_tuned(cell.hyperparameters)}"
    ends = {"low": ", the lowest tried,", "high": ", the highest tried,"}.get(cell.edge, "")
    numbers = ", ".join(
        f"{name} {one.value:.1f}" + (f" ± {one.ci90:.1f}" if one.ci90 is not None else "")
        for name, one in (("ID", cell), ("OOD", outside))
        if one.value is not None
    )
    seeds = "one seed" if cell.seeds == 1 else f"{cell.seeds} of {cell.seeds_expected} seeds"
    diverged = "; a chosen run diverged, and counts with its epochs before that"
    return (
        f"{numbers or 'No number'} at {rate}{ends} chosen among {cell.rates} of "
        f"{cell.rates_expected} rates; {seeds}; {runs}{diverged if cell.diverged else ''}."
    )


def _tuned(hyperparameters: str) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in json.loads(hyperparameters).items())


def why(stored: StoredRun) -> str:
    """What became of a run that is not simply done."""
    if stored.state == "voided":
        return stored.void_reason or ""
    return (stored.error or "").strip() if stored.state in ("failed", "diverged") else ""


def _commits(study: Study) -> dict[int, str]:
    """The commit that each run's last attempt ran from, in short."""
    query = (
        sa.select(ATTEMPTS.c.run_key, ATTEMPTS.c.git_commit, ATTEMPTS.c.git_dirty)
        .join(RUNS, (RUNS.c.key == ATTEMPTS.c.run_key) & (RUNS.c.fence == ATTEMPTS.c.number))
        .where(among(RUNS.c.key, "keys", [run.key for run in study.runs]))
    )
    with study.reader.read() as connection:
        return {
            key: commit[:12] + (" with changes" if dirty else "")
            for key, commit, dirty in connection.execute(query)
            if commit
        }
