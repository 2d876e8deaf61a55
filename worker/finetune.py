"""Fine-tuning one model on one dataset: the experiment, top to bottom.

Source: PROTOCOL sections 3 and 4; paper section 4. Batches of 32 as exact micro-batches, the
learning rate on a cosine to 0, train mode throughout, every split after every epoch and once
before training (stored as epoch 0, never selectable).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from db.errors import EnvironmentProblem, MissingInputs
from db.records import Artifact, EpochRecord, Run
from worker.checkpoint import Checkpoints
from worker.context import Context
from worker.data import DATASETS, Split
from worker.data.images import Images, Loaded, load_for, prepare
from worker.data.prefetch import prefetch
from worker.determinism import arithmetic, generator, random_state, set_random_state, settle
from worker.device import check_device
from worker.disk import DiskFull, wait_for_room, with_room
from worker.evaluate import Eye, Tally, batch_size, evaluation
from worker.events import (
    Diverged,
    Epoch,
    Event,
    Finished,
    Paused,
    Progress,
    Shrunk,
    Started,
    Stopped,
)
from worker.head import start as start_head
from worker.kept import Keeper
from worker.memory import fitting
from worker.methods import METHODS
from worker.models import MODELS
from worker.models.weights import build
from worker.optim import (
    Anchors,
    anchors_checksum,
    anchors_of,
    freeze,
    optimizer,
    penalty,
    set_rate,
    thaw,
)
from worker.pace import Pace
from worker.position import Position
from worker.provenance import describe, peak_memory
from worker.schedule import learning_rate, rate_at_end

Export = Callable[[nn.Module, Path, str], tuple[Artifact, ...]]


class NonFiniteLoss(Exception):
    """The loss of a step is not a number any more; `end` is what the run comes to."""

    def __init__(self, history: list[EpochRecord], epoch: int, step: int) -> None:
        super().__init__(epoch, step)
        self.end = Diverged(tuple(history), epoch, step)


def no_artifacts(model: nn.Module, runs: Path, run_id: str) -> tuple[Artifact, ...]:
    """What a fine-tuned run leaves behind: its numbers."""
    return ()


def finetune(run: Run, context: Context, export: Export = no_artifacts) -> Iterator[Event]:
    """Train `run`, from its newest checkpoint where there is one; ends with the last event.

    Raises whatever goes wrong; `worker.run` turns that into a `Failed` event.
    """
    try:
        yield from experiment(run, context, export)
    except NonFiniteLoss as diverged:
        yield diverged.end
    except Stopped:
        yield Paused(*Checkpoints(context.runs / run.id, context.fence).newest())


def experiment(run: Run, context: Context, export: Export) -> Iterator[Event]:
    """The experiment, top to bottom; raises `NonFiniteLoss` and `Stopped`, too."""
    # 1. The state that the run's numbers are defined in, then data, model and optimizer.
    entry = MODELS.find(run.model)
    refuse_other_code(run)
    check_device(context.device, run.precision)
    yield from decode(run, context)
    # Kept for the next run, so it must draw nothing after.
    data = load_for(run, context.data, context.cache)
    settle(run.seed, run.threads, run.precision)
    built = build(run, DATASETS.find(run.dataset).classes, context.runs, context.weights)
    head = start_head(built.model, run, context.runs, context.head_sha256)
    model = built.model.to(context.device).train()
    refuse_other_inputs(context, data.fingerprint, built.weights_sha256)
    freeze(model, run)
    anchors = anchors_of(model, run)
    optim = optimizer(model, run, anchors)

    # 2. Where an earlier attempt got to.
    folder = yield from with_room(partial(context.folder, run.id), context.should_stop)
    checkpoints = Checkpoints(folder, context.fence)
    keeper = Keeper(context.keep, run, folder)
    inputs = {"data": data.fingerprint, "pretrained weights": built.weights_sha256}
    if run.probe is not None:
        inputs["linear probe's head"] = head
    if anchors:  # in no checkpoint: they are built anew, and must be the same
        inputs["starting weights"] = anchors_checksum(anchors)
    at = Position(run.micro_batch, Tally(batch_size(entry.image_size)))
    if state := checkpoints.load():
        at = restore(state, model, optim, context.device, inputs, at)
    snapshot = partial(snapshot_of, model, optim, context.device, inputs, at)
    pace = Pace(context, checkpoints, at, snapshot)
    provenance = describe(run, context, data.fingerprint, built.weights_sha256, at.micro_batch)
    yield Started(tuple(at.history), provenance, at.whole, at.step)

    # 3. The evaluation before training, then the epochs. An epoch's row is on disk, in the
    # checkpoint, before anybody hears of it.
    while at.epoch <= run.epochs:
        if at.epoch > 0:
            yield from train_epoch(run, context, model, optim, anchors, data.train, at, pace)
        yield from measure(run, context, model, data, at, pace)
        record = record_of(run, at, len(data.train))
        at.close(record)
        if record.epoch > 0:
            yield from pace.with_room(partial(keeper.epoch, model, at.history))
            yield from pace.save()
            keeper.checkpointed(at.history)
        yield Epoch(record)

    # 4. Everything once more, so that a message that was lost is made good.
    artifacts = yield from pace.with_room(
        lambda: export(model, context.runs, run.id) + keeper.finish(model, at.history)
    )
    yield Finished(tuple(at.history), artifacts, peak_memory(context.device))


def decode(run: Run, context: Context) -> Iterator[Event]:
    """Build what the cache of decoded images lacks, waiting for room where its disk is full."""
    while True:
        threads = context.loaders or 1
        building = prepare(run.dataset, context.data, context.cache, threads, run.resize)
        try:
            with closing(building):
                for done, images in building:
                    if context.should_stop():
                        raise Stopped
                    yield Progress(0, done, images, "decoding")
            return
        except DiskFull as full:
            problem = full
        yield from wait_for_room(problem, context.should_stop)


def refuse_other_code(run: Run) -> None:
    """Raise `EnvironmentProblem` where the method's code is not what the run was planned with."""
    METHODS.find(run.method)
    if METHODS.code_of(run.method) != run.method_code:
        raise EnvironmentProblem(
            f'the code that declares method "{run.method}" is not that of this run '
            f"({METHODS.code_of(run.method) or 'none'}, not {run.method_code or 'none'}); bring "
            "it back, or launch the sweep file again, which makes new runs of the new code."
        )


def refuse_other_inputs(context: Context, data_fingerprint: str, weights_sha256: str) -> None:
    """Raise `MissingInputs` where an earlier attempt trained on other data or weights."""
    refuse_another("data", context.data_fingerprint, data_fingerprint)
    refuse_another("pretrained weights", context.weights_sha256, weights_sha256)


def refuse_another(noun: str, before: str | None, now: str) -> None:
    """Raise `MissingInputs` unless `now` is what there was before, if there was."""
    if before is not None and before != now:
        raise MissingInputs(
            f"the {noun} are not those of this run's first attempt "
            f"({now[:12]}, not {before[:12]}); bring those back."
        )


def train_epoch(
    run: Run, context: Context, model: nn.Module, optim: Any, anchors: Anchors, images: Images,
    at: Position, pace: Pace,
) -> Iterator[Event]:  # fmt: skip
    """What is left of a pass over the training images, in an order keyed by (seed, epoch).

    Counts in `at`. Where memory runs out, micro-batches are halved and the step is repeated. Raises
    `NonFiniteLoss`, and `Stopped` between two steps.
    """
    pace.lap()
    thaw(model, run, optim, at.epoch)
    order = torch.randperm(len(images), generator=generator(run.seed, at.epoch, "order"))
    batches = order.split(run.batch_size)  # the last, short one is kept
    shown = images.epoch(generator(run.seed, at.epoch, "augment"))
    while at.step < len(batches):  # once more after micro-batches were halved
        left = batches[at.step :]
        parts = [micro for batch in left for micro in batch.split(at.micro_batch)]
        with closing(prefetch(shown, parts, context.loaders)) as pixels:
            for batch in left:
                yield from pace.between("training", at.step, len(batches))
                step = (at.epoch - 1) * len(batches) + at.step
                set_rate(optim, learning_rate(run, step, len(batches)))
                micro = min(at.micro_batch, len(batch))
                work = partial(
                    gradient, run, context.device, model, images.labels[batch], pixels, micro
                )
                found = fitting(model, context.device, micro, work)
                if found is None:
                    at.micro_batch = micro // 2
                    at.training_seconds += pace.lap()
                    yield Shrunk(at.epoch, step, at.micro_batch)
                    break
                loss, hits = found
                if not math.isfinite(loss):
                    raise NonFiniteLoss(at.history, at.epoch, step)
                update(run, model, optim, anchors)
                at.loss, at.hits = at.loss + loss * len(batch), at.hits + hits
                at.step += 1
                at.training_seconds += pace.lap()


def gradient(
    run: Run,
    device: str,
    model: nn.Module,
    labels: Tensor,
    pixels: Iterator[Tensor],
    micro_batch: int,
) -> tuple[float, int]:
    """Leave the gradient of a batch's exact mean loss in the model; returns that loss and the hits.

    `labels` are the batch's, `pixels` yields its micro-batches. Those sum their losses and divide
    by the batch, so a short last one weighs what it is.
    """
    model.zero_grad(set_to_none=True)
    loss, hits = 0.0, 0
    for micro in labels.split(micro_batch):
        wanted = micro.to(device)
        with arithmetic(device, run.precision):
            logits = model(next(pixels).to(device))
        part = functional.cross_entropy(logits.float(), wanted, reduction="sum") / len(labels)
        part.backward()
        loss += part.item()
        hits += int((logits.argmax(dim=1) == wanted).sum())
    return loss, hits


def update(run: Run, model: nn.Module, optim: Any, anchors: Anchors) -> None:
    """One step along the gradient, that of the method's penalty included."""
    added = penalty(model, run, anchors)
    if added is not None:
        added.backward()
    if run.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), run.clip_norm)
    optim.step()


def measure(
    run: Run, context: Context, model: nn.Module, data: Loaded, at: Position, pace: Pace
) -> Iterator[Event]:
    """What is left of the epoch's evaluation, into `at.tally`; raises `Stopped` on the way."""
    pace.lap()
    eye = Eye(context.device, run.precision, at.tally.batch, context.loaders)
    passes = evaluation(model, data, splits_of(run, at), eye, at.tally)
    with closing(passes):
        for seen, images in passes:
            at.evaluation_seconds += pace.lap()
            yield from pace.between("evaluating", seen, images)
    at.evaluation_seconds += pace.lap()


def splits_of(run: Run, at: Position) -> Iterator[Split]:
    """The splits that an epoch evaluates, each told when those before are done.

    Auxiliary splits follow where the selection score is the best so far, and after the last epoch.
    """
    declared = DATASETS[run.dataset].splits
    yield from (s for s in declared if s.name in run.evaluate)
    scores = [score for r in at.history if r.epoch > 0 and (score := r.headline("id")) is not None]
    score = EpochRecord(at.epoch, None, None, 0.0, tuple(at.tally.metrics)).headline("id")
    improved = at.epoch > 0 and score is not None and all(score > earlier for earlier in scores)
    if improved or at.epoch == run.epochs:
        yield from (s for s in declared if s.name in run.evaluate_on_improvement)


def record_of(run: Run, at: Position, images: int) -> EpochRecord:
    """The row of an epoch that is over, from what `at` counted of its `images`."""
    metrics, seconds = tuple(at.tally.metrics), at.training_seconds + at.evaluation_seconds
    if at.epoch == 0:
        return EpochRecord(0, None, None, run.learning_rate, metrics, seconds)
    return EpochRecord(
        at.epoch,
        train_loss=at.loss / images,
        train_accuracy=at.hits / images,
        learning_rate=rate_at_end(run, at.epoch, at.step),
        metrics=metrics,
        images_per_second=images / at.training_seconds,
        seconds=seconds,
    )


def snapshot_of(
    model: nn.Module, optim: Any, device: str, inputs: dict[str, str], at: Position
) -> dict[str, Any]:
    """All that the next step depends on; the schedule's position is the step's number."""
    return {
        "inputs": inputs,
        "model": model.state_dict(),
        "optimizer": optim.state_dict(),
        "random": random_state(device),
        **at.to_state(),
    }


def restore(
    state: dict[str, Any],
    model: nn.Module,
    optim: Any,
    device: str,
    inputs: dict[str, str],
    fresh: Position,
) -> Position:
    """Put a snapshot back and return the position it was taken at.

    Raises `MissingInputs` where it comes of other data or weights.
    """
    for noun, now in inputs.items():
        refuse_another(noun, state["inputs"][noun], now)
    model.load_state_dict(state["model"])
    optim.load_state_dict(state["optimizer"])
    set_random_state(state["random"], device)
    return Position.from_state(state, fresh)
