"""A miniature Camelyon17, in the layout that the wilds package reads: stained tissue.

Tumour patches have many large dark nuclei in their middle; normal ones have small nuclei anywhere,
and sometimes large ones near the border, where the label does not look. Each hospital stains in its
own way (Bándi et al. 2019; Koh et al. 2021).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.data.mini.drawing import smooth, stream
from worker.data.mini.figures import Floats
from worker.data.mini.folder import balanced, described, generate, generator
from worker.data.shapes import Images, Ints

FORMAT_VERSION = 1

CAMELYON17_FOLDER = "camelyon17_v1.0"
LARGEST = 96
"""Side of the real patches in pixels."""

_COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split")

_TRAIN_CENTERS, _VAL_CENTER, _TEST_CENTER = (0, 3, 4), 1, 2

_SLIDES = 10
"""Slides a hospital; in the real one, too, slide s comes from hospital s // 10."""


@dataclass(frozen=True)
class _Stain:
    """How one hospital's slides look."""

    tissue: tuple[float, float, float]
    nucleus: tuple[float, float, float]
    contrast: float
    """How strongly nuclei take the stain."""


_STAINS = (
    _Stain((0.88, 0.70, 0.82), (0.42, 0.25, 0.55), 0.95),
    _Stain((0.80, 0.62, 0.80), (0.40, 0.26, 0.62), 0.90),
    _Stain((0.72, 0.50, 0.74), (0.44, 0.20, 0.52), 0.80),
    _Stain((0.92, 0.76, 0.80), (0.50, 0.28, 0.52), 0.90),
    _Stain((0.90, 0.66, 0.74), (0.38, 0.20, 0.46), 1.00),
)


def make_camelyon17(
    root: Path,
    seed: int = 0,
    train: int = 512,
    val: int = 256,
    test: int = 512,
    size: int = 32,
) -> Path:
    """Write a miniature Camelyon17 under `root` and return its folder.

    `train` and `val` count patches of the hospitals 0, 3 and 4 (splits train and id_val), `test`
    those of hospital 2; hospital 1 (split val, out of distribution) has half as many. `size` is at
    most 96, the real patches' side: larger ones are made that large.

    Complete or not at all, like every miniature: see `generate`.
    """
    size = min(size, LARGEST)
    return generate(
        root / CAMELYON17_FOLDER,
        described("camelyon17", FORMAT_VERSION, seed, train, val, test, size),
        lambda folder: _write(folder, seed, train, val, test, size),
    )


def _write(folder: Path, seed: int, train: int, val: int, test: int, size: int) -> None:
    """Write metadata and patches, hospital by hospital as the real one's rows go."""
    rng = generator("camelyon17", seed)
    parts = [
        (_TRAIN_CENTERS, 0, train),
        (_TRAIN_CENTERS, 1, val),
        ((_VAL_CENTER,), 0, max(1, test // 2)),
        ((_TEST_CENTER,), 0, test),
    ]
    tumour, center, split = [], [], []
    for centers, number, count in parts:
        lot = balanced(count, 2 * len(centers), rng)
        tumour.append(lot % 2)
        center.append(np.array(centers)[lot // 2])
        split.append(np.full(count, number))
    order = np.argsort(np.concatenate(center), kind="stable")
    labels, centers_of, splits = (
        np.concatenate(values)[order] for values in (tumour, center, split)
    )
    slides = centers_of * _SLIDES + rng.integers(0, _SLIDES, len(labels))

    def draw(rows: Ints, height: int, width: int) -> Images:
        return _tissue(labels[rows], centers_of[rows], slides[rows], rng, height)

    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("", *_COLUMNS))
        for row, image in enumerate(stream(len(labels), size, draw)):
            slide = int(slides[row])
            patient, node = f"{2 * slide + 4:03d}", slide % 5
            # The row number in the coordinates keeps names apart.
            x, y = 96 * (row % 200) + 3328, 96 * (row // 200) + 5792
            stem = f"patient_{patient}_node_{node}"
            path = folder / "patches" / stem / f"patch_{stem}_x_{x}_y_{y}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            values = patient, node, x, y, labels[row], slide, centers_of[row], splits[row]
            table.writerow((row, *values))
    (folder / "RELEASE_v1.0.txt").write_text(
        "Miniature of Camelyon17-WILDS v1.0, generated; not the real dataset.\n", encoding="utf-8"
    )


_SMALL, _LARGE = 14, 9
"""Nuclei a patch: small ones of normal cells, large ones of tumour cells."""


def _tissue(
    tumour: NDArray[np.int64],
    center: NDArray[np.int64],
    slide: NDArray[np.int64],
    rng: np.random.Generator,
    size: int,
) -> Images:
    """Draw patches `(N, size, size, 3)`; the same draws for either label."""
    count = len(tumour)
    place = rng.uniform(-1, 1, (count, _SMALL + _LARGE, 2)).astype(np.float32)
    chance = rng.random((count, _SMALL + _LARGE, 3), dtype=np.float32)
    cloud = rng.random((count, 6, 6), dtype=np.float32)
    fine = rng.random((count, 20, 20), dtype=np.float32)
    tint = rng.uniform(-0.03, 0.03, (count, 1, 1, 3)).astype(np.float32)
    grain = rng.integers(0, 256, (count, size, size), dtype=np.uint8)

    # Large nuclei crowd in the middle of a tumour patch, few or many; in a third of the normal ones
    # some lie along the border. Normal cells crowd in the middle too, and some are middling large.
    is_tumour = tumour[:, None] == 1
    large = place[:, _SMALL:]
    edge = large.copy()
    edge[..., 0] = np.where(large[..., 0] < 0, np.float32(-0.95), np.float32(0.95))
    place[:, _SMALL:] = np.where(is_tumour[..., None], large * np.float32(0.45), edge)
    crowded = chance[:, 1, 2] < np.float32(0.4)
    place[crowded, : _SMALL // 2] *= np.float32(0.4)
    few = np.floor(chance[:, :1, 2] * 7) + 3
    bordered = (chance[:, :1, 1] < np.float32(0.35)) & (np.arange(_LARGE) < 4)
    shown = np.concatenate(
        [
            chance[:, :_SMALL, 2] < np.float32(0.7),
            np.where(is_tumour, np.arange(_LARGE) < few, bordered),
        ],
        axis=1,
    )
    radii = np.concatenate(
        [
            np.float32(0.05) + np.float32(0.065) * chance[:, :_SMALL, 0] ** 2,
            np.float32(0.11) + np.float32(0.06) * chance[:, _SMALL:, 0],
        ],
        axis=1,
    )

    line = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) / size * 2 - 1).astype(np.float32)
    u, v = line[None, None, :], line[None, :, None]
    stain = np.zeros((count, size, size), dtype=np.float32)
    for cell in range(_SMALL + _LARGE):
        stretch = np.float32(0.75) + np.float32(0.5) * chance[:, cell, 1, None, None]
        x = (u - place[:, cell, 0, None, None]) * stretch
        y = (v - place[:, cell, 1, None, None]) / stretch
        reach = radii[:, cell, None, None]
        dark = np.float32(0.7) + np.float32(0.3) * chance[:, cell, 2, None, None]
        cover = np.clip(np.float32(0.5) + (reach - np.hypot(x, y)) * np.float32(size / 2), 0, 1)
        np.maximum(stain, cover * dark * shown[:, cell, None, None], out=stain)

    tissue, nucleus = (
        np.array([getattr(_STAINS[c], name) for c in center], dtype=np.float32)[:, None, None, :]
        for name in ("tissue", "nucleus")
    )
    contrast = np.array([_STAINS[c].contrast for c in center], dtype=np.float32)
    fibres = smooth(cloud, size, size) * np.float32(0.7) + smooth(fine, size, size) * np.float32(
        0.3
    )
    # A slide's thickness makes all its patches lighter or darker.
    thickness = np.float32(1.06) - np.float32(0.012) * (slide % _SLIDES).astype(np.float32)
    back = (tissue + tint) * (np.float32(0.78) + np.float32(0.4) * fibres)[..., None]
    back *= thickness[:, None, None, None]
    mixed: Floats = back + (stain * contrast[:, None, None])[..., None] * (nucleus + tint - back)
    noise = (grain.astype(np.float32) / np.float32(127.5) - 1) * np.float32(0.035)
    patches: Images = np.clip((mixed + noise[..., None]) * 255, 0, 255).astype(np.uint8)
    return patches
