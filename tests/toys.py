"""A plugin for tests and benchmarks: real code paths on models and data that take milliseconds.

`orch --plugin tests/toys.py` declares one small dataset and models that train, diverge, raise, run
out of memory or kill their process. What raises or dies does so until a file in the folder
ORCH_TOYS says otherwise.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import worker.data as datasets
import worker.models as models
from db.errors import MissingInputs
from worker.data import Dataset, Split
from worker.models import Model

DATASET = Dataset(
    id="toy",
    title="Toy",
    classes=2,
    epochs=3,
    splits=(Split("id", "accuracy", "left"), Split("ood", "accuracy", "right")),
    load="orch_plugin_toys:load",
)
NAMES = (
    "toy", "toy_slow", "toy_long", "toy_nan", "toy_raises", "toy_dies", "toy_dies_once",
    "toy_oom", "toy_oom_once", "toy_bad_data",
)  # fmt: skip
SLOW_STEP = float(os.environ.get("ORCH_TOY_STEP", "0.02"))
"""Seconds a forward pass of `toy_slow` sleeps; of `toy_long` five times as many, from the start."""


def load(data: Path):  # type: ignore[no-untyped-def]
    """64 training and 2 × 32 held-out images of 8×8 noise, labelled by their mean brightness."""
    import torch

    from worker.data.images import Loaded, in_memory

    drawn = torch.Generator().manual_seed(0)

    def images(count: int):  # type: ignore[no-untyped-def]
        pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=drawn, dtype=torch.uint8)
        labels = (pixels.float().mean(dim=(1, 2, 3)) > 127.5).long()
        return in_memory(pixels, labels, torch.zeros(count, dtype=torch.int64))

    return Loaded(images(64), {"id": images(32), "ood": images(32)}, ("",), "toy-1")


def _build(name: str, classes: int):  # type: ignore[no-untyped-def]
    import torch
    from torch import nn

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Conv2d(3, 4, 3, padding=1)
            self.dropout = nn.Dropout(0.1)  # draws from the global generator in every step
            self.head = nn.Linear(4 * 64, classes)
            self.steps = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            if name == "toy_long":
                time.sleep(5 * SLOW_STEP)
            # An epoch is 6 passes, after 2 before training: in the first epoch, or in the second.
            if self.steps > (3 if name == "toy_dies" else 12):
                misbehave(name)
            logits: torch.Tensor = self.head(self.dropout(self.embedding(images).relu()).flatten(1))
            if len(images) > _fitting(name) and torch.is_grad_enabled():
                raise torch.OutOfMemoryError(f"the toy has no room for {len(images)} images")
            return logits * float("nan") if name == "toy_nan" and self.steps > 12 else logits

    return Toy()


def _fitting(name: str) -> float:
    """Images that a training pass of the model called `name` has memory for."""
    if name == "toy_oom":
        return int(os.environ.get("ORCH_TOY_MEMORY", "0"))
    return 4 if name == "toy_oom_once" else float("inf")


def misbehave(name: str) -> None:
    """What the model called `name` does once it is under way."""
    if name == "toy_slow":
        time.sleep(SLOW_STEP)
    if name == "toy_raises" and not _told("mended"):
        raise RuntimeError("the toy breaks on purpose")
    if name == "toy_bad_data":
        raise MissingInputs("7.png: not a readable image (cut short); fetch it again.")
    if name == "toy_dies" or (name == "toy_dies_once" and not _told("died")):
        (Path(os.environ["ORCH_TOYS"]) / "died").touch()
        os._exit(1)


def _told(word: str) -> bool:
    return (Path(os.environ.get("ORCH_TOYS", "/nonexistent")) / word).exists()


def toy(classes: int):  # type: ignore[no-untyped-def]
    """A model that trains."""
    return _build("toy", classes)


def toy_slow(classes: int):  # type: ignore[no-untyped-def]
    """A model that takes its time."""
    return _build("toy_slow", classes)


def toy_long(classes: int):  # type: ignore[no-untyped-def]
    """A model that takes so long that a stop falls inside an epoch."""
    return _build("toy_long", classes)


def toy_oom(classes: int):  # type: ignore[no-untyped-def]
    """A model that trains on ORCH_TOY_MEMORY images at a time at most, by default on none."""
    return _build("toy_oom", classes)


def toy_oom_once(classes: int):  # type: ignore[no-untyped-def]
    """A model that trains on four images at a time at most."""
    return _build("toy_oom_once", classes)


def toy_bad_data(classes: int):  # type: ignore[no-untyped-def]
    """A model that meets an image which cannot be read."""
    return _build("toy_bad_data", classes)


def toy_nan(classes: int):  # type: ignore[no-untyped-def]
    """A model whose loss stops being a number."""
    return _build("toy_nan", classes)


def toy_raises(classes: int):  # type: ignore[no-untyped-def]
    """A model with a bug."""
    return _build("toy_raises", classes)


def toy_dies(classes: int):  # type: ignore[no-untyped-def]
    """A model that ends its process, always."""
    return _build("toy_dies", classes)


def toy_dies_once(classes: int):  # type: ignore[no-untyped-def]
    """A model that ends its process the first time."""
    return _build("toy_dies_once", classes)


datasets.DATASETS.add(DATASET)
for _name in NAMES:
    models.MODELS.add(
        Model(
            id=_name,
            title=_name,
            family="vit",
            parameters=626,
            embedding_parameters=112,
            embedding=("embedding.",),
            head=("head.",),
            build=f"orch_plugin_toys:{_name}",
        )
    )
