"""`learning-rate`: the accuracy of a cell against its learning rate, ID and OOD."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from db.errors import ReportError
from reports.figures.notes import note
from reports.figures.series import OOD_SPLIT, SHOWN, RatePanel, rate_panels, shared_limits
from reports.figures.sheets import BY_RULE, Layout, Sheet, sheets, silent
from reports.figures.style import (
    FAINT,
    ID,
    INK,
    MUTED,
    OOD,
    PercentLocator,
    Series,
    rate_axis,
    styled,
)  # fmt: skip
from reports.select import SELECTION_SPLIT, Key
from reports.study import RatePoint, Study
from reports.tables import Labels

SERIES: Mapping[str, Series] = {SELECTION_SPLIT: ID, OOD_SPLIT: OOD}
HEIGHT = 1.05
EDGES = {"low": "<", "high": ">"}
"""Markers that point where a better rate may lie."""
BESIDE = {"low": 1 / 1.5, "high": 1.5}
"""Times the chosen rate: where they stand."""


def draw(study: Study, labels: Labels) -> list[Figure]:
    """A page a model; raises `ReportError` where no run has a number."""
    panels = rate_panels(study)
    if not any(panel.points for panel in panels.values()):
        raise ReportError("no run has an accuracy yet, so there is nothing to draw.")
    with styled():
        return [_page(sheet, panels, study) for sheet in sheets(panels, labels)]


def _page(sheet: Sheet, panels: Mapping[Key, RatePanel], study: Study) -> Figure:
    own = {key: panels[key] for key in sheet.places}
    subtitle = "Accuracy against learning rate, at each run's best epoch by ID validation"
    if study.rule != "id_val":
        subtitle = f"Accuracy against learning rate{BY_RULE[study.rule]}"
    others = {key: _other_metric(study.cells(OOD_SPLIT)[key].metric) for key in sheet.heads}
    layout = Layout(
        sheet, subtitle, HEIGHT, _legend([*own.values()]), second_heads=any(others.values())
    )
    limits = shared_limits(own)
    for key, panel in own.items():
        axes = layout.axes(key)
        layout.head(axes, key, others.get(key, ""))
        if panel.points:
            _panel(axes, panel, limits[key[1]])
        else:
            silent(axes, panel.cell)
    layout.name_x("learning rate")
    layout.name_y("accuracy (%)")
    return layout.figure


def _other_metric(metric: str) -> str:
    """What the OOD number is, where it is no plain accuracy."""
    return "" if metric in ("", "accuracy") else f"OOD: {metric.replace('_', ' ')}"


def _panel(axes: Axes, panel: RatePanel, limits: tuple[float, float]) -> None:
    rate_axis(axes, panel.tried)
    axes.set_ylim(*limits)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(PercentLocator(5))
    cell = panel.cell
    if cell.learning_rate is not None:
        axes.axvline(cell.learning_rate, color=FAINT, linewidth=5, zorder=0)
    for split in SHOWN:
        for tuned, line in panel.lines[split].items():
            stands = cell.learning_rate is None or tuned == cell.hyperparameters
            _line(axes, line, SERIES[split], stands=stands)
    if cell.edge and cell.learning_rate is not None:
        axes.plot(
            [cell.learning_rate * BESIDE[cell.edge]], [0.07], EDGES[cell.edge], color=INK,
            markersize=4, transform=axes.get_xaxis_transform(), gid="edge",
        )  # fmt: skip
    notes = [f"{name} {value:g}" for name, value in json.loads(cell.hyperparameters).items()]
    if cell.partial:
        notes.append(f"{cell.n}/{cell.expected} runs")
    if cell.diverged:
        notes.append("diverged")
    note(axes, ", ".join(notes))


def _line(axes: Axes, points: Sequence[RatePoint], series: Series, *, stands: bool) -> None:
    """One split over the rates; lines of hyperparameters that were not chosen are thin."""
    rates = [p.learning_rate for p in points]
    means = [p.mean or 0.0 for p in points]
    if not stands:
        axes.plot(rates, means, ":", color=series.colour, linewidth=0.7, alpha=0.8)
        return
    plain = [i for i, p in enumerate(points) if _whole(p) and not p.chosen]
    look: dict[str, Any] = {"color": series.colour, "markerfacecolor": series.face, "zorder": 3}
    axes.plot(
        rates, means, series.line, marker=series.marker, markevery=plain, markersize=3.4,
        label=series.label, **look,
    )  # fmt: skip
    for point, mean in zip(points, means, strict=True):
        if point.chosen:
            mark = series.marker if _whole(point) else "x"
            axes.plot([point.learning_rate], [mean], mark, markersize=5.4, gid="chosen", **look)
    lacking = [(p.learning_rate, p.mean or 0.0) for p in points if not _whole(p) and not p.chosen]
    if lacking:
        axes.plot(*zip(*lacking, strict=True), "x", markersize=3.4, **look)
    spread = [p for p in points if p.ci90 is not None]
    if spread:
        axes.errorbar(
            [p.learning_rate for p in spread], [p.mean or 0.0 for p in spread],
            [p.ci90 or 0.0 for p in spread], fmt="none", ecolor=series.colour,
            elinewidth=0.8, capsize=1.8, capthick=0.8,
        )  # fmt: skip


def _whole(point: RatePoint) -> bool:
    """Whether every seed that was asked for has a value."""
    return point.seeds >= point.seeds_expected


def _legend(panels: Sequence[RatePanel]) -> list[Artist]:
    """What occurs on the page."""
    points = [point for panel in panels for point, _ in panel.points]
    shown: list[Artist] = [
        Line2D(
            [], [], color=series.colour, linestyle=series.line, marker=series.marker,
            markerfacecolor=series.face, label=series.label + (" ± 90%" if spread else ""),
        )
        for split, series in SERIES.items()
        for spread in [any(point.ci90 is not None for point in points)]
        if any(panel.lines[split] for panel in panels)
    ]  # fmt: skip
    if any(point.chosen for point in points):
        shown.append(Line2D([], [], color=FAINT, linewidth=5, label="chosen rate"))
    for edge, word in (("low", "lowest"), ("high", "highest")):
        if any(panel.cell.edge == edge for panel in panels):
            shown.append(
                Line2D(
                    [], [], linestyle="", marker=EDGES[edge], color=INK, markersize=4,
                    label=f"{word} rate tried",
                )
            )  # fmt: skip
    if not all(map(_whole, points)):
        shown.append(
            Line2D([], [], linestyle="", marker="x", color=MUTED, label="seeds are missing")
        )
    if any(len(panel.lines[SELECTION_SPLIT]) > 1 for panel in panels):
        shown.append(
            Line2D([], [], linestyle=":", linewidth=0.7, color=MUTED, label="other hyperparameters")
        )
    return shown
