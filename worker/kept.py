"""Weights that a finished run keeps (`keep: best | last`), and loading them again.

`best` is the epoch that selection picks: the highest in-distribution score, the first on ties. Its
candidates are written as training goes, each before the checkpoint of its epoch, so that whatever
a checkpoint's history calls best is on disk. A file says in its header which run and epoch it is.
"""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from db.errors import MissingInputs, SpecError
from db.records import Artifact, EpochRecord, Metric, Run, canonical_json
from worker.artifacts import describe, write_weights
from worker.catalog import nearest
from worker.context import Context, Keep
from worker.data import DATASETS
from worker.data.images import load_for, prepare
from worker.determinism import settle
from worker.evaluate import Eye, batch_size, evaluate
from worker.models import MODELS
from worker.models.weights import untrained

log = logging.getLogger(__name__)

ABOUT = "orch"
"""The entry of a file's header that says whose weights they are."""
CANDIDATE = "candidate-{epoch:06d}.safetensors"
NAMES = {"best": "best.safetensors", "last": "last.safetensors"}


def best_epoch(history: Sequence[EpochRecord]) -> int | None:
    """The epoch that selection picks (PROTOCOL section 4); None where none has a score."""
    scores = [(r.headline("id"), r.epoch) for r in history if r.epoch > 0]
    found = [(score, -epoch) for score, epoch in scores if score is not None]
    return -max(found)[1] if found else None


class Keeper:
    """Keeps the weights of one run's epochs while it trains."""

    def __init__(self, keep: Keep, run: Run, folder: Path) -> None:
        self.keep = keep
        self.run = run
        self.folder = folder

    def epoch(self, model: nn.Module, history: Sequence[EpochRecord]) -> None:
        """Write the model where the newest epoch is the best; called before its checkpoint."""
        epoch = history[-1].epoch
        if self.keep == "best" and best_epoch(history) == epoch:
            self._write(model, CANDIDATE.format(epoch=epoch), epoch)

    def checkpointed(self, history: Sequence[EpochRecord]) -> None:
        """Drop the candidates that the checkpoint on disk has no use for.

        Later ones are another attempt's, which has got further: they are left alone.
        """
        best, newest = best_epoch(history), history[-1].epoch
        for path in self.folder.glob("candidate-*.safetensors"):
            epoch = int(path.stem.rpartition("-")[2])
            if epoch <= newest and epoch != best:
                path.unlink(missing_ok=True)

    def finish(self, model: nn.Module, history: Sequence[EpochRecord]) -> tuple[Artifact, ...]:
        """The kept file under its last name, as the run's artifact.

        Empty where nothing is to be kept, or where the sweep asked for the best only after the
        epoch that turned out to be it.
        """
        if self.keep == "none":
            return ()  # what an attempt that was to keep some left goes with the checkpoints
        place = self.folder / NAMES[self.keep]
        if self.keep == "last":
            self._write(model, place.name, history[-1].epoch)
        else:
            best = best_epoch(history)
            candidate = self.folder / CANDIDATE.format(epoch=best or 0)
            if candidate.is_file():
                candidate.replace(place)
            elif not place.is_file() or _about(place)["epoch"] != best:
                log.warning(
                    "epoch %s was the best before anybody asked to keep it: no weights are kept; "
                    "make them with: orch runs run %s --local --keep best",
                    best,
                    self.run.id,
                )
                return ()
        return (describe(place, self.keep),)

    def _write(self, model: nn.Module, name: str, epoch: int) -> None:
        about = canonical_json({"run": self.run.content(), "epoch": epoch})
        # One entry: safetensors writes several in any order, and equal runs leave equal files.
        write_weights(model, self.folder, name, {ABOUT: about})


def _about(path: Path) -> dict[str, Any]:
    """Which run and epoch a file's weights are of."""
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()[ABOUT])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise MissingInputs(f"{path} cannot be read ({error}); train the run again.") from error
    return about


def whole_id(prefix: str, runs: Path) -> str:
    """The run whose folder's name begins with `prefix`; raises `MissingInputs` for several."""
    names = [path.name for path in runs.glob(f"{glob.escape(prefix)}*") if path.is_dir()]
    if len(names) > 1:
        raise MissingInputs(f'"{prefix}" begins several runs in {runs}; give more of it.')
    return names[0] if names else prefix


def find(run_id: str, runs: Path) -> Path:
    """The file that a run kept; raises `MissingInputs` where it kept none."""
    for name in NAMES.values():
        if (runs / run_id / name).is_file():
            return runs / run_id / name
    raise MissingInputs(
        f"{runs / run_id} holds no kept weights; `keep: best` in a sweep file leaves those of the "
        f"runs that it trains. To train this one again: orch runs run {run_id[:8]} --local "
        "--keep best"
    )


def read(run_id: str, runs: Path) -> tuple[Run, int, nn.Module]:
    """A run, the epoch whose weights it kept, and the model with them, on the CPU in train mode.

    Raises `MissingInputs` where there are none or they do not fit the model.
    """
    from safetensors.torch import load_file

    path = find(run_id, runs)
    about = _about(path)
    run = Run.from_content(about["run"])
    if run.id != run_id:
        raise MissingInputs(f"{path} holds the weights of run {run.id}; bring its own back.")
    model = untrained(run, DATASETS.find(run.dataset).classes)
    try:
        model.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise MissingInputs(f"{path} does not fit {run.model} ({reason}).") from error
    return run, about["epoch"], model.train()


def evaluate_on(
    run_id: str, dataset: str, splits: Sequence[str], context: Context
) -> tuple[int, tuple[Metric, ...]]:
    """The epoch that a run kept, and its metrics on `splits` of a dataset, all of them where empty.

    Another dataset's splits are called `dataset:split`. Raises `SpecError` where the dataset has
    other classes or other sizes of image, or no such split; `MissingInputs` where the run's own
    dataset is not the one it was trained on.
    """
    run, epoch, model = read(run_id, context.runs)
    entry, own, built = DATASETS.find(dataset), DATASETS.find(run.dataset), MODELS.find(run.model)
    if entry.classes != own.classes:
        raise SpecError(
            f"run {run_id[:8]} tells {own.classes} classes of {own.id} apart, and {dataset} has "
            f"{entry.classes}; name a dataset with the same classes."
        )
    if built.published and entry.side and entry.side != built.image_size:
        raise SpecError(
            f"{built.id} takes images of {built.image_size} pixels and {dataset} gives "
            f"{entry.side}; name another dataset."
        )
    names = [split.name for split in entry.splits]
    for name in splits:
        if name not in names:
            raise SpecError(f'{dataset} has no split "{name}"; {nearest(name, names)}')
    chosen = [split for split in entry.splits if not splits or split.name in splits]
    threads = context.loaders or 1
    for _ in prepare(dataset, context.data, context.cache, threads, run.resize):
        pass
    data = load_for(replace(run, dataset=dataset), context.data, context.cache)
    known = context.data_fingerprint
    if dataset == run.dataset and known not in (None, data.fingerprint):
        raise MissingInputs(
            f"{dataset} under {context.data} is not what run {run_id[:8]} was trained on "
            f"({data.fingerprint[:24]}, not {str(known)[:24]}); bring that back."
        )
    settle(run.seed, run.threads, run.precision)
    side = built.image_size
    eye = Eye(context.device, run.precision, batch_size(side), context.loaders)
    metrics = evaluate(model.to(context.device), data, chosen, eye)
    prefix = "" if dataset == run.dataset else f"{dataset}:"
    return epoch, tuple(replace(m, split=prefix + m.split) for m in metrics)


def load(run_id: str, runs: str | Path = "runs") -> nn.Module:
    """The model of a finished run with the weights that it kept, on the CPU; the id may be short.

    It takes images (N, 3, side, side) in [0, 1] and returns logits (N, classes).
    """
    return read(whole_id(run_id, Path(runs)), Path(runs))[2]
