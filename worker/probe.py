"""The linear probe: logistic regression on frozen features, over a path of regularisations.

Source: PROTOCOL section 3. One pass over the training images with their augmentation, as the first
epoch of fine-tuning sees them; features with the training features' scalar mean taken off, divided
by their scalar standard deviation; scikit-learn's LogisticRegression with C over
logspace(-7, 2, 50) ascending, each fit starting from the last one's solution.

Each C is an epoch of the run, 1 to 50, with C in the place of the learning rate. So what selection
does with any run, the best epoch by ID validation and the first on ties, chooses the C. Epoch 0 is
the zero head that the path starts from.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

from db.errors import MissingInputs, SpecError
from db.records import Artifact, EpochRecord, Run, canonical_json
from worker.checkpoint import Checkpoints, file_digest
from worker.context import Context
from worker.data import DATASETS
from worker.data.images import Images, Loaded, load_for
from worker.determinism import settle
from worker.device import check_device, memory_left
from worker.disk import with_room
from worker.evaluate import Tally, measured
from worker.events import Epoch, Event, Finished, Paused, Started, Stopped
from worker.features import SHARED, TRAIN, Extraction, Kept
from worker.finetune import decode, refuse_another, refuse_other_inputs, splits_of
from worker.head import Head, layer_of, width_of
from worker.kept import ABOUT, Keeper, best_epoch
from worker.models import MODELS
from worker.models.weights import build
from worker.pace import Pace
from worker.position import Position
from worker.provenance import describe, peak_memory
from worker.regression import PATH, Regression, Scale, Solution, chunks

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""Between looks at a fit that takes longer, and at whether the run was told to stop."""

Sets = Mapping[str, Kept]
"""The features of each set."""


@dataclass
class Walk:
    """Where a run stands on the path, beside its epochs."""

    features: dict[str, str] = field(default_factory=dict)
    """The checksums of those that the path is over."""
    solution: Solution | None = None
    """The last one; None before the first."""
    chosen: Head | None = None
    """That of the best epoch."""

    def snapshot(self, inputs: dict[str, str], at: Position) -> dict[str, Any]:
        """All that the next fit depends on."""
        return {
            "inputs": inputs,
            "features": self.features,
            "solution": self.solution and self.solution.to_state(),
            "chosen": self.chosen and self.chosen.to_state(),
            **at.to_state(),
        }


def linear_probe(run: Run, context: Context) -> Iterator[Event]:
    """Probe the model of `run`, from where an earlier attempt got to; ends with the last event.

    Raises whatever goes wrong; `worker.run` turns that into a `Failed` event.
    """
    if run.epochs > len(PATH):
        raise SpecError(f"a linear probe's path has {len(PATH)} steps, not {run.epochs}.")
    try:
        with threadpool_limits(run.threads, user_api="blas"):
            yield from experiment(run, context)
    except Stopped:
        yield Paused(*Checkpoints(context.runs / run.id, context.fence).newest())


def experiment(run: Run, context: Context) -> Iterator[Event]:
    """The experiment, top to bottom; raises `Stopped`, too."""
    # 1. Data and the frozen model, as fine-tuning would start from them.
    entry, classes = MODELS.find(run.model), DATASETS.find(run.dataset).classes
    check_device(context.device, run.precision)
    yield from decode(run, context)
    data = load_for(run, context.data, context.cache)
    settle(run.seed, run.threads, run.precision)
    built = build(run, classes, context.runs, context.weights)
    refuse_other_inputs(context, data.fingerprint, built.weights_sha256)
    if len(data.train.labels.unique()) < 2:
        raise MissingInputs(
            f"the training images of {run.dataset} are all of one class; take more of them "
            "(`images_per_split`), or other data."
        )

    # 2. Where an earlier attempt got to.
    folder = yield from with_room(partial(context.folder, run.id), context.should_stop)
    checkpoints = Checkpoints(folder, context.fence)
    inputs = {"data": data.fingerprint, "pretrained weights": built.weights_sha256}
    model = built.model.to(context.device).eval()
    extraction = Extraction(run, context, model, entry, data, built.weights_sha256, run.micro_batch)
    at, walk = resumed(checkpoints.load(), inputs, extraction)
    pace = Pace(context, checkpoints, at, lambda: walk.snapshot(inputs, at))
    provenance = describe(run, context, data.fingerprint, built.weights_sha256, run.micro_batch)
    yield Started(tuple(at.history), provenance, at.whole)

    # 3. The features, once; from here on the model is not needed, and its GPU is others'.
    began = time.perf_counter()
    sets = yield from extraction.extracted(pace)
    at.training_seconds += time.perf_counter() - began
    walk.features = {name: one.crc for name, one in sets.items()}
    width = width_of(layer_of(model, entry))
    del built, model, extraction
    memory_left(context.device)

    # 4. The path. An epoch's row is on disk, in the checkpoint, before anybody hears of it.
    if at.epoch == 0:
        yield Epoch((yield from judged(run, data, sets, Head.zero(classes, width), at, pace)))
    scale = Scale.of(sets[TRAIN].rows)
    if at.epoch <= run.epochs:
        yield from follow(run, data, sets, scale, at, walk, pace)

    # 5. The chosen C's head for those that start from it, and everything once more.
    assert walk.solution is not None
    last = walk.solution.head(scale, classes)
    artifacts = yield from pace.with_room(
        lambda: leave(run, context, sets, at, walk.chosen or last, last)
    )
    yield Finished(tuple(at.history), artifacts, peak_memory(context.device))


def resumed(
    state: dict[str, Any] | None, inputs: dict[str, str], extraction: Extraction
) -> tuple[Position, Walk]:
    """Where a checkpoint stands; at the beginning where the features that it knew are gone.

    Raises `MissingInputs` where it comes of other data or weights.
    """
    fresh = Position(extraction.batch, Tally(extraction.batch))
    if state is None:
        return fresh, Walk()
    for noun, now in inputs.items():
        refuse_another(noun, state["inputs"][noun], now)
    known: dict[str, str] = state["features"]
    if any(extraction.find(name, crc) is None for name, crc in known.items()):
        log.warning("features that the path was over are gone: it begins anew")
        return fresh, Walk()
    solution, chosen = state["solution"], state["chosen"]
    walk = Walk(
        known, solution and Solution.from_state(solution), chosen and Head.from_state(chosen)
    )
    return Position.from_state(state, fresh), walk


def follow(
    run: Run, data: Loaded, sets: Sets, scale: Scale, at: Position, walk: Walk, pace: Pace
) -> Iterator[Event]:
    """What is left of the path: a fit, a look at every split, a checkpoint for each C."""
    classes = DATASETS[run.dataset].classes
    labels = data.train.labels.numpy()
    regression = Regression(scale.applied(sets[TRAIN].rows), labels, walk.solution)
    with ThreadPoolExecutor(1, thread_name_prefix="fit") as thread:
        try:
            while at.epoch <= run.epochs:
                solution = yield from fitted(regression, thread, at, pace, run.epochs)
                head = solution.head(scale, classes)
                record = yield from judged(run, data, sets, head, at, pace)
                walk.solution = solution
                if best_epoch(at.history) == record.epoch:
                    walk.chosen = head
                yield from pace.save()
                yield Epoch(record)
        finally:
            regression.abandon.set()


def fitted(
    regression: Regression, thread: ThreadPoolExecutor, at: Position, pace: Pace, steps: int
) -> Generator[Event, None, Solution]:
    """The solution of the epoch under way, fitted in a thread: the run stays answerable.

    Raises `Stopped`; what the fit has done by then is lost.
    """
    yield from pace.between("fitting", at.epoch - 1, steps)
    began = time.perf_counter()
    fit = thread.submit(regression.fit, PATH[at.epoch - 1])
    while not wait([fit], POLL_SECONDS).done:
        yield from pace.between("fitting", at.epoch - 1, steps)
    at.training_seconds += time.perf_counter() - began
    return fit.result()


def judged(
    run: Run, data: Loaded, sets: Sets, head: Head, at: Position, pace: Pace
) -> Generator[Event, None, EpochRecord]:
    """Close the epoch under way with what a head comes to; returns its row."""
    began = time.perf_counter()
    at.tally, at.loss, at.hits = Tally(at.tally.batch), 0.0, 0
    if at.epoch > 0:
        for logits, labels, _ in shown(head, sets[TRAIN], data.train):
            at.loss += functional.cross_entropy(logits.double(), labels, reduction="sum").item()
            at.hits += int((logits.argmax(dim=1) == labels).sum())
    for split in splits_of(run, at):
        images = data.splits[split.name]
        yield from pace.between("evaluating", 0, len(images))
        correct = torch.zeros(len(data.groups), dtype=torch.int64)
        for logits, labels, groups in shown(head, sets[split.name], images):
            right = groups[logits.argmax(dim=1) == labels]
            correct += torch.bincount(right, minlength=len(data.groups))
        at.tally.metrics += measured(data, split, correct)
    at.evaluation_seconds += time.perf_counter() - began
    record = record_of(at, len(data.train))
    at.close(record)
    return record


def shown(head: Head, kept: Kept, images: Images) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The logits, labels and groups of a set, chunk by chunk."""
    for part in chunks(kept.rows):
        yield head.logits(kept.rows[part]), images.labels[part], images.groups[part]


def record_of(at: Position, images: int) -> EpochRecord:
    """The row of the epoch under way: its C stands in the place of the learning rate."""
    metrics, seconds = tuple(at.tally.metrics), at.training_seconds + at.evaluation_seconds
    if at.epoch == 0:
        return EpochRecord(0, None, None, 0.0, metrics, seconds)
    loss, hits = at.loss / images, at.hits / images
    return EpochRecord(at.epoch, loss, hits, PATH[at.epoch - 1], metrics, seconds)


def leave(
    run: Run, context: Context, sets: Sets, at: Position, chosen: Head, last: Head
) -> tuple[Artifact, ...]:
    """The files of a finished run: the chosen head, the features, and what it was to keep."""
    folder = context.folder(run.id)
    about = {"run": run.content(), "epoch": best_epoch(at.history)}
    head = chosen.save(folder, {ABOUT: canonical_json(about)})
    features = [
        Artifact(
            f"features.{name}",
            f"{SHARED}/{one.path.name}",
            file_digest(one.path),
            one.path.stat().st_size,
        )
        for name, one in sets.items()
    ]
    return (head, *features, *keep(run, context, folder, at, chosen, last))


def keep(
    run: Run, context: Context, folder: Path, at: Position, chosen: Head, last: Head
) -> tuple[Artifact, ...]:
    """The whole model with the head of the C that `keep:` names, where it names one."""
    if context.keep == "none":
        return ()
    entry = MODELS.find(run.model)
    settle(run.seed, run.threads, run.precision)  # a random backbone is drawn again
    model = build(run, DATASETS.find(run.dataset).classes, context.runs, context.weights).model
    keeper, best = Keeper(context.keep, run, folder), best_epoch(at.history) or 0
    (chosen if context.keep == "best" else last).copy_to(model, entry)
    keeper.epoch(model, at.history[: best + 1])
    return keeper.finish(model, at.history)
