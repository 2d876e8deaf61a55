"""A miniature Waterbirds, in the layout that the wilds package reads (PROTOCOL section 2).

Two families of birds on two kinds of ground, correlated in training and balanced in validation and
test, as in Sagawa et al. 2020, section 2, and the dataset's own splits.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.data.mini.drawing import stream
from worker.data.mini.folder import QUALITY, described, generate
from worker.data.shapes import COLOURS, GROUNDS, SHAPES, TEXTURES, Images, Ints, render

FORMAT_VERSION = 1
"""Raised when the same parameters give other files."""

WATERBIRDS_FOLDER = "waterbirds_v1.0"

_BIRDS = (
    ("001.Mini_Landbird", SHAPES.index("landbird")),
    ("002.Mini_Waterbird", SHAPES.index("waterbird")),
)
"""Folder of each class, named like CUB's (`<number>.<Name>`), and its silhouette, by label."""

_PLACES = (("bamboo", "forest"), ("ocean", "lake"))
"""Grounds of place 0, land, and of place 1, water: Places categories of the real one."""

_COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")


def make_waterbirds(
    root: Path,
    seed: int = 0,
    train: int = 512,
    val: int = 256,
    test: int = 512,
    size: int = 32,
    correlation: float = 0.95,
) -> Path:
    """Write a miniature Waterbirds under `root` and return its folder.

    `train`, `val` and `test` count images; `correlation` is the share of training images of each
    class on their own ground (0.95 in the real one, which is too spurious for tiny models). The
    folder appears complete or not at all. One made with the same parameters is left as it is, one
    made with others is replaced.

    Raises `FileExistsError` where the folder was not made by this function, `ValueError` for a
    correlation outside [0, 1].
    """
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation is a share in [0, 1], not {correlation}")
    parameters = described("waterbirds", FORMAT_VERSION, seed, train, val, test, size)
    parameters["correlation"] = correlation
    return generate(
        root / WATERBIRDS_FOLDER,
        parameters,
        lambda folder: _write(folder, seed, (train, val, test), correlation, size),
    )


def _write(
    folder: Path, seed: int, counts: tuple[int, int, int], correlation: float, size: int
) -> None:
    """Write release note, metadata and images of all splits into `folder`."""
    rng = np.random.default_rng(seed)
    labels, places, splits = [], [], []
    for split, count in enumerate(counts):
        # Half of each class in val and test on either ground, as in the real one.
        label, place = _groups(count, correlation if split == 0 else 0.5, rng)
        labels.append(label)
        places.append(place)
        splits.append(np.full(count, split))
    label, place, split_of = (np.concatenate(parts) for parts in (labels, places, splits))
    ground = _grounds(place, rng)
    images = _draw(label, ground, rng, size)

    for name, _ in _BIRDS:
        (folder / name).mkdir()
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for index, image in enumerate(images):
            name = _filename(index, int(label[index]))
            Image.fromarray(image).save(folder / name, quality=QUALITY)
            category = GROUNDS[ground[index]]
            scene = f"/{category[0]}/{category}/{index + 1:08d}.jpg"
            rows.writerow((index + 1, name, label[index], split_of[index], place[index], scene))
    (folder / "RELEASE_v1.0.txt").write_text(
        "Miniature of Waterbirds v1.0, generated; not the real dataset.\n", encoding="utf-8"
    )


def _groups(
    count: int, correlation: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and places `(count,)` in random order, with exact group sizes (up to rounding).

    Classes are equally frequent (in the real one 77% are landbirds), so that chance is one half.
    """
    label = np.arange(count) % 2
    place = label.copy()
    for bird in (0, 1):
        members = np.flatnonzero(label == bird)
        own = round(correlation * len(members))
        place[members[own:]] = 1 - bird
    order = rng.permutation(count)
    return label[order], place[order]


def _grounds(place: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Index into `GROUNDS` for each image: one of its place's two, at random."""
    choices = np.array([[GROUNDS.index(name) for name in names] for names in _PLACES])
    drawn: NDArray[np.int64] = choices[place, rng.integers(0, choices.shape[1], len(place))]
    return drawn


def _draw(
    label: NDArray[np.int64], ground: NDArray[np.int64], rng: np.random.Generator, size: int
) -> Iterator[NDArray[np.uint8]]:
    """Draw birds one by one; plumage (texture and colour) is independent of the family."""
    shape = np.array([silhouette for _, silhouette in _BIRDS])[label]
    texture = rng.integers(0, len(TEXTURES), len(label))
    colour = rng.integers(0, len(COLOURS), len(label))

    def draw(rows: Ints, height: int, width: int) -> Images:
        attributes = shape[rows], texture[rows], colour[rows], ground[rows]
        return render(*attributes, rng, size=height, width=width)

    return stream(len(label), size, draw, photographs=True)


def _filename(index: int, label: int) -> str:
    """Path of image `index` under the dataset's folder, like CUB's `<class>/<Name>_<number>.jpg`.

    Numbers start at 1, as `img_id` does.
    """
    folder = _BIRDS[label][0]
    return f"{folder}/{folder.split('.')[1]}_{index + 1:04d}.jpg"
