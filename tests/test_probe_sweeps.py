"""Linear probes and LP-FT in sweeps: what depends on what, what is shared, and a launch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from conftest import Orch, a_history
from db.errors import SpecError, StoreError
from db.reading import Reader
from db.records import HEAD_NAME, Artifact, Run, StoredRun
from db.store import Store
from orchestrator import sweep as sweeps
from orchestrator.cli import main
from orchestrator.engine.queue import Queue
from orchestrator.where import parse
from worker.kinds import NO_RATE
from worker.models import ARTIFACT

LP_FT = ("lp_ft_sgd", "lp_ft_adamw", "lp_ft_sgd_freeze_embed")
PLAIN = {
    "name": "x", "models": ["tiny_vit"], "datasets": ["digits"], "methods": ["lp_ft_sgd"],
    "learning_rates": [1e-2, 1e-1],
}  # fmt: skip


def planned(**fields: object) -> tuple[sweeps.Planned, ...]:
    """The runs of a sweep with these fields in the place of `PLAIN`'s."""
    return sweeps.loads(json.dumps({**PLAIN, **fields}), "x.yaml").planned


def kinds(found: tuple[sweeps.Planned, ...]) -> list[tuple[str, bool]]:
    return [(p.run.kind, p.requested) for p in found]


def probes(found: tuple[sweeps.Planned, ...]) -> list[Run]:
    return [p.run for p in found if p.run.kind == "linear_probe"]


def tuned(found: tuple[sweeps.Planned, ...]) -> list[Run]:
    return [p.run for p in found if p.run.kind == "finetune"]


# Planning


def test_lp_ft_comes_after_its_probe_which_comes_after_its_pretraining() -> None:
    found = planned()
    assert kinds(found) == [
        ("pretrain", False), ("linear_probe", False), ("finetune", True), ("finetune", True),
    ]  # fmt: skip
    pretraining, probe, *runs = (p.run for p in found)
    assert probe.needs == (pretraining.id,)
    assert [run.needs for run in runs] == [(pretraining.id, probe.id)] * 2
    assert [run.learning_rate for run in runs] == [1e-3, 1e-2]  # a tenth
    assert {run.head for run in runs} == {f"probe:{probe.id}/{probe.variant}"}


def test_published_weights_leave_only_the_probe_to_need() -> None:
    found = planned(models=["clip_vit_b16"], datasets=["fmow"])
    assert kinds(found) == [("linear_probe", False), ("finetune", True), ("finetune", True)]
    assert tuned(found)[0].needs == (probes(found)[0].id,)


def test_each_seed_has_its_probe_and_all_of_them_one_cell() -> None:
    found = planned(seeds=[0, 1, 2])
    assert [run.seed for run in probes(found)] == [0, 1, 2]
    by_id = {run.id: run for run in probes(found)}
    assert all(by_id[run.probe or ""].seed == run.seed for run in tuned(found))
    assert len({run.variant for run in tuned(found)}) == 1


def test_a_probe_that_is_asked_for_is_asked_for_once() -> None:
    found = planned(methods=["lp_ft_sgd", "linear_probe", "lp_ft_adamw"], keep="best")
    assert [p.requested for p in found if p.run.kind == "linear_probe"] == [True]
    assert [p.keep for p in found if p.run.kind == "linear_probe"] == ["best"]
    assert [p.keep for p in planned(keep="best") if p.run.kind == "linear_probe"] == ["none"]


def test_a_probe_has_no_rate_whatever_the_file_says() -> None:
    alone = [
        probes(planned(methods=["linear_probe", "sgd"], learning_rates=rates))
        for rates in ("default", [1e-3, 1e-2], {"sgd": [1e-3]})
    ]
    assert [len(runs) for runs in alone] == [1, 1, 1]
    assert {run.id for runs in alone for run in runs} == {alone[0][0].id}
    assert alone[0][0].learning_rate == NO_RATE
    with pytest.raises(SpecError, match=r"x.yaml:1: learning_rates.linear_probe: has no learning"):
        planned(methods=["linear_probe"], learning_rates={"linear_probe": [1e-3]})


@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "batch_size": st.sampled_from([16, 32, 64]),
            "micro_batch": st.sampled_from([4, 16]),
            "epochs": st.integers(1, 9),
            "schedule": st.sampled_from(["cosine_per_step", "cosine_per_epoch"]),
            "adamw_weight_decay": st.floats(0, 1),
            "methods": st.lists(st.sampled_from(LP_FT), min_size=1, unique=True),
            "learning_rates": st.lists(st.floats(1e-6, 1), min_size=1, max_size=3, unique=True),
            "lp_ft_rate_factor": st.floats(0.1, 1),
            "l2_sp": st.sampled_from(["paper", "authors"]),
            "low_lr_proj": st.sampled_from(["trained", "fixed"]),
        },
    )
)
def test_what_only_fine_tuning_looks_at_makes_no_other_probe(fields: dict[str, object]) -> None:
    assert [run.id for run in probes(planned(**fields))] == [probes(planned())[0].id]


@pytest.mark.parametrize(
    "fields",
    [
        {"seeds": [1]}, {"precision": "bf16"}, {"threads": 2}, {"images_per_split": 64},
        {"weights": "random"}, {"evaluate": ["id"]}, {"datasets": ["mini_waterbirds"]},
    ],
)  # fmt: skip
def test_what_features_depend_on_makes_another_probe(fields: dict[str, object]) -> None:
    found, plain = planned(**fields), planned()
    assert probes(found)[0].id != probes(plain)[0].id
    assert tuned(found)[0].head != tuned(plain)[0].head


@pytest.mark.parametrize(
    ("fields", "dataset", "same"),
    [
        ({"sup_vit_normalization": "imagenet"}, "living17", False),
        ({"waterbirds_selection": "test"}, "waterbirds", False),
        ({"waterbirds_selection": "test"}, "living17", True),
        ({"resize": "square"}, "living17", False),
    ],
)
def test_a_probe_is_of_the_protocol_of_what_starts_from_it(
    fields: dict[str, object], dataset: str, same: bool
) -> None:
    whose = {"models": ["vit_b16_in21k"], "datasets": [dataset]}
    assert (probes(planned(**whose, **fields)) == probes(planned(**whose))) == same


def test_a_probe_looks_at_every_split_in_every_epoch() -> None:
    (probe,) = probes(planned(models=["clip_vit_b16"], datasets=["fmow"]))
    assert probe.evaluate == ("id", "ood", "id_test", "ood_val", "ood_test")
    assert probe.evaluate_on_improvement == ()


def test_where_and_limit_bring_the_probe_along() -> None:
    found = planned(methods=["sgd", "lp_ft_sgd"], seeds=[0, 1])
    left = sweeps.chosen(found, parse(("method=lp_ft_sgd seed=1",)), 1)
    assert [p.run.kind for p in left] == ["pretrain", "linear_probe", "finetune"]
    assert {p.run.seed for p in left if p.run.kind != "pretrain"} == {1}


def test_a_plan_counts_pretraining_and_probes(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(json.dumps({**PLAIN, "seeds": [0, 1]}))
    store = ("--store", str(tmp_path / "orch.db"))
    told = CliRunner().invoke(main, [*store, "plan", str(path)]).output
    assert "x: 4 runs in 1 cell, and 1 pretraining run and 2 linear probes (4 pending)" in told
    assert "of features stay" in told
    told = CliRunner().invoke(main, [*store, "plan", str(path), "--format", "json"]).output
    found = json.loads(told)
    assert (found["pretraining"], found["probes"], found["to_do"]) == (1, 2, 7)
    assert found["left"]["features_bytes"] > 0


# `select: last`


def test_a_block_may_count_the_last_epoch() -> None:
    """No part of a run: the same ones are trained."""
    grids = [
        {"datasets": ["mini_waterbirds"], "select": "last"},
        {"datasets": ["digits"]},
        {"datasets": ["mini_waterbirds"], "methods": ["sgd", "linear_probe"]},
    ]
    found = sweeps.loads(json.dumps({**PLAIN, "grids": grids}), "x.yaml")
    assert found.last == {("tiny_vit", "mini_waterbirds", "lp_ft_sgd")}
    del grids[0]["select"]
    plain = sweeps.loads(json.dumps({**PLAIN, "grids": grids}), "x.yaml")
    assert plain.last == frozenset()
    assert plain.planned == found.planned


@pytest.mark.parametrize(
    ("grids", "complaint"),
    [
        ([{"select": "last"}, {"learning_rates": [1.0]}], "tiny_vit digits lp_ft_sgd another"),
        (
            [{"select": "last", "methods": ["linear_probe", "sgd"]}],
            "into a block of its own",
        ),
        ([{"select": "first"}], "is not one of 'best' or 'last'"),
    ],
)
def test_a_select_that_makes_no_sense_is_refused(
    grids: list[dict[str, object]], complaint: str
) -> None:
    with pytest.raises(SpecError, match=complaint) as refused:
        sweeps.loads(json.dumps({**PLAIN, "grids": grids}), "x.yaml")
    assert "select" in str(refused.value)


# The store and the queue


def finish(store: Store, run: Run, *names: str) -> None:
    """Bring a run to its end with artifacts of these names."""
    claim = store.claim(store.find_run(run.id).key, store.enlist())
    assert claim is not None
    left = [Artifact(name, f"{run.id}/{name}", f"sha-of-{name}-of-{run.id}", 1) for name in names]
    store.finish(claim, a_history(run), left)


def registered(store: Store) -> tuple[Run, Run, Run]:
    """Pretraining, probe and one fine-tuning run."""
    found = planned(learning_rates=[1e-2])
    store.register("x", "", [p.run for p in found], {p.run.id for p in found if p.requested})
    pretraining, probe, run = (p.run for p in found)
    return pretraining, probe, run


def test_a_claim_tells_which_weights_and_which_head_to_start_from(store: Store) -> None:
    """Each from the run that left it, whatever else that left."""
    pretraining, probe, run = registered(store)
    features = ("features.train", "features.id", "best")
    key = store.find_run(run.id).key
    finish(store, pretraining, "best", ARTIFACT)
    assert store.claim(key, store.enlist()) is None
    finish(store, probe, *features, HEAD_NAME)
    claim = store.claim(key, store.enlist())
    assert claim is not None
    assert claim.weights_sha256 == f"sha-of-{ARTIFACT}-of-{pretraining.id}"
    assert claim.head_sha256 == f"sha-of-{HEAD_NAME}-of-{probe.id}"
    again = store.claim(key, store.find_run(run.id).key)  # held by another
    assert again is None


def test_a_probe_does_not_go_from_under_what_started_from_it(store: Store) -> None:
    pretraining, probe, run = registered(store)
    finish(store, pretraining, ARTIFACT)
    finish(store, probe, HEAD_NAME)
    finish(store, run)
    with pytest.raises(StoreError, match=f"what it left is what {run.id} started from"):
        store.void(store.find_run(probe.id).key, "wrong")
    store.void(store.find_run(run.id).key, "wrong")
    store.void(store.find_run(probe.id).key, "wrong")
    assert store.retry([store.find_run(run.id).key]) == 1
    assert store.claim(store.find_run(run.id).key, store.enlist()) is None


def test_what_needs_a_failed_probe_waits(store: Store) -> None:
    pretraining, probe, run = registered(store)
    finish(store, pretraining, ARTIFACT)
    claim = store.claim(store.find_run(probe.id).key, store.enlist())
    assert claim is not None
    store.fail(claim, "ValueError: x", "")
    stored: list[StoredRun] = store.runs("x")
    queue = Queue(stored, store.states([pretraining.id, probe.id]))
    assert queue.blocked() == [run.id]
    assert queue.take() is None
    from orchestrator import standing

    lines = "\n".join(standing.of(store, "x").lines())
    assert "1 run cannot start: what they need is not done" in lines


def test_extended_rates_start_from_the_same_probe(store: Store) -> None:
    _, probe, run = registered(store)
    store.extend("x", [dataclasses.replace(run, learning_rate=3e-2)])
    added = [stored.run for stored in store.runs("x") if stored.extended]
    assert [r.probe for r in added] == [probe.id]
    assert added[0].variant == run.variant


# A launch

TOYS = """
name: toys
models: [toy]
datasets: [toy]
learning_rates: [0.1]
weights: random
grids:
- {methods: [linear_probe, lp_ft_sgd], seeds: [0, 1]}
- {methods: [lp_ft_adamw], images_per_split: 1}
"""


@pytest.mark.slow
def test_a_launch_trains_probes_first_and_says_what_cannot_start(
    tmp_path: Path, orch: Orch
) -> None:
    """The last block's probe fails: its training images are of one class."""
    path = tmp_path / "toys.yaml"
    path.write_text(TOYS)
    first = orch("launch", path, check=1)
    assert "and 1 linear probe" in first.stdout
    assert "1 run cannot start: what they need is failed" in first.stdout
    assert "epoch 50/50" in first.stdout
    reader = Reader.open(str(tmp_path / "orch.db"))
    runs = reader.runs("toys")
    assert [(s.run.method, s.state, s.requested) for s in runs] == [
        ("linear_probe", "done", True),
        ("linear_probe", "done", True),
        ("lp_ft_sgd", "done", True),
        ("lp_ft_sgd", "done", True),
        ("linear_probe", "failed", False),
        ("lp_ft_adamw", "pending", True),
    ]
    assert "all of one class" in (runs[4].error or "")
    assert {s.run.method for s in runs if s.cause == "bad_data"} == {"linear_probe"}
    named = {a["name"] for a in reader.artifacts()[runs[0].id]}
    assert named == {HEAD_NAME, "features.train", "features.id", "features.ood"}
    shown = orch("runs", "show", runs[0].id).stdout
    assert [line.split()[:2] for line in shown.splitlines()][-50:][::49] == [
        ["1", "1e-07"],
        ["50", "100"],
    ]
    assert "Linear probing" in orch("report", "--sweep", "toys", "--table", "ood").stdout

    # Another sweep that needs the same probe has it.
    path.write_text(TOYS.replace("name: toys", "name: more").partition("grids:")[0])
    with path.open("a") as file:
        file.write("methods: [lp_ft_sgd_freeze_embed]\n")
    again = orch("launch", path)
    assert "[1/1] done" in again.stdout
    assert reader.attempts(runs[0].key)[-1].number == 1

    # A head that is gone is missed before anything starts.
    (tmp_path / "runs" / runs[0].id / HEAD_NAME).unlink()
    path.write_text(path.read_text().replace("0.1", "0.2"))
    missing = orch("launch", path, check=2)
    assert f"orch runs run {runs[0].id} --local" in missing.stderr
    orch("runs", "run", runs[0].id, "--local")
    orch("launch", path)


@pytest.mark.slow
def test_probes_and_lp_ft_of_every_tiny_model(tmp_path: Path, orch: Orch) -> None:
    """Pretraining, probes and fine-tuning, in order, through the engine into a table."""
    sizes = ("--train", 128, "--val", 64, "--test", 64)
    orch("data", "make-mini", "waterbirds", *sizes)
    path = tmp_path / "mini.yaml"
    path.write_text(
        "name: mini\nmodels: [tiny_vit, tiny_bit]\ndatasets: [digits, mini_waterbirds]\n"
        f"methods: [linear_probe, {', '.join(LP_FT)}]\n"
        "learning_rates: {sgd: [1e-1], adamw: [1e-2]}\n"
    )
    orch("launch", path)
    reader = Reader.open(str(tmp_path / "orch.db"))
    runs = reader.runs("mini")
    assert {s.state for s in runs} == {"done"}
    assert len(runs) == 2 + 4 + 12
    histories = {s.id: reader.history(s.key) for s in runs}
    chosen = {
        s.id: max(
            histories[s.id][1:],
            key=lambda r: (r.headline("id") or 0, -r.epoch),
        )
        for s in runs
        if s.run.kind == "linear_probe"
    }
    for stored in runs:
        if stored.run.probe is not None:
            first, best = histories[stored.id][0], chosen[stored.run.probe]
            for split in ("id", "ood"):
                assert first.headline(split) == pytest.approx(best.headline(split), abs=0.02)
    table = orch("report", "--sweep", "mini", "--table", "ood", "--format", "csv").stdout
    assert table.count("linear_probe") >= 4
