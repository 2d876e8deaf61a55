"""Learning rates at every step, and what gradual unfreezing moves in every epoch."""

from __future__ import annotations

import itertools
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import worker
from conftest import a_run
from db.records import Run
from worker.determinism import settle
from worker.models import MODELS
from worker.models.layers import gradient_layers
from worker.models.weights import new_model
from worker.optim import freeze, moving, optimizer, thaw
from worker.schedule import SCHEDULES, learning_rate, rate_at_end, unfrozen_blocks

TRANSFORMERS = [name for name, model in MODELS.items() if model.blocks]


def gradual(**changes: Any) -> Run:
    """A run of gradual unfreezing of the tiny ViT."""
    values = {"model": "tiny_vit", "dataset": "digits", "method": "gradual_unfreezing"}
    return a_run(**{**values, "schedule": "gradual_unfreezing", **changes})


@lru_cache
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return new_model(MODELS[name], 3)


# Cosine


@given(steps=st.integers(1, 50), epochs=st.integers(1, 20), rate=st.floats(1e-7, 1.0))
def test_the_cosine_is_its_formula_at_every_step(steps: int, epochs: int, rate: float) -> None:
    run, total = a_run(epochs=epochs, learning_rate=rate), steps * epochs
    for step in range(total + 1):
        expected = rate * math.cos(math.pi / 2 * step / total) ** 2  # (1 + cos 2x)/2
        assert learning_rate(run, step, steps) == pytest.approx(expected, abs=1e-15)
    for epoch in range(1, epochs + 1):
        assert rate_at_end(run, epoch, steps) == learning_rate(run, epoch * steps, steps)
    assert rate_at_end(run, epochs, steps) == pytest.approx(0, abs=1e-15)


@given(steps=st.integers(1, 50), epochs=st.integers(1, 20))
def test_the_authors_cosine_is_the_papers_at_the_epochs_first_step(steps: int, epochs: int) -> None:
    run = a_run(epochs=epochs, schedule="cosine_per_epoch")
    paper = a_run(epochs=epochs)
    for step in range(steps * epochs):
        first = step // steps * steps
        assert learning_rate(run, step, steps) == learning_rate(paper, first, steps)


def test_a_methods_own_schedule_goes_by_its_reference() -> None:
    run = a_run(schedule="worker.schedule:cosine_per_epoch", epochs=4)
    named = a_run(schedule="cosine_per_epoch", epochs=4)
    rates = [[learning_rate(r, step, 5) for step in range(20)] for r in (run, named)]
    assert rates[0] == rates[1]
    assert rate_at_end(run, 2, 5) == learning_rate(run, 9, 5), "the last step's"


# Gradual unfreezing: PROTOCOL section 3


@pytest.mark.parametrize(
    ("epochs", "blocks"),
    [
        (1, [12]),
        (2, [0, 12]),
        (3, [0, 6, 12]),
        (5, [0, 3, 6, 9, 12]),
        (20, [0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12]),
    ],
)
def test_blocks_by_epoch(epochs: int, blocks: list[int]) -> None:
    assert [unfrozen_blocks(epoch, epochs, 12) for epoch in range(1, epochs + 1)] == blocks


@given(epochs=st.integers(2, 60), blocks=st.integers(1, 40))
def test_blocks_are_the_floor_of_the_epochs_share(epochs: int, blocks: int) -> None:
    counts = [unfrozen_blocks(epoch, epochs, blocks) for epoch in range(1, epochs + 1)]
    assert counts[0] == 0
    assert counts[-1] == blocks
    for t, count in enumerate(counts):
        assert count * (epochs - 1) <= t * blocks < (count + 1) * (epochs - 1)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 20])
def test_the_rate_is_constant_in_an_epoch_and_falls_by_exp_3_73(epochs: int) -> None:
    run, steps = gradual(epochs=epochs, learning_rate=1e-3), 7
    for t in range(epochs):
        left = 1 - t / (epochs - 1) if epochs > 1 else 0.0
        expected = 1e-3 * math.exp(3.73 * left)
        (rate,) = {learning_rate(run, t * steps + step, steps) for step in range(steps)}
        assert rate == pytest.approx(expected)
        assert rate_at_end(run, t + 1, steps) == pytest.approx(expected), "of the row"
    last = learning_rate(run, epochs * steps - 1, steps)
    assert last == run.learning_rate


def named(name: str, epoch: int, epochs: int) -> set[str]:
    """The layers that move, by the names of the figures of gradient norms; each whole."""
    model = on_meta(name)
    some = moving(model, gradual(model=name, epochs=epochs), epoch)
    assert some is not None
    found = set()
    for layer, names in gradient_layers(MODELS[name], model).items():
        if some & set(names):
            assert set(names) <= some, "a layer moves as a whole"
            found.add(re.sub(r"^(block\.\d+)\..*", r"\1", layer))
    return found


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_moves_in_each_epoch(name: str) -> None:
    blocks, clip = MODELS[name].blocks, MODELS[name].family == "clip"
    always = {"head", "proj"} if clip else {"head"}
    assert named(name, 1, 3) == always
    half = {f"block.{n}" for n in range(blocks - blocks // 2, blocks)}
    assert named(name, 2, 3) == always | {"post_norm"} | half
    everything = {f"block.{n}" for n in range(blocks)}
    last = always | {"post_norm", "pos_embed", "cls_token"} | everything
    assert named(name, 3, 3) == last
    assert named(name, 1, 1) == last


def test_declared_blocks_are_the_models() -> None:
    for name, entry in MODELS.items():
        if name.startswith("toy"):
            continue
        layers = gradient_layers(entry, on_meta(name))
        inside = {m[1] for layer in layers if (m := re.match(r"block\.(\d+)\.attn", layer))}
        assert entry.blocks == len(inside), name


def test_unfreezing_follows_the_epochs_and_state_follows_the_gradients() -> None:
    """What has not moved yet has no gradient, and the optimizer knows nothing of it."""
    settle(0, 1)
    run = gradual(epochs=3, learning_rate=0.01)
    model = new_model(MODELS["tiny_vit"], 3)
    freeze(model, run)
    optim = optimizer(model, run)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    ever: set[str] = set()
    for epoch in (1, 2, 3):
        thaw(model, run, optim, epoch)
        now = moving(model, run, epoch)
        assert now is not None
        assert now >= ever
        ever |= now
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            model(torch.rand(4, 3, 32, 32)).square().sum().backward()
            assert {n for n, p in model.named_parameters() if p.grad is not None} == now
            optim.step()
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert changed == ever
        held = {n for n, p in model.named_parameters() if optim.state.get(p)}
        assert held == ever
    assert ever == {n for n in before if not n.startswith("network.patch_embed.")}


@settings(max_examples=5, deadline=None)
@given(epochs=st.integers(1, 8))
def test_every_group_gets_its_first_gradient_whole(epochs: int) -> None:
    """torch's fused SGD starts the momentum of a group at once."""
    model, run = on_meta("clip_vit_b16"), gradual(model="clip_vit_b16", epochs=epochs)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    freeze(model, run)
    optim = optimizer(model, run)
    names = {id(p): n for n, p in model.named_parameters()}
    for epoch in range(1, epochs + 1):
        some = moving(model, run, epoch)
        assert some is not None
        for group in optim.param_groups:
            inside = {names[id(p)] in some for p in group["params"]}
            assert len(inside) == 1
    sizes = [len(group["params"]) for group in optim.param_groups]
    assert sum(sizes) == len(names) - 3, "all but conv1 and ln_pre"


def test_a_run_thaws_epoch_by_epoch_and_its_rows_tell_the_rates(tmp_path: Path) -> None:
    run = gradual(epochs=3, learning_rate=1e-3, images_per_split=64)
    settle(run.seed, 1)
    before = {
        n: p.detach().clone() for n, p in new_model(MODELS["tiny_vit"], 10).named_parameters()
    }
    moved: list[set[str]] = []
    rates: list[float] = []
    for event in worker.run(run, worker.Context(data=Path("unused"), runs=tmp_path)):
        if isinstance(event, worker.Epoch):
            rates.append(event.record.learning_rate)
            if event.record.epoch > 0:
                (path,) = (tmp_path / run.id).glob("checkpoint-*.pt")
                now = torch.load(path, weights_only=True)["model"]
                moved.append({n for n in before if not torch.equal(now[n], before[n])})
                before = {n: now[n] for n in before}
    assert rates == pytest.approx([1e-3, *(1e-3 * math.exp(3.73 * left) for left in (1, 0.5, 0))])
    expected = [moving(on_meta("tiny_vit"), run, epoch) for epoch in (1, 2, 3)]
    assert moved == expected


def test_schedules_are_named_once() -> None:
    assert [*SCHEDULES] == ["cosine_per_step", "cosine_per_epoch", "gradual_unfreezing"]
    rates = [[learning_rate(a_run(schedule=s), step, 4) for step in range(12)] for s in SCHEDULES]
    assert all(a != b for a, b in itertools.combinations(rates, 2))
