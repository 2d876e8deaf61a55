"""Generated pictures with known causes: a shape with a texture and a colour, on a ground.

Everything a picture shows is an attribute that the caller sets or a nuisance (position, size,
rotation, shading, noise) that comes from the caller's generator, so a data set can correlate or
separate any two attributes at will. Pictures are drawn analytically, many at a time: one coordinate
grid per picture, a signed distance for its shape, one coverage mask, two layers.

Only numpy is used, in float32. The bits of a picture depend on the seed and, through the
implementation of sin and exp, on numpy's version and the processor.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Images = NDArray[np.uint8]

SHAPES = ("disc", "triangle", "cross", "ring", "landbird", "waterbird")
"""Four abstract shapes, and two silhouettes of birds that look left or right."""

TEXTURES = ("plain", "stripes", "checks", "dots")
"""How the foreground is painted; every texture darkens parts of the one colour."""

COLOURS = ("red", "yellow", "blue", "magenta", "white", "black")
GROUNDS = ("bamboo", "forest", "ocean", "lake")
"""Two grounds of land and two of water, as in Waterbirds."""

UPSTREAM_CLASSES = len(SHAPES) * len(GROUNDS)
"""Classes of the upstream task: every pair of shape and ground."""

_CHUNK = 256
"""Pictures drawn together: their float arrays (1 MB each at 32 x 32) stay in the cache."""

_RADIUS = np.array((0.75, 0.9), dtype=np.float32)
"""Smallest and largest radius, in half pictures: large, because a tiny ViT with 16 patches did
not find small shapes anywhere in the few hundred steps that it gets."""

_LEAN = np.float32(0.2)
"""Largest rotation to either side, in radians (11 degrees): a bird upside down is no bird."""

_COLOUR_RGB = np.array(
    [
        (0.85, 0.15, 0.15),
        (0.95, 0.85, 0.20),
        (0.15, 0.25, 0.90),
        (0.85, 0.20, 0.80),
        (0.95, 0.95, 0.95),
        (0.08, 0.08, 0.08),
    ],
    dtype=np.float32,
)

_GROUND_RGB = np.array(
    [
        [(0.16, 0.36, 0.10), (0.55, 0.70, 0.30)],
        [(0.10, 0.26, 0.10), (0.36, 0.48, 0.20)],
        [(0.05, 0.22, 0.42), (0.45, 0.68, 0.80)],
        [(0.25, 0.45, 0.55), (0.62, 0.74, 0.78)],
    ],
    dtype=np.float32,
)
"""Dark and light end of each ground's palette."""


# --- shapes: signed distance, negative inside, in units of the shape's radius -------------------


def _ellipse(x: Floats, y: Floats, cx: float, cy: float, rx: float, ry: float) -> Floats:
    """Approximate distance to an ellipse: exact for a circle, good near the outline otherwise."""
    radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
    distance: Floats = ((radius - 1) * min(rx, ry)).astype(np.float32, copy=False)
    return distance


def _capsule(
    x: Floats, y: Floats, start: tuple[float, float], end: tuple[float, float], radius: float
) -> Floats:
    """Distance to a thick segment with round ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    distance: Floats = (
        np.hypot(x - start[0] - along * dx, y - start[1] - along * dy) - radius
    ).astype(np.float32, copy=False)
    return distance


def _disc(x: Floats, y: Floats) -> Floats:
    return np.hypot(x, y) - np.float32(0.9)


def _triangle(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.abs(x) * np.float32(0.866) + y * np.float32(0.5), -y) - np.float32(0.5)


def _cross(x: Floats, y: Floats) -> Floats:
    long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(long - np.float32(1), short - np.float32(0.32))


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.26)


def _landbird(x: Floats, y: Floats) -> Floats:
    """Draw a perching bird: upright round body, big head close to it, short bill, tail down."""
    body = _ellipse(x, y, 0.0, 0.15, 0.48, 0.58)
    head = _ellipse(x, y, 0.28, -0.52, 0.34, 0.34)
    bill = _capsule(x, y, (0.5, -0.5), (0.78, -0.45), 0.08)
    tail = _capsule(x, y, (-0.35, 0.45), (-0.72, 1.0), 0.14)
    return np.minimum(np.minimum(body, head), np.minimum(bill, tail))


def _waterbird(x: Floats, y: Floats) -> Floats:
    """Draw a swimming bird: long low body, long thin neck, small head, long bill."""
    body = _ellipse(x, y, -0.15, 0.42, 0.85, 0.36)
    neck = _capsule(x, y, (0.45, 0.3), (0.5, -0.6), 0.14)
    head = _ellipse(x, y, 0.55, -0.7, 0.22, 0.2)
    bill = _capsule(x, y, (0.65, -0.68), (1.1, -0.58), 0.08)
    return np.minimum(np.minimum(body, neck), np.minimum(head, bill))


_DISTANCES: tuple[Callable[[Floats, Floats], Floats], ...] = (
    _disc,
    _triangle,
    _cross,
    _ring,
    _landbird,
    _waterbird,
)


# --- textures: brightness in [0, 1], in the shape's own coordinates -----------------------------


def _paint(texture: int, x: Floats, y: Floats) -> Floats:
    """Brightness of one texture; the period is half a radius, about 5 pixels."""
    frequency = np.float32(2 * np.pi / 0.55)
    if TEXTURES[texture] == "plain":
        return np.ones_like(x)
    if TEXTURES[texture] == "stripes":
        wave = np.sin(frequency * y)
    elif TEXTURES[texture] == "checks":
        wave = np.sin(frequency * x) * np.sin(frequency * y) * 2
    else:
        wave = np.cos(frequency * x) + np.cos(frequency * y) - 1
    drawn: Floats = np.clip(wave * np.float32(1.5) + np.float32(0.5), 0, 1)
    return drawn


# --- grounds: position in the palette in [0, 1], in picture coordinates -------------------------


def _bamboo(u: Floats, v: Floats, phase: Floats, period: Floats) -> Floats:
    """Draw vertical stalks, slightly leaning."""
    lean = (phase[:, :, 1:2] - np.float32(0.5)) * np.float32(0.3)
    return np.sin((u + lean * v) * (11 * period) + phase[:, :, :1] * np.float32(6.28))


def _forest(u: Floats, v: Floats, phase: Floats, period: Floats) -> Floats:
    """Draw dark crowns: two crossing waves, blurred blobs without a direction."""
    a = np.sin((u + v) * (7 * period) + phase[:, :, :1] * np.float32(6.28))
    return a * np.sin((u - v) * (8 * period) + phase[:, :, 1:2] * np.float32(6.28))


def _ocean(u: Floats, v: Floats, phase: Floats, period: Floats) -> Floats:
    """Draw horizontal waves with bent crests."""
    crest = np.float32(0.12) * np.sin(u * 6 + phase[:, :, 1:2] * np.float32(6.28))
    return np.sin((v + crest) * (11 * period) + phase[:, :, :1] * np.float32(6.28))


def _lake(u: Floats, v: Floats, phase: Floats, period: Floats) -> Floats:
    """Draw still water: bright at the far shore, darker towards the viewer."""
    return -v * period + (phase[:, :, :1] - np.float32(0.5)) * np.float32(0.5) + 0 * u


_PATTERNS: tuple[Callable[[Floats, Floats, Floats, Floats], Floats], ...] = (
    _bamboo,
    _forest,
    _ocean,
    _lake,
)


# --- pictures -----------------------------------------------------------------------------------


def render(
    shape: Ints,
    texture: Ints,
    colour: Ints,
    ground: Ints,
    rng: np.random.Generator,
    size: int = 32,
    width: int | None = None,
) -> Images:
    """Draw N pictures, `(N, size, width, 3)`, from four attribute arrays `(N,)`.

    `width` is `size` where none is given.

    Attributes index `SHAPES`, `TEXTURES`, `COLOURS` and `GROUNDS`. Nuisances are drawn from `rng`,
    always the same number a picture, whatever its attributes. Raises `IndexError` for an attribute
    without a name.
    """
    count = len(shape)
    attributes = (shape, SHAPES), (texture, TEXTURES), (colour, COLOURS), (ground, GROUNDS)
    if any(((values < 0) | (values >= len(names))).any() for values, names in attributes):
        raise IndexError("an attribute is outside its names")  # its pictures would be left unset
    width = width or size
    images = np.empty((count, size, width, 3), dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        part = slice(start, min(start + _CHUNK, count))
        drawn = shape[part], texture[part], colour[part], ground[part]
        images[part] = _draw(*drawn, rng, size, width)
    return images


def _draw(
    shape: Ints,
    texture: Ints,
    colour: Ints,
    ground: Ints,
    rng: np.random.Generator,
    size: int,
    width: int,
) -> Images:
    """Draw one chunk: foreground over ground, through the shape's coverage, plus noise."""
    count = len(shape)
    # Columns: centre u, v; radius; rotation; mirror; ground's phases; period; shading; tint (3).
    chance = rng.random((count, 12), dtype=np.float32)
    coverage, paint = _foreground(shape, texture, chance, size, width)
    pattern = _ground(ground, chance, size, width)

    tint = (chance[:, 9:12] - np.float32(0.5)) * np.float32(0.2)
    front = (_COLOUR_RGB[colour] + tint)[:, None, None, :]
    low, high = _GROUND_RGB[ground, 0], _GROUND_RGB[ground, 1]
    shade = np.float32(0.8) + np.float32(0.4) * chance[:, 8, None, None, None]

    noise = rng.integers(0, 256, (count, size, width), dtype=np.uint8)
    grain = (noise.astype(np.float32) - np.float32(127.5)) * np.float32(0.2)

    images = np.empty((count, size, width, 3), dtype=np.uint8)
    dim = np.float32(0.45) + np.float32(0.55) * paint
    for channel in range(3):  # planes are faster than a last axis of three
        base, span = low[:, channel, None, None], (high - low)[:, channel, None, None]
        back = (base + span * pattern) * shade[..., 0]
        plane = back + coverage * (front[..., channel] * dim - back)
        images[..., channel] = np.clip(plane * 255 + grain, 0, 255)
    return images


def _grid(size: int, width: int) -> tuple[Floats, Floats]:
    """Pixel centres: u to the right, `(1, 1, width)`; v down, `(1, size, 1)`, in [-1, 1]."""
    down = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) / size * 2 - 1).astype(np.float32)
    if width == size:
        return down[None, None, :], down[None, :, None]
    right = (np.arange(width, dtype=np.float32) + np.float32(0.5)) / size * 2 - width / size
    return right.astype(np.float32)[None, None, :], down[None, :, None]


def _foreground(
    shape: Ints, texture: Ints, chance: Floats, size: int, width: int
) -> tuple[Floats, Floats]:
    """Coverage in [0, 1] of each picture's shape and brightness of its texture, `(n, size, width)`.

    Half of all shapes are mirrored.
    """
    u, v = _grid(size, width)
    column = chance[:, :, None, None]
    radius = _RADIUS[0] + (_RADIUS[1] - _RADIUS[0]) * column[:, 2]
    reach = np.float32(0.95) - radius
    x = u - (column[:, 0] * 2 - 1) * reach
    y = v - (column[:, 1] * 2 - 1) * reach
    turn = (column[:, 3] * 2 - 1) * _LEAN
    cos, sin = np.cos(turn), np.sin(turn)
    mirror = np.where(column[:, 4] < 0.5, np.float32(-1), np.float32(1))
    x, y = (x * cos + y * sin) / radius * mirror, (y * cos - x * sin) / radius

    coverage, paint = np.empty_like(x), np.empty_like(x)
    for kind, distance in enumerate(_DISTANCES):
        mine = shape == kind
        coverage[mine] = distance(x[mine], y[mine])
    for kind in range(len(TEXTURES)):
        mine = texture == kind
        paint[mine] = _paint(kind, x[mine], y[mine])
    # One pixel is 2 / size wide: the outline fades over about that width (antialiasing).
    return np.clip(np.float32(0.5) - coverage * radius * (size / 2), 0, 1), paint


def _ground(ground: Ints, chance: Floats, size: int, width: int) -> Floats:
    """Position in the ground's palette, `(n, size, width)` in [0, 1]."""
    u, v = _grid(size, width)
    pattern = np.empty((len(ground), size, width), dtype=np.float32)
    for kind, draw in enumerate(_PATTERNS):
        mine = ground == kind
        period = np.float32(0.8) + np.float32(0.4) * chance[mine, 7, None, None]
        pattern[mine] = draw(u, v, chance[mine, None, 5:7], period)
    drawn: Floats = np.clip(pattern * np.float32(0.5) + np.float32(0.5), 0, 1)
    return drawn


def upstream(count: int, seed: int) -> tuple[Images, Ints]:
    """Generate the upstream task: images `(count, 32, 32, 3)` and labels `(count,)`.

    All four attributes are independent and uniform. The label is the pair of shape and ground, so
    that the features of both survive in a pretrained model, as they do after training on thousands
    of object and scene classes; colour and texture are distractors.
    """
    rng = np.random.default_rng(seed)
    shape, texture, colour, ground = (
        rng.integers(0, len(names), count) for names in (SHAPES, TEXTURES, COLOURS, GROUNDS)
    )
    return render(shape, texture, colour, ground, rng), shape * len(GROUNDS) + ground
