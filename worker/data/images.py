"""What a loaded dataset looks like to the training loop, whatever its files look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from db.errors import MissingInputs
from worker.catalog import resolve
from worker.data import DATASETS


Batch = Callable[[Tensor], Tensor]
"""(B,) indices -> (B, 3, H, W) float32 in [0, 1], contiguous. Safe to call from several threads."""


@dataclass(frozen=True)
class Images:
    """One split: labelled images in groups, handed out in batches."""

    labels: Tensor
    """(N,) int64."""
    groups: Tensor
    """(N,) int64, indices into `Loaded.groups`."""
    batch: Batch
    """The images as evaluation sees them; of an augmented set, without its chance."""
    augmented: Callable[[torch.Generator], Batch] | None = None
    """One epoch's augmentation, all of it drawn at once: the same whatever the batches are."""

    def __len__(self) -> int:
        return len(self.labels)

    def epoch(self, chance: torch.Generator) -> Batch:
        """The images as one epoch of training sees them."""
        return self.augmented(chance) if self.augmented else self.batch

    def subset(self, rows: Tensor) -> Images:
        """Only these, in this order."""
        whole = self.augmented

        def augmented(chance: torch.Generator) -> Batch:
            assert whole is not None
            batch = whole(chance)
            return lambda indices: batch(rows[indices])

        return Images(
            self.labels[rows],
            self.groups[rows],
            lambda indices: self.batch(rows[indices]),
            augmented if whole else None,
        )


@dataclass(frozen=True)
class Loaded:
    """A dataset in memory or mapped: its training images and every split it evaluates."""

    train: Images
    splits: Mapping[str, Images]
    groups: tuple[str, ...]
    """Names of the groups; one empty name where a dataset has none."""
    fingerprint: str
    """A hash of relative paths, sizes and labels: another one is another dataset."""

    def train_group_counts(self) -> Tensor:
        """(groups,) images of each group in the training set."""
        return torch.bincount(self.train.groups, minlength=len(self.groups))


def in_memory(pixels: Tensor, labels: Tensor, groups: Tensor, white: int = 255) -> Images:
    """Images from (N, C, H, W) uint8 pixels, C of 1 or 3, where `white` stands for 1.0."""

    def batch(indices: Tensor) -> Tensor:
        return pixels[indices].expand(-1, 3, -1, -1).to(torch.float32) / white

    return Images(labels, groups, batch)


@lru_cache(maxsize=2)
def load(dataset: str, data: Path) -> Loaded:
    """The dataset under the data root; the last two are kept for the runs that follow.

    Raises `MissingInputs` where a file that it cannot do without is not there.
    """
    entry = DATASETS.find(dataset)
    if missing := entry.missing(data):
        raise MissingInputs(f"{dataset}: {missing[0]} is missing; get it with: {entry.remedy}")
    if entry.load is None:
        raise MissingInputs(f'dataset "{dataset}" cannot be read by this version of orch.')
    loaded = resolve(entry.load)(data)
    assert isinstance(loaded, Loaded)
    return loaded
