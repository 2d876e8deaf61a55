"""Kept weights: which epoch's, through interruptions, loaded again, evaluated on more splits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import worker
from conftest import a_run
from db.errors import MissingInputs, SpecError
from db.records import EpochRecord, Metric, Run
from db.store import Store
from orchestrator import sweep as sweeps
from orchestrator.cli import main
from worker import kept
from worker.checkpoint import file_digest
from worker.context import Keep
from worker.data.images import load
from worker.data.mini import make_waterbirds
from worker.evaluate import Eye, evaluate


def digits(**changes: object) -> Run:
    """A run of a tiny model that computes the same in every mode."""
    small = {"model": "tiny_bit", "dataset": "digits", "epochs": 3, "images_per_split": 60}
    return a_run(**{**small, **changes})


def finished(run: Run, runs: Path, keep: Keep, fence: int = 1) -> worker.Finished:
    context = worker.Context(data=Path("unused"), runs=runs, keep=keep, fence=fence)
    *_, end = worker.run(run, context)
    assert isinstance(end, worker.Finished), end
    return end


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.5, 0.7, 0.7], 2),
        ([0.9, 0.2, 0.1, 0.1], 1),
        ([0.9, 0.1, 0.3, 0.8], 3),
        ([0.9], None),
    ],
)
def test_best_is_what_selection_picks(scores: list[float], best: int | None) -> None:
    """The first of the highest, and never the evaluation before training."""
    history = [
        EpochRecord(e, None, None, 0.0, (Metric("id", "", "accuracy", score, None, 9),))
        for e, score in enumerate(scores)
    ]
    assert kept.best_epoch(history) == best


@pytest.mark.parametrize("keep", ["best", "last"])
def test_kept_weights_score_what_their_epoch_scored(tmp_path: Path, keep: Keep) -> None:
    run = digits()
    end = finished(run, tmp_path, keep)
    (artifact,) = end.artifacts
    assert artifact.sha256 == file_digest(tmp_path / artifact.path)
    again, epoch, _ = kept.read(run.id, tmp_path)
    assert again == run
    assert epoch == (kept.best_epoch(end.history) if keep == "best" else run.epochs)
    model = worker.load(run.id[:6], tmp_path)
    data = load("digits", Path("unused")).at_most(60)
    declared = [s for s in worker_splits(run) if s.name in run.evaluate]
    assert evaluate(model, data, declared, Eye("cpu")) == end.history[epoch].metrics
    left = {path.suffix for path in (tmp_path / run.id).iterdir()}
    assert not list((tmp_path / run.id).glob("candidate-*")), left


def worker_splits(run: Run):  # type: ignore[no-untyped-def]
    from worker.data import DATASETS

    return DATASETS[run.dataset].splits


def test_none_is_kept_unless_asked(tmp_path: Path) -> None:
    run = digits()
    assert finished(run, tmp_path, "none").artifacts == ()
    with pytest.raises(MissingInputs, match="keep: best"):
        worker.load(run.id, tmp_path)


@pytest.mark.parametrize("epochs_before", [1, 2])
def test_an_interruption_changes_no_bit(tmp_path: Path, epochs_before: int) -> None:
    run = digits()
    (whole,) = finished(run, tmp_path / "whole", "best").artifacts
    asked = iter(range(10**6))
    steps = 2 + 4 * epochs_before  # 60 images in batches of 32, and two splits in one pass each
    context = worker.Context(
        data=Path("unused"),
        runs=tmp_path / "cut",
        keep="best",
        should_stop=lambda: next(asked) >= steps,
    )
    *_, end = worker.run(run, context)
    assert end == worker.Paused(epochs_before, 0)
    (again,) = finished(run, tmp_path / "cut", "best", fence=2).artifacts
    assert again == whole
    (third,) = finished(run, tmp_path / "cut", "best", fence=3).artifacts
    assert third == whole, "asked once more, after its file got its last name"


def test_a_best_epoch_before_anybody_asked_is_not_made_up(tmp_path: Path) -> None:
    run = digits(learning_rate=1e-9)  # nothing changes, so the first epoch is the best
    events: Iterator[worker.Event] = worker.run(
        run, worker.Context(data=Path("unused"), runs=tmp_path)
    )
    for event in events:
        if isinstance(event, worker.Epoch) and event.record.epoch == 1:
            break
    assert finished(run, tmp_path, "best", fence=2).artifacts == ()


# By command


def orch(tmp_path: Path, *words: object) -> Result:
    where = ["--store", tmp_path / "orch.db", "--runs", tmp_path / "runs", "--data", tmp_path]
    return CliRunner().invoke(main, [str(word) for word in (*where, *words)])


def test_evaluate_adds_a_split(tmp_path: Path) -> None:
    run = digits(evaluate=("id",))
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    store.register("s", "name: s", [run], {run.id})
    result = orch(tmp_path, "runs", "run", run.id, "--local", "--keep", "last")
    assert result.exit_code == 0, result.output
    (stored,) = store.runs()
    before = store.history(stored.key)
    assert {m.split for m in before[3].metrics} == {"id"}

    result = orch(tmp_path, "evaluate", run.id[:8], "--dataset", "digits")
    assert result.exit_code == 0, result.output
    assert "equals training's" in result.output
    after = store.history(stored.key)
    assert {m.split for m in after[3].metrics} == {"id", "ood"}
    assert after[:3] == before[:3]
    whole = finished(digits(), tmp_path / "whole", "none").history
    assert after[3].headline("ood") == whole[3].headline("ood")
    assert orch(tmp_path, "evaluate", run.id[:8], "--dataset", "digits").exit_code == 0
    assert store.history(stored.key) == after, "asked twice, stored once"

    result = orch(tmp_path, "runs", "run", run.id, "--local")
    assert "Repeated: every epoch and metric equals" in result.output, result.output


def test_a_done_run_can_be_made_to_keep_its_weights(tmp_path: Path) -> None:
    run = digits(epochs=1)
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    store.register("s", "name: s", [run], {run.id})
    assert orch(tmp_path, "runs", "run", run.id, "--local").exit_code == 0
    refused = orch(tmp_path, "evaluate", run.id, "--dataset", "digits")
    assert refused.exit_code == 2
    assert "--local --keep best" in refused.output
    result = orch(tmp_path, "runs", "run", run.id, "--local", "--keep", "best")
    assert result.exit_code == 0, result.output
    assert [a["name"] for a in store.artifacts()[run.id]] == ["best"]
    assert orch(tmp_path, "evaluate", run.id, "--dataset", "digits").exit_code == 0


def test_a_damaged_file_is_made_anew_by_the_command_that_is_named(tmp_path: Path) -> None:
    run = digits(epochs=1)
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    store.register("s", "name: s", [run], {run.id})
    assert orch(tmp_path, "runs", "run", run.id, "--local", "--keep", "best").exit_code == 0
    path = tmp_path / "runs" / run.id / "best.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + b"12345678")
    result = orch(tmp_path, "evaluate", run.id, "--dataset", "digits")
    assert result.exit_code == 2
    assert f"{path} is not as run {run.id[:8]} left it" in result.output
    assert f"orch runs run {run.id[:8]} --local --keep best" in result.output
    assert orch(tmp_path, "runs", "run", run.id, "--local", "--keep", "best").exit_code == 0
    assert path.read_bytes() == whole


def test_the_sweep_says_what_a_local_run_keeps(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nmodels: [tiny_bit]\ndatasets: [digits]\nmethods: [sgd]\nweights: random\n"
        "learning_rates: [0.1]\nepochs: 1\nimages_per_split: 40\nkeep: last\n"
    )
    (run,) = sweeps.load(path).requested
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    store.register("s", path.read_text(), [run], {run.id})
    assert orch(tmp_path, "runs", "run", run.id, "--local").exit_code == 0
    assert (tmp_path / "runs" / run.id / "last.safetensors").is_file()


def test_numbers_of_other_data_are_not_stored(tmp_path: Path) -> None:
    """Neither over the run's own, nor over what another dataset scored before."""
    for seed, root in enumerate((tmp_path / "one", tmp_path / "other")):
        make_waterbirds(root / "mini", seed=seed, train=32, val=16, test=32)
    run = digits(dataset="mini_waterbirds", evaluate=("id",), images_per_split=None, epochs=1)
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    store.register("s", "name: s", [run], {run.id})

    def on(root: str, *words: str) -> Result:
        where = ["--store", tmp_path / "orch.db", "--runs", tmp_path / "runs"]
        where += ["--data", tmp_path / root, "--cache", tmp_path / "cache"]
        return CliRunner().invoke(main, [str(word) for word in (*where, *words)])

    assert on("one", "runs", "run", run.id, "--local", "--keep", "last").exit_code == 0
    asked = ("evaluate", run.id, "--dataset", "mini_waterbirds", "--split", "ood", "--json")
    first = on("one", *asked)
    assert first.exit_code == 0, first.output
    assert {m["split"] for m in json.loads(first.stdout)["metrics"]} == {"ood"}
    history = store.history(1)
    refused = on("other", *asked, "--replace")
    assert refused.exit_code == 2
    assert "is not what run" in refused.output
    assert store.history(1) == history

    (stored,) = store.runs()
    wrong = Metric("ood", "", "worst_group_accuracy", 0.123, 1, 8)
    store.measured_later(stored.key, 1, [wrong])
    refused = on("one", *asked)
    assert refused.exit_code == 2
    assert "ood was 0.123 before" in refused.output
    assert "--replace" in refused.output
    assert on("one", *asked, "--replace").exit_code == 0
    assert store.history(1) == history


def test_what_is_left_of_a_diverged_run_holds_no_candidates(tmp_path: Path) -> None:
    run = digits(learning_rate=1e30)
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    store.register("s", "name: s", [run], {run.id})
    orch(tmp_path, "runs", "run", run.id, "--local", "--keep", "best")
    (stored,) = store.runs()
    assert stored.state == "diverged"
    assert not list((tmp_path / "runs" / run.id).glob("*.safetensors"))


def test_tf32_on_the_cpu_is_refused_before_the_run_is_claimed(tmp_path: Path) -> None:
    run = digits(precision="tf32")
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    store.register("s", "name: s", [run], {run.id})
    result = orch(tmp_path, "runs", "run", run.id, "--local")
    assert result.exit_code == 2
    assert "tf32 needs a GPU" in result.output
    assert store.runs()[0].state == "pending"


def test_other_people_may_read_what_a_run_leaves(tmp_path: Path) -> None:
    run = digits(epochs=1)
    finished(run, tmp_path, "last")
    umask = os.umask(0)
    os.umask(umask)
    mode = (tmp_path / run.id / "last.safetensors").stat().st_mode
    assert mode & 0o777 == 0o666 & ~umask


def test_evaluate_refuses_what_does_not_fit(tmp_path: Path) -> None:
    run = digits(epochs=1)
    finished(run, tmp_path / "runs", "last")
    context = worker.Context(data=tmp_path, runs=tmp_path / "runs")
    with pytest.raises(SpecError, match=r"10 classes of digits.*mini_waterbirds has 2"):
        kept.evaluate_on(run.id, "mini_waterbirds", (), context)
    with pytest.raises(SpecError, match='no split "odd"; did you mean "ood"'):
        kept.evaluate_on(run.id, "digits", ("odd",), context)
    path = tmp_path / "runs" / run.id / "last.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MissingInputs, match=str(path)):
        worker.load(run.id, tmp_path / "runs")


def test_kept_weights_are_on_the_cpu_in_train_mode(tmp_path: Path) -> None:
    run = digits(epochs=1)
    finished(run, tmp_path, "last")
    model = worker.load(run.id, str(tmp_path))
    assert model.training
    assert {p.device for p in model.parameters()} == {torch.device("cpu")}
