"""The paper's settings (PROTOCOL sections 2, 3 and 6), and where a cell's runs leave them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from db.records import ADDED_LATER, RunBrief
from reports.declared import PAPER_DATASETS, PAPER_MODELS
from reports.explain.records import Difference
from reports.likeness import EPOCHS, NO_SCHEDULE, Likeness
from reports.select import Key
from reports.study import Study

SGD = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
ADAMW = (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4)
METHODS: Mapping[str, tuple[tuple[float, ...], float]] = {
    "sgd": (SGD, 0.0),
    "adamw": (ADAMW, 0.01),
    "sgd_freeze_embed": (SGD, 0.0),
    "sgd_freeze_embed_no_momentum": (SGD, 0.0),
    "adamw_freeze_embed": (ADAMW, 0.01),
    "sgd_no_momentum": (SGD, 0.0),
    "sgd_weight_decay": (SGD, 0.01),
    "sgd_freeze_embed_not_layernorm": (SGD, 0.0),
    "sgd_freeze_stem": (SGD, 0.0),
    "sgd_low_lr_embed": (SGD, 0.0),
    "gradual_unfreezing": (ADAMW, 0.0),
}
"""Learning rates and weight decay of the methods that have the paper's plain lists."""
AUTHORS = {
    ("weight_decay", 0.0),
    ("schedule", "cosine_per_epoch"),
    ("sup_vit_normalization", "imagenet"),
    ("waterbirds_selection", "test"),
    ("low_lr_proj", "fixed"),
    ("l2_sp", "authors"),
}
"""What the authors' code does where the paper says otherwise."""


def differences(
    runs: Iterable[RunBrief], identity: Mapping[str, Any], *, miniature: bool
) -> Iterator[Difference]:
    """What the runs of a cell do otherwise than the paper; seeds may be more than the paper's."""
    runs = [*runs]
    model, dataset, method = runs[0].cell
    if model not in PAPER_MODELS:
        yield Difference("model", model, "", "not one of the paper's models")
    if dataset not in PAPER_DATASETS:
        yield Difference("dataset", dataset, "", "not one of the paper's datasets")
    elif miniature:
        yield Difference("data", "a generated miniature", "the real images")
    if identity["source"]:
        return
    rates, decay = METHODS.get(method, (None, None))
    tried = sorted({run.learning_rate for run in runs})
    if rates is not None and tried != list(rates):
        yield Difference("learning rates", _listed(tried), _listed(rates))
    wanted: dict[str, object] = {
        **({"epochs": EPOCHS[dataset]} if dataset in EPOCHS else {}),
        **({"weight_decay": decay} if method in METHODS else {}),
        **({} if method in NO_SCHEDULE else {"schedule": "cosine_per_step"}),
        "batch_size": 32,
        "clip_norm": None,
    }
    if identity["kind"] != "finetune":
        wanted = {}
    later = {name: ADDED_LATER[name] for name in ADDED_LATER if name not in ("source", "head")}
    for name, paper in {**wanted, "precision": "fp32", **later}.items():
        if identity[name] != paper:
            note = "as in the authors' code" if (name, identity[name]) in AUTHORS else ""
            yield Difference(name, _spelled(identity[name]), _spelled(paper), note)
    if identity.get("weights") == "random":
        yield Difference("weights", "random", "pretrained")


def published(study: Study, key: Key, *, miniature: bool) -> tuple[str, ...]:
    """Where the cell leaves the authors' runs; nothing for a cell that they have not."""
    if key[0] not in PAPER_MODELS or key[1] not in PAPER_DATASETS or miniature:
        return ()
    return tuple(Likeness(study).protocol(key))


def _listed(rates: Iterable[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _spelled(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
