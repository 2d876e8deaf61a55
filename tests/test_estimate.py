"""What a run costs before it is trained: counted against real models, data and checkpoints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import worker
from conftest import ROOT, a_history, a_run
from db.records import Provenance, Run
from db.store import Store
from orchestrator import durations
from orchestrator import sweep as sweeps
from orchestrator.cli import main
from orchestrator.estimate import (
    GIGA_MACS,
    IMAGES,
    WIDTHS,
    Estimate,
    Setting,
    checkpoint_bytes,
    features_bytes,
    flops,
)
from orchestrator.planning import HOUR, Plan
from orchestrator.spec import Resources
from orchestrator.sweep import Planned
from worker.catalog import resolve
from worker.data import DATASETS
from worker.data.images import Loaded
from worker.events import Epoch
from worker.head import layer_of, width_of
from worker.models import MODELS
from worker.models.weights import new_model

GRID = sweeps.load(ROOT / "sweeps" / "full_grid.yaml").requested
DECLARED = [m.id for m in MODELS.values()]


def ours(**changes: object) -> Run:
    """A run of a declared model on a declared dataset."""
    return a_run(**{"model": "bit_r50_in21k", "dataset": "waterbirds", "epochs": 20, **changes})


def cost(run: Run) -> float:
    return flops(Setting.of(run))


# Arithmetic


@pytest.mark.parametrize("model", DECLARED)
def test_the_arithmetic_of_a_model_is_what_torch_counts(model: str) -> None:
    """On torch's meta device, which computes shapes alone: the 632 million weights take no room."""
    entry = MODELS[model]
    side = entry.image_size
    device = "meta" if entry.published else "cpu"
    with torch.device(device):
        built = new_model(entry, 10)  # in train mode: CLIP's fused evaluation is not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(torch.zeros(1, 3, side, side, device=device))

    assert counter.get_total_flops() / 2e9 == pytest.approx(GIGA_MACS[model], rel=2e-3)


def test_every_declared_model_was_counted() -> None:
    assert set(DECLARED) == set(GIGA_MACS) == set(WIDTHS)


@pytest.mark.parametrize("model", DECLARED)
def test_the_width_of_a_models_features_is_its_heads(model: str) -> None:
    with torch.device("meta"):
        built = new_model(MODELS[model], 10)
    assert width_of(layer_of(built, MODELS[model])) == WIDTHS[model]


def test_a_linear_probe_shows_its_model_every_image_once() -> None:
    """And no epoch again: its fits cost little, at this size a hundredth."""
    splits = ("id", "ood")
    probe = ours(kind="linear_probe", method="linear_probe", epochs=50, evaluate=splits)
    images = sum(DATASETS["waterbirds"].images.values())
    passes = 2e9 * GIGA_MACS["bit_r50_in21k"] * images
    assert passes < cost(probe) < 1.01 * passes
    assert features_bytes(probe) == 4 * 2048 * images == checkpoint_bytes(probe)
    assert features_bytes(ours()) == 0


@pytest.mark.parametrize("dataset", sorted(IMAGES))
def test_data_that_code_draws_has_so_many_images(dataset: str, tmp_path: Path) -> None:
    load = DATASETS[dataset].load
    assert load is not None
    loaded = resolve(load)(tmp_path)
    assert isinstance(loaded, Loaded)

    found = {"train": len(loaded.train), **{k: len(v) for k, v in loaded.splits.items()}}

    assert found == IMAGES[dataset]


def test_a_run_trains_three_passes_and_evaluates_one() -> None:
    """Waterbirds: 4,795 images of training, 1,199 and 5,794 of evaluation; BiT: 4.087 billion."""
    evaluated = 1_199 + 5_794

    assert cost(ours()) == pytest.approx(2 * 4.087e9 * (3 * 4_795 * 20 + evaluated * 21))
    assert cost(ours(evaluate=("id",))) == pytest.approx(
        2 * 4.087e9 * (3 * 4_795 * 20 + 1_199 * 21)
    )
    assert cost(ours(images_per_split=100)) == pytest.approx(
        2 * 4.087e9 * (3 * 100 * 20 + 200 * 21)
    )


def test_the_grid_is_about_a_thousand_hours_of_a_fast_gpu() -> None:
    """The sum that sweeps/full_grid.yaml announces, at 25 trillion operations a second."""
    assert sum(map(cost, GRID)) / 25e12 / HOUR == pytest.approx(1_000, rel=0.05)


def test_smaller_images_cost_less() -> None:
    def cheaper(model: str) -> float:
        small, large = (
            cost(a_run(model=model, dataset=d, evaluate=("id", "ood"), images_per_split=100))
            for d in ("digits", "mini_waterbirds")
        )
        return large / small

    assert cheaper("tiny_vit") == pytest.approx(4)
    assert cheaper("tiny_convnext") == 1, "it enlarges them"


def test_a_model_that_nobody_counted_costs_like_its_family() -> None:
    entry = MODELS["toy"]
    per_weight = GIGA_MACS["vit_b16_in21k"] / MODELS["vit_b16_in21k"].parameters

    toy = cost(a_run(model="toy", dataset="toy", images_per_split=100))

    images = 3 * 100 * 3 + 200 * 4
    assert entry.family == "vit"
    assert toy == pytest.approx(2e9 * per_weight * entry.parameters * images, rel=0.01)
    assert cost(a_run(model="of_a_plugin_not_loaded", dataset="of_another")) > 0


# Seconds


def test_what_was_timed_takes_as_long_again() -> None:
    known = ours()
    found = Estimate({Setting.of(known): 120.0})

    assert found.timed
    assert found.seconds(known) == 120.0
    assert found.seconds(ours(learning_rate=9.0, seed=3, method="adamw")) == 120.0


def test_other_settings_are_scaled_by_their_arithmetic() -> None:
    """Of the same pair, else of the model, else of all: the median seconds for an operation."""
    waterbirds, fmow = ours(), ours(dataset="fmow")
    clip = ours(model="clip_vit_b16")
    known = {
        Setting.of(waterbirds): 2e-12 * cost(waterbirds),
        Setting.of(fmow): 4e-12 * cost(fmow),
        Setting.of(clip): 9e-12 * cost(clip),
    }
    found = Estimate(known)

    longer = dataclasses.replace(waterbirds, epochs=40)
    assert found.seconds(longer) == pytest.approx(2e-12 * cost(longer))
    living = ours(dataset="living17")
    assert found.seconds(living) == pytest.approx(3e-12 * cost(living))
    other = ours(model="clip_vit_l14")
    assert found.seconds(other) == pytest.approx(4e-12 * cost(other))


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-3, 1e6), st.sampled_from(GRID), st.sampled_from(GRID))
def test_one_timing_scales_everything_alike(seconds: float, timed: Run, other: Run) -> None:
    found = Estimate({Setting.of(timed): seconds})

    assert found.seconds(other) / seconds == pytest.approx(cost(other) / cost(timed))


def test_without_timings_costs_are_arithmetic() -> None:
    found = Estimate()

    assert not found.timed
    assert found.seconds(ours()) == cost(ours())


def finished(store: Store, run: Run, seconds: float) -> None:
    """Store a finished run whose epochs took so long in all."""
    store.register(run.id, "", [run], {run.id})
    (stored,) = store.runs(run.id)
    claim = store.claim(stored.key, store.enlist())
    assert claim is not None
    each = seconds / (run.epochs + 1)
    history = [dataclasses.replace(record, seconds=each) for record in a_history(run)]
    store.start(claim, (), Provenance(data_fingerprint="d", weights_sha256=""), None)
    store.finish(claim, history)


def test_a_store_tells_the_mean_of_its_finished_runs(store: Store) -> None:
    runs = [ours(seed=seed, learning_rate=rate) for seed in (0, 1) for rate in (0.1, 0.2)]
    for run, seconds in zip(runs, (10.0, 20.0, 30.0, 40.0), strict=True):
        finished(store, run, seconds)
    finished(store, ours(epochs=2, weights="pretrained"), 7.0)
    finished(store, ours(epochs=2), 9.0)
    open_run = ours(model="clip_vit_b16")
    store.register("open", "", [open_run], {open_run.id})

    found = durations.timings(store)

    assert found == {
        Setting.of(runs[0]): pytest.approx(25.0),
        Setting.of(ours(epochs=2)): pytest.approx(8.0),
    }
    assert durations.estimate(store).seconds(runs[0]) == pytest.approx(25.0)


# Disk


@pytest.mark.parametrize(
    ("method", "states"), [("sgd", 1), ("adamw", 2), ("sgd_freeze_embed_no_momentum", 0)]
)
def test_checkpoints_take_what_was_foretold(method: str, states: int, tmp_path: Path) -> None:
    (run,) = sweeps.loads(
        f"name: s\nmodels: [tiny_vit]\ndatasets: [digits]\nmethods: [{method}]\n"
        "learning_rates: [1e-3]\nweights: random\nimages_per_split: 32\nepochs: 2\n",
        "s.yaml",
    ).requested
    assert checkpoint_bytes(run) == 2 * (1 + states) * 4 * MODELS["tiny_vit"].parameters
    for event in worker.run(run, worker.Context(data=tmp_path, runs=tmp_path)):
        if isinstance(event, Epoch) and event.record.epoch == 1:
            size = sum(f.stat().st_size for f in (tmp_path / run.id).glob("checkpoint-*.pt"))
            break

    # Twice, as one is written before the other goes. Frozen layers have no states, and the file
    # holds history and random states too.
    assert 0.8 * checkpoint_bytes(run) <= 2 * size <= 1.1 * checkpoint_bytes(run) + 50_000


# The plan


def test_a_plan_counts_hours_by_what_runs_occupy() -> None:
    fast, slow = ours(), ours(model="clip_vit_b16", method="adamw")
    cpu = a_run(kind="pretrain", model="tiny_vit", dataset="shapes")
    known = {Setting.of(r): hours * HOUR for r, hours in ((fast, 2), (slow, 8), (cpu, 1))}
    planned = (
        Planned(cpu, Resources(cpus=3), requested=False),
        Planned(fast, Resources(cpus=4, gpus=0.25)),
        Planned(slow, Resources(cpus=4, gpus=1), "best"),
        Planned(ours(seed=1), Resources(gpus=1)),
    )
    plan = Plan("s", planned, {ours(seed=1).id: "done"}, Estimate(known))

    left = plan.left()

    assert (left.gpu_hours, left.cpu_hours) == pytest.approx((0.25 * 2 + 8, 3))
    assert left.flops == pytest.approx(sum(map(cost, (fast, slow, cpu))))
    assert left.checkpoint_bytes == checkpoint_bytes(slow)
    assert left.kept_bytes == 4 * (
        MODELS["clip_vit_b16"].parameters + MODELS["tiny_vit"].parameters
    )
    assert str(left) == (
        "left: about 8.5 GPU-hours and 3 CPU-hours, by this store's timings; up to 2.1 GB of "
        "checkpoints a run in training, 345 MB of weights stay"
    )


def test_the_plan_of_the_grid_without_a_store(tmp_path: Path) -> None:
    grid = ROOT / "sweeps" / "full_grid.yaml"
    words = ["--store", str(tmp_path / "none.db"), "plan", str(grid)]

    text = CliRunner().invoke(main, words).output
    left = json.loads(CliRunner().invoke(main, [*words, "--json"]).output)["left"]

    assert "left: 89,256 PFLOPs; no run was timed yet; up to 7.3 GB of checkpoints" in text
    assert left["flops"] == pytest.approx(sum(map(cost, GRID)))
    assert left["gpu_hours"] is None
    assert left["checkpoint_bytes"] == max(map(checkpoint_bytes, GRID))


def test_a_plan_learns_from_the_store(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nmodels: [bit_r50_in21k]\ndatasets: [waterbirds]\nmethods: [sgd]\n"
        "learning_rates: [0.1, 0.2, 0.3]\nresources: {gpus: 1}\n"
    )
    finished(store, sweeps.load(path).requested[0], 1800.0)
    words = ["--store", str(tmp_path / "orch.db"), "plan", str(path)]

    assert "left: about 1 GPU-hours, by this store's timings" in (
        CliRunner().invoke(main, words).output
    )
    left = json.loads(CliRunner().invoke(main, [*words, "--json"]).output)["left"]
    assert (left["gpu_hours"], left["cpu_hours"]) == pytest.approx((1.0, 0.0))
    for run in sweeps.load(path).requested[1:]:
        finished(store, run, 1800.0)
    assert "left:" not in CliRunner().invoke(main, words).output
