"""Identity: run ids are a promise to every store that was ever written."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT, a_run
from db import records
from db.records import EpochRecord, Metric, Run
from orchestrator import sweep as sweeps
from worker import events

CHANGES = {
    "kind": "pretrain", "model": "tiny_bit", "dataset": "digits", "method": "adamw",
    "learning_rate": 0.2, "seed": 1, "epochs": 4, "batch_size": 64, "micro_batch": 8,
    "weight_decay": 0.1, "schedule": "cosine_per_epoch", "clip_norm": 1.0,
    "weights": "pretrained", "precision": "bf16", "threads": 2, "evaluate": ("id",),
    "evaluate_on_improvement": ("ood",), "hyperparameters": (("lambda", 1.0),),
    "images_per_split": 4, "source": "import:paper",
    "sup_vit_normalization": "imagenet", "waterbirds_selection": "test", "resize": "square",
    "low_lr_proj": "fixed", "l2_sp": "authors", "method_code": "0123456789abcdef",
    "head": "probe:0123456789abcdef/01234567",
    "kind_version": 2, "model_version": 2, "dataset_version": 2, "method_version": 2,
}  # fmt: skip


def test_golden_ids() -> None:
    """These ids are in users' stores: a change that moves them loses their runs."""
    assert a_run().id == "7288ce7c41fda120"
    grid = sweeps.load(ROOT / "sweeps" / "full_grid.yaml")
    assert [run.id for run in grid.requested[:2]] == ["1694d5c5baefafa3", "e76eacee8993ef00"]
    demo = sweeps.load(ROOT / "sweeps" / "demo.yaml")
    assert [p.run.id for p in demo.planned[:2]] == ["ff1014f4edb3265e", "ea35c998f6f33ec2"]


def test_every_field_is_identity() -> None:
    assert set(CHANGES) == {field.name for field in dataclasses.fields(Run)}
    ids = {a_run(**{name: value}).id for name, value in CHANGES.items()} | {a_run().id}
    assert len(ids) == len(CHANGES) + 1


def test_a_variant_is_what_a_cell_does_not_choose_over() -> None:
    same = {"learning_rate", "seed", "hyperparameters", "model", "dataset", "method"}
    for name, value in CHANGES.items():
        equal = a_run(**{name: value}).variant == a_run().variant
        assert equal == (name in same), name


def test_of_a_probe_the_variant_alone_is_part_of_a_cells() -> None:
    """Each seed has a probe of its own; all of them belong to one cell."""
    one, two, other = (
        a_run(seed=seed, head=f"probe:{seed:016x}/{variant}")
        for seed, variant in ((0, "aaaaaaaa"), (1, "aaaaaaaa"), (0, "bbbbbbbb"))
    )
    assert one.variant == two.variant != other.variant
    assert len({one.id, two.id, other.id}) == 3


def test_a_run_needs_its_pretraining_and_then_its_probe() -> None:
    assert a_run().needs == ()
    assert a_run(weights="run:0123").needs == ("0123",)
    both = a_run(weights="run:0123", head="probe:4567/89")
    assert both.needs == ("0123", "4567")
    assert (both.pretraining, both.probe) == ("0123", "4567")


def test_a_later_field_keeps_old_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    with_field = a_run().id
    monkeypatch.setattr(records, "ADDED_LATER", {"clip_norm": None})
    neutral, set_to = a_run(), a_run(clip_norm=1.0)
    assert "clip_norm" not in neutral.content()
    assert neutral.id != with_field
    assert set_to.content()["clip_norm"] == 1.0


floats = st.floats(allow_nan=False, allow_infinity=False)


@given(rate=floats, pairs=st.lists(st.tuples(st.text(), floats), max_size=3))
def test_a_run_survives_json(rate: float, pairs: list[tuple[str, float]]) -> None:
    run = a_run(learning_rate=rate, hyperparameters=tuple(pairs))
    again = Run.from_content(json.loads(records.canonical_json(run.content())))
    assert again == run
    assert again.id == run.id


@given(value=floats, loss=st.none() | floats, correct=st.none() | st.integers(0, 10**9))
def test_events_survive_json(value: float, loss: float | None, correct: int | None) -> None:
    record = EpochRecord(1, loss, value, value, (Metric("id", "", "a", value, correct, 3),), 0.1)
    history = (record, record)
    sent: list[events.Event] = [
        events.Started(history, records.Provenance("h", "cpu", "d", "w", {"torch": "2"}), 1),
        events.Progress(1, 2, 3),
        events.Epoch(record),
        events.Shrunk(1, 2, 3),
        events.Waiting("a disk is full"),
        events.Paused(3),
        events.Finished(history, (records.Artifact("n", "p", "s", 1),), None),
        events.Diverged(history, 2, 7),
        events.Failed("e", "t"),
    ]
    assert {type(event) for event in sent} == set(events._EVENTS.values())
    for event in sent:
        assert events.from_json(json.loads(json.dumps(events.to_json(event)))) == event
