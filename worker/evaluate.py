"""Accuracy of a model on a split, overall and in each group.

Sources: PROTOCOL section 2 (which metric selects, which is shown).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from db.errors import MissingInputs
from db.records import Metric
from worker.data import Split
from worker.data.images import Images, Loaded
from worker.data.prefetch import prefetch
from worker.determinism import arithmetic

EVALUATION_BATCH = 256
"""Images a forward pass at the tiny models' side; fewer of larger ones (see `batch_size`)."""
LARGE_BATCH = 64


@dataclass(frozen=True)
class Eye:
    """How a model is shown images: part of what its numbers are defined by, or its speed."""

    device: str
    precision: str = "fp32"
    batch: int = EVALUATION_BATCH
    loaders: int = 0


def batch_size(side: int) -> int:
    """Images a forward pass of `side` pixels: 64 of 224 are 39 MB of floats."""
    return EVALUATION_BATCH if side <= 64 else LARGE_BATCH


@torch.inference_mode()
def count_correct(model: nn.Module, images: Images, groups: int, eye: Eye) -> tuple[Tensor, Tensor]:
    """How many images each group has right, and how many it has: two (groups,) int64 tensors.

    The model stays in train mode, as everywhere in the protocol: none has a layer that cares.
    """
    hits = []
    batches = torch.arange(len(images)).split(eye.batch)
    with closing(prefetch(images.batch, batches, eye.loaders)) as pixels:
        for indices, shown in zip(batches, pixels, strict=True):
            with arithmetic(eye.device, eye.precision):
                logits = model(shown.to(eye.device))
            hits.append(logits.argmax(dim=1).cpu() == images.labels[indices])
    correct = torch.bincount(images.groups[torch.cat(hits)], minlength=groups)
    return correct, torch.bincount(images.groups, minlength=groups)


def headline(split: Split, correct: Tensor, n: Tensor, train_counts: Tensor) -> Metric:
    """The one number that speaks for a split, over the groups it has images of.

    `weighted_accuracy`: Σ w_g·correct_g/n_g / Σ w_g with w_g the group's training images; raises
    `MissingInputs` where none of the groups was trained on.
    `worst_group_accuracy`: min over g of correct_g/n_g, with that group's counts.
    """
    present = n > 0
    correct, n, weights = correct[present], n[present], train_counts[present].double()
    if split.metric == "accuracy":
        total, size = int(correct.sum()), int(n.sum())
        return Metric(split.name, "", split.metric, total / size, total, size)
    shares = correct.double() / n
    if split.metric == "worst_group_accuracy":
        worst = int(shares.argmin())
        return Metric(
            split.name,
            "",
            split.metric,
            int(correct[worst]) / int(n[worst]),
            int(correct[worst]),
            int(n[worst]),
        )
    if not weights.sum():
        raise MissingInputs(
            f"split {split.name} has images of no group that training has; take more of them "
            "(`images_per_split`), or other data."
        )
    value = float((weights * shares).sum() / weights.sum())
    return Metric(split.name, "", split.metric, value, None, int(n.sum()))


def evaluate(
    model: nn.Module, data: Loaded, splits: Sequence[Split], eye: Eye
) -> tuple[Metric, ...]:
    """Each split's headline metric, then the accuracy of each of its groups where it has groups."""
    found: list[Metric] = []
    for split in splits:
        correct, n = count_correct(model, data.splits[split.name], len(data.groups), eye)
        found.append(headline(split, correct, n, data.train_group_counts()))
        if len(data.groups) == 1:
            continue
        for name, right, size in zip(data.groups, correct.tolist(), n.tolist(), strict=True):
            if size:
                found.append(Metric(split.name, name, "accuracy", right / size, right, size))
    return tuple(found)
