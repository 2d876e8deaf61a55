"""Checkpoints that are whole or not there, whoever is killed when.

A file is `checkpoint-<fence>-<epoch>-<crc>.pt`. It is written under a temporary name beside its
place, synced, renamed, and the folder synced; so a name that exists is complete unless the disk
lies, and the checksum in the name (CRC-32: against damage, not malice, and five times as fast as
SHA-256) finds that out too. The highest fence, then the highest epoch, is what a run goes on from:
a process that was frozen and replaced still carries its old fence and cannot win.
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

log = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d{6})-(\d{6})-([0-9a-f]{8})\.pt")
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
    folder: Path, write: Callable[[IO[bytes]], None], name: Callable[[Path], str]
) -> Path:
    """Write a file that appears under its name, complete or not at all.

    `name` is asked when the bytes are on disk, and gets the file as it is called until then.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
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


def _name(fence: int, epoch: int, checksum: str) -> str:
    return f"checkpoint-{fence:06d}-{epoch:06d}-{checksum}.pt"


class Checkpoints:
    """The checkpoints of one run, as one attempt sees them."""

    def __init__(self, folder: Path, fence: int) -> None:
        self.folder = folder
        self.fence = fence

    def _found(self) -> Iterator[tuple[tuple[int, int], Path, str]]:
        for path in self.folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                yield (int(match[1]), int(match[2])), path, match[3]

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after `epoch`, then drop this fence's and older fences' earlier files."""
        place = write_whole(
            self.folder,
            lambda file: torch.save(state, file),
            lambda path: _name(self.fence, epoch, crc32(path)),
        )
        for rank, path, _ in list(self._found()):
            if rank <= (self.fence, epoch) and path != place:
                path.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest readable state, or None. An unreadable file is set aside as `*.unreadable`.

        A higher fence than ours is another store's over the same folder: its file becomes ours, or
        it would outrank whatever we save.
        """
        for (fence, epoch), path, checksum in sorted(self._found(), reverse=True):
            state = self._read(path, checksum)
            if state is None:
                log.warning("%s cannot be read and is set aside", path.name)
                path.replace(path.with_suffix(".unreadable"))
                continue
            if fence > self.fence:
                path.replace(self.folder / _name(self.fence, epoch, checksum))
            return state
        return None

    def _read(self, path: Path, checksum: str) -> dict[str, Any] | None:
        if crc32(path) != checksum:
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
            log.warning("%s: %s", path.name, error)  # whole, but another version's
            return None
        return state
