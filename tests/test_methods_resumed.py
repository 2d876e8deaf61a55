"""Every method's run is the same, bit by bit, when it is stopped inside an epoch and killed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import worker
from conftest import a_run
from db.records import Run
from worker.determinism import settle
from worker.methods import METHODS
from worker.models import MODELS
from worker.models.weights import new_model, save_weights
from worker.optim import freeze, optimizer

PRETRAINED = "0123456789abcdef"
"""The id of a pretraining that never ran: the test writes its weights."""
EPOCHS = 3
METHODS_HERE = [
    name for name, m in METHODS.items() if (m.kind, m.starts_from) == ("finetune", "pretrained")
]


@pytest.fixture(scope="module", autouse=True)
def _parts() -> Iterator[None]:
    """A toy with the parts that CLIP and ConvNeXt alone have."""
    entry = dataclasses.replace(
        MODELS["toy"],
        id="toy_parts",
        embedding_without_norm=("embedding.weight",),
        stem=("embedding.bias",),
    )
    MODELS.add(entry)
    yield
    del MODELS._entries["toy_parts"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights that training starts from."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(5)
    (folder / PRETRAINED).mkdir()
    save_weights(new_model(MODELS["tiny_vit"], 24), folder, PRETRAINED)
    return folder


def run_of(method: str, **changes: Any) -> Run:
    """Two steps an epoch, at a rate that moves things."""
    own = METHODS[method]
    tiny = own.refuses(MODELS["tiny_vit"]) is None
    values = {
        "method": method,
        "model": "tiny_vit" if tiny else "toy_parts",
        "dataset": "digits" if tiny else "toy",
        "weights": f"run:{PRETRAINED}" if tiny else "random",
        "epochs": EPOCHS,
        "learning_rate": 0.05 if own.family == "sgd" else 0.003,
        "weight_decay": own.weight_decay,
        "schedule": own.schedule or "cosine_per_step",
        "hyperparameters": tuple((t.name, t.default) for t in own.hyperparameters),
        "images_per_split": 64,
        "evaluate": ("id",),
    }
    return a_run(**{**values, **changes})


def attempt(
    run: Run, runs: Path, fence: int = 1, stop_at: int = 0, kill_after: int = 0
) -> list[object]:
    """One attempt's events: to its end, to the `stop_at`-th question, or to an epoch's row."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at

    events: list[object] = []
    context = worker.Context(data=Path("unused"), runs=runs, fence=fence, should_stop=should_stop)
    for event in worker.run(run, context):
        events.append(event)
        if isinstance(event, worker.Epoch) and event.record.epoch == kill_after > 0:
            break
    settle(99, 1)  # whatever comes between two attempts
    return events


def state_of(run: Run, runs: Path) -> dict[str, Any]:
    """What the last checkpoint holds; it goes, so that the next run starts afresh."""
    (path,) = (runs / run.id).glob("checkpoint-*.pt")
    state: dict[str, Any] = torch.load(path, weights_only=True)
    path.unlink()
    return state


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """To the bit, whatever it is."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}/{index}")
    else:
        assert one == other, where


@pytest.mark.parametrize("method", METHODS_HERE)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(method: str, runs: Path) -> None:
    """Rows, weights, moments and random states; θ₀ and what has thawed are built anew."""
    run = run_of(method)
    whole = attempt(run, runs)[-1]
    assert isinstance(whole, worker.Finished), whole
    expected = state_of(run, runs)

    # Asked before the evaluation of epoch 0 and then before each of two steps and an evaluation.
    assert attempt(run, runs, 1, stop_at=6)[-1] == worker.Paused(1, 1)
    second = attempt(run, runs, 2, kill_after=2)
    assert isinstance(second[0], worker.Started)
    assert (second[0].resumed_from, second[0].resumed_step) == (1, 1)
    last = attempt(run, runs, 3)[-1]
    assert isinstance(last, worker.Finished), last

    assert [r.measured() for r in last.history] == [r.measured() for r in whole.history]
    found = state_of(run, runs)
    for part in ("model", "optimizer", "random", "inputs"):
        assert_equal(found[part], expected[part], part)


@pytest.mark.parametrize("method", [name for name in METHODS_HERE if METHODS[name].anchored])
def test_the_start_is_in_no_checkpoint_and_another_one_is_refused(
    method: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(method)
    attempt(run, runs, 1, kill_after=1)
    (path,) = (runs / run.id).glob("checkpoint-*.pt")
    state = torch.load(path, weights_only=True)
    assert len(state["inputs"]["starting weights"]) == 8
    per_parameter = path.stat().st_size / (4 * sum(v.numel() for v in state["model"].values()))
    assert 3 <= per_parameter < 3.5, "weights and two moments"
    monkeypatch.setattr("worker.finetune.settle", lambda seed, *rest: settle(seed + 1, *rest))
    event = attempt(run, runs, 2)[-1]
    assert isinstance(event, worker.Failed)
    assert "the starting weights are not those of this run's first attempt" in event.error
    assert event.cause == "bad_data"


def test_what_is_pulled_towards_the_start_ends_nearer_to_it(runs: Path) -> None:
    """The pulls do something in these runs, or resuming them would prove nothing."""
    distances = {}
    for method, strength in (("adam_spd", 0.0), ("adam_spd", 1.0), ("adamw_l2_sp", 0.0),
                             ("adamw_l2_sp", 1.0)):  # fmt: skip
        run = run_of(method, hyperparameters=(("lambda", strength),))
        attempt(run, runs)
        model = state_of(run, runs)["model"]
        torch.manual_seed(5)
        start = new_model(MODELS["tiny_vit"], 24)
        distances[method, strength] = sum(
            float((model[n] - p).square().sum())
            for n, p in start.state_dict().items()
            if not n.startswith("network.head.")
        )
    assert distances["adam_spd", 1.0] < 0.9 * distances["adam_spd", 0.0]
    assert distances["adamw_l2_sp", 1.0] < 0.9 * distances["adamw_l2_sp", 0.0]


def test_a_checkpoint_of_the_time_before_multipliers_loads() -> None:
    """Its groups have none; the rates are those of a run that never stopped."""
    from worker.optim import set_rate

    run = run_of("sgd", weights="random")
    model = new_model(MODELS["tiny_vit"], 3)
    freeze(model, run)
    optim = optimizer(model, run)
    state = optim.state_dict()
    for group in state["param_groups"]:
        del group["multiplier"]
    optim.load_state_dict(state)
    set_rate(optim, 0.25)
    assert [group["lr"] for group in optim.param_groups] == [0.25]
