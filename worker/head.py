"""A linear classification head on its own: what a probe leaves and LP-FT starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from db.errors import MissingInputs, SpecError
from db.records import HEAD_NAME, Artifact, Run
from worker.artifacts import describe, write_tensors
from worker.checkpoint import file_digest
from worker.models import MODELS, Model

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """A linear layer on raw features."""

    weight: Tensor
    """(classes, width) float32."""
    bias: Tensor
    """(classes,) float32."""

    @classmethod
    def zero(cls, classes: int, width: int) -> Head:
        """What the path of a probe starts from."""
        return cls(torch.zeros(classes, width), torch.zeros(classes))

    def logits(self, rows: Floats) -> Tensor:
        """(N, classes) of features (N, width)."""
        return functional.linear(torch.from_numpy(np.array(rows)), self.weight, self.bias)

    def to_state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {"weight": self.weight, "bias": self.bias}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Head:
        """The inverse."""
        return cls(state["weight"], state["bias"])

    def copy_to(self, model: nn.Module, entry: Model) -> None:
        """Make a model's head this one; raises `SpecError` where it has another shape."""
        layer = layer_of(model, entry)
        for name, mine in self.to_state().items():
            own = layer.get_parameter(name)
            if own.shape[: mine.dim()] != mine.shape or own.numel() != mine.numel():
                raise SpecError(
                    f"a head of shape {tuple(mine.shape)} does not fit {entry.id}, whose {name} is "
                    f"{tuple(own.shape)}; give the probe's own model and dataset."
                )
            with torch.no_grad():
                own.copy_(mine.view_as(own))

    def save(self, folder: Path, about: dict[str, str] | None = None) -> Artifact:
        """Leave it in a run's folder; raises `DiskFull` and `EnvironmentProblem`."""
        return describe(write_tensors(self.to_state(), folder, HEAD_NAME, about), HEAD_NAME)


def layer_of(model: nn.Module, entry: Model) -> nn.Linear | nn.Conv2d:
    """The layer that turns features into logits.

    Raises `SpecError` where the model's head is not one linear layer or 1×1 convolution with bias.
    """
    names = [prefix.removesuffix(".") for prefix in entry.head]
    found: Any = model.get_submodule(names[0]) if len(names) == 1 else None
    linear = isinstance(found, nn.Linear)
    convolution = isinstance(found, nn.Conv2d) and found.kernel_size == (1, 1)
    if not (linear or convolution) or found.bias is None:
        raise SpecError(
            f'the head of model "{entry.id}" ({", ".join(names)}) is not one linear layer with a '
            "bias, which a linear probe replaces; leave its linear probe and LP-FT out."
        )
    layer: nn.Linear | nn.Conv2d = found
    return layer


def width_of(layer: nn.Linear | nn.Conv2d) -> int:
    """How many features enter a head."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def start(model: nn.Module, run: Run, runs: Path, recorded: str | None) -> str:
    """Give a model the head that its run starts from; returns its SHA-256, empty for a new one.

    `recorded` is the checksum that the probe's run is known to have left, where it is. Raises
    `MissingInputs` where the file is not there or is another.
    """
    if run.probe is None:
        return ""
    path = runs / run.probe / HEAD_NAME
    again = f"make it with: orch runs run {run.probe} --local"
    if not path.is_file():
        raise MissingInputs(f"{path}, the linear probe's head, is missing; {again}")
    found = file_digest(path)
    if recorded not in (None, found):
        raise MissingInputs(
            f"{path} is not the head that its linear probe left ({found[:12]}, not "
            f"{str(recorded)[:12]}); bring that back, or {again}"
        )
    try:
        Head.from_state(load_file(path)).copy_to(model, MODELS.find(run.model))
    except (SafetensorError, KeyError) as error:
        raise MissingInputs(f"{path} cannot be read ({error}); {again}") from error
    return found
