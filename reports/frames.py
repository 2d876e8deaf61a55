"""A study as pandas data frames. Accuracies are in percent, unrounded, as tables print them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd
import sqlalchemy as sa

from db.engines import among
from db.errors import ReportError
from db.reading import EPOCHS, METRICS, Reader
from db.records import Run, RunBrief, StoredRun
from reports import declared, select, tables
from reports.entries import Labels
from reports.study import Study

if TYPE_CHECKING:
    from reports.declared import Declared
    from reports.entries import Entry

SPLITS = ("id", "ood")
"""What `cells` and `runs` show unless told otherwise."""
Where = Mapping[str, Any] | Callable[[Run], bool]
Show = Literal["value", "ci90", "delta", "shown"]


def study(
    store: str,
    sweep: str | None = None,
    where: Where | None = None,
    rule: str = "id_val",
    partial: bool = False,
) -> Study:
    """The study that `reports.load` shows; see there."""
    if rule not in select.RULES:
        raise ReportError(f'select="{rule}" is no rule; choose one of {", ".join(select.RULES)}.')
    matches = None if where is None else _matching(where)
    reader = Reader.open(store)
    if sweep is not None:
        reader.sweep(sweep)  # raises, naming those there are
    return Study(reader, sweep, matches=matches, rule=rule, partial=partial)


def _matching(where: Where) -> Callable[[StoredRun], bool]:
    if callable(where):
        return lambda stored: where(stored.run)
    wanted: dict[str, list[Any]] = {}
    for name, given in where.items():
        if name not in Run.__dataclass_fields__:
            close = difflib.get_close_matches(name, Run.__dataclass_fields__, 1)
            mean = (
                f'did you mean "{close[0]}"?' if close else "a run's fields are in db.records.Run."
            )
            raise ReportError(f'where: a run has no field "{name}"; {mean}')
        several = isinstance(given, Iterable) and not isinstance(given, str)
        wanted[name] = [*given] if several else [given]
    return lambda stored: all(getattr(stored.run, n) in values for n, values in wanted.items())


class Frames:
    """The runs of a sweep, or of all, as data frames; each call makes a new one.

    `study` is what every other report reads from, too.
    """

    def __init__(self, study: Study) -> None:
        self.study = study

    def __repr__(self) -> str:
        runs, cells = self.study.runs, self.study.members
        of = f" of {self.study.sweep}" if self.study.sweep else ""
        return f"<{len(runs):,} runs in {len(cells):,} cells{of}, {self.study.reader.place}>"

    def cells(self, splits: Sequence[str] = SPLITS) -> pd.DataFrame:
        """One row a model, dataset and method: the numbers of the tables, and where they are from.

        Columns: `model, dataset, method`; each split's value and its 90% interval's half-width
        (`ood`, `ood_ci90`), NaN where there is none; what was chosen (`learning_rate`,
        `hyperparameters`, and of each seed `epochs` and `runs`); of the chosen rate `seeds` and
        `seeds_expected`; `n` runs that are final of `expected`; `edge` (low, high or empty) and
        `diverged`; `miniature`, where generated data stood in for the real ones. Raises
        `ReportError` where runs of two variants share a cell.
        """
        by_split = {split: self.study.cells(split) for split in splits}
        rows = []
        for key in self.study.members:
            of = {split: found[key] for split, found in by_split.items()}
            values = {
                name: value
                for split, cell in of.items()
                for name, value in ((split, cell.value), (f"{split}_ci90", cell.ci90))
            }
            any_cell = next(iter(of.values()))
            rows.append(
                dict(zip(_CELL, key, strict=True))
                | values
                | {name: getattr(any_cell, name) for name in _CHOSEN}
                | {"miniature": any_cell.dataset in self.study.miniature}
            )
        numbers = [name for split in splits for name in (split, f"{split}_ci90")]
        return _frame(rows, [*_CELL, *numbers, *_CHOSEN, "miniature"], [*numbers, "learning_rate"])

    def runs(self, splits: Sequence[str] = SPLITS) -> pd.DataFrame:
        """One row a run, whatever became of it.

        Columns: what it is (`run_id` to `variant`); its `state`; its `best_epoch` by the study's
        rule and each split there; `chosen`, whether its rate stands for its cell.
        """
        briefs = self.study.runs
        best = {
            one.run_key: one
            for one in select.best_epochs(self.study.reader, briefs, self.study.rule)
        }
        chosen = {
            run_id
            for cell in self.study.cells(select.SELECTION_SPLIT).values()
            for run_id in cell.runs
        }
        found = {split: select.values(self.study.reader, best.values(), split) for split in splits}
        rows = []
        for run in briefs:
            values = {s: 100 * at[run.key][1] for s, at in found.items() if run.key in at}
            epoch = best[run.key].epoch if run.key in best else None
            rows.append(_about(run) | {"best_epoch": epoch, "chosen": run.id in chosen} | values)
        columns = [*_RUN, "best_epoch", *splits, "chosen"]
        frame = _frame(rows, columns, splits)
        return frame.astype({"best_epoch": "Int64"})

    def metrics(self) -> pd.DataFrame:
        """One row a number: every run, epoch, split, group and metric.

        Columns: what the run is (`run_id` to `variant`), `state`, `epoch`, `split`, `group` (empty
        for the split's headline metric), `metric`, `value` in percent, `correct` of `n` images.
        """
        columns = [METRICS.c[name] for name in ("run_key", "epoch", *_METRIC)]
        query = sa.select(*columns).where(among(METRICS.c.run_key, "keys"))
        frame = self._long(query, ["epoch", *_METRIC], ["epoch", "split", "group", "metric"])
        frame["value"] *= 100
        return frame.astype({"correct": "Int64", "n": "Int64"})

    def epochs(self) -> pd.DataFrame:
        """One row a run and epoch: its learning curve.

        Columns: what the run is (`run_id` to `variant`), `state`, `epoch` (0 is before training),
        `train_loss`, `train_accuracy` in percent, `epoch_lr` (the rate at the epoch's end),
        `seconds`, and the headline value of each split that was evaluated, NaN where it was not.
        """
        trained = sa.select(*(EPOCHS.c[name] for name in ("run_key", *_EPOCH)))
        names = ["epoch_lr" if name == "learning_rate" else name for name in _EPOCH]
        frame = self._long(trained.where(among(EPOCHS.c.run_key, "keys")), names, ["epoch"])
        numbers = {"train_loss": float, "train_accuracy": float}
        frame = frame.astype(numbers)
        frame["train_accuracy"] *= 100
        headline = self.metrics()
        headline = headline[headline["group"] == ""]
        if headline.empty:
            return frame
        wide = headline.pivot_table(
            index=["run_id", "epoch"], columns="split", values="value", aggfunc="first"
        )
        return frame.merge(wide.reset_index(), how="left", on=["run_id", "epoch"])

    def table(
        self,
        name: str | Declared = "ood",
        show: Show = "value",
        labels: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        """A table of `orch report --table NAME` in its own layout, titles included.

        `show` says what stands in it: each `value` in percent, its `ci90`, its `delta` against the
        baseline, or the number as `shown` in print. `labels` are titles of models, datasets or
        methods that the paper has not. Raises `ReportError` for an unknown table, and where there
        is no run for it.
        """
        asked = declared.find(name) if isinstance(name, str) else name
        more = dict(labels or {})
        shown = Labels()
        built = tables.build(
            asked,
            self.study,
            Labels({**shown.models, **more}, {**shown.datasets, **more}, {**shown.methods, **more}),
        )
        columns = [" ".join(filter(None, (c.title, c.subtitle))) for c in built.columns]
        index = pd.MultiIndex.from_tuples([row.heads for row in built.rows], names=built.heads)
        values = [[_shown(entry, show) for entry in row] for row in built.rows]
        frame = pd.DataFrame(values, index=index, columns=columns)
        return frame if show == "shown" else frame.astype(float)

    def _long(
        self, query: sa.Select[Any], names: Sequence[str], order: Sequence[str]
    ) -> pd.DataFrame:
        """Rows of the study's runs that begin with a run's key, with what the run is."""
        runs = self.study.runs
        with self.study.reader.read() as connection:
            rows = connection.execute(query, {"keys": [run.key for run in runs]}).all()
        frame = pd.DataFrame([tuple(row) for row in rows], columns=["place", *names])
        places = {run.key: place for place, run in enumerate(runs)}
        frame["place"] = frame["place"].map(places).astype("int64")
        frame = frame.sort_values(["place", *order], ignore_index=True)
        about = pd.DataFrame([_about(run) for run in runs], columns=[*_RUN])
        about = about.take(frame.pop("place").to_numpy()).reset_index(drop=True)
        return pd.concat([about, frame.astype({"epoch": "int64"})], axis=1)


_CELL = ("model", "dataset", "method")
_CHOSEN = (
    "learning_rate", "hyperparameters", "epochs", "runs", "seeds", "seeds_expected", "n",
    "expected", "edge", "diverged",
)  # fmt: skip
_RUN = (
    "run_id", "model", "dataset", "method", "learning_rate", "hyperparameters", "seed", "variant",
    "state",
)  # fmt: skip
_METRIC = ("split", "group", "metric", "value", "correct", "n")
_EPOCH = ("epoch", "train_loss", "train_accuracy", "learning_rate", "seconds")


def _about(run: RunBrief) -> dict[str, Any]:
    return {name: run.id if name == "run_id" else getattr(run, name) for name in _RUN}


def _frame(
    rows: list[dict[str, Any]], columns: Sequence[str], numbers: Iterable[str]
) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*columns])
    return frame.astype(dict.fromkeys(numbers, float))


def _shown(entry: Entry, show: Show) -> float | str | None:
    if show in ("value", "ci90"):
        return cast("float | None", getattr(entry.cell, show))
    return entry.delta if show == "delta" else entry.shown
