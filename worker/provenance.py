"""Where an attempt runs and with what, for the record; no part of a run's identity."""

from __future__ import annotations

import contextlib
import importlib.metadata
import socket
from functools import lru_cache

import torch

from db.records import Provenance

PACKAGES = ("orch", "torch", "torchvision", "timm", "open_clip_torch", "wilds", "numpy", "ray")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The installed version of every package that can change a number."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe(device: str, data_fingerprint: str, weights_sha256: str) -> Provenance:
    """This host and device, with what the run reads."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    return Provenance(socket.gethostname(), name, data_fingerprint, weights_sha256, versions())


def peak_memory(device: str) -> int | None:
    """The most bytes this process held on the accelerator; None on the CPU, which runs share."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
