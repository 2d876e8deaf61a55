"""Checkpoints that are whole or not there, whoever is killed when.

A file is `checkpoint-<fence>-<epoch>-<step>-<crc>.pt`: whole epochs, and steps of the next one. It
is written under a temporary name beside its place, synced, renamed, and the folder synced; so a
name that exists is complete unless the disk lies, and the checksum in the name (CRC-32: against
damage, not malice, and five times as fast as SHA-256) finds that out too. The highest fence, then
the highest epoch and step, is what a run goes on from: a process that was frozen and replaced still
carries its old fence and cannot win.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from worker.disk import writing

log = logging.getLogger(__name__)

# Without a step: written at an epoch's end by versions that knew no others.
_NAME = re.compile(r"checkpoint-(\d{6})-(\d{6})(?:-(\d{6,}))?-([0-9a-f]{8})\.pt")
_TEMPORARY = ".partial-"
CHUNK = 1 << 20


def _usual_mode() -> int:
    """What others may do with a new file: `mkstemp` shuts them out, and people share folders."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


_MODE = _usual_mode()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32(path: Path) -> str:
    """The CRC-32 of a file's bytes, in 8 hexadecimal digits."""
    total = 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            total = zlib.crc32(piece, total)
    return f"{total:08x}"


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(
    folder: Path,
    write: Callable[[IO[bytes]], None],
    name: Callable[[Path], str],
    needed: int = 0,
    prefix: str = _TEMPORARY,
) -> Path:
    """Write a file that appears under its name, complete or not at all.

    `name` is asked when the bytes are on disk, and gets the file as it is called until then, which
    begins with `prefix`. Raises `DiskFull`, saying that about `needed` bytes are, and
    `EnvironmentProblem` where the folder cannot be written for another reason.
    """
    with writing(folder, needed):
        descriptor, temporary = tempfile.mkstemp(prefix=prefix, dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, _MODE)
                write(file)
                file.flush()
                os.fsync(file.fileno())
            place = folder / name(Path(temporary))
            Path(temporary).replace(place)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync(folder)
    return place


Rank = tuple[int, int, int]
"""Fence, whole epochs, steps of the next one: the highest is the newest."""


def _name(rank: Rank, checksum: str) -> str:
    fence, epoch, step = rank
    return f"checkpoint-{fence:06d}-{epoch:06d}-{step:06d}-{checksum}.pt"


def _bytes(state: Any) -> int:
    """What the tensors of a state take, nearly all of its file."""
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, dict):
        state = state.values()
    elif not isinstance(state, list | tuple):
        return 0
    return sum(map(_bytes, state))


class Checkpoints:
    """The checkpoints of one run, as one attempt sees them.

    Raises `EnvironmentProblem` where the folder is gone or cannot be written.
    """

    def __init__(self, folder: Path, fence: int) -> None:
        self.folder = folder
        self.fence = fence

    def _found(self) -> Iterator[tuple[Rank, Path, str]]:
        for path in self.folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                fence, epoch, step, checksum = match.groups()
                yield (int(fence), int(epoch), int(step or 0)), path, checksum

    def newest(self) -> tuple[int, int]:
        """Whole epochs, and steps of the next, that the newest checkpoint has: (0, 0) of none."""
        try:
            _, epoch, step = max((rank for rank, _, _ in self._found()), default=(0, 0, 0))
        except FileNotFoundError:  # not made yet
            return 0, 0
        return epoch, step

    def save(self, epoch: int, state: dict[str, Any], step: int = 0) -> None:
        """Write the state `step` steps after `epoch`, then drop our and older fences' earlier ones.

        Raises `DiskFull` where there is no room for it beside its predecessor, which stays.
        """
        mine = (self.fence, epoch, step)

        def write(file: IO[bytes]) -> None:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch's own, about what the system had said
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

        place = write_whole(
            self.folder,
            write,
            lambda path: _name(mine, crc32(path)),
            _bytes(state),
            f"{_TEMPORARY}{self.fence:06d}-",
        )
        with writing(self.folder):
            for rank, path, _ in list(self._found()):
                if rank <= mine and path != place:
                    path.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest readable state, or None. An unreadable file is set aside as `*.unreadable`.

        A higher fence than ours is another store's over the same folder: its file becomes ours, or
        it would outrank whatever we save. What older attempts were killed in writing goes.
        """
        with writing(self.folder):
            self._sweep()
            while True:
                try:
                    return self._newest_readable()
                except FileNotFoundError:  # an attempt before this one still saves: look again
                    if not self.folder.is_dir():
                        raise

    def _newest_readable(self) -> dict[str, Any] | None:
        for rank, path, checksum in sorted(self._found(), reverse=True):
            state = self._read(path, checksum)
            if state is None:
                log.warning("%s cannot be read and is set aside", path.name)
                path.replace(path.with_suffix(".unreadable"))
                continue
            if rank[0] > self.fence:
                path.replace(self.folder / _name((self.fence, *rank[1:]), checksum))
            return state
        return None

    def _sweep(self) -> None:
        for path in self.folder.glob(f"{_TEMPORARY}??????-*"):
            fence = path.name.removeprefix(_TEMPORARY)[:6]
            if fence.isdigit() and int(fence) < self.fence:
                path.unlink(missing_ok=True)

    def _read(self, path: Path, checksum: str) -> dict[str, Any] | None:
        if crc32(path) != checksum:
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
            log.warning("%s: %s", path.name, error)  # whole, but another version's
            return None
        return state
