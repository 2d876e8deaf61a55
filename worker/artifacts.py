"""Weights as files that a run leaves: written whole, told of with their checksum."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from safetensors.torch import save
from torch import nn

from db.records import Artifact
from worker.checkpoint import file_digest, write_whole


def write_weights(
    model: nn.Module, folder: Path, name: str, about: dict[str, str] | None = None
) -> Path:
    """Write a model, head included, as `folder/name`, whole or not at all; `about` rides along.

    Raises `DiskFull` and `EnvironmentProblem`, as `write_whole` does.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    data = save(tensors, about)

    def write(file: IO[bytes]) -> None:
        file.write(data)

    return write_whole(folder, write, lambda _: name, len(data))


def describe(path: Path, name: str) -> Artifact:
    """The artifact called `name` of the run whose folder holds `path`."""
    place = f"{path.parent.name}/{path.name}"
    return Artifact(name, place, file_digest(path), path.stat().st_size)
