"""Waterbirds, FMoW and Camelyon17 as the `wilds` package reads them. Source: PROTOCOL section 2.

The package gives labels, splits and metadata; its `get_input` opens the files named here.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from db.errors import MissingInputs
from worker.data import Dataset
from worker.data.pool import Part, Pool, Source, files_pool

WATERBIRDS_GROUPS = ("land_on_land", "land_on_water", "water_on_land", "water_on_water")
AFRICA = "Africa"


def open_wilds(name: str, root: Path, *, download: bool = False) -> Any:
    """A dataset of the wilds package, by default from files that are there already.

    Raises `MissingInputs` where the package cannot make sense of them, or get them.
    """
    # `import wilds` starts a thread that asks the package index for a newer version, and behind a
    # firewall it keeps the process from ending: this entry makes it skip that.
    sys.modules["outdated"] = None  # type: ignore[assignment]
    import pandas as pd
    import wilds
    from wilds.datasets import fmow_dataset

    # FMoW's times come in two ISO spellings, which pandas 2 and later refuse to guess.
    fmow_dataset.pd = types.SimpleNamespace(
        read_csv=pd.read_csv, to_datetime=partial(pd.to_datetime, format="ISO8601")
    )
    with warnings.catch_warnings():
        # The package wraps read-only arrays in tensors that it never writes to.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        try:
            return wilds.get_dataset(dataset=name, root_dir=str(root), download=download)
        except Exception as error:  # of many kinds: columns, types, files
            raise MissingInputs(
                f"{root}: wilds cannot {'get' if download else 'read'} {name} "
                f"({type(error).__name__}: {error}); "
                + ("try again with a network." if download else "fetch its metadata again.")
            ) from error


def fetch(entry: Dataset, data: Path) -> None:
    """Download the dataset as the package does; many gigabytes."""
    data.mkdir(parents=True, exist_ok=True)
    open_wilds(entry.id, _root(entry, data), download=True)


def _root(entry: Dataset, data: Path) -> Path:
    """The folder that the package looks for the dataset's own folder in."""
    return (data / entry.folder).parent


def _source(
    entry: Dataset,
    data: Path,
    dataset: Any,
    files: list[str],
    parts: Mapping[str, np.ndarray[Any, Any]],
    groups: tuple[str, ...],
    group_of: Tensor,
) -> Source:
    """Parts by role as rows of the dataset; `group_of` (N,) are indices into `groups`.

    Only rows of a part are looked at: FMoW's metadata names many images that are in none.
    """
    folder = Path(dataset.data_dir)
    listed_in = "rgb_metadata.csv" if dataset.dataset_name == "fmow" else "metadata.csv"
    used = np.unique(np.concatenate(list(parts.values())))
    files = [files[row] for row in used]
    labels, group_of = torch.as_tensor(dataset.y_array).long()[used], group_of[used]
    wrong = torch.nonzero((labels < 0) | (labels >= entry.classes)).flatten()
    if len(wrong):
        raise MissingInputs(
            f"{folder / listed_in}: {files[int(wrong[0])]} has label {int(labels[wrong[0]])}, and "
            f"{entry.id} has classes 0 to {entry.classes - 1}; fetch the file again."
        )
    for split, rows in parts.items():
        if not len(rows):
            raise MissingInputs(
                f"{folder / listed_in} has no images for split `{split}`; fetch it again."
            )
    pool = files_pool(entry.id, folder, files, listed_in)
    found = {
        split: _part(pool, np.searchsorted(used, rows), labels, group_of)
        for split, rows in parts.items()
    }
    return Source(
        train=found.pop("train"),
        splits=found,
        groups=groups,
        miniature=entry.is_miniature(data),
    )


def _part(pool: Pool, rows: np.ndarray[Any, Any], labels: Tensor, group_of: Tensor) -> Part:
    chosen = torch.from_numpy(rows)
    return Part(pool, chosen, labels[chosen], group_of[chosen])


def _rows(dataset: Any) -> Callable[[str], np.ndarray[Any, Any]]:
    """From the package's name of a split to its rows."""
    return lambda split: np.flatnonzero(dataset.split_array == dataset.split_dict[split])


def waterbirds(entry: Dataset, data: Path) -> Source:
    """Landbirds and waterbirds on land and water; groups are label × place, as wilds has them."""
    dataset = open_wilds("waterbirds", _root(entry, data))
    rows = _rows(dataset)
    return _source(
        entry,
        data,
        dataset,
        [str(name) for name in dataset._input_array],
        {"train": rows("train"), "id": rows("val"), "ood": rows("test")},
        WATERBIRDS_GROUPS,
        dataset._eval_grouper.metadata_to_group(dataset.metadata_array).long(),
    )


def fmow(entry: Dataset, data: Path) -> Source:
    """Satellite images of later years; out of distribution is the test period in Africa.

    Groups are regions. Their numbers go by order of appearance in the metadata.
    """
    dataset = open_wilds("fmow", _root(entry, data))
    rows, regions = _rows(dataset), tuple(map(str, dataset.metadata_map["region"]))
    if AFRICA not in regions:
        raise MissingInputs(
            f"{Path(dataset.data_dir) / 'country_code_mapping.csv'} maps no country to "
            f"{AFRICA}; fetch it again."
        )
    field = dataset.metadata_fields.index("region")
    region: Tensor = dataset.metadata_array[:, field].long()
    test = rows("test")
    parts = {
        "train": rows("train"),
        "id": rows("id_val"),
        "ood": test[region.numpy()[test] == regions.index(AFRICA)],
        "id_test": rows("id_test"),
        "ood_val": rows("val"),
        "ood_test": test,
    }
    files = [f"images/rgb_img_{number}.png" for number in dataset.full_idxs]
    return _source(entry, data, dataset, files, parts, regions, region)


def camelyon17(entry: Dataset, data: Path) -> Source:
    """Tissue of lymph nodes; out of distribution is the fifth hospital."""
    dataset = open_wilds("camelyon17", _root(entry, data))
    rows = _rows(dataset)
    return _source(
        entry,
        data,
        dataset,
        list(dataset._input_array),
        {"train": rows("train"), "id": rows("id_val"), "ood": rows("test"), "ood_val": rows("val")},
        ("",),
        torch.zeros(len(dataset.y_array), dtype=torch.int64),
    )
