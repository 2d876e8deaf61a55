"""Same run, same machine, same numbers: seeds, threads and deterministic kernels."""

from __future__ import annotations

import hashlib
import os
import random
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from db.errors import EnvironmentProblem


def settle(seed: int, threads: int, precision: str = "fp32") -> None:
    """Put the process in the state that a run's numbers are defined in.

    Actors are reused, so nothing may be left to what ran before. fp32 means fp32: TF32 is off
    unless the run asks for it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Filling memory that nobody reads yet finds bugs; it costs time and decides no number.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def arithmetic(device: str, precision: str) -> AbstractContextManager[Any]:
    """What forward passes compute in: autocast to bfloat16 where the run asks for it.

    Weights, gradients, optimizer state and the loss stay in fp32. Raises `EnvironmentProblem` for
    TF32 without a GPU, where it would be fp32 under another name.
    """
    if precision == "tf32" and not device.startswith("cuda"):
        raise EnvironmentProblem(
            f"precision tf32 needs a GPU and this run is on {device}; give it one, or use fp32."
        )
    if precision == "bf16":
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    return nullcontext()


def generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """Random numbers keyed by what they are for, so that a resume at any epoch repeats them."""
    key = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))


def random_state(device: str = "cpu") -> dict[str, Any]:
    """Every global random number generator that a run on `device` may draw from."""
    version, words, gauss = random.getstate()
    algorithm, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.startswith("cuda") else None,
        "python": [version, list(words), gauss],
        "numpy": [algorithm, [int(k) for k in keys], *(float(r) for r in rest)],
    }


def set_random_state(state: dict[str, Any], device: str = "cpu") -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.startswith("cuda"):
        torch.cuda.set_rng_state(state["cuda"], device)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    algorithm, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((algorithm, keys, int(position), int(has_gauss), cached))
