"""Where an attempt runs and with what, for the record; no part of a run's identity."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import socket
from functools import lru_cache
from pathlib import Path

import torch

from db.records import Provenance, Run
from worker.context import Context

PACKAGES = (
    "orch", "torch", "torchvision", "timm", "open_clip_torch", "wilds", "numpy", "scipy",
    "scikit-learn", "ray",
)  # fmt: skip


@lru_cache(maxsize=2)
def versions(on_gpu: bool = False) -> dict[str, str]:
    """The version of everything that can change a number: packages, the processor, a GPU's part."""
    found = {"python": platform.python_version(), "cpu": cpu_name()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if on_gpu:
        gpu = {
            "driver": _named_in(Path("/proc/driver/nvidia/version"), r"Kernel Module\D*([\d.]+)"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        found |= {name: str(version) for name, version in gpu.items() if version}
    return found


def cpu_name() -> str:
    """The processor, as it calls itself where the system tells."""
    named = _named_in(Path("/proc/cpuinfo"), r"^model name\s*: (.+)$")
    return named or platform.processor() or platform.machine()


def _named_in(file: Path, pattern: str) -> str | None:
    try:
        found = re.search(pattern, file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None


def describe(
    run: Run, context: Context, data_fingerprint: str, weights_sha256: str, micro_batch: int
) -> Provenance:
    """This host, node and device, with what the run reads and how it computes."""
    on_gpu = context.device.startswith("cuda")
    return Provenance(
        host=socket.gethostname(),
        device=torch.cuda.get_device_name(context.device) if on_gpu else "cpu",
        data_fingerprint=data_fingerprint,
        weights_sha256=weights_sha256,
        versions=versions(on_gpu),
        node=context.node,
        threads=torch.get_num_threads(),
        precision=run.precision,
        micro_batch=micro_batch,
    )


def peak_memory(device: str) -> int | None:
    """The most bytes this process held on the accelerator; None on the CPU, which runs share."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
