"""Frozen features: what enters a model's classification head, computed once and kept on disk.

A set of images (training, or a split) becomes one array of floats (images, width) in
`shared-features` under the runs folder, in a file that is named by everything its values depend on:
any run that needs the same ones reads it. Extraction may be interrupted anywhere; what was computed
waits in the run's own folder, in parts. Checksums are CRC-32, as in `worker.checkpoint`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from db.errors import MissingInputs
from db.records import Run, digest
from worker.checkpoint import crc32, write_whole
from worker.context import Context
from worker.data.images import Images, Loaded
from worker.data.prefetch import prefetch
from worker.determinism import arithmetic, generator
from worker.disk import with_room, writing
from worker.events import Event, Stopped
from worker.head import Floats, layer_of
from worker.memory import fitting
from worker.models import Model
from worker.pace import Pace

log = logging.getLogger(__name__)

SHARED = "shared-features"
"""The folder under the runs folder; no run's id can be called so."""
TRAIN = "train"
"""The name of the set of training images, beside the names of splits."""
VERSION = 1
"""Part of what files are named by; raised when the same inputs give other features."""
PART_BYTES = 256 << 20
"""Features that are held in memory before they are written: 131,072 images at width 512."""
_PART = re.compile(r"\.partial-features-([0-9a-f]{16})-(\d{9})-(\d{9})-([0-9a-f]{8})\.npy")


class _PartsGone(Exception):
    """What was computed before lies no more where it lay: another attempt at the run used it."""


@dataclass(frozen=True)
class Kept:
    """The features of one set on disk."""

    path: Path
    rows: Floats
    """(images, width), mapped."""

    @property
    def crc(self) -> str:
        """The checksum that the file's name carries."""
        return self.path.stem.rpartition("-")[2]


@contextmanager
def caught(head: nn.Module) -> Iterator[list[Tensor]]:
    """A list that gets what enters `head` in each forward pass of the model around it."""
    found: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        hook.remove()


@torch.inference_mode()
def features(model: nn.Module, head: nn.Module, images: Tensor) -> Tensor:
    """(B, width) float32: what enters `head` when `model` sees `images` (B, 3, side, side)."""
    with caught(head) as found:
        model(images)
    (entering,) = found
    return entering.flatten(1).float()


@dataclass
class Extraction:
    """Getting the features of every set that a run needs.

    `weights_sha256` is empty where the backbone is random: drawn from the run's seed.
    """

    run: Run
    context: Context
    model: nn.Module
    entry: Model
    data: Loaded
    weights_sha256: str
    batch: int
    """Images a forward pass; fewer after memory ran out."""
    _known: dict[str, Kept] = field(default_factory=dict)
    """By set, what was found or made."""
    _rows: list[Tensor] = field(default_factory=list)
    """Computed, and in no file yet."""
    _written: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.folder = self.context.runs / SHARED
        self.own = self.context.runs / self.run.id
        self.sets = {TRAIN: self.data.train} | {
            split: self.data.splits[split]
            for split in (*self.run.evaluate, *self.run.evaluate_on_improvement)
        }

    def key(self, name: str) -> str:
        """16 digits for everything that the features of a set depend on, but the machine.

        The seed is among it where it decides something: random weights, or augmentation.
        """
        content = self.run.content()
        for indifferent in ("seed", "evaluate", "evaluate_on_improvement"):
            content.pop(indifferent, None)
        random = self.sets[name].augmented is not None and name == TRAIN
        seed = self.run.seed if random or not self.weights_sha256 else None
        inputs = (VERSION, name, seed, self.weights_sha256, self.data.fingerprint)
        return digest([content, *inputs])

    def find(self, name: str, crc: str = "*") -> Kept | None:
        """The features of a set where they are on disk and whole; with this checksum, if given."""
        if name not in self._known:
            for path in sorted(self.folder.glob(f"{self.key(name)}-{crc}.npy")):
                if kept := self._opened(path, len(self.sets[name])):
                    self._known[name] = kept
                    break
        return self._known.get(name)

    def _opened(self, path: Path, rows: int) -> Kept | None:
        try:
            whole = crc32(path) == path.stem.rpartition("-")[2]
            kept = Kept(path, np.load(path, mmap_mode="r", allow_pickle=False)) if whole else None
        except (FileNotFoundError, ValueError):
            return None
        if kept is None or len(kept.rows) != rows:
            log.warning("%s cannot be read and is made anew", path)
            path.unlink(missing_ok=True)
            return None
        return kept

    def extracted(self, pace: Pace) -> Generator[Event, None, dict[str, Kept]]:
        """The features of every set, computed where no file has them.

        Raises `Stopped`, `OutOfMemory`, and `MissingInputs` where features are not finite.
        """
        seen, total = 0, sum(map(len, self.sets.values()))
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for name, images in self.sets.items():
            while self.find(name) is None:
                try:
                    yield from self._extract(name, images, pace, seen, total)
                except _PartsGone:
                    log.info("another attempt has put the features of %s together", name)
            seen += len(images)
        return {name: self._known[name] for name in self.sets}

    # One set

    def _extract(
        self, name: str, images: Images, pace: Pace, before: int, total: int
    ) -> Iterator[Event]:
        parts = [*self._parts(name)]
        done = sum(rows for _, rows in parts)
        shown = images.batch
        if name == TRAIN:  # what the first epoch of fine-tuning sees
            shown = images.epoch(generator(self.run.seed, 1, "augment"))
        self._rows, self._written = [], time.monotonic()
        while done < len(images):
            rest = torch.arange(done, len(images)).split(self.batch)
            with closing(prefetch(shown, rest, self.context.loaders)) as pixels:
                for batch in rest:
                    try:
                        yield from pace.between("extracting", before + done, total)
                    except Stopped:
                        yield from self._write(name, done)
                        raise
                    if self._due():
                        yield from self._write(name, done)
                    look = partial(self._look, pixels)
                    found = fitting(self.model, self.context.device, len(batch), look)
                    if found is None:
                        self.batch = len(batch) // 2
                        break
                    self._rows.append(found)
                    done += len(batch)
        yield from self._finish(name)

    def _look(self, pixels: Iterator[Tensor]) -> Tensor:
        device = self.context.device
        with arithmetic(device, self.run.precision):
            found = features(self.model, layer_of(self.model, self.entry), next(pixels).to(device))
        return found.cpu()

    def _due(self) -> bool:
        held = sum(rows.nbytes for rows in self._rows)
        late = time.monotonic() - self._written >= self.context.checkpoint_seconds
        return bool(held) and (late or held >= PART_BYTES)

    def _parts(self, name: str) -> Iterator[tuple[Path, int]]:
        """Files that hold the first rows of a set, in order, each with how many."""
        found: dict[int, list[tuple[int, str, Path]]] = {}
        for path in self.own.glob(".partial-features-*.npy"):
            match = _PART.fullmatch(path.name)
            if match and match[1] == self.key(name):
                found.setdefault(int(match[2]), []).append((int(match[3]), match[4], path))
        done = 0
        while done in found:
            end, crc, path = max(found[done])
            try:
                damaged = crc32(path) != crc
            except FileNotFoundError:
                return
            if damaged:
                log.warning("%s is damaged: its features are computed again", path.name)
                path.unlink(missing_ok=True)
                return
            yield path, end - done
            done = end

    def _write(self, name: str, done: int) -> Iterator[Event]:
        """Have what was computed so far, up to row `done`, on disk."""
        if not self._rows:
            return
        rows = torch.cat(self._rows).numpy()
        start = done - len(rows)

        def called(path: Path) -> str:
            return f".partial-features-{self.key(name)}-{start:09d}-{done:09d}-{crc32(path)}.npy"

        write = partial(write_whole, self.own, partial(_save, rows), called, rows.nbytes)
        yield from with_room(write, self.context.should_stop)
        self._rows, self._written = [], time.monotonic()

    def _finish(self, name: str) -> Iterator[Event]:
        """Put the parts together under the shared name, and drop them."""
        paths = [path for path, _ in self._parts(name)]
        try:
            pieces: list[Floats] = [np.load(path, mmap_mode="r") for path in paths]
        except FileNotFoundError as gone:
            raise _PartsGone from gone
        pieces += [rows.numpy() for rows in self._rows]
        if sum(map(len, pieces)) != len(self.sets[name]):
            raise _PartsGone
        if not all(np.isfinite(piece).all() for piece in pieces):
            raise MissingInputs(
                f"{self.run.model} gives features of {self.run.dataset} that are not finite "
                "numbers; bring other weights, or `precision: fp32`."
            )
        key = self.key(name)
        write = partial(
            write_whole,
            self.folder,
            partial(_join, pieces),
            lambda path: f"{key}-{crc32(path)}.npy",
            sum(piece.nbytes for piece in pieces),
        )
        yield from with_room(write, self.context.should_stop)
        self._rows = []
        for path in paths:
            path.unlink(missing_ok=True)


def _save(rows: Floats, file: IO[bytes]) -> None:
    np.save(file, rows, allow_pickle=False)


def _join(pieces: Sequence[Floats], file: IO[bytes]) -> None:
    """One array of several, without a copy of it in memory."""
    shape = (sum(map(len, pieces)), pieces[0].shape[1])
    header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    for piece in pieces:
        file.write(np.ascontiguousarray(piece).data)
