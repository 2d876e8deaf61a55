"""A miniature CIFAR-10, in the pickled batches that torchvision reads; no shift."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from worker.data.mini.drawing import COLOUR, PHOTO, coats, paint, rgb, stream
from worker.data.mini.figures import THINGS
from worker.data.mini.folder import balanced, described, generate, generator
from worker.data.shapes import Images, Ints

FORMAT_VERSION = 1

CIFAR10_FOLDER = "cifar-10-batches-py"
SIZE = 32
BATCHES = 5

LABELS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def make_cifar10(
    root: Path,
    seed: int = 0,
    train: int = 512,
    val: int = 256,
    test: int = 512,
    size: int = SIZE,
) -> Path:
    """Write a miniature CIFAR-10 under `root` and return its folder.

    `train` + `val` images are spread over the five training batches, from which a reader takes its
    own validation images; `test` are in the test batch. They have 32 pixels a side whatever `size`
    says, because the format has no others.

    Complete or not at all, like every miniature: see `generate`.
    """
    return generate(
        root / CIFAR10_FOLDER,
        described("cifar10", FORMAT_VERSION, seed, train, val, test, SIZE),
        lambda folder: _write(folder, seed, train + val, test),
    )


def _write(folder: Path, seed: int, train: int, test: int) -> None:
    """Write the batches and their names, with the keys and types of the real ones."""
    rng = generator("cifar10", seed)
    edges = np.linspace(0, train, BATCHES + 1).round().astype(int)
    for number, count in enumerate(np.diff(edges), start=1):
        note = f"training batch {number} of {BATCHES}"
        _write_batch(folder / f"data_batch_{number}", note, int(count), rng)
    _write_batch(folder / "test_batch", "testing batch 1 of 1", test, rng)
    _pickle(
        folder / "batches.meta",
        {
            b"num_cases_per_batch": int(np.diff(edges).max()),
            b"label_names": [label.encode() for label in LABELS],
            b"num_vis": 3 * SIZE * SIZE,
        },
    )


def _write_batch(path: Path, note: str, count: int, rng: np.random.Generator) -> None:
    """Write one batch: rows of 3,072 bytes, red before green before blue."""
    figures = [THINGS["car" if label == "automobile" else label] for label in LABELS]
    labels = balanced(count, len(LABELS), rng)
    coat = coats(labels, figures, rng)
    # Half of them in any colour, so that colour alone does not tell the class.
    repainted = rng.random(count) < 0.5
    coat.main[repainted] = rgb(list(COLOUR))[rng.integers(0, len(COLOUR), repainted.sum())]

    def draw(rows: Ints, height: int, width: int) -> Images:
        return paint(labels[rows], figures, PHOTO, coat.take(rows), rng, height, width)

    data = np.zeros((count, 3 * SIZE * SIZE), dtype=np.uint8)
    for row, image in enumerate(stream(count, SIZE, draw)):
        data[row] = image.transpose(2, 0, 1).ravel()
    names = [f"{LABELS[label]}_s_{row + 1:06d}.png".encode() for row, label in enumerate(labels)]
    _pickle(
        path,
        {
            b"batch_label": note.encode(),
            b"labels": [int(label) for label in labels],
            b"data": data,
            b"filenames": names,
        },
    )


_Pickler: Any = pickle._Pickler
"""The one in Python: the other has no table of types to change."""


class _Python2Pickler(_Pickler):
    """Writes bytes as Python 2 wrote its strings, which is how the real batches were made.

    So `encoding="latin1"` reads keys and names as str, and `encoding="bytes"` as bytes.
    """

    dispatch: ClassVar[dict[type, Any]] = dict(_Pickler.dispatch)

    def save_string(self, value: bytes) -> None:
        """Write one string; long ones with four bytes of length."""
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + struct.pack("<B", len(value)) + value)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = save_string


def _pickle(path: Path, batch: dict[bytes, object]) -> None:
    with path.open("wb") as file:
        _Python2Pickler(file, protocol=2).dump(batch)
