"""How a miniature's folder comes to be: complete or not at all, marked, never over real data."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.data import MARKER

QUALITY = 95
"""JPEG quality: artefacts stay below the pictures' own noise."""


def generate(folder: Path, parameters: dict[str, object], write: Callable[[Path], None]) -> Path:
    """Make `folder` by `write(a temporary sibling)` and a rename, and return it.

    One made with the same parameters is left as it is, one made with others is replaced. Raises
    `FileExistsError` where the folder was not made by this function.
    """
    if folder.exists() and _made_with(folder) == parameters:
        return folder
    root = folder.parent
    root.mkdir(parents=True, exist_ok=True)
    # A sibling is on the same file system, so the rename at the end is atomic.
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=root))
    try:
        write(building)
        (building / MARKER).write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")
        building.chmod(0o755)  # mkdtemp's 0700 would lock other users out of a shared data root
        _swap(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def described(
    benchmark: str, version: int, seed: int, train: int, val: int, test: int, size: int
) -> dict[str, object]:
    """The marker of a miniature; `version` is raised when the same parameters give other files."""
    return {
        "benchmark": benchmark,
        "format_version": version,
        "seed": seed,
        "train": train,
        "val": val,
        "test": test,
        "size": size,
    }


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


def count_images(folder: Path) -> int:
    """Images in a miniature: its files, or, where they lie in batches, what its marker says."""
    files = sum(path.suffix.lower() in (".jpg", ".jpeg", ".png") for path in folder.rglob("*"))
    if files:
        return files
    marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    return sum(int(marker[part]) for part in ("train", "val", "test"))


def _swap(building: Path, folder: Path) -> None:
    """Rename `building` to `folder`, moving an older miniature out of the way first."""
    if folder.exists():
        _made_with(folder)  # asked again: real data may have arrived during the writing
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        folder.rename(old / folder.name)
        building.rename(folder)
        shutil.rmtree(old)
    else:
        building.rename(folder)


def generator(benchmark: str, seed: int) -> np.random.Generator:
    """A benchmark's own random numbers."""
    return np.random.default_rng([seed, *benchmark.encode()])


def balanced(count: int, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Labels in random order, as even as they can be; the first classes where they are few."""
    labels: NDArray[np.int64] = rng.permutation(np.arange(count) % classes)
    return labels
