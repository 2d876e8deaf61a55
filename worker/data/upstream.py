"""The generated upstream task that the tiny models are pretrained on (see worker.data.shapes)."""

from __future__ import annotations

from pathlib import Path

import torch

from worker.data.images import Images, Loaded, in_memory
from worker.data.shapes import upstream

TRAIN = 12_800
HELD_OUT = 1_000


def _images(count: int, seed: int) -> Images:
    pixels, labels = upstream(count, seed)
    return in_memory(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels),
        torch.zeros(count, dtype=torch.int64),
    )


def load(data: Path) -> Loaded:
    """Drawn anew, the same each time; `data` is not read. The version stands for the drawing."""
    return Loaded(
        train=_images(TRAIN, seed=0),
        splits={"id": _images(HELD_OUT, seed=1)},
        groups=("",),
        fingerprint=f"shapes-{TRAIN}-{HELD_OUT}",
    )
