"""Building a run's model: architecture, pretrained weights, a new head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

from safetensors.torch import load_file, save
from torch import nn

from db.errors import MissingInputs, SpecError
from db.records import Artifact, Run
from worker.catalog import resolve
from worker.checkpoint import file_digest, write_whole
from worker.models import ARTIFACT, MODELS, Model


@dataclass(frozen=True)
class Built:
    """A model ready to train, and the checksum of the weights it starts from (empty: random)."""

    model: nn.Module
    weights_sha256: str


def new_model(entry: Model, classes: int) -> nn.Module:
    """The architecture with fresh weights, drawn from torch's global generator."""
    if entry.build is None:
        raise MissingInputs(f'model "{entry.id}" cannot be built by this version of orch.')
    model = resolve(entry.build)(classes)
    assert isinstance(model, nn.Module)
    return model


def artifact_path(runs: Path, run_id: str) -> Path:
    """Where a `pretrain` run leaves its weights."""
    return runs / run_id / ARTIFACT


def build(run: Run, classes: int, runs: Path) -> Built:
    """The run's model with the weights it starts from; the head is always new.

    Raises `MissingInputs` where the weights are not there, `SpecError` where they do not fit.
    """
    entry = MODELS.find(run.model)
    model = new_model(entry, classes)
    if run.weights == "random":
        return Built(model, "")
    if not run.needs:
        raise MissingInputs(f'model "{entry.id}": this version reads no published weights.')
    path = artifact_path(runs, run.needs[0])
    if not path.is_file():
        raise MissingInputs(
            f"{path} is missing; make it with: orch runs run {path.parent.name} --local"
        )
    copy_backbone(model, entry, path)
    return Built(model, file_digest(path))


def copy_backbone(model: nn.Module, entry: Model, path: Path) -> None:
    """Copy every pretrained tensor but the head's, after checking that names and shapes agree."""
    stored = {k: v for k, v in load_file(path).items() if not k.startswith(entry.head)}
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(entry.head)}
    wrong = sorted(
        name
        for name in own.keys() | stored.keys()
        if name not in own or name not in stored or own[name].shape != stored[name].shape
    )
    if wrong:
        raise SpecError(f"{path} does not fit {entry.id}: {', '.join(wrong[:3])} differ.")
    model.load_state_dict(stored, strict=False)


def save_weights(model: nn.Module, runs: Path, run_id: str) -> Artifact:
    """Write a pretrained model, head included, for the runs that start from it."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    data = save(tensors)

    def write(file: IO[bytes]) -> None:
        file.write(data)

    path = write_whole(runs / run_id, write, lambda _: ARTIFACT)
    return Artifact(ARTIFACT, f"{run_id}/{ARTIFACT}", file_digest(path), path.stat().st_size)
