"""What a run costs before it is trained: its arithmetic, and its seconds once others were timed.

A run trains on its images three passes' worth an epoch (forward, and twice that backward), and
evaluates once before training and after every epoch. No torch and no store: plain inputs.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from db.records import Run
from worker.data import DATASETS
from worker.methods import METHODS
from worker.models import MODELS

# Multiply-adds of one image forward, in billions, at the model's own image size and with a head of
# 10 classes; a test counts them on every declared model. Papers print them as "GFLOPs".
GIGA_MACS: Mapping[str, float] = {
    "clip_vit_b16": 17.56,
    "clip_vit_l14": 81.01,
    "vit_b16_in21k": 17.56,
    "dino_vit_b16": 17.56,
    "convnext_b_in22k": 15.35,
    "bit_r50_in21k": 4.087,
    "bit_r101_in21k": 7.799,
    "clip_vit_h14": 167.3,
    "bit_r50_sgd": 4.087,
    "bit_r50_adamw": 4.087,
    "bit_r50_patchify_sgd": 3.979,
    "bit_r50_patchify_adamw": 3.979,
    "tiny_vit": 0.001385,
    "tiny_bit": 0.000941,
    "tiny_clip": 0.001981,
    "tiny_convnext": 0.000659,
}
# Features that enter each model's head; a test counts them, too.
WIDTHS: Mapping[str, int] = {
    "clip_vit_b16": 512,
    "clip_vit_l14": 768,
    "vit_b16_in21k": 768,
    "dino_vit_b16": 768,
    "convnext_b_in22k": 1024,
    "bit_r50_in21k": 2048,
    "bit_r101_in21k": 2048,
    "clip_vit_h14": 1024,
    "bit_r50_sgd": 2048,
    "bit_r50_adamw": 2048,
    "bit_r50_patchify_sgd": 2048,
    "bit_r50_patchify_adamw": 2048,
    "tiny_vit": 64,
    "tiny_bit": 128,
    "tiny_clip": 32,
    "tiny_convnext": 64,
}
SOME_FEATURES = 768
PATH_ITERATIONS = 1000
"""Of the solver, in all fits of a linear probe: what paths over made-up features took, about."""
# Of datasets whose declaration names no count: those that code draws, and the miniatures as
# `orch data make-mini` writes them unless told otherwise.
IMAGES: Mapping[str, Mapping[str, int]] = {
    "digits": {"train": 809, "id": 269, "ood": 719},
    "shapes": {"train": 12_800, "id": 1_000},
}
MINIATURE_IMAGES = {"train": 512, "id": 256}
SOME_IMAGES = 512
TRAINING_PASSES = 3
BYTES = 4
"""Of a weight: they and the optimizer's states are float32 whatever the precision."""


class Setting(NamedTuple):
    """What a run's time depends on: runs that share it take about as long."""

    kind: str
    model: str
    dataset: str
    epochs: int
    images_per_split: int | None
    evaluate: tuple[str, ...]
    evaluate_on_improvement: tuple[str, ...]
    precision: str
    threads: int

    @classmethod
    def of(cls, run: Run) -> Setting:
        """The setting of a run."""
        return cls(
            run.kind,
            run.model,
            run.dataset,
            run.epochs,
            run.images_per_split,
            run.evaluate,
            run.evaluate_on_improvement,
            run.precision,
            run.threads,
        )


class Estimate:
    """How long runs take, from what was timed: `known` are mean seconds of finished runs.

    A setting that was timed takes what it took. Another one takes its arithmetic times the median
    seconds for an operation of the nearest settings that were timed: of its model on its dataset,
    else of its model, else of any.
    """

    def __init__(self, known: Mapping[Setting, float] | None = None) -> None:
        self._seconds = dict(known or {})
        self.timed = bool(self._seconds)
        """Whether anything was: where nothing was, costs are relative."""
        ratios: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for setting, seconds in self._seconds.items():
            for near in _nearness(setting):
                ratios[near].append(seconds / flops(setting))
        self._ratio = {near: statistics.median(found) for near, found in ratios.items()}

    def seconds(self, run: Run) -> float:
        """Seconds that `run` takes; where nothing was timed, its floating-point operations."""
        setting = Setting.of(run)
        if setting not in self._seconds:
            ratio = next((self._ratio[n] for n in _nearness(setting) if n in self._ratio), 1.0)
            self._seconds[setting] = ratio * flops(setting)
        return self._seconds[setting]


def _nearness(setting: Setting) -> tuple[tuple[str, ...], ...]:
    """What other settings may share with this one, the most telling first."""
    kind, model, dataset = setting[:3]
    return (kind, model, dataset), (kind, model), ()


@lru_cache(maxsize=4096)
def flops(setting: Setting) -> float:
    """Floating-point operations of a run: two for each multiply-add."""
    counts = _images(setting)
    if setting.kind == "linear_probe":
        return _probe_flops(setting, counts)
    train = TRAINING_PASSES * counts.get("train", SOME_IMAGES) * setting.epochs
    always = sum(counts.get(split, SOME_IMAGES) for split in setting.evaluate)
    sometimes = sum(counts.get(split, SOME_IMAGES) for split in setting.evaluate_on_improvement)
    # The selection score improves in about half of the epochs, the earlier ones.
    evaluated = always * (setting.epochs + 1) + sometimes * (setting.epochs + 1) / 2
    return 2e9 * _giga_macs(setting.model, setting.dataset) * (train + evaluated)


def _probe_flops(setting: Setting, counts: Mapping[str, int]) -> float:
    """Every image once through the model; the loss and gradient of the head in each iteration."""
    extraction = 2e9 * _giga_macs(setting.model, setting.dataset) * sum(counts.values())
    classes = DATASETS[setting.dataset].classes if setting.dataset in DATASETS else 2
    outputs = 1 if classes == 2 else classes
    iteration = 4.0 * counts["train"] * WIDTHS.get(setting.model, SOME_FEATURES) * outputs
    return extraction + PATH_ITERATIONS * iteration


@lru_cache
def _giga_macs(model: str, dataset: str) -> float:
    """Of one image; models that take several sizes do as much more as the image has more pixels."""
    entry = MODELS.get(model)
    if entry is None:
        return 1.0  # of a plugin that is not loaded: known to the store alone
    counted = GIGA_MACS.get(model)
    if counted is None:
        pixels = entry.image_size**2
        counted = entry.parameters * pixels * _per_parameter_and_pixel(entry.family)
    side = DATASETS[dataset].side if dataset in DATASETS else None
    resized = side is not None and entry.published is None
    if not (resized and side):
        return counted
    return counted * (max(side, entry.least_side) / entry.image_size) ** 2


@lru_cache
def _per_parameter_and_pixel(family: str) -> float:
    """What a model of the family does that nobody counted, by the median of those counted."""
    counted = [(MODELS[name], macs) for name, macs in GIGA_MACS.items() if name in MODELS]
    return statistics.median(
        macs / (model.parameters * model.image_size**2)
        for model, macs in counted
        if model.family == family
    )


def _images(setting: Setting) -> dict[str, int]:
    """Images of training and of each split, as far as they are known."""
    entry = DATASETS.get(setting.dataset)
    known = entry.images if entry else {}
    if not known:
        miniature = setting.dataset.startswith("mini_")
        known = IMAGES.get(setting.dataset, MINIATURE_IMAGES if miniature else {})
    limit = setting.images_per_split
    splits = ("train", *setting.evaluate, *setting.evaluate_on_improvement)
    counts = {split: known.get(split, SOME_IMAGES) for split in splits}
    return counts if limit is None else {k: min(n, limit) for k, n in counts.items()}


def weights_bytes(run: Run) -> int:
    """What the weights of a run take on disk, in bytes."""
    entry = MODELS.get(run.model)
    return BYTES * entry.parameters if entry else 0


def features_bytes(run: Run) -> int:
    """What the features of a linear probe take on disk, in bytes; they stay. Of other runs 0."""
    if run.kind != "linear_probe":
        return 0
    rows = sum(_images(Setting.of(run)).values())
    return BYTES * rows * WIDTHS.get(run.model, SOME_FEATURES)


def checkpoint_bytes(run: Run) -> int:
    """Most bytes that the checkpoints of a run take on disk while it trains.

    Weights and optimizer states; twice, as a new checkpoint is written before the old one goes. Of
    a linear probe the parts of its features, until they are put together.
    """
    if run.kind == "linear_probe":
        return features_bytes(run)
    method = METHODS.get(run.method)
    states = method.states if method else 0
    return 2 * (1 + states) * weights_bytes(run)
