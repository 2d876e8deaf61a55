"""What a dataset's files hold, before any pixel is read: images by number, labels, groups, splits.

A reader of a layout (`worker/data/folders.py`, `wilds_sets.py`, `cifar.py`) gives a `Source`;
`worker/data/images.py` makes of it the tensors that training sees, through the cache or without.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from db.errors import MissingInputs
from worker.data import MINIATURE

ASKING = 16
"""Threads that ask the file system about files."""
ASKED_TOGETHER = 512
"""Files that one task of such a thread asks about."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Numbered images that share their preparation; one cache file holds them all."""

    name: str
    """Of the cache's folder: the dataset, and its part where it has several."""
    names: Sequence[str]
    """What to call each image in an error: its path, or where it is in a file of many."""
    read: Callable[[int], Image.Image]
    """The decoded RGB image; raises `MissingInputs` that names a file which cannot be read."""
    fingerprint: str
    """Of relative paths and bytes on disk: the same wherever the files are."""
    stamp: str
    """The same with the files' times: another one and a cache is built anew."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Part:
    """Some of a pool's images as a split has them."""

    pool: Pool
    rows: Tensor
    """(n,) int64, into the pool."""
    labels: Tensor
    """(n,) int64."""
    groups: Tensor
    """(n,) int64, into `Source.groups`."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset on disk: its training images and every split it evaluates, unread."""

    train: Part
    splits: Mapping[str, Part]
    groups: tuple[str, ...]
    """Names of the groups; one empty name where a dataset has none."""
    verify: Callable[[], list[str]] = list
    """What is wrong with the files beyond what reading them shows; asked by `orch data check`."""
    miniature: bool = False
    """Made by `orch data make-mini`: never to be taken for the real one."""

    def fingerprint(self) -> str:
        """A hash of relative paths, bytes on disk, labels, groups and splits; never of times."""
        seen = hashlib.sha256(repr(self.groups).encode())
        for name, part in (("train", self.train), *sorted(self.splits.items())):
            seen.update(f"{name} {part.pool.fingerprint}\n".encode())
            for values in (part.rows, part.labels, part.groups):
                seen.update(values.to(torch.int64).numpy().tobytes())
        prefix = MINIATURE if self.miniature else ""
        return prefix + seen.hexdigest()


def read_rgb(path: Path) -> Image.Image:
    """The decoded image in RGB; raises `MissingInputs` where the file is missing or damaged."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise MissingInputs(f"{path} is missing; fetch the dataset again.") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MissingInputs(f"{path}: not a readable image ({reason}); fetch it again.") from error


def files_pool(name: str, root: Path, files: Iterable[str], listed_in: str) -> Pool:
    """A pool of image files under `root`; `listed_in` is the file that names them, for errors."""
    names = tuple(files)
    plain, timed = hashlib.sha256(), hashlib.sha256()
    for file, status in zip(names, _statuses(str(root), names), strict=True):
        if status is None:
            raise MissingInputs(
                f"{root / file} is named by {listed_in} and missing; fetch the dataset again."
            )
        line = f"{file}\0{status[0]}\n"
        plain.update(line.encode())
        timed.update(f"{line}{status[1]}\n".encode())
    return Pool(
        name=name,
        names=names,
        read=lambda row: read_rgb(root / names[row]),
        fingerprint=plain.hexdigest(),
        stamp=timed.hexdigest(),
    )


def _statuses(root: str, names: Sequence[str]) -> Iterator[tuple[int, int] | None]:
    """Size and time of each file, None where there is none.

    Asked for by several threads: on a network's file system each answer takes a millisecond, and
    Camelyon17 has 455,954 files.
    """

    def some(start: int) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for name in names[start : start + ASKED_TOGETHER]:
            try:
                status = os.stat(f"{root}/{name}")  # noqa: PTH116 (half the time of Path's)
                found.append((status.st_size, status.st_mtime_ns))
            except OSError:
                found.append(None)
        return found

    with ThreadPoolExecutor(ASKING) as threads:
        for part in threads.map(some, range(0, len(names), ASKED_TOGETHER)):
            yield from part
