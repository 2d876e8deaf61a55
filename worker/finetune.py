"""Fine-tuning one model on one dataset: the experiment, top to bottom.

Source: PROTOCOL sections 3 and 4; paper section 4. Batches of 32 as exact micro-batches, the
learning rate on a cosine to 0, train mode throughout, every split after every epoch and once
before training (stored as epoch 0, never selectable).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from db.errors import MissingInputs
from db.records import Artifact, EpochRecord, Metric, Run
from worker.checkpoint import Checkpoints
from worker.context import Context
from worker.data import DATASETS
from worker.data.images import Images, Loaded, load, prepare
from worker.data.prefetch import prefetch
from worker.determinism import arithmetic, generator, random_state, set_random_state, settle
from worker.evaluate import Eye, batch_size, evaluate
from worker.events import Diverged, Epoch, Event, Finished, Paused, Progress, Started
from worker.kept import Keeper
from worker.methods import METHODS
from worker.models import MODELS
from worker.models.weights import build
from worker.optim import freeze, learning_rate, optimizer
from worker.provenance import describe, peak_memory

Export = Callable[[nn.Module, Path, str], tuple[Artifact, ...]]
PROGRESS_SECONDS = 5.0


class NonFiniteLoss(Exception):
    """The loss of a step is not a number any more."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def no_artifacts(model: nn.Module, runs: Path, run_id: str) -> tuple[Artifact, ...]:
    """What a fine-tuned run leaves behind: its numbers."""
    return ()


def finetune(run: Run, context: Context, export: Export = no_artifacts) -> Iterator[Event]:
    """Train `run`, from its newest checkpoint where there is one; ends with the last event.

    Raises whatever goes wrong; `worker.run` turns that into a `Failed` event.
    """
    # 1. The state that the run's numbers are defined in, then data, model and optimizer.
    entry, method = MODELS.find(run.model), METHODS.find(run.method)
    for done, images in prepare(run.dataset, context.data, context.cache, context.loaders or 1):
        yield Progress(0, done, images)
    # Kept for the next run, so it must draw nothing after.
    data = load(run.dataset, context.data, context.cache).at_most(run.images_per_split)
    settle(run.seed, run.threads, run.precision)
    built = build(run, DATASETS.find(run.dataset).classes, context.runs, context.weights)
    model = built.model.to(context.device).train()
    refuse_other_inputs(context, data.fingerprint, built.weights_sha256)
    freeze(model, entry, method)
    optim = optimizer(model, run, method)

    # 2. Where an earlier attempt got to.
    checkpoints = Checkpoints(context.folder(run.id), context.fence)
    keeper = Keeper(context.keep, run, context.folder(run.id))
    eye = Eye(context.device, run.precision, batch_size(entry.image_size), context.loaders)
    inputs = {"data": data.fingerprint, "pretrained weights": built.weights_sha256}
    history = restore(checkpoints.load(), model, optim, context.device, inputs)
    provenance = describe(context.device, data.fingerprint, built.weights_sha256)
    yield Started(tuple(history), provenance, history[-1].epoch if history else None)

    # 3. Before training.
    if not history:
        began = time.perf_counter()
        metrics = measure(run, history, 0, model, data, eye)
        seconds = time.perf_counter() - began
        history.append(EpochRecord(0, None, None, run.learning_rate, metrics, seconds))
        yield Epoch(history[-1])

    # 4. The epochs. A row is on disk, in the checkpoint, before anybody hears of it.
    for epoch in range(history[-1].epoch + 1, run.epochs + 1):
        started = time.perf_counter()
        try:
            trained = yield from train_epoch(run, context, epoch, model, optim, data.train)
        except NonFiniteLoss as stop:
            yield Diverged(tuple(history), epoch, stop.step)
            return
        if trained is None:
            yield Paused(history[-1].epoch)
            return
        trained_seconds = time.perf_counter() - started
        record = EpochRecord(
            epoch,
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            learning_rate=learning_rate(run, epoch * trained.steps, trained.steps),
            metrics=measure(run, history, epoch, model, data, eye),
            images_per_second=len(data.train) / trained_seconds,
            seconds=time.perf_counter() - started,
        )
        history.append(record)
        keeper.epoch(model, history)
        checkpoints.save(epoch, snapshot(model, optim, context.device, inputs, history))
        keeper.checkpointed(history)
        yield Epoch(record)

    # 5. Everything once more, so that a message that was lost is made good.
    artifacts = export(model, context.runs, run.id) + keeper.finish(model, history)
    yield Finished(tuple(history), artifacts, peak_memory(context.device))


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


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one epoch of training tells of itself."""

    loss: float
    """Mean over the epoch's images, each at the step that saw it."""
    accuracy: float
    steps: int


def train_epoch(
    run: Run, context: Context, epoch: int, model: nn.Module, optim: Any, images: Images
) -> Generator[Event, None, Trained | None]:
    """One pass over the training images in an order keyed by (seed, epoch).

    Returns `Trained`, or None where the run was told to stop; raises `NonFiniteLoss`.
    """
    order = torch.randperm(len(images), generator=generator(run.seed, epoch, "order"))
    batches = order.split(run.batch_size)  # the last, short one is kept
    loss, correct, told = 0.0, 0, time.monotonic()
    shown = images.epoch(generator(run.seed, epoch, "augment"))
    parts = [micro for batch in batches for micro in batch.split(run.micro_batch)]
    with closing(prefetch(shown, parts, context.loaders)) as pixels:
        for index, batch in enumerate(batches):
            if context.should_stop():
                return None
            step = (epoch - 1) * len(batches) + index
            for group in optim.param_groups:
                group["lr"] = learning_rate(run, step, len(batches))
            labels = images.labels[batch]
            batch_loss, hits = train_step(run, context.device, model, optim, labels, pixels)
            if not math.isfinite(batch_loss):
                raise NonFiniteLoss(step)
            loss, correct = loss + batch_loss * len(batch), correct + hits
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                yield Progress(epoch, index + 1, len(batches))
    return Trained(loss / len(images), correct / len(images), len(batches))


def train_step(
    run: Run, device: str, model: nn.Module, optim: Any, labels: Tensor, pixels: Iterator[Tensor]
) -> tuple[float, int]:
    """One update with the gradient of the batch's exact mean loss; returns that loss and the hits.

    `labels` are the batch's, `pixels` yields its micro-batches. Those sum their losses and divide
    by the batch, so a short last one weighs what it is.
    """
    optim.zero_grad(set_to_none=True)
    loss, hits = 0.0, 0
    for micro in labels.split(run.micro_batch):
        wanted = micro.to(device)
        with arithmetic(device, run.precision):
            logits = model(next(pixels).to(device))
        part = functional.cross_entropy(logits.float(), wanted, reduction="sum") / len(labels)
        part.backward()
        loss += part.item()
        hits += int((logits.argmax(dim=1) == wanted).sum())
    if run.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), run.clip_norm)
    if math.isfinite(loss):
        optim.step()
    return loss, hits


def measure(
    run: Run, history: list[EpochRecord], epoch: int, model: nn.Module, data: Loaded, eye: Eye
) -> tuple[Metric, ...]:
    """The epoch's metrics.

    Auxiliary splits follow where the selection score is the best so far, and after the last epoch.
    """
    declared = DATASETS[run.dataset].splits
    metrics = evaluate(model, data, [s for s in declared if s.name in run.evaluate], eye)
    scores = [score for r in history if r.epoch > 0 and (score := r.headline("id")) is not None]
    score = EpochRecord(epoch, None, None, 0.0, metrics).headline("id")
    improved = epoch > 0 and score is not None and all(score > earlier for earlier in scores)
    if improved or epoch == run.epochs:
        late = [s for s in declared if s.name in run.evaluate_on_improvement]
        metrics += evaluate(model, data, late, eye)
    return metrics


def snapshot(
    model: nn.Module, optim: Any, device: str, inputs: dict[str, str], history: list[EpochRecord]
) -> dict[str, Any]:
    """All that the next epoch depends on; the schedule's position is the last epoch's number."""
    return {
        "inputs": inputs,
        "model": model.state_dict(),
        "optimizer": optim.state_dict(),
        "random": random_state(device),
        "history": [dataclasses.asdict(record) for record in history],
    }


def restore(
    state: dict[str, Any] | None, model: nn.Module, optim: Any, device: str, inputs: dict[str, str]
) -> list[EpochRecord]:
    """Put a snapshot back and return its history, empty where there is none.

    Raises `MissingInputs` where it comes of other data or weights.
    """
    if state is None:
        return []
    for noun, now in inputs.items():
        refuse_another(noun, state["inputs"][noun], now)
    model.load_state_dict(state["model"])
    optim.load_state_dict(state["optimizer"])
    set_random_state(state["random"], device)
    return [EpochRecord.from_json(record) for record in state["history"]]
