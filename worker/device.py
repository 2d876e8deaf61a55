"""The device of a run: whether it is there, its share of memory, what is left behind on it."""

from __future__ import annotations

import gc

import torch

from db.errors import EnvironmentProblem
from worker.determinism import arithmetic


def check_device(device: str, precision: str = "fp32") -> None:
    """Raise `EnvironmentProblem` where torch has no such device, or it has no such precision."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise EnvironmentProblem(
            f"there is no device {device} ({reason}); use cpu, cuda:0, or another that "
            "torch.cuda finds."
        ) from error
    arithmetic(device, precision)


def limit_memory(device: str, share: float) -> None:
    """Let this process allocate at most `share` (0 to 1] of a GPU's memory; on the CPU, nothing.

    Beyond it torch raises `OutOfMemoryError`, as if the GPU were that small: several runs share one
    without one taking another's part.
    """
    if device.startswith("cuda"):
        torch.cuda.set_per_process_memory_fraction(share, device)


def memory_left(device: str) -> int:
    """Bytes that this process still holds on a GPU, collected and its caches emptied; 0 on the CPU.

    Asked between runs: whatever is left belongs to no run any more, and will be missing.
    """
    if not device.startswith("cuda"):
        return 0
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()  # cuBLAS keeps them for its next call
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)
