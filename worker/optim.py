"""Optimizers, what moves, parameter groups and penalties, as plain functions.

Sources: PROTOCOL section 3; paper section 4 and Algorithm 1. SGD and AdamW are torch's, LAMB and
LARS timm's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from db.errors import SpecError
from db.records import Run
from worker.catalog import resolve
from worker.methods import METHODS, Method
from worker.models import MODELS, Model

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
LARS_TRUST = 0.01

Groups = list[dict[str, Any]]
"""torch's parameter groups; `multiplier` scales a group's rate."""
Anchors = Mapping[nn.Parameter, Tensor]
"""The weights that training started from, of every parameter that moves."""
Build = Callable[[Groups, Run, Method, Anchors], torch.optim.Optimizer]


# What moves


def freeze(model: nn.Module, run: Run) -> None:
    """Stop gradients to what the run never moves; position embeddings are never part of it.

    Raises `SpecError` where the model has no such part.
    """
    entry, method = MODELS.find(run.model), METHODS.find(run.method)
    prefixes = entry.frozen_by(method.freeze)
    if run.low_lr_proj == "fixed":
        prefixes += entry.projection
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name, _ in model.named_parameters()):
            raise SpecError(f'model "{entry.id}" has no parameters under "{prefix}".')
    epochs = [moving(model, run, epoch) for epoch in range(1, run.epochs + 1)]
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes) or not any(some is None or name in some for some in epochs):
            parameter.requires_grad_(False)


def moving(model: nn.Module, run: Run, epoch: int) -> set[str] | None:
    """The parameters that move in `epoch` (from 1), where epochs differ; None: they do not."""
    trains = METHODS.find(run.method).trains
    if trains is None:
        return None
    found: set[str] = resolve(trains)(MODELS.find(run.model), model, run, epoch)
    return found


def thaw(model: nn.Module, run: Run, optim: torch.optim.Optimizer, epoch: int) -> None:
    """Let the gradients of `epoch` (from 1) reach what moves in it, and nothing else."""
    some = moving(model, run, epoch)
    if some is None:
        return
    ever = {id(p) for group in optim.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(id(parameter) in ever and name in some)


def parameter_groups(model: nn.Module, run: Run) -> Groups:
    """The parameters that move, in the model's order: a group for each multiplier.

    And one for each set of epochs that they move in, so that a group's parameters have got their
    first gradient together: torch's fused SGD wants it so.
    """
    entry, method = MODELS.find(run.model), METHODS.find(run.method)
    epochs = [moving(model, run, epoch) for epoch in range(1, run.epochs + 1)]
    groups: dict[object, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            multiplier = _multiplier(entry, method, name)
            key = multiplier, tuple(some is None or name in some for some in epochs)
            empty: dict[str, Any] = {"params": [], "multiplier": multiplier}
            groups.setdefault(key, empty)["params"].append(parameter)
    return [*groups.values()]


def _multiplier(entry: Model, method: Method, name: str) -> float:
    for part, multiplier in method.multipliers.items():
        if name.startswith(entry.frozen_by(part)):
            return multiplier
    return 1.0


def set_rate(optim: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, times each group's multiplier."""
    for group in optim.param_groups:
        group["lr"] = rate * group.get("multiplier", 1.0)  # older checkpoints have none


# Optimizers


def optimizer(model: nn.Module, run: Run, anchors: Anchors | None = None) -> torch.optim.Optimizer:
    """The run's optimizer over the parameters that move.

    Fused or foreach: a few kernels for all tensors. A step of a tiny ViT's takes 0.15 ms and not
    0.6 with AdamW, 0.5 and not 1.2 with LAMB (one core, medians).
    """
    method = METHODS.find(run.method)
    build: Build = OPTIMIZERS.get(method.optimizer) or resolve(method.optimizer)
    return build(parameter_groups(model, run), run, method, anchors or {})


def _sgd(groups: Groups, run: Run, method: Method, anchors: Anchors) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        run.learning_rate,
        momentum=method.momentum,
        weight_decay=run.weight_decay,
        fused=True,
    )


def _adamw(groups: Groups, run: Run, method: Method, anchors: Anchors) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups,
        run.learning_rate,
        betas=ADAM_BETAS,
        eps=ADAM_EPS,
        weight_decay=run.weight_decay,
        fused=True,
    )


def _lamb(groups: Groups, run: Run, method: Method, anchors: Anchors) -> torch.optim.Optimizer:
    """timm's, set to what the authors' own computes: no bias correction, no clipping."""
    from timm.optim.lamb import Lamb

    made: torch.optim.Optimizer = Lamb(
        groups,
        run.learning_rate,
        bias_correction=False,
        betas=ADAM_BETAS,
        weight_decay=run.weight_decay,
        max_grad_norm=None,
        always_adapt=True,
        foreach=True,
    )
    return made


def _lars(groups: Groups, run: Run, method: Method, anchors: Anchors) -> torch.optim.Optimizer:
    """timm's; `always_adapt`, or without weight decay it would be SGD (as the authors' is)."""
    from timm.optim.lars import Lars

    made: torch.optim.Optimizer = Lars(
        groups,
        run.learning_rate,
        momentum=method.momentum,
        weight_decay=run.weight_decay,
        trust_coeff=LARS_TRUST,
        always_adapt=True,
        foreach=True,
    )
    return made


def _adam_spd(groups: Groups, run: Run, method: Method, anchors: Anchors) -> torch.optim.Optimizer:
    from worker.adam_spd import AdamSPD

    strength = dict(run.hyperparameters)["lambda"]
    return AdamSPD(
        groups,
        run.learning_rate,
        anchors=anchors,
        strength=strength,
        betas=ADAM_BETAS,
        eps=ADAM_EPS,
        weight_decay=run.weight_decay,
        fused=True,
    )


OPTIMIZERS: dict[str, Build] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lamb": _lamb,
    "lars": _lars,
    "adam_spd": _adam_spd,
}


# The weights that training started from


def anchors_of(model: nn.Module, run: Run) -> dict[nn.Parameter, Tensor]:
    """Copies of what is to move, taken before anything has; empty where nobody asks for them."""
    if not METHODS.find(run.method).anchored:
        return {}
    return {p: p.detach().clone() for p in model.parameters() if p.requires_grad}


def anchors_checksum(anchors: Anchors) -> str:
    """CRC-32 of their values: another start is told from the one that a checkpoint goes on from."""
    total = 0
    for value in anchors.values():
        total = zlib.crc32(value.cpu().contiguous().numpy().tobytes(), total)
    return f"{total:08x}"


def penalty(model: nn.Module, run: Run, anchors: Anchors) -> Tensor | None:
    """What the method adds to the mean loss, as a scalar to differentiate; None for most."""
    reference = METHODS.find(run.method).penalty
    if reference is None:
        return None
    found: Tensor = resolve(reference)(MODELS.find(run.model), model, anchors, run)
    return found


def l2_sp(entry: Model, model: nn.Module, anchors: Anchors, run: Run) -> Tensor:
    """λ/2 · ‖θ − θ₀‖² over the pretrained tensors; the authors' code: λ · ‖θ − θ₀‖², head too."""
    strength, head = dict(run.hyperparameters)["lambda"] / 2, entry.head
    if run.l2_sp == "authors":
        strength, head = 2 * strength, ()
    distances = [
        (p - anchors[p]).square().sum()
        for name, p in model.named_parameters()
        if p in anchors and p.requires_grad and not name.startswith(head)
    ]
    return strength * torch.stack(distances).sum()
