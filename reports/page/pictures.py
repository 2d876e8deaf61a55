"""Small pictures of a cell, as SVG of a kilobyte: a page has hundreds of them.

Colours, lines and fonts are classes of the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup, escape

from db.records import State
from reports.figures.series import OOD_SPLIT, CurvePanel, RatePanel
from reports.figures.style import spell_rate
from reports.select import SELECTION_SPLIT, Cell

STATES: tuple[State, ...] = (
    "done", "running", "pending", "diverged", "failed", "cancelled", "voided",
)  # fmt: skip
WIDE, HIGH = 220, 130
LEFT, RIGHT, TOP, BOTTOM = 26, 212, 8, 112
LOSS_TOP = 88
"""Where the strip of the training loss begins."""
CLASSES = {SELECTION_SPLIT: "s-id", OOD_SPLIT: "s-ood"}
"""Of lines. Rules must not name ancestors: pictures are used again elsewhere on the page."""
Place = Callable[[float], float]
Limits = tuple[float, float]


def rates(panel: RatePanel, name: str, limits: Limits | None) -> Markup:
    """Accuracy against the learning rate; empty where there is none. `name` is its id."""
    if limits is None or not panel.points:
        return Markup()
    low, high = limits
    x = _scale(math.log(panel.tried[0]), math.log(panel.tried[-1]), LEFT + 12, RIGHT - 12)
    y = _scale(low, high, BOTTOM, TOP)
    parts = [*_frame(y, low, high)]
    cell = panel.cell
    if cell.learning_rate is not None:
        left = x(math.log(cell.learning_rate)) - 4
        parts.append(f'<rect class="s-band" x="{left:.1f}" y="{TOP}" width="8" height="104"/>')
    for split in (OOD_SPLIT, SELECTION_SPLIT):
        for tuned, line in panel.lines[split].items():
            chosen = cell.learning_rate is None or tuned == cell.hyperparameters
            points = [(x(math.log(p.learning_rate)), y(p.mean or 0.0)) for p in line]
            parts.append(_polyline(points, CLASSES[split] + ("" if chosen else " s-other")))
            if not chosen:
                continue
            for point, (across, down) in zip(line, points, strict=True):
                if point.ci90 is not None:
                    ends = [y((point.mean or 0.0) + sign * point.ci90) for sign in (-1, 1)]
                    parts.append(
                        f'<path class="{CLASSES[split]} s-whisker" '
                        f'd="M{across:.1f} {ends[0]:.1f}V{ends[1]:.1f}"/>'
                    )
                parts.append(_marker(split, across, down, large=point.chosen))
    first = cell.learning_rate or panel.tried[0]
    at = x(math.log(first))
    ends = [rate for rate in (panel.tried[0], panel.tried[-1]) if abs(x(math.log(rate)) - at) > 34]
    parts += [_label(x(math.log(rate)), spell_rate(rate)) for rate in sorted({first, *ends})]
    return _svg(parts, name, "Accuracy by learning rate", _told(cell))


def curves(panel: CurvePanel, name: str, limits: Limits | None) -> Markup:
    """Accuracy and, below, training loss by epoch of the chosen runs; empty where none is."""
    if limits is None or not panel.values:
        return Markup()
    low, high = limits
    last = max(epoch for c in panel.curves for line in c.accuracy.values() for epoch, _ in line)
    x = _scale(1, last, LEFT + 6, RIGHT - 6)
    y = _scale(low, high, LOSS_TOP - 8, TOP)
    most = max(panel.losses, default=0.0)
    down = _scale(0.0, most or 1.0, BOTTOM, LOSS_TOP)
    parts = [*_frame(y, low, high)]
    for curve in panel.curves:
        parts.append(_polyline([(x(e), down(loss)) for e, loss in curve.loss], "s-loss"))
        for split in (OOD_SPLIT, SELECTION_SPLIT):
            line = curve.accuracy.get(split, ())
            parts.append(_polyline([(x(e), y(v)) for e, v in line], CLASSES[split]))
            at = dict(line)
            if curve.chosen_epoch in at:
                parts.append(_marker(split, x(curve.chosen_epoch), y(at[curve.chosen_epoch])))
    parts += [_label(x(epoch), str(epoch)) for epoch in sorted({1, last})]
    if most:
        parts.append(f'<text class="s-tick" x="{LEFT - 3}" y="{LOSS_TOP + 5}">{most:.2g}</text>')
        parts.append(f'<text class="s-tick" x="{RIGHT}" y="{LOSS_TOP + 3}">loss</text>')
    return _svg(parts, name, "Accuracy and training loss by epoch", _told(panel.cell))


def _scale(low: float, high: float, start: float, end: float) -> Place:
    """From numbers to pixels; the middle where there is one number alone."""
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _frame(y: Place, low: float, high: float) -> Iterator[str]:
    """Two or three round percentages, each with its line."""
    step = next(s for s in (1, 2, 5, 10, 20, 50) if (high - low) / s <= 4 or s == 50)
    for tick in range(math.ceil(low / step) * step, math.floor(high) + 1, step):
        if 0 <= tick <= 100:
            yield f'<path class="s-grid" d="M{LEFT} {y(tick):.1f}H{RIGHT}"/>'
            yield f'<text class="s-tick" x="{LEFT - 3}" y="{y(tick) + 3:.1f}">{tick}</text>'


def _polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    spelled = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{spelled}"/>' if points else ""


def _marker(split: str, x: float, y: float, *, large: bool = True) -> str:
    size = 3.4 if large else 2.0
    if split == OOD_SPLIT:
        return f'<circle class="s-ood s-dot" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
    return (
        f'<rect class="s-id s-dot" x="{x - size:.1f}" y="{y - size:.1f}" '
        f'width="{2 * size:g}" height="{2 * size:g}"/>'
    )


def _label(x: float, text: str) -> str:
    return f'<text class="s-tick s-x" x="{x:.1f}" y="{BOTTOM + 13}">{escape(text)}</text>'


def _told(cell: Cell) -> str:
    return f"{cell.model}, {cell.dataset}, {cell.method}"


def _svg(parts: Sequence[str], name: str, title: str, about: str) -> Markup:
    return Markup(
        f'<svg class="small" role="img" aria-label="{escape(f"{title}: {about}")}" '
        f'viewBox="0 0 {WIDE} {HIGH}"><g id="{escape(name)}">{"".join(parts)}</g></svg>'
    )
