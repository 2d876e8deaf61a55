"""CIFAR-10 from torchvision's files. Source: PROTOCOL section 2; paper, Table 6."""

from __future__ import annotations

import hashlib
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from db.errors import MissingInputs
from worker.data import Dataset
from worker.data.pool import Part, Pool, Source

HELD_OUT = 10
"""One of so many training images selects epochs and rates: 5,000 of the real 50,000."""


class _Batches(CIFAR10):
    """torchvision's reader of the batch files, also of batches whose checksums are not CIFAR's.

    `orch data check` compares the real ones with torchvision's checksums.
    """

    train_list = [[name, None] for name, _ in CIFAR10.train_list]  # noqa: RUF012
    test_list = [[name, None] for name, _ in CIFAR10.test_list]  # noqa: RUF012
    meta = {**CIFAR10.meta, "md5": None}  # noqa: RUF012


def _read(entry: Dataset, data: Path, *, train: bool) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Pixels (N, 32, 32, 3) uint8 and labels of the training or test batches."""
    root = (data / entry.folder).parent
    try:
        batches = _Batches(str(root), train=train, download=False)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise MissingInputs(
            f"{data / entry.folder}: the batches cannot be read ({error}); fetch them again."
        ) from error
    wrong = [label for label in batches.targets if not 0 <= label < entry.classes]
    if wrong:
        raise MissingInputs(
            f"{data / entry.folder}: label {wrong[0]} is not of 0 to {entry.classes - 1}; "
            "fetch the batches again."
        )
    return batches.data, batches.targets


def _damaged(folder: Path) -> list[str]:
    """The batch files whose checksums are not those that torchvision knows."""
    return [
        f"{folder / name} is not CIFAR-10's (its checksum differs); fetch it again"
        for name, checksum in (*CIFAR10.train_list, *CIFAR10.test_list)
        if not check_integrity(str(folder / name), checksum)
    ]


def fetch(entry: Dataset, data: Path) -> None:
    """Download the batches as torchvision does."""
    root = (data / entry.folder).parent
    try:
        CIFAR10(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise MissingInputs(
            f"{root}: torchvision cannot get CIFAR-10 ({error}); try again with a network."
        ) from error


def cifar10(entry: Dataset, data: Path) -> Source:
    """Nine tenths of the training batches, the other tenth (`id`), the test batch (`id_test`).

    Which images are held out is drawn once for all: every run sees the same.
    """
    pixels, labels = _read(entry, data, train=True)
    test_pixels, test_labels = _read(entry, data, train=False)
    count = len(pixels)
    held_out = np.zeros(count, dtype=bool)
    held_out[np.random.default_rng(0).permutation(count)[: max(1, count // HELD_OUT)]] = True

    images = np.concatenate([pixels, test_pixels])
    targets = torch.tensor([*labels, *test_labels], dtype=torch.int64)
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    pool = Pool(
        name=entry.id,
        names=[
            *(f"{entry.folder}, training image {row}" for row in range(count)),
            *(f"{entry.folder}, test image {row}" for row in range(len(test_pixels))),
        ],
        read=lambda row: Image.fromarray(images[row]),
        fingerprint=digest,
        stamp=digest,
    )

    def part(rows: np.ndarray[Any, Any]) -> Part:
        chosen = torch.from_numpy(rows)
        return Part(pool, chosen, targets[chosen], torch.zeros(len(rows), dtype=torch.int64))

    miniature = entry.is_miniature(data)
    return Source(
        train=part(np.flatnonzero(~held_out)),
        splits={
            "id": part(np.flatnonzero(held_out)),
            "id_test": part(np.arange(count, len(images))),
        },
        groups=("",),
        verify=list if miniature else partial(_damaged, data / entry.folder),
        miniature=miniature,
    )
