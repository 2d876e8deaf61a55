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
import os
import re
import shutil
import socket
import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from db.errors import EnvironmentProblem
from worker.checkpoint import sync
from worker.data import Transform
from worker.data.pool import Pool
from worker.data.transforms import (
    Steps,
    prepare,
    refuse_misfit,
    split,
)
from worker.disk import FULL, DiskFull, size

log = logging.getLogger(__name__)

FORMAT = 1
"""Another one wherever the files' meaning changes."""
SAY_SECONDS = 0.5
"""At most so long between two words of progress."""
GROUP = 8
"""Images that one task of a build decodes: fewer cost more in hand-overs, more cost memory."""
SAMPLE = 32
"""Images decoded to estimate the size of a cache whose images differ in size."""
PIXELS, INDEX, META = "pixels.bin", "index.npy", "meta.json"
PARTIAL = ".partial"
_HOST = re.sub(r"[^\w-]", "_", socket.gethostname())
_ROW = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("crc", "<u4")])
_PLACE = re.compile(r"(?P<pool>.+)-(?P<what>[a-z0-9]+)-(?P<key>[0-9a-f]{16})")


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


def place_of(pool: Pool, transform: Transform, folder: Path) -> Path:
    """The folder of a cache, whether it is there or not."""
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


def rebuild_command(pool: str) -> str:
    """What builds a damaged cache anew."""
    return f"orch data cache {pool.partition('-')[0]} --rebuild"


def damage_of(place: Path) -> str | None:
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
    return damage_of(place_of(pool, transform, folder)) is not None


# Building.


def build(
    pool: Pool, transform: Transform, folder: Path, threads: int
) -> Iterator[tuple[int, int]]:
    """Build the cache if it is missing, yielding (images done, images in all) every half second.

    Whoever comes while another process builds it waits for that, yielding as well. Raises
    `DiskFull` where the folder has no room, `EnvironmentProblem` where it cannot be written,
    `MissingInputs` where an image cannot be read; then nothing is left behind.
    """
    place = place_of(pool, transform, folder)
    total = len(pool)
    if damage_of(place) is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _Lock(folder, place.name)
        while not lock.take():
            yield 0, total
            time.sleep(SAY_SECONDS / 2)
        with contextlib.closing(lock):
            _sweep(folder)
            if (damage := damage_of(place)) is None:
                return  # another process built it
            if place.exists():
                log.warning("%s: %s; the cache is built again", place, damage)
            yield from _build(pool, transform, place, threads)
    except OSError as error:
        message = (
            f"the cache {place} cannot be written ({error.strerror}); choose another place with "
            "--cache, or --cache none."
        )
        if error.errno in FULL:
            raise DiskFull(message, folder, 0) from error
        raise EnvironmentProblem(message) from error


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
        message = (
            f"{place} does not fit on its disk ({error.strerror}): it needs about {size(needed)}; "
            "make room, or choose another place with --cache."
        )
        if error.errno in FULL:
            raise DiskFull(message, place.parent, needed) from error
        if error.errno == errno.EFBIG:
            raise EnvironmentProblem(message) from error
        raise
    finally:
        workers.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, place: Path) -> None:
    """Give a whole cache its place, unless another machine was done first."""
    if damage_of(place) is None:
        return
    shutil.rmtree(place, ignore_errors=True)
    try:
        partial.rename(place)
    except OSError:
        if damage_of(place) is not None:
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
    """The bytes that the cache needs; raises `DiskFull` where there are fewer."""
    disk = os.statvfs(place.parent)
    free = disk.f_bavail * disk.f_frsize
    needed = estimate(pool, transform) + len(pool) * _ROW.itemsize
    if needed > free:
        message = (
            f"{place} needs about {size(needed)} and its disk has {size(free)} left; make "
            "room (`orch data cache` lists what is in it), or choose another place with --cache."
        )
        raise DiskFull(message, place.parent, needed)
    return needed


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
        damage, meta = damage_of(path), {}
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
