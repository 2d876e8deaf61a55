"""Decoded images on disk: what every run of a (model, dataset) pair would decode again.

A cache is a folder `<pool>-<what>-<key>` of three files: `pixels.bin`, one image after the other;
`index.npy`, where each is, its size and its CRC-32; `meta.json`, what it is, for people. The key
hashes everything that decides the pixels, so other data or another decoder is another folder. It is
built beside its place, synced and renamed: a folder that exists is whole unless the disk lies, and
the checksums find that out too. `worker/data/transforms.py` is the reference for every bit that
comes out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import math
import mmap
import os
import re
import shutil
import socket
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor
from torch.nn import functional

from db.errors import EnvironmentProblem, MissingInputs
from worker.checkpoint import sync
from worker.data import Transform
from worker.data.images import Batch, Images
from worker.data.pool import Part, Pool
from worker.data.transforms import (
    Boxes,
    Steps,
    apply,
    boxes,
    draw,
    mirrored,
    prepare,
    refuse_misfit,
    split,
)

log = logging.getLogger(__name__)

FORMAT = 1
"""Another one wherever the files' meaning changes."""
SAY_SECONDS = 0.5
"""At most so long between two words of progress."""
GROUP = 8
"""Images that one task of a build decodes: fewer cost more in hand-overs, more cost memory."""
SAMPLE = 32
"""Images decoded to estimate the size of a cache whose images differ in size."""
IDLE_BYTES = 256 << 20
"""Memory for batches that is kept for the next ones."""
PIXELS, INDEX, META = "pixels.bin", "index.npy", "meta.json"
PARTIAL = ".partial"
_HOST = re.sub(r"[^\w-]", "_", socket.gethostname())
_ROW = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("crc", "<u4")])
_PLACE = re.compile(r"(?P<pool>.+)-(?P<what>[a-z0-9]+)-(?P<key>[0-9a-f]{16})")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# Where a cache is, and whether it is there.


def _kept(transform: Transform) -> tuple[Steps, str]:
    """The steps whose outcome is kept, and how its bytes lie.

    By planes, as the model's input is, where nothing but copying is left; pixel by pixel where a
    resize follows, as both resizers want it.
    """
    kept, rest = split(transform)
    return kept, "packed" if rest.resizes else "planar"


def _what(kept: Steps) -> str:
    if kept == Steps():
        return "original"
    resize = "" if kept.resize == "none" else f"{kept.resize}{kept.size}{kept.interpolation}"
    return resize + (f"center{kept.crop_size}" if kept.crop == "center" else "")


def _place(pool: Pool, transform: Transform, folder: Path) -> Path:
    kept, layout = _kept(transform)
    decides = {
        "format": FORMAT,
        "pool": pool.name,
        "images": len(pool),
        "stamp": pool.stamp,
        "kept": asdict(kept),
        "layout": layout,
        "pillow": PIL.__version__,
        "jpeg": features.version("libjpeg_turbo"),
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{_safe(pool)}-{_what(kept)}-{key}"


def _safe(pool: Pool) -> str:
    return re.sub(r"[^\w.-]", "_", pool.name)


def _rebuild(pool: str) -> str:
    return f"orch data cache {pool.partition('-')[0]} --rebuild"


def _damage(place: Path) -> str | None:
    """What is wrong with a cache's folder as far as names, sizes and the index tell, or None."""
    try:
        meta = json.loads((place / META).read_text())
        size, index = (place / PIXELS).stat().st_size, (place / INDEX).read_bytes()
        if size != meta["bytes"]:
            return f"{PIXELS} has {size} of {meta['bytes']} bytes"
        if zlib.crc32(index) != meta["index_crc"]:
            return f"{INDEX} is not as it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"{META} is not as it was written"
    return None


def missing(pool: Pool, transform: Transform, folder: Path) -> bool:
    """Whether `build` has something to do. Looks at names, sizes and the index, not at pixels."""
    return _damage(_place(pool, transform, folder)) is not None


# Building.


def build(
    pool: Pool, transform: Transform, folder: Path, threads: int
) -> Iterator[tuple[int, int]]:
    """Build the cache if it is missing, yielding (images done, images in all) every half second.

    Whoever comes while another process builds it waits for that, yielding as well. Raises
    `EnvironmentProblem` where the folder has no room or cannot be written, `MissingInputs` where
    an image cannot be read; then nothing is left behind.
    """
    place = _place(pool, transform, folder)
    total = len(pool)
    if _damage(place) is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _Lock(folder, place.name)
        while not lock.take():
            yield 0, total
            time.sleep(SAY_SECONDS / 2)
        with contextlib.closing(lock):
            _sweep(folder)
            if (damage := _damage(place)) is None:
                return  # another process built it
            if place.exists():
                log.warning("%s: %s; the cache is built again", place, damage)
            yield from _build(pool, transform, place, threads)
    except OSError as error:
        raise EnvironmentProblem(
            f"the cache {place} cannot be written ({error.strerror}); choose another place with "
            "--cache, or --cache none."
        ) from error


class _Lock:
    """The right to build under a name; a process that dies gives it back.

    The file goes with the lock, so that none stays behind: who gets the lock of a file that is no
    longer there by that name has to try again.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f".{name}.lock"
        self._held: int | None = None

    def take(self) -> bool:
        """Try, without waiting."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, 0o666)  # who shares the folder may take it next
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == self.path.stat().st_ino:
                self._held = descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        if self._held is None:
            os.close(descriptor)
        return self._held is not None

    def close(self) -> None:
        """Give it back."""
        if self._held is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._held)
            self._held = None


def _partial(place: Path) -> Path:
    """Where this process builds.

    A name of its own, for a network's file system on which locks of other machines do not count:
    then two build, and the one who is done later finds the place taken.
    """
    return place.with_name(f".{place.name}.{_HOST}.{os.getpid()}{PARTIAL}")


def _sweep(folder: Path) -> None:
    """Remove what killed builds of this machine left, whatever they built.

    A living one holds its lock. What another user left, or is building, is not ours to touch.
    """
    left = [path.name.removesuffix(PARTIAL).rsplit(".", 2)[0] for path in _partials(folder)]
    left += [path.name.removesuffix(".lock") for path in folder.glob(".*.lock")]
    for name in {name.removeprefix(".") for name in left}:
        lock = _Lock(folder, name)
        with contextlib.suppress(OSError):
            if lock.take():
                with contextlib.closing(lock):
                    for partial in _partials(folder, name):
                        shutil.rmtree(partial, ignore_errors=True)


def _partials(folder: Path, name: str = "*") -> list[Path]:
    """This machine's unfinished builds."""
    return list(folder.glob(f".{name}.{_HOST}.*{PARTIAL}"))


def _build(
    pool: Pool, transform: Transform, place: Path, threads: int
) -> Iterator[tuple[int, int]]:
    """Under the lock: write the three files beside the place, then move them there."""
    needed = _refuse_full_disk(pool, transform, place)
    partial = _partial(place)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    workers = ThreadPoolExecutor(max(threads, 1), thread_name_prefix="cache")
    try:
        index = np.zeros(len(pool), _ROW)
        yield from _write_pixels(pool, transform, partial / PIXELS, workers, threads, index)
        _describe(pool, transform, partial, index)
        written = (partial / PIXELS, partial / INDEX, partial / META, partial)
        for synced in [workers.submit(sync, path) for path in written]:
            yield from _patiently(synced, len(pool), len(pool))
        _move(partial, place)
        sync(place.parent)
        yield len(pool), len(pool)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise EnvironmentProblem(
            f"{place} does not fit on its disk ({error.strerror}): it needs about {_size(needed)}; "
            "make room, or choose another place with --cache."
        ) from error
    finally:
        workers.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, place: Path) -> None:
    """Give a whole cache its place, unless another machine was done first."""
    if _damage(place) is None:
        return
    shutil.rmtree(place, ignore_errors=True)
    try:
        partial.rename(place)
    except OSError:
        if _damage(place) is not None:
            raise


def _write_pixels(
    pool: Pool,
    transform: Transform,
    path: Path,
    workers: Executor,
    threads: int,
    index: NDArray[np.void],
) -> Iterator[tuple[int, int]]:
    """Decode in threads, write in order; what is decoded and not yet written stays bounded."""
    total = len(pool)
    starts = iter(range(0, total, GROUP))
    waiting: deque[Future[list[tuple[bytes, int, int, int]]]] = deque()

    def order() -> None:
        for start in starts:
            rows = range(start, min(start + GROUP, total))
            waiting.append(workers.submit(_decode, pool, transform, rows))
            return

    for _ in range(max(threads, 1) + 2):
        order()
    done, offset, told = 0, 0, time.monotonic()
    with path.open("wb") as file:
        while waiting:
            yield from _patiently(waiting[0], done, total)
            for pixels, height, width, crc in waiting.popleft().result():
                file.write(pixels)
                index[done] = (offset, height, width, crc)
                done, offset = done + 1, offset + len(pixels)
            order()
            if time.monotonic() - told > SAY_SECONDS:
                told = time.monotonic()
                yield done, total


def _patiently(work: Future[Any], done: int, total: int) -> Iterator[tuple[int, int]]:
    """Yield progress until the work is done; raises what it raised."""
    while not wait([work], timeout=SAY_SECONDS).done:
        yield done, total
    work.result()


def _decode(pool: Pool, transform: Transform, rows: range) -> list[tuple[bytes, int, int, int]]:
    """Each image's bytes as they lie in the cache, height, width and CRC-32."""
    _, layout = _kept(transform)
    found = []
    for row in rows:
        pixels = prepare(transform, pool.read(row))
        height, width, _ = pixels.shape
        refuse_misfit(transform, pool.names[row], height, width)
        written = (pixels.transpose(2, 0, 1) if layout == "planar" else pixels).tobytes()
        found.append((written, height, width, zlib.crc32(written)))
    return found


def _describe(pool: Pool, transform: Transform, partial: Path, index: NDArray[np.void]) -> None:
    kept, layout = _kept(transform)
    with (partial / INDEX).open("wb") as file:
        np.save(file, index, allow_pickle=False)
    meta = {
        "pool": pool.name,
        "kept": "original" if kept == Steps() else asdict(kept),
        "layout": layout,
        "images": len(pool),
        "bytes": (partial / PIXELS).stat().st_size,
        "index_crc": zlib.crc32((partial / INDEX).read_bytes()),
        "stamp": pool.stamp,
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "created_by": f"Pillow {PIL.__version__}, libjpeg-turbo "
        f"{features.version('libjpeg_turbo')}",
    }
    (partial / META).write_text(json.dumps(meta, indent=2) + "\n")


def estimate(pool: Pool, transform: Transform) -> int:
    """Bytes of a cache: exact where its images are of one size, else from a sample."""
    kept, _ = split(transform)
    count = len(pool)
    if kept.crop == "center":
        return count * kept.crop_size**2 * 3
    if kept.resize == "square":
        return count * kept.size**2 * 3
    rows = sorted({number * count // SAMPLE for number in range(SAMPLE)} if count else [])
    sizes = [prepare(transform, pool.read(row)).size for row in rows]
    return math.ceil(count * sum(sizes) / max(len(sizes), 1))


def _refuse_full_disk(pool: Pool, transform: Transform, place: Path) -> int:
    """The bytes that the cache needs; raises `EnvironmentProblem` where there are fewer."""
    disk = os.statvfs(place.parent)
    free = disk.f_bavail * disk.f_frsize
    needed = estimate(pool, transform) + len(pool) * _ROW.itemsize
    if needed > free:
        raise EnvironmentProblem(
            f"{place} needs about {_size(needed)} and its disk has {_size(free)} left; make "
            "room (`orch data cache` lists what is in it), or choose another place with --cache."
        )
    return needed


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


# Removing and listing.


@dataclass(frozen=True)
class Entry:
    """One cache on disk."""

    path: Path
    pool: str
    what: str
    """The steps whose outcome it holds."""
    images: int
    bytes: int
    created: str
    damage: str | None
    """What is wrong with it, or None."""


def entries(folder: Path) -> list[Entry]:
    """The caches in a folder, by name."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_dir() or not (match := _PLACE.fullmatch(path.name)):
            continue
        damage, meta = _damage(path), {}
        with contextlib.suppress(OSError, ValueError):
            meta = json.loads((path / META).read_text())
        found.append(
            Entry(
                path,
                str(meta.get("pool", match["pool"])),
                match["what"],
                int(meta.get("images", 0)),
                sum(file.stat().st_size for file in path.iterdir()),
                str(meta.get("created", "")),
                damage,
            )
        )
    return found


def remove(pool: Pool, transform: Transform, folder: Path) -> list[Path]:
    """Remove the pool's caches of this preparation, older data's and decoders' too; returns them.

    A process that has one open keeps it until it ends.
    """
    kept, _ = _kept(transform)
    gone = []
    for entry in entries(folder):
        if (entry.pool, entry.what) == (pool.name, _what(kept)):
            try:
                shutil.rmtree(entry.path)
            except OSError as error:
                raise EnvironmentProblem(
                    f"the cache {entry.path} cannot be removed ({error.strerror})."
                ) from error
            gone.append(entry.path)
    return gone


# Reading.


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
                    f"written); build it again with: {_rebuild(self.pool)}"
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
    place = _place(pool, transform, folder)
    if damage := _damage(place):
        raise MissingInputs(f"the cache {place}: {damage}; build it with: {_rebuild(pool.name)}")
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
