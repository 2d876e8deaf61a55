"""Images out of a cache that `worker.data.cache` has built, each bit as without one.

The files are mapped, so all runs of a machine share their pages; each image is checked against its
CRC-32 when a process reads it for the first time. Batches are filled in memory that is used again.
"""

from __future__ import annotations

import json
import math
import mmap
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from db.errors import MissingInputs
from worker.data import Transform
from worker.data.cache import INDEX, META, PIXELS, damage_of, place_of, rebuild_command
from worker.data.images import Batch, Images
from worker.data.pool import Part
from worker.data.transforms import Boxes, Steps, apply, boxes, draw, mirrored, refuse_misfit, split

IDLE_BYTES = 256 << 20
"""Memory for batches that is kept for the next ones."""


class _Bytes:
    """Mapped bytes as an array that torch takes.

    torch warns of arrays that cannot be written, and a writable private mapping is refused where it
    is larger than the memory; so this one says it can be, and nobody does.
    """

    def __init__(self, mapped: NDArray[np.uint8]) -> None:
        self.mapped = mapped  # lives as long as any view
        whole = mapped.__array_interface__
        self.__array_interface__ = {**whole, "data": (whole["data"][0], False)}


class Pixels:
    """An open cache: verified views of its images. For any number of threads, and after a fork."""

    def __init__(self, place: Path, pool: str) -> None:
        self.place, self.pool = place, pool
        index = np.load(place / INDEX, allow_pickle=False)
        self.sizes = np.stack([index["height"], index["width"]], axis=1).astype(np.int64)
        self._offsets: list[int] = index["offset"].tolist()
        self._crc = index["crc"]
        self._planar = json.loads((place / META).read_text())["layout"] == "planar"
        self._verified = np.zeros(len(index), np.bool_)
        self.one_size = len(index) > 0 and bool((self.sizes == self.sizes[0]).all())
        with (place / PIXELS).open("rb") as file:
            empty = (place / PIXELS).stat().st_size == 0
            self._map = None if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped = np.frombuffer(self._map or b"", np.uint8)
        self.flat: NDArray[np.uint8] = np.asarray(_Bytes(mapped))
        """All the bytes; `verify` before use."""
        self.tensor = torch.from_numpy(self.flat)

    def verify(self, rows: NDArray[np.int64]) -> None:
        """Raise `MissingInputs` where an image is not as it was written; once for each."""
        for row in rows[~self._verified[rows]].tolist():
            start = self._offsets[row]
            end = start + 3 * int(self.sizes[row].prod())
            if self._map is not None:
                begin = start - start % mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, begin, end - begin)
            if zlib.crc32(self.flat[start:end].data) != self._crc[row]:
                raise MissingInputs(
                    f"the cache {self.place} is damaged (its image {row} is not as it was "
                    f"written); build it again with: {rebuild_command(self.pool)}"
                )
            self._verified[row] = True

    def offset(self, row: int) -> int:
        """Where the image starts in `flat`."""
        return self._offsets[row]

    def every(self) -> Tensor:
        """All images as one tensor, where they are of one size: planar or packed."""
        height, width = self.sizes[0].tolist()
        shape = (3, height, width) if self._planar else (height, width, 3)
        return self.tensor.view(-1, *shape)


@lru_cache(maxsize=8)
def _open(place: Path, pool: str, written: int) -> Pixels:
    """`written` tells a folder from its successor of the same name."""
    return Pixels(place, pool)


def cached(part: Part, transform: Transform, folder: Path) -> Images:
    """The images out of a cache that `build` has built: every bit as `plain` makes it.

    Raises `MissingInputs` where the cache is not there or is damaged.
    """
    pool = part.pool
    place = place_of(pool, transform, folder)
    if damage := damage_of(place):
        raise MissingInputs(
            f"the cache {place}: {damage}; build it with: {rebuild_command(pool.name)}"
        )
    pixels = _open(place, pool.name, (place / META).stat().st_mtime_ns)
    for size in np.unique(pixels.sizes, axis=0):
        row = int((pixels.sizes == size).all(axis=1).argmax())
        refuse_misfit(transform, pool.names[row], *size.tolist())
    rows = part.rows.numpy()
    _, rest = split(transform)
    side = transform.side

    def batch(steps: Steps, crops: Boxes | None, flips: NDArray[np.bool_] | None) -> Batch:
        fill = _filler(pixels, steps)

        def made(indices: Tensor) -> Tensor:
            chosen = indices.numpy()
            wanted = rows[chosen]
            pixels.verify(wanted)
            memory = _memory.take((len(wanted), 3, side, side))
            some = [None] * len(wanted) if crops is None else crops[chosen].tolist()
            mirror = [False] * len(wanted) if flips is None else flips[chosen].tolist()
            out = torch.from_numpy(memory)
            fill(out, wanted, some, mirror)
            return out

        return made

    def augmented(chance: torch.Generator) -> Batch:
        drawn = draw(rest, len(rows), chance)
        crops = None
        if rest.crop in ("random", "resized"):
            crops = boxes(rest, pixels.sizes[rows], drawn)
        return batch(rest, crops, mirrored(rest, drawn) if rest.flip else None)

    return Images(
        part.labels,
        part.groups,
        batch(rest.still(), None, None),
        augmented if transform.random else None,
    )


Fill = Callable[[Tensor, NDArray[np.int64], list[Any], list[bool]], None]
"""(B, 3, side, side) floats to fill, rows, boxes or Nones, whether each is mirrored."""


def _filler(pixels: Pixels, steps: Steps) -> Fill:
    """The fastest way that is exact."""
    if not steps.resizes:
        return lambda *args: _copied(pixels, steps, *args)
    if (
        steps.resize == "square"
        and steps.crop == "none"
        and steps.interpolation == "bilinear"
        and pixels.one_size
        and torch_enlarges_exactly(*pixels.sizes[0].tolist(), steps.size)
    ):
        return lambda *args: _enlarged(pixels, steps, *args)
    return lambda *args: _resized(pixels, steps, *args)


def _copied(
    pixels: Pixels,
    steps: Steps,
    out: Tensor,
    rows: NDArray[np.int64],
    crops: list[Any],
    mirror: list[bool],
) -> None:
    """Planes that are only cut and mirrored: one pass to floats, one to divide them in the cache.

    A flip on bytes costs a quarter of one on floats, and x · (1/255) is not x / 255.
    """
    side = out.shape[-1]
    shapes = pixels.sizes[rows].tolist()
    for target, row, (height, width), box, flip in zip(
        out, rows.tolist(), shapes, crops, mirror, strict=True
    ):
        start = pixels.offset(row)
        image = pixels.tensor[start : start + 3 * height * width].view(3, height, width)
        if steps.crop != "none":
            top, left = box[:2] if box else _center(height, width, side)
            image = image[:, top : top + side, left : left + side]
        target.copy_(image.flip(-1) if flip else image)
        target.div_(255)


def _center(height: int, width: int, side: int) -> tuple[int, int]:
    return round((height - side) / 2), round((width - side) / 2)


def _enlarged(
    pixels: Pixels,
    steps: Steps,
    out: Tensor,
    rows: NDArray[np.int64],
    crops: list[Any],
    mirror: list[bool],
) -> None:
    """Images of one size made larger, all of a batch at once by torch."""
    small = pixels.every()[torch.from_numpy(rows)].permute(0, 3, 1, 2)
    large = _interpolate(small, steps.size)
    for target, image, flip in zip(out, large, mirror, strict=True):
        target.copy_(image.flip(-1) if flip else image)
        target.div_(255)


def _interpolate(small: Tensor, height: int, width: int | None = None) -> Tensor:
    large: Tensor = functional.interpolate(
        small, (height, height if width is None else width), mode="bilinear", antialias=True
    )
    return large


@lru_cache
def torch_enlarges_exactly(height: int, width: int, size: int) -> bool:
    """Whether torch's resize of bytes gives what Pillow's gives: tried on all there is to try.

    An enlarged line mixes two neighbours in each place, so lines that hold every pair of values
    prove it. torch weighs with 16 bits and Pillow with 32: few sizes pass, but 96 to 224 does.
    """
    if max(height, width) > size:
        return False
    values = np.arange(1 << 16, dtype=np.uint32)
    pair = np.stack([values & 255, values >> 8], axis=1).astype(np.uint8)
    for length, upright in ((width, False), (height, True)):
        lines = np.tile(pair, (1, (length + 1) // 2))[:, :length]  # (65536, length)
        whole = np.ascontiguousarray(lines.reshape(-1, 4, length).transpose(0, 2, 1)[..., :3])
        whole = np.concatenate([whole, lines.reshape(-1, 4, length).transpose(0, 2, 1)[..., 1:]])
        if upright:
            whole = np.ascontiguousarray(whole.transpose(1, 0, 2))
        shape = (size, whole.shape[1]) if upright else (whole.shape[0], size)
        pillow = np.asarray(Image.fromarray(whole).resize(shape[::-1], Image.Resampling.BILINEAR))
        ours = _interpolate(torch.from_numpy(whole)[None].permute(0, 3, 1, 2), *shape)
        if not np.array_equal(ours[0].permute(1, 2, 0).numpy(), pillow):
            return False
    return True


_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _resized(
    pixels: Pixels,
    steps: Steps,
    out: Tensor,
    rows: NDArray[np.int64],
    crops: list[Any],
    mirror: list[bool],
) -> None:
    """Images that Pillow resizes: nobody else gives its bits."""
    side = out.shape[-1]
    floats = out.numpy()
    shapes = pixels.sizes[rows].tolist()
    for target, row, (height, width), box, flip in zip(
        floats, rows.tolist(), shapes, crops, mirror, strict=True
    ):
        start = pixels.offset(row)
        if steps.crop == "resized":
            image = _image(pixels.flat, start, width, *box)
            image = image.resize((side, side), _PILLOW[steps.interpolation])
        else:
            image = apply(steps, _image(pixels.flat, start, width, 0, 0, height, width), box)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # Line by line, each as three runs of one colour: copied in runs, not pixel by pixel.
        lines = np.frombuffer(image.tobytes("raw", "RGB;L"), np.uint8).reshape(side, 3, side)
        np.copyto(target, lines.transpose(1, 0, 2))
        np.divide(target, np.float32(255), out=target)


def _image(
    flat: NDArray[np.uint8], start: int, stride: int, top: int, left: int, height: int, width: int
) -> Image.Image:
    """A box of a packed image `stride` pixels wide, without a copy of the rest."""
    first = start + 3 * (top * stride + left)
    last = first + 3 * ((height - 1) * stride + width)
    return Image.frombuffer("RGB", (width, height), flat[first:last], "raw", "RGB", 3 * stride, 1)


class _Memory:
    """Memory for batches, used again once nobody holds the batch or a view of it.

    Fresh memory costs a page fault every 4 kB, together several times what filling it takes, and
    the allocator gives back what is free at its end as soon as it is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._returned: deque[NDArray[np.float32]] = deque()  # finalizers run anywhere: no lock
        self._idle: list[NDArray[np.float32]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Memory of this shape; what is in it is undefined."""
        size = math.prod(shape)
        block = self._find(size)
        if block is None:
            block = np.empty(size, np.float32)
        taken = block[:size].reshape(shape)
        # torch holds `taken` as long as its memory is in use, by whatever tensor.
        weakref.finalize(taken, self._returned.append, block).atexit = False
        return taken

    def _find(self, size: int) -> NDArray[np.float32] | None:
        if not self._lock.acquire(blocking=False):
            return None  # rather than wait: a fork may have copied a lock whose holder it did not
        try:
            while self._returned:
                self._idle.append(self._returned.popleft())
            fitting = (n for n, b in enumerate(self._idle) if size <= b.size <= 4 * size)
            number = next(fitting, None)
            found = None if number is None else self._idle.pop(number)
            while sum(block.nbytes for block in self._idle) > self._limit:
                self._idle.pop(0)
            return found
        finally:
            self._lock.release()


_memory = _Memory(IDLE_BYTES)
