"""Miniature benchmarks in the on-disk layout of the real ones, written deterministically.

`make_waterbirds` writes what the wilds package reads as Waterbirds (PROTOCOL section 2): two
families of birds on two kinds of ground, correlated in training and balanced in validation and
test, as in Sagawa et al. 2020, section 2, and the dataset's own splits.
"""

import csv
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.data.shapes import COLOURS, GROUNDS, SHAPES, TEXTURES, Images, render

FORMAT_VERSION = 1
"""Raised when the same parameters give other files."""

MARKER = "MINIATURE.json"
"""File in a generated folder that says by which parameters it was made; no real one has it."""

WATERBIRDS_FOLDER = "waterbirds_v1.0"
SPLITS = ("train", "val", "test")

_BIRDS = (
    ("001.Mini_Landbird", SHAPES.index("landbird")),
    ("002.Mini_Waterbird", SHAPES.index("waterbird")),
)
"""Folder of each class, named like CUB's (`<number>.<Name>`), and its silhouette, by label."""

_PLACES = (("bamboo", "forest"), ("ocean", "lake"))
"""Grounds of place 0, land, and of place 1, water: Places categories of the real one."""

_QUALITY = 95
"""JPEG quality: artefacts stay below the pictures' own noise."""

_COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")


def make_waterbirds(
    root: Path,
    seed: int = 0,
    train: int = 512,
    val: int = 256,
    test: int = 512,
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
    parameters = {
        "benchmark": "waterbirds",
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "train": train,
        "val": val,
        "test": test,
        "correlation": correlation,
    }
    folder = root / WATERBIRDS_FOLDER
    if folder.exists() and _made_with(folder) == parameters:
        return folder

    root.mkdir(parents=True, exist_ok=True)
    # A sibling is on the same file system, so the rename at the end is atomic.
    building = Path(tempfile.mkdtemp(prefix=f".{WATERBIRDS_FOLDER}.", dir=root))
    try:
        _write_waterbirds(building, seed, (train, val, test), correlation)
        (building / MARKER).write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")
        building.chmod(0o755)  # mkdtemp's 0700 would lock other users out of a shared data root
        _swap(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _made_with(folder: Path) -> dict[str, object]:
    """Parameters in the folder's marker; raises `FileExistsError` where there is none."""
    marker = folder / MARKER
    if not marker.is_file():
        raise FileExistsError(
            f"{folder} exists and has no {MARKER}, so it may be real data: "
            "move it away or choose another root"
        )
    try:
        made_with = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return made_with if isinstance(made_with, dict) else {}


def _swap(building: Path, folder: Path) -> None:
    """Rename `building` to `folder`, moving an older miniature out of the way first."""
    if folder.exists():
        _made_with(folder)  # asked again: real data may have arrived during the writing
        old = Path(tempfile.mkdtemp(prefix=f".{WATERBIRDS_FOLDER}.old.", dir=folder.parent))
        folder.rename(old / folder.name)
        building.rename(folder)
        shutil.rmtree(old)
    else:
        building.rename(folder)


def _write_waterbirds(
    folder: Path, seed: int, counts: tuple[int, int, int], correlation: float
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
    images = _draw(label, ground, rng)

    for name, _ in _BIRDS:
        (folder / name).mkdir()
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for index, image in enumerate(images):
            name = _filename(index, int(label[index]))
            Image.fromarray(image).save(folder / name, quality=_QUALITY)
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


def _draw(label: NDArray[np.int64], ground: NDArray[np.int64], rng: np.random.Generator) -> Images:
    """Draw birds `(N, 32, 32, 3)`; plumage (texture and colour) is independent of the family."""
    shape = np.array([silhouette for _, silhouette in _BIRDS])[label]
    texture = rng.integers(0, len(TEXTURES), len(label))
    colour = rng.integers(0, len(COLOURS), len(label))
    return render(shape, texture, colour, ground, rng)


def _filename(index: int, label: int) -> str:
    """Path of image `index` under the dataset's folder, like CUB's `<class>/<Name>_<number>.jpg`.

    Numbers start at 1, as `img_id` does.
    """
    folder = _BIRDS[label][0]
    return f"{folder}/{folder.split('.')[1]}_{index + 1:04d}.jpg"
