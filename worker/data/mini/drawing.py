"""Rendering figures in several styles: a photograph, a sketch, a painting, clip art, from above.

As in `worker.data.shapes`, everything random is a number from the caller's generator, and only
numpy in float32 is used. Pictures of one chunk are drawn figure by figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.data.mini.figures import REACH, Figure, Floats, template
from worker.data.shapes import Images, Ints

PHOTO, SKETCH, PAINTING, CLIPART, AERIAL = "photo", "sketch", "painting", "clipart", "aerial"

COLOUR: dict[str, tuple[float, float, float]] = {
    "black": (0.10, 0.09, 0.10),
    "grey": (0.42, 0.42, 0.44),
    "silver": (0.72, 0.74, 0.76),
    "white": (0.95, 0.95, 0.93),
    "red": (0.82, 0.14, 0.13),
    "rust": (0.62, 0.30, 0.20),
    "orange": (0.94, 0.52, 0.12),
    "brown": (0.45, 0.28, 0.15),
    "tan": (0.78, 0.62, 0.42),
    "sand": (0.90, 0.82, 0.60),
    "yellow": (0.96, 0.85, 0.18),
    "lime": (0.55, 0.78, 0.22),
    "green": (0.20, 0.52, 0.20),
    "olive": (0.38, 0.40, 0.20),
    "teal": (0.15, 0.55, 0.55),
    "cyan": (0.30, 0.80, 0.90),
    "blue": (0.16, 0.38, 0.78),
    "navy": (0.12, 0.17, 0.38),
    "purple": (0.50, 0.22, 0.62),
    "pink": (0.95, 0.60, 0.68),
}

GROUNDS: dict[str, tuple[str, str, bool]] = {
    "meadow": ("cyan", "green", True),
    "forest": ("olive", "green", False),
    "desert": ("cyan", "sand", True),
    "sea": ("silver", "blue", True),
    "snow": ("silver", "white", True),
    "room": ("sand", "brown", True),
    "street": ("silver", "grey", True),
    "rock": ("grey", "tan", False),
    "sky": ("blue", "cyan", False),
}
"""Colours above and below, and whether a horizon parts them."""

TEXTURES = ("plain", "stripes", "spots", "patches")

_CHUNK_PIXELS = 256 * 32 * 32
"""Pixels drawn together; float arrays of that many stay near the cache."""

_LEAN = np.float32(0.2)
"""Largest rotation to either side, in radians."""

_SCALE = (0.80, 0.94)
"""Smallest and largest half side of a drawing, in half pictures: tiny models find large things."""


@dataclass(frozen=True)
class Coats:
    """What each picture shows beside its figure's outline; arrays over the pictures."""

    main: Floats
    """(N, 3) colour of the main parts."""
    accent: Floats
    """(N, 3)."""
    texture: Ints
    """Indices into `TEXTURES`."""
    aspect: Floats
    """Width of the drawing over its height."""
    ground: Ints
    """Indices into `GROUNDS`; not used by sketches, clip art and aerial pictures."""

    def take(self, rows: Ints) -> Coats:
        """The coats of some of the pictures."""
        return Coats(*(values[rows] for values in vars(self).values()))


@dataclass(frozen=True)
class Terrain:
    """What an aerial picture shows beside its place; arrays over the pictures."""

    low: Floats
    """(N, 3) dark end of the ground's palette."""
    high: Floats
    shadow: Ints
    """(N, 2) shadow's offset to the right and down, in 32nds of the picture."""
    roof: Floats
    """(N, 3) factor on the main colours: what is built of."""

    def take(self, rows: Ints) -> Terrain:
        """The terrain of some of the pictures."""
        return Terrain(*(values[rows] for values in vars(self).values()))


def coats(
    which: Ints, figures: Sequence[Figure], rng: np.random.Generator, grounds: Sequence[str] = ()
) -> Coats:
    """Every figure in its own colours, no texture, on one of all grounds or of `grounds`."""
    count = len(which)
    names = list(GROUNDS)
    choices = np.array([names.index(name) for name in grounds or names])
    return Coats(
        main=rgb([figure.main for figure in figures])[which],
        accent=rgb([figure.accent for figure in figures])[which],
        texture=np.zeros(count, dtype=np.int64),
        aspect=rng.uniform(0.92, 1.08, count).astype(np.float32),
        ground=choices[rng.integers(0, len(choices), count)],
    )


def rgb(names: Sequence[str]) -> Floats:
    """Colours by name, `(len(names), 3)`."""
    return np.array([COLOUR[name] for name in names], dtype=np.float32)


def stream(
    count: int, size: int, draw: Callable[[Ints, int, int], Images], photographs: bool = False
) -> Iterator[NDArray[np.uint8]]:
    """Pictures 0, 1, … one by one, drawn in chunks by `draw(rows, height, width)`.

    `photographs` are not square, as real ones: from 64 pixels on, every other one is a quarter
    wider than high.
    """
    step = max(2, _CHUNK_PIXELS // size**2)
    for start in range(0, count, step):
        rows = np.arange(start, min(start + step, count))
        if not photographs or size < 64:
            yield from draw(rows, size, size)
            continue
        square = iter(draw(rows[rows % 2 == 0], size, size))
        wide = iter(draw(rows[rows % 2 == 1], size, size * 5 // 4))
        for row in rows:
            yield next(wide if row % 2 else square)


def paint(
    which: Ints,
    figures: Sequence[Figure],
    style: str,
    coat: Coats,
    rng: np.random.Generator,
    height: int,
    width: int,
    terrain: Terrain | None = None,
) -> Images:
    """Draw N pictures `(N, height, width, 3)` of `figures[which]` in one style."""
    count = len(which)
    images = np.empty((count, height, width, 3), dtype=np.uint8)
    # Columns: centre x, y; scale; lean; mirror; light (2); exposure; tint (3); line; free (4).
    chance = rng.random((count, 16), dtype=np.float32)
    noise = _Noise(
        warp=rng.random((count, 2, 6, 6), dtype=np.float32),
        cloud=rng.random((count, 7, 7), dtype=np.float32),
        fine=rng.random((count, 20, 20), dtype=np.float32),
        grain=rng.integers(0, 256, (count, height, width), dtype=np.uint8),
    )
    for kind in np.unique(which):
        rows = np.flatnonzero(which == kind)
        scene = _Scene(
            figures[kind],
            chance[rows],
            noise.take(rows),
            coat.take(rows),
            _WARP[style],
            height,
            width,
        )
        if style == AERIAL:
            assert terrain is not None
            drawn = _aerial(scene, terrain.take(rows))
        else:
            drawn = _STYLES[style](scene)
        grain = (scene.noise.grain.astype(np.float32) / 127.5 - 1) * _GRAIN[style]
        images[rows] = np.clip((drawn + grain[..., None]) * 255, 0, 255)
    return images


_WARP = {PHOTO: 0.0, SKETCH: 0.05, PAINTING: 0.16, CLIPART: 0.0, AERIAL: 0.03}
"""How far a hand strays from the drawing, in half pictures."""

_GRAIN = {PHOTO: 0.05, SKETCH: 0.04, PAINTING: 0.03, CLIPART: 0.0, AERIAL: 0.05}
"""Noise of a sensor, of paper and of canvas."""


@dataclass(frozen=True)
class _Noise:
    warp: Floats
    cloud: Floats
    fine: Floats
    grain: NDArray[np.uint8]

    def take(self, rows: Ints) -> _Noise:
        return _Noise(*(values[rows] for values in vars(self).values()))


class _Scene:
    """The pictures of one figure: where each pixel lies in the drawing, and the layers there."""

    def __init__(
        self,
        figure: Figure,
        chance: Floats,
        noise: _Noise,
        coat: Coats,
        warp: float,
        height: int,
        width: int,
    ) -> None:
        self.chance, self.noise, self.coat = chance, noise, coat
        self.height, self.width = height, width
        self.u = _line(width)[None, None, :] * np.float32(width / height)
        self.v = _line(height)[None, :, None]
        column = chance[:, :, None, None]
        # Columns of shape (n, 1, 1).
        scale = np.float32(_SCALE[0]) + np.float32(_SCALE[1] - _SCALE[0]) * column[:, 2]
        room = np.float32(0.97) - scale
        x = self.u - (column[:, 0] * 2 - 1) * (room + np.float32(width / height - 1))
        y = self.v - (column[:, 1] * 2 - 1) * room
        if warp:
            strays = smooth(noise.warp.reshape(-1, 6, 6), height, width).reshape(
                len(chance), 2, height, width
            )
            x = x + (strays[:, 0] - np.float32(0.5)) * np.float32(warp)
            y = y + (strays[:, 1] - np.float32(0.5)) * np.float32(warp)
        turn = (column[:, 3] * 2 - 1) * _LEAN
        cos, sin = np.cos(turn), np.sin(turn)
        mirror = np.where(column[:, 4] < 0.5, np.float32(-1), np.float32(1))
        aspect = np.sqrt(coat.aspect)[:, None, None]
        self.x = (x * cos + y * sin) / (scale * aspect) * mirror
        self.y = (y * cos - x * sin) / scale * aspect

        shape = template(figure.parts, 64 if height < 64 else 192)
        self.roles = shape.roles
        pixels = scale * np.float32(height / 2)
        self.distances = [d * pixels for d in _sample(shape.distances, self.x, self.y)]
        """Distances to each layer's outline, in pixels."""
        self.coverages = [np.clip(np.float32(0.5) - d, 0, 1) for d in self.distances]
        self.whole = np.maximum.reduce(self.coverages)
        """Coverage of the whole figure."""

    def pattern(self) -> Floats:
        """Brightness of the main parts, in [0, 1], by each picture's texture."""
        drawn: Floats = np.ones((len(self.x), self.height, self.width), dtype=np.float32)
        for kind in np.unique(self.coat.texture):
            rows = self.coat.texture == kind
            x, y = self.x[rows] * np.float32(9), self.y[rows] * np.float32(9)
            if TEXTURES[kind] == "stripes":
                wave = np.sin(x + y * np.float32(0.4))
            elif TEXTURES[kind] == "spots":
                wave = np.cos(x) * np.cos(y) * np.float32(2) + np.float32(0.4)
            elif TEXTURES[kind] == "patches":
                cloud = smooth(self.noise.cloud[rows], self.height, self.width)
                wave = (cloud - np.float32(0.45)) * np.float32(12)
            else:
                continue
            drawn[rows] = np.clip(wave * np.float32(1.5) + np.float32(0.5), 0, 1)
        return drawn

    def colour(self, role: str) -> Floats:
        """Colour of one role, (n, 1, 1, 3)."""
        if role == "m":
            plain = self.coat.main
        elif role == "a":
            plain = self.coat.accent
        else:
            plain = rgb(["black" if role == "d" else "white"])
        # Black and white have shades, but no hue.
        tint = self.chance[:, 8:11] if role in "ma" else self.chance[:, 8:9]
        tint = (tint - np.float32(0.5)) * np.float32(0.14)
        tinted: Floats = np.clip(plain + tint, 0, 1)[:, None, None, :]
        return tinted


def smooth(values: Floats, height: int, width: int) -> Floats:
    """Random grids `(n, a, b)` as smooth fields `(n, height, width)`."""
    rows, columns = _weights(values.shape[1], height), _weights(values.shape[2], width)
    field: Floats = np.matmul(np.matmul(rows, values), columns.T)
    return field


def _weights(points: int, size: int) -> Floats:
    """Smoothstep interpolation of `points` values to `size` pixels, (size, points)."""
    place = (np.arange(size) + 0.5) / size * (points - 1)
    left = np.minimum(place.astype(np.int64), points - 2)
    ramp = place - left
    part = ramp * ramp * (3 - 2 * ramp)
    weights = np.zeros((size, points), dtype=np.float32)
    weights[np.arange(size), left] = 1 - part
    weights[np.arange(size), left + 1] = part
    return weights


def _line(size: int) -> Floats:
    """Pixel centres in [-1, 1]."""
    return ((np.arange(size, dtype=np.float32) + np.float32(0.5)) / size * 2 - 1).astype(np.float32)


def _sample(layers: Floats, x: Floats, y: Floats) -> list[Floats]:
    """Each layer of a template at points, between its grid's by bilinear interpolation."""
    points = layers.shape[1]
    limit = np.float32(points - 1.001)
    column = np.clip((x + np.float32(REACH)) * np.float32((points - 1) / (2 * REACH)), 0, limit)
    row = np.clip((y + np.float32(REACH)) * np.float32((points - 1) / (2 * REACH)), 0, limit)
    left, top = column.astype(np.int32), row.astype(np.int32)
    right, down = column - left, row - top
    index = top * points + left
    sampled = []
    for layer in layers.reshape(len(layers), -1):
        above = layer[index] * (1 - right) + layer[index + 1] * right
        below = layer[index + points] * (1 - right) + layer[index + points + 1] * right
        sampled.append((above + (below - above) * down).astype(np.float32, copy=False))
    return sampled


def _over(canvas: Floats, coverage: Floats, colour: Floats) -> None:
    """Paint one layer on the canvas, in place."""
    canvas += coverage[..., None] * (colour - canvas)


# --- styles: pictures (n, height, width, 3) in [0, 1] --------------------------------------------


def _backdrop(scene: _Scene) -> Floats:
    """The picture's ground: two colours with clouds of light, parted by a horizon or blended."""
    names = list(GROUNDS.values())
    ground = scene.coat.ground
    above = rgb([names[g][0] for g in ground])[:, None, None, :]
    below = rgb([names[g][1] for g in ground])[:, None, None, :]
    horizon = np.array([names[g][2] for g in ground])[:, None, None]
    level = scene.chance[:, 12, None, None] * np.float32(0.6) - np.float32(0.2)
    cloud = smooth(scene.noise.cloud, scene.height, scene.width)
    fine = smooth(scene.noise.fine, scene.height, scene.width)
    sharp = np.clip((scene.v - level) * np.float32(scene.height / 4) + np.float32(0.5), 0, 1)
    blend = np.clip(cloud * np.float32(1.6) - np.float32(0.3), 0, 1)
    part = np.where(horizon, sharp, blend)[..., None]
    light = np.float32(0.82) + np.float32(0.2) * cloud + np.float32(0.2) * (fine - np.float32(0.5))
    backdrop: Floats = (above + (below - above) * part) * light[..., None]
    return backdrop


def _photo(scene: _Scene) -> Floats:
    """Shaded colours on a ground, in the light of the day."""
    canvas = _backdrop(scene)
    fall = (scene.chance[:, 5, None, None] * 2 - 1) * scene.x + scene.y
    light = np.float32(1.02) - np.float32(0.2) * fall
    texture = np.float32(0.4) + np.float32(0.6) * scene.pattern()
    for role, coverage in zip(scene.roles, scene.coverages, strict=True):
        shade = light * texture if role == "m" else light
        _over(canvas, coverage, scene.colour(role) * shade[..., None])
    exposure = np.float32(0.8) + np.float32(0.35) * scene.chance[:, 7]
    canvas *= exposure[:, None, None, None]
    return canvas


def _sketch(scene: _Scene) -> Floats:
    """Pencil: outlines of every layer, hatching of any strength, no colour at all."""
    half = (
        np.float32(0.35 + scene.height / 130) + np.float32(0.25) * scene.chance[:, 11, None, None]
    )
    slant = np.where(scene.chance[:, 12, None, None] < 0.5, np.float32(-1), np.float32(1))
    period = np.float32(2 * np.pi / 0.22)
    hatch = np.sin((scene.u + slant * scene.v) * period) * np.float32(0.5) + np.float32(0.5)
    strength = scene.chance[:, 13, None, None]
    accent = scene.chance[:, 14, None, None] * np.float32(0.6)
    blank = np.zeros_like(strength)
    ink = np.zeros_like(scene.x)
    for role, distance, coverage in zip(scene.roles, scene.distances, scene.coverages, strict=True):
        tone = {"m": strength, "a": accent, "l": blank, "d": blank + np.float32(0.9)}[role]
        fill = tone * (np.float32(0.45) + np.float32(0.4) * hatch)
        line = np.clip(np.float32(0.5) + half - np.abs(distance), 0, 1)
        ink = np.maximum(ink + coverage * (fill - ink), line)
    cloud = smooth(scene.noise.cloud, scene.height, scene.width)
    white = np.float32(0.62) + np.float32(0.26) * np.sqrt(scene.chance[:, 15, None, None])
    paper = white + np.float32(0.12) * cloud
    pencil = np.float32(0.65) + np.float32(0.3) * scene.chance[:, 7, None, None]
    return np.repeat((paper * (1 - ink * pencil))[..., None], 3, axis=-1)


def _painting(scene: _Scene) -> Floats:
    """Oil: strayed outlines, few tones, colours of a palette, strokes of a brush everywhere."""
    count = len(scene.x)
    angle = scene.chance[:, 11, None, None] * np.float32(np.pi)
    along = scene.u * np.cos(angle) + scene.v * np.sin(angle)
    bend = smooth(scene.noise.cloud, scene.height, scene.width) * np.float32(7)
    fine = smooth(scene.noise.fine, scene.height, scene.width)
    brush = np.sin(along * np.float32(16) + bend) * np.float32(0.09) + (fine - 0.5) * np.float32(
        0.25
    )
    canvas = _backdrop(scene)
    canvas += (rgb(["purple"]) - rgb(["tan"]))[0] * (
        (bend / 7 - np.float32(0.5))[..., None] * np.float32(1.2)
    )
    tones = np.round((np.float32(1.05) - np.float32(0.35) * scene.y) * 3) / 3
    for role, coverage in zip(scene.roles, scene.coverages, strict=True):
        _over(canvas, coverage, scene.colour(role) * tones[..., None])
    canvas *= (1 + brush * 2)[..., None]
    palette = scene.chance[:, 13:16].reshape(count, 1, 1, 3) * np.float32(0.5) + np.float32(0.5)
    return canvas * palette * np.float32(1.15)


def _clipart(scene: _Scene) -> Floats:
    """Flat colours and a black outline on white or one pale colour."""
    pale = np.float32(1) - scene.chance[:, 13:16] * np.float32(0.35)
    pale = np.where(scene.chance[:, 12:13] < 0.5, np.float32(1), pale)
    canvas = np.broadcast_to(pale[:, None, None, :], (*scene.x.shape, 3)).copy()
    half = np.float32(scene.height / 32 * 0.45 + 0.15)
    black = np.full(3, 0.05, dtype=np.float32)
    for role, distance, coverage in zip(scene.roles, scene.distances, scene.coverages, strict=True):
        colour = scene.colour(role)
        grey = colour.mean(axis=-1, keepdims=True)
        _over(canvas, coverage, np.clip(grey + (colour - grey) * np.float32(1.5), 0, 1))
        if role in "ma":
            _over(canvas, np.clip(np.float32(0.5) + half - np.abs(distance), 0, 1), black)
    outline = np.abs(np.minimum.reduce(scene.distances))
    _over(canvas, np.clip(np.float32(0.5) + half - outline, 0, 1), black)
    return canvas


def _aerial(scene: _Scene, terrain: Terrain) -> Floats:
    """A place from above: roofs and roads on the region's ground, with a shadow."""
    cloud = smooth(scene.noise.cloud, scene.height, scene.width)
    fine = smooth(scene.noise.fine, scene.height, scene.width)
    part = np.clip(cloud * np.float32(1.3) - np.float32(0.3) + (fine - 0.5) * np.float32(0.6), 0, 1)
    low, high = terrain.low[:, None, None, :], terrain.high[:, None, None, :]
    canvas: Floats = low + (high - low) * part[..., None]
    for row, (right, down) in enumerate(terrain.shadow):
        shift = (round(int(down) * scene.height / 32), round(int(right) * scene.width / 32))
        shadow = np.roll(scene.whole[row], shift, axis=(0, 1))
        canvas[row] *= (1 - np.float32(0.45) * shadow)[..., None]
    for role, coverage in zip(scene.roles, scene.coverages, strict=True):
        colour = scene.colour(role)
        if role == "m":
            colour = colour * terrain.roof[:, None, None, :]
        if role == "d":
            colour = colour + np.float32(0.12)  # asphalt and deep shade, not ink
        _over(canvas, coverage, colour * (np.float32(0.85) + np.float32(0.3) * fine)[..., None])
    return canvas


_STYLES: dict[str, Callable[[_Scene], Floats]] = {
    PHOTO: _photo,
    SKETCH: _sketch,
    PAINTING: _painting,
    CLIPART: _clipart,
}
