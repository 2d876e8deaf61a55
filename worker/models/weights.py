"""Building a run's model: architecture, pretrained weights, a new head."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from db.errors import MissingInputs, OrchError, SpecError
from db.records import Artifact, Run
from worker.artifacts import describe, write_weights
from worker.catalog import resolve
from worker.checkpoint import file_digest
from worker.models import ARTIFACT, IMAGENET_MEAN, IMAGENET_STD, MODELS, Model
from worker.models.fit import fit
from worker.models.locate import find, places, remedy
from worker.models.normalized import Normalized


@dataclass(frozen=True)
class Built:
    """A model ready to train, and the checksum of the weights it starts from (empty: random)."""

    model: nn.Module
    weights_sha256: str


def new_model(entry: Model, classes: int) -> nn.Module:
    """The architecture with fresh weights, drawn from torch's global generator."""
    if entry.build is not None:
        model = resolve(entry.build)(classes)
        assert isinstance(model, nn.Module)
        return model
    if entry.published is None:
        raise SpecError(f'model "{entry.id}" says neither `build` nor `published`; declare one.')
    from worker.models.published import architecture

    return architecture(entry.published, classes)


def untrained(run: Run, classes: int) -> nn.Module:
    """The run's architecture with fresh weights and the run's normalisation of images."""
    model = new_model(MODELS.find(run.model), classes)
    if run.sup_vit_normalization == "imagenet":
        assert isinstance(model, Normalized)
        model.set_channels(IMAGENET_MEAN, IMAGENET_STD)
    return model


def artifact_path(runs: Path, run_id: str) -> Path:
    """Where a `pretrain` run leaves its weights."""
    return runs / run_id / ARTIFACT


def build(run: Run, classes: int, runs: Path, weights: Path | None = None) -> Built:
    """The run's model with the weights it starts from; the head is always new.

    `weights` is the folder of `--weights`; nothing is ever downloaded. Raises `MissingInputs` where
    the weights are not there or damaged, `SpecError` where they do not fit.
    """
    entry = MODELS.find(run.model)
    model = untrained(run, classes)
    if run.weights == "random":
        return Built(model, "")
    if run.pretraining is None:
        return Built(model, load_published(model, entry, weights))
    path = artifact_path(runs, run.pretraining)
    if not path.is_file():
        raise MissingInputs(
            f"{path} is missing; make it with: orch runs run {path.parent.name} --local"
        )
    copy_backbone(model, entry, path)
    return Built(model, digest(path))


def load_published(model: nn.Module, entry: Model, weights: Path | None) -> str:
    """Find the published weights of `entry`, copy them into `model`, return their checksum."""
    path = find(entry, weights)
    if path is None:
        raise MissingInputs(
            f"the weights of {entry.id} are not here; get them with: {remedy(entry)}. "
            f"Looked for: {'; '.join(places(entry, weights))}."
        )
    return read(model, entry, path)


def read(model: nn.Module, entry: Model, path: Path) -> str:
    """Copy the published weights in `path` into `model`, all but the head; returns their checksum.

    Raises `MissingInputs` where the file is damaged, `SpecError` where it does not fit.
    """
    from worker.models.published import read_backbone

    checksum = digest(path)
    named = hub_digest(path)
    if named not in (None, checksum):
        raise MissingInputs(_damaged(entry, path, "its bytes are not those that were downloaded"))
    try:
        read_backbone(path, entry, model)
    except OrchError:
        raise
    except Exception as error:  # each format's reader raises its own sort
        first = (str(error).splitlines() or [""])[0][:200]
        raise MissingInputs(
            _damaged(entry, path, f"{type(error).__name__}: {first}".rstrip(": "))
        ) from error
    return checksum


def _damaged(entry: Model, path: Path, reason: str) -> str:
    return (
        f"{path} cannot be read as weights of {entry.id} ({reason}); "
        f"delete it and get it again: {remedy(entry)}."
    )


def hub_digest(path: Path) -> str | None:
    """The SHA-256 that a file of the hub cache should have: its blob is called that."""
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


def digest(path: Path) -> str:
    """The SHA-256 of a file, computed once a process: a thousand runs start from the same one."""
    facts = path.stat()
    return _digest(path.resolve(), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed: int) -> str:
    return file_digest(path)


def copy_backbone(model: nn.Module, entry: Model, path: Path) -> None:
    """Copy every pretrained tensor but the head's, after checking that names and shapes agree."""
    fit(model, entry, load_file(path), path)


def save_weights(model: nn.Module, runs: Path, run_id: str) -> Artifact:
    """Write a pretrained model, head included, for the runs that start from it."""
    return describe(write_weights(model, runs / run_id, ARTIFACT), ARTIFACT)
