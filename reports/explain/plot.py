"""Accuracy against learning rate, in characters: for a terminal, and for a pipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH = 78
"""Columns, so that a terminal of 80 does not wrap."""
ROWS = 10
"""About so many between the lowest and the highest label."""
GUTTER = 8
"""Columns of the labels at the left, with the axis."""
_STEPS = (1.0, 2.0, 5.0)
BOTH = "◈"
"""Where two curves meet in one character."""


@dataclass(frozen=True)
class Curve:
    """One split: its mean at each rate, in percent, and whether all of the rate's seeds are in."""

    name: str
    marker: str
    hollow: str
    """In place of the marker, where seeds are missing."""
    line: str
    """What joins the points."""
    colour: str
    """The number of a terminal's colour."""
    points: Mapping[float, tuple[float, bool]]


def draw(
    rates: Sequence[float],
    curves: Sequence[Curve],
    *,
    chosen: float | None = None,
    colour: bool = False,
) -> list[str]:
    """The curves over the logarithm of `rates`, at most `WIDTH` columns wide.

    Empty where no curve has a point. Rates stand where their logarithms are, whether or not they
    have a point; a label that would touch its neighbour is left out.
    """
    values = [value for curve in curves for value, _ in curve.points.values()]
    if not values:
        return []
    step = _step(min(values), max(values))
    low = math.floor(min(values) / step) * step
    steps = max(1, math.ceil((max(values) - low) / step - 1e-9))
    rows = steps * max(2, round(ROWS / steps))
    grid = [[" "] * (WIDTH - GUTTER) for _ in range(rows + 1)]
    columns = _columns(rates, WIDTH - GUTTER)

    def row(value: float) -> int:
        return rows - round((value - low) / (steps * step) * rows)

    def paint(text: str, curve: Curve) -> str:
        return f"\x1b[{curve.colour}m{text}\x1b[0m" if colour else text

    for curve in curves:
        for column, value in _between(curve, columns):
            grid[row(value)][column] = paint(curve.line, curve)
    taken: set[tuple[int, int]] = set()
    for curve in curves:
        for rate, (value, whole) in curve.points.items():
            place = row(value), columns[rate]
            mark = paint(curve.marker if whole else curve.hollow, curve)
            grid[place[0]][place[1]] = BOTH if place in taken else mark
            taken.add(place)
    digits = max(0, -math.floor(math.log10(step)))
    every = rows // steps
    lines = []
    for number, cells in enumerate(grid):
        label = "" if number % every else f"{low + (steps - number // every) * step:.{digits}f}"
        lines.append(f"{label:>{GUTTER - 2}} {'│' if number % every else '┤'}{''.join(cells)}")
    return [*(line.rstrip() for line in lines), *_axis(columns, chosen)]


def _step(low: float, high: float) -> float:
    """The distance of labels: 1, 2 or 5 times a power of ten, for three to six of them."""
    span = max(high - low, 0.5)
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next((s * power for s in _STEPS if span / (s * power) <= 5), 10 * power)


def _columns(rates: Sequence[float], width: int) -> dict[float, int]:
    """Where each rate stands: its logarithm, from margin to margin."""
    margin = 4
    low, high = math.log(min(rates)), math.log(max(rates))
    if high == low:
        return dict.fromkeys(rates, width // 2)
    scale = (width - 1 - 2 * margin) / (high - low)
    return {rate: margin + round((math.log(rate) - low) * scale) for rate in rates}


def _between(curve: Curve, columns: Mapping[float, int]) -> Iterator[tuple[int, float]]:
    """The columns between neighbouring points, with the value on the line that joins them."""
    known = sorted((columns[rate], value) for rate, (value, _) in curve.points.items())
    for (left, start), (right, end) in pairwise(known):
        for column in range(left + 1, right):
            yield column, start + (end - start) * (column - left) / (right - left)


def _axis(columns: Mapping[float, int], chosen: float | None) -> list[str]:
    """The axis with a tick a rate, the rates under it, and an arrow to the chosen one."""
    width = WIDTH - GUTTER
    line, labels = ["─"] * width, [" "] * width
    for column in columns.values():
        line[column] = "┴"
    written: list[tuple[int, int]] = []
    # The chosen rate's label is written whatever its neighbours are.
    for rate in sorted(columns, key=lambda rate: (rate != chosen, columns[rate])):
        text = f"{rate:g}"
        first = min(max(0, columns[rate] - len(text) // 2), width - len(text))
        end = first + len(text)
        if all(end < start or first > stop for start, stop in written):
            labels[first:end] = text
            written.append((first, end))
    found = [" " * (GUTTER - 1) + "└" + "".join(line), " " * GUTTER + "".join(labels).rstrip()]
    if chosen is not None:
        text, column = "▲ chosen", columns[chosen]
        if column + len(text) > width:
            text, column = "chosen ▲", column - len(text) + 1
        found.append(" " * (GUTTER + column) + text)
    return found
