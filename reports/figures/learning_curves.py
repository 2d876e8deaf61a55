"""`curves`: the learning curves of the runs that stand for each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from db.errors import ReportError
from reports.figures.learning_rate import SERIES
from reports.figures.notes import note
from reports.figures.series import CurvePanel, curve_panels, shared_limits
from reports.figures.sheets import BY_RULE, Layout, Sheet, sheets, silent
from reports.figures.style import (
    LOSS,
    MUTED,
    ROUND,
    PercentLocator,
    spell_rate,
    styled,
)  # fmt: skip
from reports.select import Key
from reports.study import Study
from reports.tables import Labels

HEIGHT, LOSS_HEIGHT, APART = 1.42, 0.42, 0.07
"""Inches of a panel, of the loss at its foot, and between."""


def draw(study: Study, labels: Labels) -> list[Figure]:
    """A page a model; raises `ReportError` where no cell has a chosen rate."""
    panels = curve_panels(study)
    if not any(panel.values for panel in panels.values()):
        reason = next((panel.cell.reason for panel in panels.values() if panel.cell.reason), "")
        raise ReportError(
            "no cell has a chosen rate yet, so there is no curve to draw"
            + (f": {reason}" if len(panels) == 1 and reason else "")
            + "."
        )
    with styled():
        return [_page(sheet, panels, study) for sheet in sheets(panels, labels)]


def _page(sheet: Sheet, panels: Mapping[Key, CurvePanel], study: Study) -> Figure:
    own = {key: panels[key] for key in sheet.places}
    subtitle = f"Learning curves at the chosen rate{BY_RULE[study.rule]}"
    layout = Layout(sheet, subtitle, HEIGHT, _legend([*own.values()]))
    limits = shared_limits(own)
    losses: dict[str, list[float]] = {}
    for key, panel in own.items():
        losses.setdefault(key[1], []).extend(panel.losses)
    for key, panel in own.items():
        upper = layout.axes(key, LOSS_HEIGHT + APART)
        layout.head(upper, key)
        if not panel.values:
            silent(upper, panel.cell)
            continue
        lower = layout.axes(key, 0.0, LOSS_HEIGHT)
        last = max(e for c in panel.curves for line in c.accuracy.values() for e, _ in line)
        for axes in (upper, lower):
            axes.set_xlim(1 - 0.03 * last, 1.03 * last)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
        upper.tick_params(labelbottom=False)
        _accuracy(upper, panel, limits[key[1]])
        _loss(lower, panel, max(losses[key[1]], default=1.0))
    layout.name_x("epoch")
    layout.name_y("loss", 0.0, LOSS_HEIGHT)
    layout.name_y("accuracy (%)", LOSS_HEIGHT + APART)
    return layout.figure


def _accuracy(axes: Axes, panel: CurvePanel, limits: tuple[float, float]) -> None:
    axes.set_ylim(*limits)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(PercentLocator(4))
    thin = len(panel.curves) > 1
    for curve in panel.curves:
        for split, line in curve.accuracy.items():
            series = SERIES[split]
            axes.plot(
                [epoch for epoch, _ in line], [value for _, value in line], series.line,
                color=series.colour, linewidth=0.8 if thin else 1.1, label=series.label,
            )  # fmt: skip
            at = dict(line)
            if curve.chosen_epoch in at:
                axes.plot(
                    [curve.chosen_epoch], [at[curve.chosen_epoch]], series.marker,
                    color=series.colour, markerfacecolor=series.face, markersize=4,
                    markeredgewidth=1.0, zorder=3, gid="chosen",
                )  # fmt: skip
    cell = panel.cell
    said = "" if cell.learning_rate is None else f"lr {spell_rate(cell.learning_rate)}"
    said += f", {len(panel.curves)} seeds" if thin else ""
    note(axes, said + (", diverged" if cell.diverged else ""))


def _loss(axes: Axes, panel: CurvePanel, top: float) -> None:
    axes.set_ylim(-0.06 * top, 1.1 * top)
    axes.yaxis.set_major_locator(MaxNLocator(2, steps=ROUND))
    axes.yaxis.set_major_formatter("{x:g}")
    for curve in panel.curves:
        axes.plot(
            [epoch for epoch, _ in curve.loss], [loss for _, loss in curve.loss], LOSS.line,
            color=LOSS.colour, linewidth=0.8 if len(panel.curves) > 1 else 1.1, label=LOSS.label,
        )  # fmt: skip


def _legend(panels: Sequence[CurvePanel]) -> list[Artist]:
    """What occurs on the page."""
    splits = {split for panel in panels for curve in panel.curves for split in curve.accuracy}
    shown: list[Artist] = [
        Line2D([], [], color=series.colour, linestyle=series.line, label=series.label)
        for split, series in SERIES.items()
        if split in splits
    ]
    shown += [
        Line2D(
            [], [], linestyle="", color=series.colour, marker=series.marker,
            markerfacecolor=series.face, label=f"{series.label}, chosen epoch",
        )
        for split, series in SERIES.items()
        if split in splits
    ]  # fmt: skip
    shown.append(Line2D([], [], color=MUTED, linestyle=LOSS.line, label=LOSS.label))
    return shown
