"""What a loaded dataset looks like to the training loop, whatever its files look like."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from db.errors import MissingInputs
from db.records import Run
from worker.catalog import resolve
from worker.data import DATASETS, Dataset, Transform
from worker.data.pool import Part, Pool, Source

log = logging.getLogger(__name__)

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

    def at_most(self, count: int | None) -> Loaded:
        """The same with at most `count` images in each set, of every group alike, spread evenly."""
        if count is None:
            return self
        return dataclasses.replace(
            self,
            train=_thinned(self.train, count),
            splits={name: _thinned(images, count) for name, images in self.splits.items()},
        )

    def train_group_counts(self) -> Tensor:
        """(groups,) images of each group in the training set."""
        return torch.bincount(self.train.groups, minlength=len(self.groups))


def joined(first: Images, second: Images) -> Images:
    """The images of both, those of the second after the first's; none of them augmented."""

    def batch(indices: Tensor) -> Tensor:
        early = indices < len(first)
        if early.all():
            return first.batch(indices)
        late = second.batch(indices[~early] - len(first))
        if not early.any():
            return late
        both = late.new_empty((len(indices), *late.shape[1:]))
        both[~early], both[early] = late, first.batch(indices[early])
        return both

    return Images(
        torch.cat([first.labels, second.labels]), torch.cat([first.groups, second.groups]), batch
    )


def _thinned(images: Images, count: int) -> Images:
    if count >= len(images):
        return images
    present = images.groups.unique()
    share = -(-count // len(present))
    taken = []
    for group in present:
        rows = torch.nonzero(images.groups == group).flatten()
        kept = min(share, len(rows))
        taken.append(rows[torch.arange(kept) * len(rows) // kept])
    # Round by round, so that the last places go to as many groups as there are places.
    rounds = [rows[turn] for turn in range(share) for rows in taken if turn < len(rows)]
    return images.subset(torch.stack(rounds[:count]).sort().values)


def in_memory(pixels: Tensor, labels: Tensor, groups: Tensor, white: int = 255) -> Images:
    """Images from (N, C, H, W) uint8 pixels, C of 1 or 3, where `white` stands for 1.0."""

    def batch(indices: Tensor) -> Tensor:
        return pixels[indices].expand(-1, 3, -1, -1).to(torch.float32) / white

    return Images(labels, groups, batch)


@lru_cache(maxsize=4)
def source(dataset: str, data: Path) -> Source:
    """What is under the data root, unread; the last few are kept for the runs that follow.

    Raises `MissingInputs` where a file that it cannot do without is missing or says nonsense.
    """
    entry = DATASETS.find(dataset)
    if absence := entry.absence(data):
        raise MissingInputs(f"{dataset}: {absence}")
    if entry.source is None:
        raise MissingInputs(f'dataset "{dataset}" is not read from image files.')
    found = resolve(entry.source)(entry, data)
    assert isinstance(found, Source)
    for split, count in entry.images.items():
        here = len(found.train if split == "train" else found.splits[split])
        if here != count and not found.miniature:
            log.warning("%s: %s has %d images, not the %d published", dataset, split, here, count)
    return found


def pools(dataset: str, data: Path, resize: str = "short") -> list[tuple[Pool, Transform]]:
    """What a cache of the dataset holds: each of its pools with the transform that it prepares."""
    entry, found = _resized(dataset, resize), source(dataset, data)
    assert entry.train_transform is not None
    assert entry.test_transform is not None
    wanted = [(found.train.pool, entry.train_transform)]
    wanted += [(part.pool, entry.test_transform) for part in found.splits.values()]
    return list(dict.fromkeys(wanted))


def _resized(dataset: str, resize: str) -> Dataset:
    """The dataset as a run's `resize` has it."""
    entry = DATASETS.find(dataset)
    return entry.squared() if resize == "square" else entry


def prepare(
    dataset: str, data: Path, cache: Path | None, threads: int, resize: str = "short"
) -> Generator[tuple[int, int], None, None]:
    """Build what the cache lacks of the dataset, yielding (images done, images in all)."""
    if cache is None or DATASETS.find(dataset).source is None:
        return
    from worker.data.cache import build

    for pool, transform in pools(dataset, data, resize):
        yield from build(pool, transform, cache, threads)


def load_for(run: Run, data: Path, cache: Path | None = None) -> Loaded:
    """What a run trains on and is evaluated on: its dataset, as its protocol and limits have it."""
    loaded = load(run.dataset, data, cache, run.resize).at_most(run.images_per_split)
    view = DATASETS.find(run.dataset).authors_selection
    if run.waterbirds_selection == "validation" or view is None:
        return loaded
    seen = resolve(view)(loaded)
    assert isinstance(seen, Loaded)
    return seen


@lru_cache(maxsize=4)
def load(dataset: str, data: Path, cache: Path | None = None, resize: str = "short") -> Loaded:
    """The dataset under the data root, through the cache that `prepare` built, or without one.

    The last few are kept for the runs that follow. Raises `MissingInputs` where a file that it
    cannot do without is not there.
    """
    entry = _resized(dataset, resize)
    if entry.load is not None:
        loaded = resolve(entry.load)(data)
        assert isinstance(loaded, Loaded)
        return loaded
    found = source(dataset, data)
    assert entry.train_transform is not None
    assert entry.test_transform is not None
    return Loaded(
        train=_images(found.train, entry.train_transform, cache),
        splits={
            name: _images(part, entry.test_transform, cache) for name, part in found.splits.items()
        },
        groups=found.groups,
        fingerprint=found.fingerprint(),
    )


def _images(part: Part, transform: Transform, cache: Path | None) -> Images:
    if cache is None:
        from worker.data.transforms import plain

        return plain(part, transform)
    from worker.data.cached import cached

    return cached(part, transform, cache)
