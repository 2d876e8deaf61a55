"""Accuracy of a model on a split, overall and in each group.

Sources: PROTOCOL section 2 (which metric selects, which is shown).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from db.errors import MissingInputs
from db.records import Metric
from worker.data import Split
from worker.data.images import Images, Loaded
from worker.data.prefetch import prefetch
from worker.determinism import arithmetic
from worker.memory import fitting

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


@dataclass
class Tally:
    """How far the evaluation of a model has come: it goes on from here after any forward pass."""

    batch: int
    """Images a forward pass; fewer than at first after memory ran out."""
    metrics: list[Metric] = field(default_factory=list)
    """Of the splits that are done."""
    seen: int = 0
    """Images of the split under way that were shown, in their order."""
    correct: Tensor | None = None
    """(groups,) int64, the right ones among them; None before the first."""


def count_correct(
    model: nn.Module, images: Images, groups: int, eye: Eye, tally: Tally
) -> Iterator[tuple[int, int]]:
    """Count in `tally` how many images each group has right, from where it stands.

    Yields (images seen, images in all) before each forward pass. The model stays in train mode, as
    everywhere in the protocol: none has a layer that cares. Where memory runs out the batches are
    halved; raises `OutOfMemory` where a single image does not fit.
    """
    if tally.correct is None:
        tally.correct = torch.zeros(groups, dtype=torch.int64)
    while tally.seen < len(images):
        batches = torch.arange(tally.seen, len(images)).split(tally.batch)
        with closing(prefetch(images.batch, batches, eye.loaders)) as pixels:
            for batch in batches:
                yield tally.seen, len(images)
                look = partial(_right, model, pixels, images.labels[batch], eye)
                right = fitting(model, eye.device, len(batch), look)
                if right is None:
                    tally.batch = len(batch) // 2
                    break
                tally.correct += torch.bincount(images.groups[batch[right]], minlength=groups)
                tally.seen += len(batch)


@torch.inference_mode()
def _right(model: nn.Module, pixels: Iterator[Tensor], labels: Tensor, eye: Eye) -> Tensor:
    """(B,) bool: which of the next batch's images the model has right."""
    with arithmetic(eye.device, eye.precision):
        logits = model(next(pixels).to(eye.device))
    right: Tensor = logits.argmax(dim=1).cpu() == labels
    return right


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


def measured(data: Loaded, split: Split, correct: Tensor) -> list[Metric]:
    """The headline of a split, then the accuracy of each of its groups where it has groups.

    `correct`: (groups,) images of each group that are right.
    """
    n = torch.bincount(data.splits[split.name].groups, minlength=len(data.groups))
    found = [headline(split, correct, n, data.train_group_counts())]
    if len(data.groups) > 1:
        named = zip(data.groups, correct.tolist(), n.tolist(), strict=True)
        found += [
            Metric(split.name, name, "accuracy", right / size, right, size)
            for name, right, size in named
            if size
        ]
    return found


def evaluation(
    model: nn.Module, data: Loaded, splits: Iterable[Split], eye: Eye, tally: Tally
) -> Generator[tuple[int, int], None, None]:
    """Add to the tally what it lacks of each split's metrics.

    Those are the headline, then the accuracy of each of its groups where it has groups. Yields
    (images of the split seen, images in all) before each forward pass.
    """
    done = {metric.split for metric in tally.metrics}
    for split in splits:
        if split.name in done:
            continue
        images = data.splits[split.name]
        yield from count_correct(model, images, len(data.groups), eye, tally)
        assert tally.correct is not None
        tally.metrics += measured(data, split, tally.correct)
        tally.seen, tally.correct = 0, None


def evaluate(
    model: nn.Module, data: Loaded, splits: Iterable[Split], eye: Eye
) -> tuple[Metric, ...]:
    """The metrics of some splits, in one go: see `evaluation`."""
    tally = Tally(eye.batch)
    for _ in evaluation(model, data, splits, eye, tally):
        pass
    return tuple(tally.metrics)
