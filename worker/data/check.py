"""Whether a dataset's files will do: all there, labelled as they should be, every image opening."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from db.errors import OrchError
from worker.data import DATASETS, Transform
from worker.data.images import load, pools, source
from worker.data.pool import Part, Pool
from worker.data.transforms import prepare, refuse_misfit

SAMPLE = 256
"""Images of each pool that are opened where not all are asked for, spread evenly over it."""
SHOWN = 5
"""Broken images that are told of, of each pool."""


@dataclass(frozen=True)
class SplitCount:
    """One set of images as the files have it."""

    split: str
    images: int
    expected: int | None
    """Of the published dataset; None where unknown, or of a miniature."""
    classes: int
    """Classes that have images here."""
    groups: dict[str, int]


@dataclass(frozen=True)
class Report:
    """What a check found; usable where there are no problems."""

    dataset: str
    splits: tuple[SplitCount, ...]
    problems: tuple[str, ...]
    opened: int = 0
    miniature: bool = False
    fingerprint: str = ""


def check(
    dataset: str, data: Path, *, every: bool, threads: int
) -> Generator[tuple[int, int], None, Report]:
    """Look a dataset over, yielding (images opened, images to open); returns the report."""
    entry = DATASETS.find(dataset)
    if absence := entry.absence(data):
        return Report(dataset, (), (absence,))
    try:
        if entry.source is None:
            return _generated(dataset, data)
        found = source(dataset, data)
    except OrchError as error:
        return Report(dataset, (), (str(error),))
    parts = {"train": found.train, **found.splits}
    splits = tuple(
        _count(name, part, found.groups, None if found.miniature else entry.images.get(name))
        for name, part in parts.items()
    )
    problems = [*_wrong_counts(splits, entry.classes, found.miniature), *found.verify()]
    opened = 0
    # Once each: a pool's transforms of training and of tests open the same files.
    for pool, transform in dict(pools(dataset, data)).items():
        broken, count = yield from _open(pool, transform, every=every, threads=threads)
        problems += broken
        opened += count
    return Report(dataset, splits, tuple(problems), opened, found.miniature, found.fingerprint())


def _generated(dataset: str, data: Path) -> Report:
    """Of images that a dependency ships or code draws: they are what they are."""
    loaded = load(dataset, data)
    sets = {"train": loaded.train, **loaded.splits}
    splits = tuple(
        SplitCount(name, len(images), None, len(images.labels.unique()), {})
        for name, images in sets.items()
    )
    return Report(dataset, splits, (), fingerprint=loaded.fingerprint)


def _count(name: str, part: Part, groups: tuple[str, ...], expected: int | None) -> SplitCount:
    counts = torch.bincount(part.groups, minlength=len(groups)).tolist()
    named = {g: n for g, n in zip(groups, counts, strict=True) if n} if len(groups) > 1 else {}
    return SplitCount(name, len(part), expected, len(part.labels.unique()), named)


def _wrong_counts(splits: tuple[SplitCount, ...], classes: int, miniature: bool) -> list[str]:
    problems = [
        f"{one.split} has {one.images:,} images, and the published dataset {one.expected:,}: "
        "fetch it again, or expect other numbers than the paper's"
        for one in splits
        if one.expected not in (None, one.images)
    ]
    train = splits[0]
    if train.classes < classes and not miniature:
        problems.append(f"train has images of {train.classes} classes, not of {classes}")
    return problems


def _open(
    pool: Pool, transform: Transform, *, every: bool, threads: int
) -> Generator[tuple[int, int], None, tuple[list[str], int]]:
    """Open a pool's images, or a sample, as training would; returns what is broken."""
    count = len(pool) if every else min(SAMPLE, len(pool))
    rows = (torch.arange(count) * len(pool) // max(count, 1)).tolist()

    def broken(row: int) -> str | None:
        try:
            height, width, _ = prepare(transform, pool.read(row)).shape
            refuse_misfit(transform, pool.names[row], height, width)
        except OrchError as error:
            return str(error)
        return None

    problems: list[str] = []
    with ThreadPoolExecutor(threads) as workers:
        for done, problem in enumerate(workers.map(broken, rows), start=1):
            if problem:
                problems.append(problem)
            yield done, count
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"… and {len(problems) - SHOWN} more images of {pool.name}"]
    return problems, count
