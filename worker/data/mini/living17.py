"""A miniature Living-17, in ImageNet's layout: animals whose breeds in test are new.

A superclass is an outline; its four subclasses differ in colour, texture and proportions. Training
and in-distribution images show the source subclasses, out-of-distribution ones the target
subclasses, as in BREEDS (Santurkar et al. 2021).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.data.mini.drawing import PHOTO, TEXTURES, Coats, coats, paint, rgb, stream
from worker.data.mini.figures import THINGS
from worker.data.mini.folder import QUALITY, balanced, described, generate, generator
from worker.data.shapes import Images, Ints

FORMAT_VERSION = 1

LIVING17_FOLDER = "imagenet"

CLASSES = Path(__file__).parent.parent / "living17.csv"
"""superclass_index, superclass_name, domain, wnid, class_name: BREEDS' Living-17."""

_FIGURES = (
    "salamander",
    "turtle",
    "lizard",
    "snake",
    "spider",
    "grouse",
    "parrot",
    "crab",
    "dog",
    "wolf",
    "fox",
    "cat",
    "bear",
    "beetle",
    "butterfly",
    "ape",
    "monkey",
)
"""Outline of each superclass, by its index."""

_COATS = """
orange plain  | pink plain     | brown patches  | black spots
olive patches | navy stripes   | rust patches   | brown plain
brown stripes | olive spots    | lime plain     | sand stripes
tan spots     | green stripes  | navy stripes   | brown patches
black plain   | yellow stripes | tan patches    | grey spots
white plain   | brown spots    | rust stripes   | black plain
blue plain    | lime patches   | grey plain     | white plain
rust plain    | sand spots     | brown spots    | red plain
rust plain    | tan patches    | white plain    | white patches
tan plain     | rust patches   | white plain    | grey patches
grey plain    | white plain    | orange plain   | sand plain
orange stripes | tan spots     | white patches  | sand plain
black patches | black plain    | white plain    | brown plain
black plain   | brown plain    | green plain    | tan stripes
yellow plain  | black spots    | white plain    | brown spots
tan plain     | orange patches | black plain    | brown plain
grey stripes  | rust plain     | black plain    | orange plain
"""
"""Colour and texture of each subclass in the order of the file: two of source, two of target."""

_ASPECTS = (0.92, 1.08, 0.84, 1.2)
"""Width over height of a superclass's four subclasses."""

_UNUSED = 16
"""One target image for so many source images lies in the training folder, as in ImageNet's."""


def make_living17(
    root: Path,
    seed: int = 0,
    train: int = 512,
    val: int = 256,
    test: int = 512,
    size: int = 32,
) -> Path:
    """Write a miniature Living-17 under `root` and return its folder, `imagenet`.

    `train` and `val` count images of the source subclasses in ImageNet's `train` and `val`, `test`
    those of the target subclasses in `val`. ImageNet's `train` holds target subclasses too, which
    nothing may train on: so does this one's, a few.

    Complete or not at all, like every miniature: see `generate`.
    """
    return generate(
        root / LIVING17_FOLDER,
        described("living17", FORMAT_VERSION, seed, train, val, test, size),
        lambda folder: _write(folder, seed, train, val, test, size),
    )


def subclasses() -> list[dict[str, str]]:
    """Rows of Living-17's classes: four a superclass, source before target."""
    with CLASSES.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(folder: Path, seed: int, train: int, val: int, test: int, size: int) -> None:
    """Write all images; every class has its folders, as in ImageNet, even an empty one."""
    rng = generator("living17", seed)
    classes = subclasses()
    for part in ("train", "val"):
        for row in classes:
            (folder / part / row["wnid"]).mkdir(parents=True)

    source, target = _draw_lots(train, 0, rng), _draw_lots(max(1, train // _UNUSED), 2, rng)
    breeds = np.concatenate([source, target])
    for index, image in enumerate(_pictures(breeds, rng, size)):
        wnid = classes[breeds[index]]["wnid"]
        path = folder / "train" / wnid / f"{wnid}_{index + 1}.JPEG"
        Image.fromarray(image).save(path, quality=QUALITY)
    breeds = np.concatenate([_draw_lots(val, 0, rng), _draw_lots(test, 2, rng)])
    for index, image in enumerate(_pictures(breeds, rng, size)):
        wnid = classes[breeds[index]]["wnid"]
        path = folder / "val" / wnid / f"ILSVRC2012_val_{index + 1:08d}.JPEG"
        Image.fromarray(image).save(path, quality=QUALITY)


def _draw_lots(count: int, first: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of the class list: both source (`first` 0) or target (2) subclasses of each superclass.

    Superclasses come before subclasses, so that few images still show many superclasses.
    """
    lot = balanced(count, 2 * len(_FIGURES), rng)
    rows: NDArray[np.int64] = lot % len(_FIGURES) * 4 + first + lot // len(_FIGURES)
    return rows


def _pictures(
    breeds: NDArray[np.int64], rng: np.random.Generator, size: int
) -> Iterator[NDArray[np.uint8]]:
    """Photographs of breeds, on any ground: the ground says nothing about the animal."""
    figures = [THINGS[name] for name in _FIGURES]
    looks = [look.split() for line in _COATS.strip().splitlines() for look in line.split("|")]
    kinds = breeds // 4
    plain = coats(kinds, figures, rng)
    coat = Coats(
        main=rgb([colour for colour, _ in looks])[breeds],
        accent=plain.accent,
        texture=np.array([TEXTURES.index(texture) for _, texture in looks])[breeds],
        aspect=plain.aspect * np.array(_ASPECTS, dtype=np.float32)[breeds % 4],
        ground=plain.ground,
    )

    def draw(rows: Ints, height: int, width: int) -> Images:
        return paint(kinds[rows], figures, PHOTO, coat.take(rows), rng, height, width)

    return stream(len(breeds), size, draw, photographs=True)
