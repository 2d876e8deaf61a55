"""A miniature FMoW, in the layout that the wilds package reads: places from above.

Regions differ in ground, roofs and the direction of the light; years in the sensor. Africa is rare
in training. The package splits by date: training before 2013, its out-of-distribution validation
from 2013 to 2015, its test from 2016 on (Christie et al. 2018; Koh et al. 2021).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.data.mini.drawing import AERIAL, Terrain, coats, paint, rgb, stream
from worker.data.mini.figures import PLACES
from worker.data.mini.folder import balanced, described, generate, generator
from worker.data.shapes import Images, Ints

FORMAT_VERSION = 1

FMOW_FOLDER = "fmow_v1.1"

CATEGORIES = tuple(PLACES)
"""By label, as the wilds package numbers them."""

_COLUMNS = (
    "split",
    "img_filename",
    "img_path",
    "spatial_reference",
    "epsg",
    "category",
    "visible",
    "img_width",
    "img_height",
    "country_code",
    "cloud_cover",
    "timestamp",
    "lat",
    "lon",
)


@dataclass(frozen=True)
class _Region:
    """A region of the world, and how it looks from above."""

    name: str
    countries: tuple[tuple[str, str, str, str], ...]
    """Name, alpha-2, alpha-3 and number; the region's own countries in the mapping file."""
    ground: tuple[str, str]
    """Dark and light end of the ground's palette."""
    shadow: tuple[int, int]
    """To the right and down, in 32nds of the picture."""
    roof: tuple[float, float, float]
    """Factor on the colours of what is built."""
    share: float
    """Of the training images."""


_REGIONS = (
    _Region(
        "Europe",
        (("France", "FR", "FRA", "250"), ("Poland", "PL", "POL", "616")),
        ("olive", "green"),
        (-2, -2),
        (1.0, 0.95, 0.92),
        0.36,
    ),
    _Region(
        "Americas",
        (("United States of America", "US", "USA", "840"), ("Brazil", "BR", "BRA", "076")),
        ("olive", "tan"),
        (-2, -1),
        (1.0, 1.0, 1.0),
        0.34,
    ),
    _Region(
        "Asia",
        (("China", "CN", "CHN", "156"), ("India", "IN", "IND", "356")),
        ("grey", "olive"),
        (-1, -2),
        (0.92, 0.96, 1.04),
        0.22,
    ),
    _Region(
        "Oceania",
        (("Australia", "AU", "AUS", "036"),),
        ("green", "rust"),
        (-1, 2),
        (1.0, 1.0, 0.95),
        0.05,
    ),
    _Region(
        "Africa",
        (("Kenya", "KE", "KEN", "404"), ("Nigeria", "NG", "NGA", "566")),
        ("rust", "sand"),
        (1, 2),
        (1.05, 0.9, 0.75),
        0.03,
    ),
)
_AFRICA = len(_REGIONS) - 1

_OTHER = "XKX"
"""A country that the mapping lacks; wilds files it under `Other`. Its land looks like Europe's."""

_YEARS = {
    "train": (2002, 2012),
    "id_val": (2002, 2012),
    "id_test": (2002, 2012),
    "val": (2013, 2015),
    "test": (2016, 2017),
    "later": (2013, 2017),
    "seq": (2002, 2017),
}
"""First and last year of what the package makes its splits of."""

_NAMES = {
    "train": "train",
    "id_val": "val",
    "id_test": "test",
    "val": "val",
    "test": "test",
    "later": "train",
    "seq": "seq",
}
"""What the metadata calls those rows."""

_HIDDEN = 16
"""Rows without a picture, and training rows too late to train on: one for so many in `train`."""


def make_fmow(
    root: Path,
    seed: int = 0,
    train: int = 512,
    val: int = 256,
    test: int = 512,
    size: int = 32,
) -> Path:
    """Write a miniature FMoW under `root` and return its folder.

    In the package's terms: `train` images in train and `val` in id_val, both with 3% from Africa;
    of the images in test, `test` are from Africa and half as many from elsewhere; id_test and
    (out-of-distribution) val have half of `val` each, a fifth of it from Africa. Besides there are
    rows of the sequestered split, which have no picture, and training rows from after 2012, which
    are in no split.

    Complete or not at all, like every miniature: see `generate`.
    """
    return generate(
        root / FMOW_FOLDER,
        described("fmow", FORMAT_VERSION, seed, train, val, test, size),
        lambda folder: _write(folder, seed, train, val, test, size),
    )


def _write(folder: Path, seed: int, train: int, val: int, test: int, size: int) -> None:
    """Write metadata, countries and pictures; the rows of all splits are mixed, as in the real."""
    rng = generator("fmow", seed)
    hidden = max(1, train // _HIDDEN)
    half = max(1, val // 2)
    shares = np.array([region.share for region in _REGIONS])
    even = np.full(len(_REGIONS), 1 / len(_REGIONS))
    elsewhere = np.where(np.arange(len(_REGIONS)) == _AFRICA, 0, shares) / (1 - shares[_AFRICA])
    parts = [
        ("train", train, shares),
        ("id_val", val, shares),
        ("id_test", half, even),
        ("val", half, even),
        ("test", test, np.eye(len(_REGIONS))[_AFRICA]),
        ("test", max(1, test // 2), elsewhere),
        ("later", hidden, even),
        ("seq", hidden, even),
    ]
    roles: list[str] = []
    labels_of, regions_of, years_of = [], [], []
    for role, count, share in parts:
        roles += [role] * count
        labels_of.append(balanced(count, len(CATEGORIES), rng))
        regions_of.append(_apportion(count, share, rng))
        years_of.append(rng.integers(_YEARS[role][0], _YEARS[role][1] + 1, count))
    order = rng.permutation(len(roles))
    roles = [roles[row] for row in order]
    labels, regions, years = (
        np.concatenate(values)[order] for values in (labels_of, regions_of, years_of)
    )

    _write_metadata(folder / "rgb_metadata.csv", roles, labels, regions, years, rng, size)
    with (folder / "country_code_mapping.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("name", "alpha-2", "alpha-3", "country-code", "region"))
        table.writerows((*country, r.name) for r in _REGIONS for country in r.countries)
    (folder / "RELEASE_v1.1.txt").write_text(
        "Miniature of FMoW-WILDS v1.1, generated; not the real dataset.\n", encoding="utf-8"
    )

    (folder / "images").mkdir()
    shown = np.flatnonzero([role != "seq" for role in roles])
    pictures = _pictures(labels[shown], regions[shown], years[shown], rng, size)
    for row, image in zip(shown, pictures, strict=True):
        Image.fromarray(image).save(folder / "images" / f"rgb_img_{row}.png")


def _apportion(
    count: int, shares: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Regions in random order, by the largest remainders of their shares."""
    exact = shares * count
    counts = np.floor(exact).astype(int)
    for region in np.argsort(counts - exact, kind="stable")[: count - counts.sum()]:
        counts[region] += 1
    mixed: NDArray[np.int64] = rng.permutation(np.repeat(np.arange(len(shares)), counts))
    return mixed


def _write_metadata(
    path: Path,
    roles: list[str],
    labels: NDArray[np.int64],
    regions: NDArray[np.int64],
    years: NDArray[np.int64],
    rng: np.random.Generator,
    size: int,
) -> None:
    """Write one row a picture, in the columns of the real one."""
    count = len(roles)
    month, day = rng.integers(1, 13, count), rng.integers(1, 29, count)
    hour, minute, second = (rng.integers(0, top, count) for top in (24, 60, 60))
    cloud, millis = rng.integers(0, 30, count), rng.integers(0, 1000, count)
    place, pick = rng.uniform(-60, 60, (count, 2)), rng.integers(0, 30, count)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for row, role in enumerate(roles):
            split, category = _NAMES[role], CATEGORIES[labels[row]]
            countries = _REGIONS[regions[row]].countries
            country = countries[pick[row] % len(countries)][2]
            if regions[row] == 0 and pick[row] == 0:
                country = _OTHER
            # As in the real file, some times have a fraction of a second and some have none.
            fraction = f".{millis[row]:03d}" if row % 3 == 1 else ""
            when = (
                f"{years[row]}-{month[row]:02d}-{day[row]:02d}"
                f"T{hour[row]:02d}:{minute[row]:02d}:{second[row]:02d}{fraction}Z"
            )
            name = f"{category}_{row}_0_rgb.jpg"
            table.writerow(
                (
                    split,
                    name,
                    f"{split}/{category}/{category}_{row}/{name}",
                    "GEOGCS WGS 84",
                    4326,
                    category,
                    1,
                    size,
                    size,
                    country,
                    cloud[row],
                    when,
                    f"{place[row, 0]:.5f}",
                    f"{3 * place[row, 1]:.5f}",
                )
            )


def _pictures(
    labels: NDArray[np.int64],
    regions: NDArray[np.int64],
    years: NDArray[np.int64],
    rng: np.random.Generator,
    size: int,
) -> Iterator[NDArray[np.uint8]]:
    """Places of the regions, through the sensors of their years."""
    figures = [PLACES[name] for name in CATEGORIES]
    coat = coats(labels, figures, rng)
    terrain = Terrain(
        low=rgb([region.ground[0] for region in _REGIONS])[regions],
        high=rgb([region.ground[1] for region in _REGIONS])[regions],
        shadow=np.array([region.shadow for region in _REGIONS])[regions],
        roof=np.array([region.roof for region in _REGIONS], dtype=np.float32)[regions],
    )

    def draw(rows: Ints, height: int, width: int) -> Images:
        images = paint(
            labels[rows], figures, AERIAL, coat.take(rows), rng, height, width, terrain.take(rows)
        )
        return _sensor(images, years[rows])

    return stream(len(labels), size, draw)


def _sensor(images: Images, years: NDArray[np.int64]) -> Images:
    """Old sensors are hazy and warm, new ones have contrast and a blue cast."""
    age = ((years - 2002) / 15).astype(np.float32)[:, None, None, None]
    contrast = np.float32(0.72) + np.float32(0.38) * age
    cast = np.array([0.05, 0.01, -0.05], dtype=np.float32) * (1 - 2 * age)
    seen = (images / np.float32(255) - np.float32(0.5)) * contrast + np.float32(0.53) + cast
    np.clip(seen * 255, 0, 255, out=seen)
    return seen.astype(np.uint8)
