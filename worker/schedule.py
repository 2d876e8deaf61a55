"""Learning rates over a run, and which layers gradual unfreezing has thawed: plain functions.

Source: PROTOCOL section 3; paper section 4. A schedule maps a run, a step (counted from 0 over the
whole run) and the steps of an epoch to a rate; where parts of the model have multipliers, it is the
others' rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from db.records import Run
from worker.catalog import resolve
from worker.models import Model
from worker.models.layers import gradient_layers

if TYPE_CHECKING:
    from torch import nn

UNFREEZING_DECAY = 3.73
"""The first epoch's rate is exp(3.73) = 41.7 times the last one's, which is the run's."""

Schedule = Callable[[Run, int, int], float]


def cosine_per_step(run: Run, step: int, steps_per_epoch: int) -> float:
    """Cosine from the run's rate to 0 at the end, step by step (paper, section 4)."""
    return _cosine(run, step / (steps_per_epoch * run.epochs))


def cosine_per_epoch(run: Run, step: int, steps_per_epoch: int) -> float:
    """The same, but an epoch keeps the rate of its first step (the authors' code)."""
    return _cosine(run, step // steps_per_epoch * steps_per_epoch / (steps_per_epoch * run.epochs))


def _cosine(run: Run, done: float) -> float:
    return 0.5 * run.learning_rate * (1.0 + math.cos(math.pi * done))


def gradual_unfreezing(run: Run, step: int, steps_per_epoch: int) -> float:
    """The run's rate × exp(3.73 · (1 − t/(E − 1))) all through epoch t = 0 … E − 1."""
    left = 1.0 - _progress(step // steps_per_epoch, run.epochs)
    return run.learning_rate * math.exp(UNFREEZING_DECAY * left)


def _progress(t: int, epochs: int) -> float:
    """t/(E − 1); the only epoch of a run is its last."""
    return t / (epochs - 1) if epochs > 1 else 1.0


SCHEDULES: dict[str, Schedule] = {
    "cosine_per_step": cosine_per_step,
    "cosine_per_epoch": cosine_per_epoch,
    "gradual_unfreezing": gradual_unfreezing,
}
"""By name; a method's own may also be a `module:function`."""


def learning_rate(run: Run, step: int, steps_per_epoch: int) -> float:
    """The rate of step `step`, counted from 0 over the whole run."""
    schedule = SCHEDULES.get(run.schedule) or resolve(run.schedule)
    return float(schedule(run, step, steps_per_epoch))


def rate_at_end(run: Run, epoch: int, steps_per_epoch: int) -> float:
    """What the row of `epoch` (from 1) says: where a cosine has come to, else the last step's."""
    after = epoch * steps_per_epoch
    step = after if run.schedule.startswith("cosine") else after - 1
    return learning_rate(run, step, steps_per_epoch)


def unfrozen_blocks(epoch: int, epochs: int, blocks: int) -> int:
    """How many of the top blocks move in `epoch` (from 1): int(t/(E − 1)·B), t = epoch − 1.

    A run of one epoch moves them all.
    """
    return (epoch - 1) * blocks // (epochs - 1) if epochs > 1 else blocks


def unfrozen(entry: Model, model: nn.Module, run: Run, epoch: int) -> set[str]:
    """The parameters that gradual unfreezing moves in `epoch` (from 1), by name.

    The head, and CLIP's projection, from the start; blocks from the top down, with the norm behind
    them from the first block on; position and class embeddings with the last block; the embedding
    layer never.
    """
    top = unfrozen_blocks(epoch, run.epochs, entry.blocks)
    moving = {"head", "proj"}
    if top > 0:
        moving |= {"post_norm", *(f"block.{n}" for n in range(entry.blocks - top, entry.blocks))}
    if top == entry.blocks:
        moving |= {"pos_embed", "cls_token"}
    layers = gradient_layers(entry, model)
    return {
        name for layer, names in layers.items() if _without_part(layer) in moving for name in names
    }


def _without_part(layer: str) -> str:
    """`block.3` of `block.3.attn`; other layers as they are."""
    return ".".join(layer.split(".")[:2])
