"""The experiment itself: exact micro-batches, the cosine, freezing, resuming bit by bit."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import worker
from conftest import a_run
from db.records import EpochRecord, Run
from worker.data import Split
from worker.data.images import load
from worker.determinism import arithmetic, generator, random_state, set_random_state, settle
from worker.evaluate import headline
from worker.finetune import gradient
from worker.methods import METHODS
from worker.models import MODELS
from worker.models.weights import new_model
from worker.optim import freeze, optimizer
from worker.schedule import learning_rate


def train(run: Run, runs: Path, fence: int = 1, stop_after: int | None = None) -> list[object]:
    """Run to the end, or until `stop_after` epochs are reported, as a kill would end it."""
    events: list[object] = []
    context = worker.Context(data=Path("unused"), runs=runs, fence=fence)
    for event in worker.run(run, context):
        events.append(event)
        epochs = sum(isinstance(e, worker.Epoch) for e in events)
        if stop_after is not None and epochs > stop_after:
            break
    return events


def finished(events: list[object]) -> tuple[EpochRecord, ...]:
    assert isinstance(events[-1], worker.Finished), events[-1]
    return events[-1].history


def measured(history: tuple[EpochRecord, ...]) -> list[object]:
    return [record.measured() for record in history]


# One step


@pytest.mark.parametrize("micro", [1, 5, 16, 32])
@pytest.mark.parametrize("size", [32, 27])
def test_micro_batches_give_the_batchs_exact_mean(micro: int, size: int) -> None:
    data = load("toy", Path("unused"))
    batch = torch.arange(size)
    run = a_run(micro_batch=micro)
    gradients = []
    for pieces in (a_run(micro_batch=32), run):
        settle(0, 1)
        model = new_model(MODELS["toy"], 2).eval()  # without dropout, which draws by batch
        labels = data.train.labels[batch]
        before = iter([data.train.batch(torch.arange(40, 50))])
        gradient(pieces, "cpu", model, labels[:10], before, 10)  # of which nothing is to stay
        pixels = map(data.train.batch, batch.split(pieces.micro_batch))
        loss, _ = gradient(pieces, "cpu", model, labels, pixels, pieces.micro_batch)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)
    expected = functional.cross_entropy(model(data.train.batch(batch)), data.train.labels[batch])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    plain = torch.autograd.grad(expected, [*model.parameters()])
    torch.testing.assert_close(gradients[1], torch.cat([g.flatten() for g in plain]))


@given(steps=st.integers(1, 50), epochs=st.integers(1, 20))
def test_the_cosine_goes_from_the_rate_to_zero(steps: int, epochs: int) -> None:
    run = a_run(epochs=epochs)
    rates = [learning_rate(run, step, steps) for step in range(steps * epochs + 1)]
    assert rates[0] == run.learning_rate
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(rates))
    half = learning_rate(run, steps * epochs, steps * 2)
    assert half == pytest.approx(run.learning_rate / 2)


@given(step=st.integers(0, 99))
def test_the_authors_cosine_is_constant_within_an_epoch(step: int) -> None:
    run = a_run(epochs=10, schedule="cosine_per_epoch")
    expected = 0.05 * (1 + math.cos(math.pi * (step // 10) / 10))
    assert learning_rate(run, step, 10) == pytest.approx(expected)


@pytest.mark.parametrize("method", list(METHODS)[:5])
@pytest.mark.parametrize("name", ["tiny_vit", "tiny_bit"])
def test_each_method_trains_what_it_should(name: str, method: str) -> None:
    settle(0, 1)
    entry, how = MODELS[name], METHODS[method]
    model = new_model(entry, 3)
    run = a_run(model=name, method=method, learning_rate=0.01, weight_decay=how.weight_decay)
    freeze(model, run)
    optim = optimizer(model, run)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loss = functional.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    optim.step()
    frozen = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    expected = (
        {n for n in before if n.startswith(entry.embedding)} if how.freeze == "embedding" else set()
    )
    assert frozen == expected
    held = sum(before[n].numel() for n in expected)
    assert held == (entry.embedding_parameters if expected else 0)
    group = optim.param_groups[0]
    assert group["weight_decay"] == how.weight_decay
    assert group.get("momentum", how.momentum) == how.momentum
    if how.optimizer == "adamw":
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)


# Metrics


def test_headlines_by_hand() -> None:
    correct, n = torch.tensor([9, 1, 0, 4]), torch.tensor([10, 2, 0, 8])
    weights = torch.tensor([80, 10, 5, 5])
    plain = headline(Split("s", "accuracy", ""), correct, n, weights)
    assert (plain.value, plain.correct, plain.n) == (14 / 20, 14, 20)
    worst = headline(Split("s", "worst_group_accuracy", ""), correct, n, weights)
    assert (worst.value, worst.correct, worst.n) == (0.5, 1, 2), "an empty group has no accuracy"
    weighted = headline(Split("s", "weighted_accuracy", ""), correct, n, weights)
    assert weighted.value == pytest.approx((80 * 0.9 + 10 * 0.5 + 5 * 0.5) / 95)


# Whole runs


def test_a_run_repeats_bit_by_bit(tmp_path: Path) -> None:
    first = finished(train(a_run(), tmp_path / "a"))
    torch.rand(7)  # whatever ran before in the process
    second = finished(train(a_run(), tmp_path / "b"))
    assert measured(first) == measured(second)
    assert [r.epoch for r in first] == [0, 1, 2, 3]
    assert first[-1].learning_rate == pytest.approx(0)
    assert {m.split for m in first[0].metrics} == {"id", "ood"}


@pytest.mark.parametrize("method", ["sgd", "adamw"])
@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, stop_after: int, method: str
) -> None:
    run = a_run(method=method)
    whole = train(run, tmp_path / "whole")
    train(run, tmp_path / "cut", fence=1, stop_after=stop_after)
    settle(99, 1)
    resumed = train(run, tmp_path / "cut", fence=2)
    assert measured(finished(whole)) == measured(finished(resumed))
    started = resumed[0]
    assert isinstance(started, worker.Started)
    assert started.resumed_from == (stop_after or None), "nothing is trained again"
    weights = [
        torch.load(next((tmp_path / place / run.id).glob("*.pt")), weights_only=True)["model"]
        for place in ("whole", "cut")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_told_to_stop_it_pauses_and_goes_on(tmp_path: Path) -> None:
    asked = iter([False] * 7 + [True] * 99)
    context = worker.Context(data=Path("unused"), runs=tmp_path, should_stop=lambda: next(asked))
    events = list(worker.run(a_run(), context))
    # Asked before each of two forward passes of an evaluation and each of two steps of an epoch.
    assert events[-1] == worker.Paused(1, 1), "stopped in the second epoch, after its first step"
    resumed = finished(train(a_run(), tmp_path, fence=2))
    assert measured(resumed) == measured(finished(train(a_run(), tmp_path / "whole")))


def test_a_diverged_run_keeps_the_epochs_before(tmp_path: Path) -> None:
    event = train(a_run(model="toy_nan"), tmp_path)[-1]
    assert isinstance(event, worker.Diverged)
    assert event.history
    assert event.epoch == len(event.history)


def test_an_exception_is_an_event_with_its_traceback(tmp_path: Path) -> None:
    event = train(a_run(model="toy_raises"), tmp_path)[-1]
    assert isinstance(event, worker.Failed)
    assert event.error == "RuntimeError: the toy breaks on purpose"
    assert "misbehave" in event.traceback


@pytest.mark.parametrize("changed", ["data_fingerprint", "weights_sha256"])
def test_a_resume_on_other_inputs_is_refused(tmp_path: Path, changed: str) -> None:
    context = worker.Context(data=Path("unused"), runs=tmp_path, **{changed: "other"})  # type: ignore[arg-type]
    event = list(worker.run(a_run(), context))[-1]
    assert isinstance(event, worker.Failed)
    assert "are not those of this run's first attempt" in event.error


def test_a_checkpoint_of_other_inputs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the store has forgotten what the first attempt read."""
    train(a_run(), tmp_path, stop_after=2)
    data = load("toy", Path("unused"))
    other = dataclasses.replace(data, fingerprint="toy-2")
    monkeypatch.setattr("worker.finetune.load_for", lambda *_: other)
    event = train(a_run(), tmp_path, fence=2)[-1]
    assert isinstance(event, worker.Failed)
    assert "the data are not those" in event.error


def test_auxiliary_splits_are_evaluated_when_the_score_improves(tmp_path: Path) -> None:
    run = a_run(evaluate=("id",), evaluate_on_improvement=("ood",), epochs=6)
    history = finished(train(run, tmp_path))
    scores = [record.headline("id") or 0.0 for record in history]
    for record in history[1:]:
        improved = all(scores[record.epoch] > s for s in scores[1 : record.epoch])
        expected = improved or record.epoch == run.epochs
        assert (record.headline("ood") is not None) == expected, record.epoch


# Randomness


def test_generators_are_keyed_by_purpose() -> None:
    keys = [(0, 1, "order"), (1, 0, "order"), (0, 1, "flip"), (0, 11, "order")]
    drawn = [torch.rand(4, generator=generator(*key)).tolist() for key in keys]
    assert len({tuple(d) for d in drawn}) == len(keys)
    assert drawn[0] == torch.rand(4, generator=generator(0, 1, "order")).tolist()


def test_the_random_state_comes_back_whole() -> None:
    import random

    import numpy as np

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    settle(3, 1)
    np.random.randn()  # leaves a cached gaussian behind
    state = random_state()
    first = draw()
    set_random_state(state)
    assert draw() == first


# Precision


def test_bf16_computes_in_bfloat16_and_keeps_weights_in_fp32(tmp_path: Path) -> None:
    losses, run = {}, a_run(model="tiny_vit", dataset="digits", epochs=2, images_per_split=64)
    for precision in ("fp32", "bf16"):
        one = dataclasses.replace(run, precision=precision)
        history = finished(train(one, tmp_path / precision))
        again = finished(train(one, tmp_path / f"{precision}-again"))
        assert measured(history) == measured(again), "the same numbers again"
        losses[precision] = history[-1].train_loss
    assert losses["fp32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    with arithmetic("cpu", "bf16"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.bfloat16
    with arithmetic("cpu", "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
