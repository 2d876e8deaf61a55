"""Memory that runs out: told apart from other faults, and got by with."""

from __future__ import annotations

import errno
import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from db.errors import EnvironmentProblem

log = logging.getLogger(__name__)
T = TypeVar("T")

_WORDS = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What torch says in a plain RuntimeError."""


class OutOfMemory(EnvironmentProblem):
    """Not even one image at a time fits."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device's or the machine's memory ran out."""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, (OutOfMemory, torch.OutOfMemoryError, MemoryError))


def fitting(model: nn.Module, device: str, images: int, work: Callable[[], T]) -> T | None:
    """What `work`, which takes `images` images at a time, returns; None where memory ran out.

    Then gradients are dropped, free memory is given back and torch's random state, the one that
    models draw from, is what it was: the work can be repeated with fewer images. Raises
    `OutOfMemory` where there are no fewer.
    """
    on_gpu = device.startswith("cuda")
    drawn = torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0]
        if images == 1:
            raise OutOfMemory(
                f"memory ran out on {device} with one image at a time ({reason}); give the run a "
                "device with more memory, or fewer neighbours on this one."
            ) from error
        log.warning("memory ran out with %d images at a time: %s", images, reason)
    # Not in the handler: there, the traceback holds what the pass had computed.
    model.zero_grad(set_to_none=True)
    gc.collect()
    torch.set_rng_state(drawn[0])
    if drawn[1] is not None:
        torch.cuda.empty_cache()
        torch.cuda.set_rng_state(drawn[1], device)
    return None
