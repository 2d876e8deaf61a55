"""Each optimizer against its formula, written out in NumPy from PROTOCOL section 3, in float64."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from conftest import a_run
from db.errors import SpecError
from db.records import Run
from worker.determinism import settle
from worker.finetune import update
from worker.methods import LEARNING_RATES, METHODS, Method, Tuned
from worker.models import MODELS
from worker.models.weights import new_model
from worker.optim import (
    ADAM_BETAS,
    OPTIMIZERS,
    anchors_checksum,
    anchors_of,
    freeze,
    optimizer,
    parameter_groups,
    set_rate,
)

Array = NDArray[np.float64]
Step = Callable[[Array], None]
FINE_TUNING = [m.id for m in METHODS.values() if m.kind == "finetune"]


def run_of(method: str, **changes: Any) -> Run:
    """A run of a method with its own settings, as a sweep file would make it."""
    own = METHODS[method]
    values = {
        "method": method,
        "weight_decay": own.weight_decay,
        "schedule": own.schedule or "cosine_per_step",
        "hyperparameters": tuple((t.name, t.default) for t in own.hyperparameters),
    }
    return a_run(**{**values, **changes})


# The formulas. Each takes θ (changed in place) and the rate, and returns what a gradient does.


def sgd(theta: Array, rate: float, momentum: float = 0.9, decay: float = 0.0) -> Step:
    buffer = np.zeros_like(theta)

    def step(gradient: Array) -> None:
        buffer[...] = momentum * buffer + gradient + decay * theta
        theta[...] = theta - rate * buffer

    return step


def adam_direction(theta: Array, eps: float, corrected: bool = True) -> Callable[[Array], Array]:
    first, second, count = np.zeros_like(theta), np.zeros_like(theta), itertools.count(1)
    beta1, beta2 = 0.9, 0.999

    def direction(gradient: Array) -> Array:
        t = next(count)
        first[...] = beta1 * first + (1 - beta1) * gradient
        second[...] = beta2 * second + (1 - beta2) * gradient**2
        if corrected:
            return (first / (1 - beta1**t)) / (np.sqrt(second / (1 - beta2**t)) + eps)
        return first / (np.sqrt(second) + eps)

    return direction


def adamw(theta: Array, rate: float, decay: float = 0.01) -> Step:
    direction = adam_direction(theta, 1e-8)

    def step(gradient: Array) -> None:
        theta[...] = theta * (1 - rate * decay) - rate * direction(gradient)

    return step


def adam_spd(theta: Array, rate: float, strength: float) -> Step:
    direction, start = adam_direction(theta, 1e-8), theta.copy()

    def step(gradient: Array) -> None:
        moved = theta - rate * direction(gradient)
        if (gradient * (theta - start)).sum() > 0:
            before, after = np.linalg.norm(theta - start), np.linalg.norm(moved - start)
            ratio = min(max(1 - before / after, 0.0), 1.0)
            moved = moved - strength * ratio * (moved - start)
        theta[...] = moved

    return step


def lamb(theta: Array, rate: float) -> Step:
    direction = adam_direction(theta, 1e-6, corrected=False)

    def step(gradient: Array) -> None:
        update = direction(gradient)
        weight, length = np.linalg.norm(theta), np.linalg.norm(update)
        trust = weight / length if weight > 0 and length > 0 else 1.0
        theta[...] = theta - rate * trust * update

    return step


def lars(theta: Array, rate: float) -> Step:
    buffer = np.zeros_like(theta)

    def step(gradient: Array) -> None:
        weight, length = np.linalg.norm(theta), np.linalg.norm(gradient)
        trust = 0.01 * weight / (length + 1e-8) if weight > 0 and length > 0 else 1.0
        buffer[...] = 0.9 * buffer + trust * gradient
        theta[...] = theta - rate * buffer

    return step


REFERENCES: dict[str, Callable[[Array, float], Step]] = {
    "sgd": sgd,
    "adamw": adamw,
    "sgd_no_momentum": lambda theta, rate: sgd(theta, rate, momentum=0.0),
    "sgd_weight_decay": lambda theta, rate: sgd(theta, rate, decay=0.01),
    "lamb": lamb,
    "lars": lars,
    "lars_as_published": sgd,
    "adam_spd": lambda theta, rate: adam_spd(theta, rate, 1.0),
}


# Random problems


@dataclasses.dataclass
class Problem:
    """Tensors, a rate, and their gradients step by step."""

    start: list[Array]
    rate: float
    gradients: list[list[Array]]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """One to three tensors of any shape, one of them perhaps zero; up to eight steps."""
    shapes = draw(
        st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=3)
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    start = [np.asarray(rng.normal(size=shape)) for shape in shapes]
    if draw(st.booleans()):
        start[0][...] = 0.0
    # A few directions that come again, or turn round: what looks back must meet both.
    drift = [np.asarray(rng.normal(size=shape)) for shape in shapes]
    turns = [float(rng.choice([-1.0, 1.0])) for _ in range(draw(st.integers(1, 8)))]
    gradients = [
        [scale * (turn * way + 0.3 * rng.normal(size=way.shape)) for way in drift] for turn in turns
    ]
    return Problem(start, draw(st.sampled_from([1e-4, 1e-2, 0.3])), gradients)


def parameters(problem: Problem) -> list[nn.Parameter]:
    return [nn.Parameter(torch.from_numpy(array.copy())) for array in problem.start]


def built(method: Method, run: Run, moving: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The method's optimizer over these parameters, anchored where they are."""
    anchors = {p: p.detach().clone() for p in moving}
    groups: list[dict[str, Any]] = [{"params": moving, "multiplier": 1.0}]
    return OPTIMIZERS[method.optimizer](groups, run, method, anchors)


def close(found: list[nn.Parameter], expected: list[Array]) -> None:
    for parameter, array in zip(found, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), array, rtol=1e-11, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(problem=problems(), method=st.sampled_from(list(REFERENCES)))
def test_an_optimizer_is_its_formula_at_every_step(problem: Problem, method: str) -> None:
    moving, run = parameters(problem), run_of(method, learning_rate=problem.rate)
    optim = built(METHODS[method], run, moving)
    expected = [array.copy() for array in problem.start]
    steps = [REFERENCES[method](array, problem.rate) for array in expected]
    for gradients in problem.gradients:
        for parameter, step, gradient in zip(moving, steps, gradients, strict=True):
            parameter.grad = torch.from_numpy(np.asarray(gradient).copy())
            step(gradient)
        optim.step()
        close(moving, expected)


@settings(max_examples=30, deadline=None)
@given(problem=problems(), strength=st.sampled_from([0.0, 0.1, 0.5, 1.0, 10.0]))
def test_the_projection_is_its_formula_whatever_its_strength(
    problem: Problem, strength: float
) -> None:
    run = run_of("adam_spd", learning_rate=problem.rate, hyperparameters=(("lambda", strength),))
    moving = parameters(problem)
    optim = built(METHODS["adam_spd"], run, moving)
    expected = [array.copy() for array in problem.start]
    steps = [adam_spd(array, problem.rate, strength) for array in expected]
    for gradients in problem.gradients:
        for parameter, step, gradient in zip(moving, steps, gradients, strict=True):
            parameter.grad = torch.from_numpy(np.asarray(gradient).copy())
            step(gradient)
        optim.step()
        close(moving, expected)


def test_the_projection_does_not_know_the_rate() -> None:
    """Drawn back by λ·r whatever the rate is: with λ = 1, to the distance it had before."""
    for rate in (1e-4, 1e-1):
        theta = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        run = run_of("adam_spd", learning_rate=rate)
        optim = built(METHODS["adam_spd"], run, [theta])
        distances = []
        for sign in (1.0, 1.0, -1.0, -1.0):  # turned round, Adam's momentum still goes on outwards
            theta.grad = sign * torch.ones(3, dtype=torch.float64)
            optim.step()
            distances.append(theta.detach().norm().item() / rate)
        assert distances[1] > 1.5 * distances[0], "inwards is free"
        assert distances[2] == pytest.approx(distances[1])
        assert distances[3] <= distances[2]


def test_without_strength_the_projection_is_torchs_adam() -> None:
    rng = np.random.default_rng(0)
    problem = Problem([rng.normal(size=(5, 3))], 0.01, [])
    (ours,), (theirs,) = parameters(problem), parameters(problem)
    run = run_of("adam_spd", learning_rate=0.01, hyperparameters=(("lambda", 0.0),))
    optims = built(METHODS["adam_spd"], run, [ours]), torch.optim.Adam([theirs], 0.01, fused=True)
    for _ in range(5):
        gradient = torch.from_numpy(rng.normal(size=(5, 3)))
        for parameter, optim in zip((ours, theirs), optims, strict=True):
            parameter.grad = gradient.clone()
            optim.step()
    assert torch.equal(ours, theirs)


def test_the_published_lars_is_sgd_with_momentum_bit_by_bit() -> None:
    """timm's without `always_adapt`, as the authors' code, adapts nothing without weight decay."""
    from timm.optim.lars import Lars

    rng = np.random.default_rng(1)
    problem = Problem([rng.normal(size=(4, 4))], 0.01, [])
    (ours,), (theirs,) = parameters(problem), parameters(problem)
    run = run_of("lars_as_published", learning_rate=0.01)
    published = Lars([theirs], 0.01, momentum=0.9, trust_coeff=0.01)
    optims = built(METHODS["lars_as_published"], run, [ours]), published
    for _ in range(6):
        gradient = torch.from_numpy(rng.normal(size=(4, 4)))
        for parameter, optim in zip((ours, theirs), optims, strict=True):
            parameter.grad = gradient.clone()
            optim.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)


# L2-SP: the loss's gradient is given, the penalty's is the worker's own


@pytest.mark.parametrize(("form", "factor"), [("paper", 1.0), ("authors", 2.0)])
@pytest.mark.parametrize("strength", [0.01, 0.7])
def test_l2_sp_is_adamw_on_the_penalised_gradient(
    form: str, factor: float, strength: float
) -> None:
    """λ/2‖θ − θ₀‖² pulls by λ(θ − θ₀), but not the head; the authors' λΣ by twice that, all."""
    settle(0, 1)
    run = run_of(
        "adamw_l2_sp", l2_sp=form, learning_rate=0.05, hyperparameters=(("lambda", strength),)
    )
    model = new_model(MODELS["toy"], 2).double()
    freeze(model, run)
    anchors = anchors_of(model, run)
    optim = optimizer(model, run, anchors)
    names = [name for name, _ in model.named_parameters()]
    expected = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    start = {n: array.copy() for n, array in expected.items()}
    steps = {n: adamw(expected[n], 0.05, run.weight_decay) for n in names}
    rng = np.random.default_rng(0)
    for _ in range(6):
        for name, parameter in model.named_parameters():
            gradient = rng.normal(size=tuple(parameter.shape))
            parameter.grad = torch.from_numpy(gradient.copy())
            pulled = form == "authors" or not name.startswith("head.")
            pull = factor * strength * (expected[name] - start[name])
            steps[name](gradient + pull if pulled else gradient)
        update(run, model, optim, anchors)
        close([*model.parameters()], [expected[n] for n in names])


def test_authors_and_paper_agree_where_they_should() -> None:
    """The authors' 0.01·Σ is the paper's λ/2 at 0.02, but for the head."""
    settle(0, 1)
    gradients = []
    for form, strength in (("paper", 0.02), ("authors", 0.01)):
        run = run_of("adamw_l2_sp", l2_sp=form, hyperparameters=(("lambda", strength),))
        torch.manual_seed(0)
        model = new_model(MODELS["toy"], 2)
        anchors = anchors_of(model, run)
        optim = optimizer(model, run, anchors)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1)
                p.grad = torch.zeros_like(p)
        update(run, model, optim, anchors)
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    paper, authors = gradients
    for name in paper:
        assert paper[name] is not None
        if name.startswith("head."):
            assert paper[name].abs().max() == 0  # type: ignore[union-attr]
            assert authors[name].abs().min() > 0  # type: ignore[union-attr]
        else:
            torch.testing.assert_close(paper[name], authors[name])


# Fused and foreach are the plain loop


def plain(method: Method, run: Run, moving: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The same optimizer one tensor at a time."""
    optim = built(method, run, moving)
    for group in optim.param_groups:
        group["foreach"] = False
        if "fused" in group:
            group["fused"] = False
    return optim


@pytest.mark.parametrize("method", ["sgd", "adamw", "lamb", "lars", "adam_spd"])
def test_fused_and_foreach_paths_equal_the_loop(method: str) -> None:
    """In float32, after twenty steps, to its rounding."""
    rng = np.random.default_rng(2)
    shapes = [(64, 48), (64,), (3, 3, 8, 8), ()]
    start = [np.asarray(rng.normal(size=shape)).astype(np.float32) for shape in shapes]
    run = run_of(method, learning_rate=0.01)
    sides = [[nn.Parameter(torch.tensor(a)) for a in start] for _ in range(2)]
    optims = built(METHODS[method], run, sides[0]), plain(METHODS[method], run, sides[1])
    for _ in range(20):
        for index, array in enumerate(start):
            gradient = torch.tensor(rng.normal(size=array.shape), dtype=torch.float32)
            for side in sides:
                side[index].grad = gradient.clone()
        for optim in optims:
            optim.step()
    for one, other in zip(*sides, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6)


# Memory

BYTES = {
    "sgd": 4, "adamw": 8, "sgd_freeze_embed": 4, "sgd_freeze_embed_no_momentum": 0,
    "adamw_freeze_embed": 8, "sgd_no_momentum": 0, "sgd_weight_decay": 4,
    "sgd_freeze_embed_not_layernorm": 4, "sgd_low_lr_embed": 4, "gradual_unfreezing": 4,
    "lamb": 8, "lars": 4, "lars_as_published": 4, "sgd_freeze_stem": 4, "adam_spd": 8,
    "adamw_l2_sp": 8, "lp_ft_sgd": 4, "lp_ft_adamw": 8, "lp_ft_sgd_freeze_embed": 4,
}  # fmt: skip
"""Of optimizer state for each parameter that moves, beside four each of weight and gradient."""


@pytest.mark.parametrize("method", FINE_TUNING)
def test_bytes_of_optimizer_state_a_parameter(method: str) -> None:
    assert BYTES[method] == 4 * METHODS[method].states, "what plans of disk go by"
    if METHODS[method].refuses(MODELS["tiny_vit"]):
        assert METHODS[method].optimizer == "sgd", "measured with the others"
        return
    run = run_of(method, model="tiny_vit", epochs=1)
    model = new_model(MODELS["tiny_vit"], 3)
    freeze(model, run)
    anchors = anchors_of(model, run)
    optim = optimizer(model, run, anchors)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optim.step()
    moving = sum(p.numel() for group in optim.param_groups for p in group["params"])
    held = sum(
        value.nbytes
        for state in optim.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim
    )
    assert held == BYTES[method] * moving
    anchored = sum(value.nbytes for value in anchors.values())
    assert anchored == (4 * moving if METHODS[method].anchored else 0)


# Groups


def test_the_main_grids_methods_have_one_group() -> None:
    """Checkpoints of their half-trained runs have one, and must load."""
    for method in [*METHODS][:5]:
        run = run_of(method, model="tiny_vit")
        model = new_model(MODELS["tiny_vit"], 3)
        freeze(model, run)
        (group,) = parameter_groups(model, run)
        assert group["multiplier"] == 1.0
        assert group["params"] == [p for p in model.parameters() if p.requires_grad]


def test_a_rate_is_times_each_groups_multiplier() -> None:
    run = run_of("sgd_low_lr_embed", model="tiny_vit")
    model = new_model(MODELS["tiny_vit"], 3)
    freeze(model, run)
    optim = optimizer(model, run)
    set_rate(optim, 0.3)
    rates = {id(p): g["lr"] for g in optim.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        embedding = name.startswith("network.patch_embed.")
        assert rates[id(parameter)] == pytest.approx(0.06 if embedding else 0.3), name


def test_timms_are_set_as_the_protocol_says() -> None:
    (lamb_group,) = optimizer_groups("lamb")
    assert lamb_group["betas"] == ADAM_BETAS == (0.9, 0.999)
    wanted = {"weight_decay": 0, "always_adapt": True, "bias_correction": False}
    assert {k: lamb_group[k] for k in wanted} == wanted
    assert lamb_group["max_grad_norm"] is None
    (lars_group,) = optimizer_groups("lars")
    wanted = {"momentum": 0.9, "weight_decay": 0, "trust_coeff": 0.01, "always_adapt": True}
    assert {k: lars_group[k] for k in wanted} == wanted


def optimizer_groups(method: str) -> list[dict[str, Any]]:
    return built(METHODS[method], run_of(method), [nn.Parameter(torch.ones(2))]).param_groups


# Anchors


def starts() -> Iterator[tuple[nn.Module, Run]]:
    run = run_of("adam_spd", model="tiny_vit")
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        yield new_model(MODELS["tiny_vit"], 3), run


def test_anchors_are_copies_and_their_checksum_tells_starts_apart() -> None:
    sums = []
    for model, run in starts():
        anchors = anchors_of(model, run)
        sums.append(anchors_checksum(anchors))
        assert {*anchors} == {*model.parameters()}
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        assert anchors_checksum(anchors) == sums[-1]
    assert sums[0] == sums[1] != sums[2]
    model, _ = next(starts())
    assert anchors_of(model, run_of("adamw", model="tiny_vit")) == {}


# Declarations


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"optimizer": "adamm"}, 'unknown optimizer "adamm"; did you mean "adamw"?'),
        ({"family": "mine"}, 'family "mine" has no learning rates'),
        ({"freeze": "embeding"}, 'unknown freeze "embeding"; did you mean "embedding"?'),
        ({"multipliers": {"haed": 10.0}}, 'unknown multipliers "haed"; did you mean "head"?'),
        ({"schedule": "cosine"}, 'unknown schedule "cosine"; did you mean "cosine_per_'),
        ({"starts_from": "prob"}, 'unknown starts_from "prob"; did you mean "probe"?'),
        ({"penalty": "l2"}, 'unknown penalty "l2"; known: module:function'),
        ({"kind": "pretrain"}, 'unknown kind "pretrain"; '),
    ],
)
def test_a_method_that_cannot_train_is_refused_when_it_is_declared(
    fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(says)):
        Method(id="mine", title="Mine", **fields)


def test_rates_follow_the_family_or_are_the_methods_own() -> None:
    eight = LEARNING_RATES["lamb"]
    assert len(eight) == 8
    for method in ("lamb", "lars", "lars_as_published"):
        assert METHODS[method].learning_rates_on("living17") == eight
        assert METHODS[method].learning_rates_on("mini_fmow") == eight[:6]
        assert METHODS[method].learning_rates_on("camelyon17") == LEARNING_RATES["adamw"]
    assert METHODS["gradual_unfreezing"].learning_rates == LEARNING_RATES["adamw"]
    own = Method(
        id="m",
        title="M",
        family="mine",
        rates=(0.5,),
        hyperparameters=(Tuned(name="a", default=1.0),),
    )
    assert own.learning_rates_on("fmow") == (0.5,)
