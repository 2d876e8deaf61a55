"""Weights as files that a run leaves: written whole, told of with their checksum."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO

from safetensors.torch import save
from torch import Tensor, nn

from db.records import Artifact
from worker.checkpoint import file_digest, write_whole


def write_weights(
    model: nn.Module, folder: Path, name: str, about: dict[str, str] | None = None
) -> Path:
    """Write a model, head included, as `folder/name`: see `write_tensors`."""
    return write_tensors(model.state_dict(), folder, name, about)


def write_tensors(
    tensors: Mapping[str, Tensor], folder: Path, name: str, about: dict[str, str] | None = None
) -> Path:
    """Write tensors as `folder/name`, whole or not at all; `about` rides along.

    Raises `DiskFull` and `EnvironmentProblem`, as `write_whole` does.
    """
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, about)

    def write(file: IO[bytes]) -> None:
        file.write(data)

    return write_whole(folder, write, lambda _: name, len(data))


def describe(path: Path, name: str) -> Artifact:
    """The artifact called `name` of the run whose folder holds `path`."""
    place = f"{path.parent.name}/{path.name}"
    return Artifact(name, place, file_digest(path), path.stat().st_size)
