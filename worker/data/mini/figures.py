"""Pictures of the classes' things, as short drawings: a plane, a wolf, a port seen from above.

A drawing is a list of parts, `<role> [*]<kind> <numbers>`, separated by semicolons and painted in
that order. Coordinates are in [-1, 1], x to the right and y down; `*` adds the part's mirror image
in x. Roles: m main colour, a accent, d dark, l light. Kinds:

    o x y rx ry [degrees]     ellipse
    b x0 y0 x1 y1             box
    p x y x y x y …           polygon
    s r x y x y …             stroke of half width r
    r x y radius halfwidth    ring
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

REACH = 1.3
"""Templates cover [-REACH, REACH]: a little more than a drawing, so that outlines fade outside."""


@dataclass(frozen=True)
class Figure:
    """A drawing and the colours of its main and accent parts."""

    main: str
    accent: str
    parts: str


def _read(name: str) -> dict[str, Figure]:
    """The drawings of one file: a line with name and colours, then indented lines of parts."""
    heads: dict[str, list[str]] = {}
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith(" "):
            heads[next(reversed(heads))].append(line.strip())
        elif not line.startswith("#"):
            title, main, accent = line.split()
            heads[title] = [main, accent]
    return {
        title: Figure(main, accent, ";".join(parts))
        for title, (main, accent, *parts) in heads.items()
    }


THINGS = _read("things.txt")
"""Seen from the side or the front: DomainNet's forty, Living-17's superclasses, CIFAR's ten."""

PLACES = _read("places.txt")
"""Seen from above: FMoW's categories, in the order of their labels."""


# --- templates: the signed distances of a drawing's layers on a grid -----------------------------


@dataclass(frozen=True)
class Template:
    """Distances of a figure's layers on a square grid, painted one over another."""

    roles: str
    """One letter a layer: m, a, d or l."""
    distances: Floats
    """(layers, points, points), negative inside, in units of the figure's radius."""


@lru_cache(maxsize=256)
def template(parts: str, points: int) -> Template:
    """The layers of a drawing: parts of one role in a row are one layer."""
    line = np.linspace(-REACH, REACH, points, dtype=np.float32)
    x, y = line[None, :], line[:, None]
    roles = ""
    distances: list[Floats] = []
    for part in parts.split(";"):
        what, kind, *words = part.split()
        mirrored = kind.startswith("*")
        kind, numbers = kind.lstrip("*"), [float(word) for word in words]
        distance = _distance(kind, numbers, x, y)
        if mirrored:
            distance = np.minimum(distance, _distance(kind, numbers, -x, y))
        if roles.endswith(what):
            distances[-1] = np.minimum(distances[-1], distance)
        else:
            roles += what
            distances.append(distance)
    return Template(roles, np.stack(distances).astype(np.float32))


def _distance(kind: str, numbers: list[float], x: Floats, y: Floats) -> Floats:
    """Signed distance to one part."""
    if kind == "o":
        return _ellipse(x, y, *numbers)
    if kind == "r":
        cx, cy, radius, width = numbers
        ring: Floats = np.abs(np.hypot(x - cx, y - cy) - radius) - width
        return ring
    if kind == "b":
        x0, y0, x1, y1 = numbers
        outside = np.maximum(np.abs(x - (x0 + x1) / 2) - abs(x1 - x0) / 2, -4)
        box: Floats = np.maximum(outside, np.abs(y - (y0 + y1) / 2) - abs(y1 - y0) / 2)
        return box
    if kind == "s":
        points = list(zip(numbers[1::2], numbers[2::2], strict=True))
        lines = [_segment(x, y, start, end) for start, end in pairwise(points)]
        stroke: Floats = np.minimum.reduce(lines) - numbers[0]
        return stroke
    if kind == "p":
        return _polygon(x, y, list(zip(numbers[::2], numbers[1::2], strict=True)))
    raise ValueError(f"no kind of part is called {kind!r}")


def _ellipse(
    x: Floats, y: Floats, cx: float, cy: float, rx: float, ry: float, degrees: float = 0
) -> Floats:
    """Approximate distance to an ellipse, good near the outline."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    u, v = (x - cx) * cos + (y - cy) * sin, (y - cy) * cos - (x - cx) * sin
    distance: Floats = (np.hypot(u / rx, v / ry) - 1) * min(rx, ry)
    return distance


def _segment(x: Floats, y: Floats, start: tuple[float, float], end: tuple[float, float]) -> Floats:
    """Distance to a segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    distance: Floats = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    return distance


def _polygon(x: Floats, y: Floats, corners: list[tuple[float, float]]) -> Floats:
    """Distance to the edges, negative where a ray to the right crosses an odd number of them."""
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
    distance = np.minimum.reduce([_segment(x, y, a, b) for a, b in edges])
    inside = np.zeros(distance.shape, dtype=bool)
    for (ax, ay), (bx, by) in edges:
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    signed: Floats = np.where(inside, -distance, distance)
    return signed
