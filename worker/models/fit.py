"""Copying stored tensors into a model: all of its backbone, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from db.errors import SpecError
from worker.models import Model

Tensors = Mapping[str, Tensor]


def fit(model: nn.Module, entry: Model, stored: Tensors, path: Path) -> None:
    """Copy tensors under our own names, the head's left out, after checking that all agree.

    Raises `SpecError` with the first few that do not.
    """
    stored = {k: v for k, v in stored.items() if not k.startswith(entry.head)}
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(entry.head)}
    wrong = [
        *(f"{name} is missing" for name in own if name not in stored),
        *(f"{name} is unknown" for name in stored if name not in own),
        *other_shapes(own, stored),
    ]
    refuse(entry, path, wrong)
    model.load_state_dict(stored, strict=False)


def other_shapes(own: Tensors, stored: Tensors) -> list[str]:
    """What `stored` holds in another shape than `own`, in words."""
    return [
        f"{name} is {tuple(stored[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & stored.keys()
        if own[name].shape != stored[name].shape
    ]


def refuse(entry: Model, path: Path, wrong: list[str]) -> None:
    """Raise `SpecError` that names the file and the first of what is wrong with it, if anything."""
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise SpecError(
            f"{path} does not fit {entry.id}: {'; '.join(sorted(wrong)[:3])}{more}. "
            "Put the file of this very model there, or take this one away."
        )
