"""Waterbirds through the `wilds` package: landbirds and waterbirds on land and water.

Groups are label × place, as the package numbers them. Source: PROTOCOL section 2.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from db.errors import MissingInputs
from worker.data.images import Images, Loaded, in_memory

GROUPS = ("land_on_land", "land_on_water", "water_on_land", "water_on_water")
SOURCES = {"train": "train", "id": "val", "ood": "test"}
MINI_FOLDER = "mini"


def open_wilds(name: str, root: Path) -> Any:
    """A dataset of the wilds package from files that are there already."""
    # `import wilds` starts a thread that asks the package index for a newer version, and behind a
    # firewall it keeps the process from ending: this entry makes it skip that.
    sys.modules["outdated"] = None  # type: ignore[assignment]
    import wilds

    with warnings.catch_warnings():
        # The package wraps read-only arrays in tensors that it never writes to.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return wilds.get_dataset(dataset=name, root_dir=str(root), download=False)


def _read(path: Path) -> np.ndarray[Any, Any]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise MissingInputs(f"{path}: not a readable image ({error}); fetch it again.") from error


def fingerprint(dataset: Any, folder: Path) -> str:
    """A hash of each image's relative path, bytes on disk and metadata row, in file order."""
    seen = hashlib.sha256()
    for name, row in zip(dataset._input_array, dataset.metadata_array.tolist(), strict=True):
        path = folder / name
        if not path.is_file():
            raise MissingInputs(f"{path} is named by metadata.csv and missing; fetch it again.")
        seen.update(f"{name}\0{path.stat().st_size}\0{row}\n".encode())
    return seen.hexdigest()


def load_mini(data: Path) -> Loaded:
    """The miniature under `mini/`, 32×32 pixels, every image in memory."""
    root = data / MINI_FOLDER
    dataset = open_wilds("waterbirds", root)
    folder = Path(dataset.data_dir)

    def images(source: str) -> Images:
        rows = np.flatnonzero(dataset.split_array == dataset.split_dict[source])
        pixels = np.stack([_read(folder / dataset._input_array[row]) for row in rows])
        groups: Tensor = dataset._eval_grouper.metadata_to_group(dataset.metadata_array[rows])
        return in_memory(
            torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
            dataset.y_array[rows].long(),
            groups.long(),
        )

    return Loaded(
        train=images(SOURCES["train"]),
        splits={split: images(SOURCES[split]) for split in ("id", "ood")},
        groups=GROUPS,
        fingerprint=fingerprint(dataset, folder),
    )
