"""The numbers behind figures, read from a study: what is drawn, without how.

Figures in files and the page's small pictures both draw these. Accuracies are in percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports import study as studies
from reports.figures.style import percent_limits
from reports.select import SELECTION_SPLIT, Cell, Key
from reports.study import RatePoint, Study

OOD_SPLIT = "ood"
SHOWN = (SELECTION_SPLIT, OOD_SPLIT)
Line = tuple[tuple[int, float], ...]
"""(epoch, value)."""


@dataclass(frozen=True)
class RatePanel:
    """One cell's accuracy against the learning rate."""

    cell: Cell
    lines: Mapping[str, Mapping[str, tuple[RatePoint, ...]]]
    """By split, then by tuned hyperparameters (canonical JSON): the rates that have a value."""
    tried: tuple[float, ...]
    """Every rate that was asked for, with a value or without."""

    @property
    def points(self) -> list[tuple[RatePoint, float]]:
        """Every point in it, with its value."""
        return [
            (point, point.mean)
            for split in self.lines.values()
            for line in split.values()
            for point in line
            if point.mean is not None
        ]

    @property
    def values(self) -> list[float]:
        """Every number in it, the ends of whiskers too."""
        return [m + end for p, m in self.points for end in (-(p.ci90 or 0.0), p.ci90 or 0.0)]


@dataclass(frozen=True)
class Curve:
    """One run, epoch by epoch, from the first on; those without a finite number are left out."""

    run_id: str
    seed: int
    chosen_epoch: int
    accuracy: Mapping[str, Line]
    """In percent, by split."""
    loss: Line
    """Mean training loss."""


@dataclass(frozen=True)
class CurvePanel:
    """The runs that stand for a cell."""

    cell: Cell
    curves: tuple[Curve, ...]

    @property
    def values(self) -> list[float]:
        """Every accuracy in it."""
        return [v for curve in self.curves for line in curve.accuracy.values() for _, v in line]

    @property
    def losses(self) -> list[float]:
        """Every training loss in it."""
        return [v for curve in self.curves for _, v in curve.loss]


def rate_panels(study: Study) -> dict[Key, RatePanel]:
    """Every cell of the study, those without a number too."""
    by_split = {split: study.rates(split) for split in SHOWN}
    return {
        key: RatePanel(
            cell,
            {split: _by_hyperparameters(found[key]) for split, found in by_split.items()},
            tuple(sorted({run.learning_rate for run in study.members[key]})),
        )
        for key, cell in study.cells(SELECTION_SPLIT).items()
    }


def shared_limits(panels: Mapping[Key, RatePanel | CurvePanel]) -> dict[str, tuple[float, float]]:
    """One y axis a dataset, so that the methods of a model can be compared."""
    values: dict[str, list[float]] = {}
    for key, panel in panels.items():
        values.setdefault(key[1], []).extend(panel.values)
    return {dataset: percent_limits(found) for dataset, found in values.items() if found}


def _by_hyperparameters(points: Sequence[RatePoint]) -> dict[str, tuple[RatePoint, ...]]:
    """The points that have a value, in lines from the smallest rate to the largest."""
    lines: dict[str, list[RatePoint]] = {}
    for point in sorted(points, key=lambda p: (p.hyperparameters, p.learning_rate)):
        if point.mean is not None:
            lines.setdefault(point.hyperparameters, []).append(point)
    return {tuned: tuple(line) for tuned, line in lines.items()}


def curve_panels(study: Study) -> dict[Key, CurvePanel]:
    """Every cell of the study with the histories of the runs that stand for it."""
    cells = study.cells(SELECTION_SPLIT)
    briefs = {run.id: run for run in study.runs}
    keys = [briefs[run_id].key for cell in cells.values() for run_id in cell.runs]
    histories = study.curves(keys, SHOWN)
    return {
        key: CurvePanel(
            cell,
            tuple(
                _curve(run_id, briefs[run_id].seed, epoch, histories[briefs[run_id].key])
                for run_id, epoch in zip(cell.runs, cell.epochs, strict=True)
            ),
        )
        for key, cell in cells.items()
    }


def _curve(run_id: str, seed: int, chosen: int, history: Sequence[studies.Point]) -> Curve:
    accuracy = {
        split: tuple((e, values[split]) for e, values, _ in history if e > 0 and split in values)
        for split in SHOWN
    }
    return Curve(
        run_id,
        seed,
        chosen,
        {split: line for split, line in accuracy.items() if line},
        tuple((e, loss) for e, _, loss in history if loss is not None and math.isfinite(loss)),
    )
