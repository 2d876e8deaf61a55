"""Every method: declared as the papers have it, moving what it should in every family of models."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import reports.published
from conftest import Orch, a_run
from db.records import Run
from reports.declared import PAPER_METHODS, PRIOR
from worker.determinism import settle
from worker.finetune import update
from worker.methods import METHODS
from worker.models import MODELS
from worker.models.weights import new_model
from worker.optim import anchors_of, freeze, optimizer, parameter_groups, set_rate, thaw

PUBLISHED = Path(reports.published.__file__).with_name("tables.csv")
PROTOCOL = {
    "sgd", "adamw", "sgd_freeze_embed", "adamw_freeze_embed", "sgd_freeze_embed_no_momentum",
    "sgd_no_momentum", "sgd_weight_decay", "sgd_freeze_embed_not_layernorm", "sgd_freeze_stem",
    "sgd_low_lr_embed", "gradual_unfreezing", "lamb", "lars", "lars_as_published", "linear_probe",
    "lp_ft_sgd", "lp_ft_adamw", "lp_ft_sgd_freeze_embed", "adam_spd", "adamw_l2_sp",
}  # fmt: skip
"""Section 3's."""
FINE_TUNING = [name for name in PAPER_METHODS if name in METHODS and name != "linear_probe"]

# What each part of a model is called, by family: PROTOCOL section 1.
EMBEDDING = {
    "clip": ("network.conv1.", "network.ln_pre."),
    "vit": ("network.patch_embed.",),
    "convnext": ("network.stem.", "network.stages.0."),
    "bit": ("network.stem.", "network.stages.0."),
}
STILL: dict[str, dict[str, tuple[str, ...]]] = {
    "sgd_freeze_embed": EMBEDDING,
    "sgd_freeze_embed_no_momentum": EMBEDDING,
    "adamw_freeze_embed": EMBEDDING,
    "lp_ft_sgd_freeze_embed": EMBEDDING,
    "sgd_freeze_embed_not_layernorm": {"clip": ("network.conv1.",)},
    "sgd_freeze_stem": {"convnext": ("network.stem.",)},
    "gradual_unfreezing": {family: EMBEDDING[family] for family in ("clip", "vit")},
}
"""What a method never moves, in the families that it applies to; of the others, nothing in all."""
REAL = ("clip_vit_b16", "vit_b16_in21k", "convnext_b_in22k", "bit_r50_in21k")
TINY = [name for name, model in MODELS.items() if model.recipe]


def run_of(method: str, model: str, **changes: Any) -> Run:
    """A run of a method with its own settings, as a sweep file would make it."""
    own = METHODS[method]
    values = {
        "method": method,
        "model": model,
        "epochs": 1,
        "weight_decay": own.weight_decay,
        "schedule": own.schedule or "cosine_per_step",
        "hyperparameters": tuple((t.name, t.default) for t in own.hyperparameters),
    }
    return a_run(**{**values, **changes})


def applies(method: str, model: str) -> bool:
    """By the tables above, not by the code."""
    return method not in STILL or MODELS[model].family in STILL[method]


def still(method: str, model: str) -> tuple[str, ...]:
    return STILL.get(method, {}).get(MODELS[model].family, ())


def pairs(models: Iterable[str]) -> list[tuple[str, str]]:
    return [(m, model) for m in FINE_TUNING for model in models if applies(m, model)]


# Declarations


def test_every_method_of_the_protocol_is_declared() -> None:
    assert set(METHODS) >= PROTOCOL


def test_every_row_of_the_published_tables_has_its_method() -> None:
    with PUBLISHED.open(newline="") as file:
        published = {row["method"] for row in csv.DictReader(file)}
    assert len(published) > 10
    assert published - {PRIOR} <= set(METHODS)


def test_titles_are_those_that_the_papers_tables_print() -> None:
    titles = {name: METHODS[name].title for name in PAPER_METHODS if name != PRIOR}
    assert titles == {name: title for name, title in PAPER_METHODS.items() if name != PRIOR}


def test_the_list_names_them_all(orch: Orch) -> None:
    listed = {one["id"]: one for one in json.loads(orch("methods", "list", "--json").stdout)}
    assert set(listed) >= PROTOCOL
    assert listed["adam_spd"]["hyperparameters"] == {"lambda": 1.0}
    assert listed["sgd_low_lr_embed"]["multipliers"] == {"embedding": 0.2}
    assert set(listed["lamb"]["learning_rates_on"]) >= {"fmow", "mini_camelyon17"}
    assert "convnext_b_in22k" in listed["sgd_freeze_stem"]["models"]
    assert "tiny_bit" not in listed["gradual_unfreezing"]["models"]
    assert all(one["code"] == "" for one in listed.values())
    table = orch("methods", "list").stdout
    assert all(name in table for name in PROTOCOL)


@pytest.mark.parametrize("method", FINE_TUNING)
def test_a_method_is_refused_for_models_without_what_it_freezes(method: str) -> None:
    for model in (*REAL, *TINY):
        reason = METHODS[method].refuses(MODELS[model])
        assert (reason is None) == applies(method, model)
        if reason is not None:
            assert f'model "{model}" has no' in reason
            assert "choose another method for it" in reason


# What moves


@pytest.mark.parametrize(("method", "model"), pairs(TINY))
def test_exactly_the_expected_parameters_move(method: str, model: str) -> None:
    """In a step of a real model; the others keep every bit, and the optimizer nothing of them."""
    settle(0, 1)
    run = run_of(method, model, learning_rate=0.01)
    built = new_model(MODELS[model], 3)
    before = {n: p.detach().clone() for n, p in built.named_parameters()}
    freeze(built, run)
    anchors = anchors_of(built, run)
    optim = optimizer(built, run, anchors)
    thaw(built, run, optim, 1)
    for _ in range(2):  # LARS and the pulls have something to look back at in the second
        built.zero_grad(set_to_none=True)
        images, labels = torch.rand(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
        functional.cross_entropy(built(images), labels).backward()
        update(run, built, optim, anchors)
    kept = {n for n, p in built.named_parameters() if torch.equal(p, before[n])}
    assert kept == {n for n in before if n.startswith(still(method, model) or ("nothing",))}
    assert all(bool(p.isfinite().all()) for p in built.parameters())
    held = {n for n, p in built.named_parameters() if optim.state.get(p)}
    assert held <= before.keys() - kept
    assert {id(p) for g in optim.param_groups for p in g["params"]} == {
        id(p) for n, p in built.named_parameters() if n not in kept
    }


@pytest.mark.parametrize("model", TINY)
def test_the_embedding_moves_a_fifth_as_far(model: str) -> None:
    settle(0, 1)
    run = run_of("sgd_low_lr_embed", model, learning_rate=0.01)
    built = new_model(MODELS[model], 3)
    before = {n: p.detach().clone() for n, p in built.named_parameters()}
    freeze(built, run)
    optim = optimizer(built, run)
    set_rate(optim, 0.01)
    functional.cross_entropy(built(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0])).backward()
    optim.step()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None
        rate = 0.002 if name.startswith(EMBEDDING[MODELS[model].family]) else 0.01
        expected = before[name] - rate * parameter.grad
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-8)


@lru_cache
def on_meta(model: str) -> nn.Module:
    with torch.device("meta"):
        return new_model(MODELS[model], 3)


def groups_on_meta(run: Run) -> Iterator[tuple[str, float]]:
    """The parameters that an optimizer of the run gets, with their multipliers."""
    built = on_meta(run.model)
    for parameter in built.parameters():
        parameter.requires_grad_(True)
    freeze(built, run)
    names = {id(p): n for n, p in built.named_parameters()}
    for group in parameter_groups(built, run):
        for parameter in group["params"]:
            yield names[id(parameter)], group["multiplier"]


@pytest.mark.parametrize(("method", "model"), pairs(REAL))
def test_the_big_models_move_as_the_protocol_says(method: str, model: str) -> None:
    """One a family: freeze-embed leaves CLIP's class embedding, positions and projection moving."""
    found = dict(groups_on_meta(run_of(method, model)))
    every = {n for n, _ in on_meta(model).named_parameters()}
    assert every - found.keys() == {
        n for n in every if n.startswith(still(method, model) or ("-",))
    }
    embedding = EMBEDDING[MODELS[model].family]
    for name, multiplier in found.items():
        lower = method == "sgd_low_lr_embed" and name.startswith(embedding)
        assert multiplier == (0.2 if lower else 1.0), name
    if model == "clip_vit_b16":
        always = ("proj", "class_embedding", "positional_embedding")
        assert {f"network.{name}" for name in always} <= found.keys()


def test_the_authors_projection_stays_beside_a_lower_rate() -> None:
    """PROTOCOL section 6: CLIP's `proj` was never updated in their runs of it."""
    paper, authors = (
        dict(groups_on_meta(run_of("sgd_low_lr_embed", "clip_vit_b16", low_lr_proj=proj)))
        for proj in ("trained", "fixed")
    )
    assert paper.keys() - authors.keys() == {"network.proj"}
    assert {n: m for n, m in paper.items() if n != "network.proj"} == authors
