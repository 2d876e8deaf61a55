"""`orch verify-resume`: it finds the run that does not resume as it was, and clears the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT, TOYS, Orch, a_history, a_run
from db.errors import SpecError
from db.records import Artifact, EpochRecord, Metric, Provenance, Run
from db.store import Store
from orchestrator import sweep as sweeps
from orchestrator.cli import main
from orchestrator.scratch import End, Stage, Trainer, file_digest
from orchestrator.verify import aims, chosen, differences, prepare
from worker.catalog import load_plugins
from worker.context import Folders

PLUGIN = '''
"""An upstream task, a slow model that starts from its weights, models that do not resume."""

import dataclasses
import os
import time

import worker.data as datasets
import worker.models as models
from orch_plugin_toys import DATASET, toy
from worker.models import MODELS, Recipe

STEP = 0.03
UPSTREAM = dataclasses.replace(DATASET, id="toy_upstream", upstream=True)


def slow(classes):
    """Sleeps in each forward pass."""
    model = toy(classes)
    model.register_forward_pre_hook(lambda *_: time.sleep(STEP))
    return model


def counts(classes):
    """Its logits depend on how many passes this process has made: no checkpoint knows that."""
    model, passes = slow(classes), [0]

    def scaled(_, __, logits):
        passes[0] += 1
        return logits * (1 + passes[0] / 100)

    model.register_forward_hook(scaled)
    return model


def draws(classes):
    """Its logits are shaken by the system's own randomness."""
    model = slow(classes)
    model.register_forward_hook(lambda _, __, logits: logits * (1 + os.urandom(1)[0] / 1000))
    return model


datasets.DATASETS.add(UPSTREAM)
recipe = Recipe(
    dataset="toy_upstream", method="sgd", learning_rate=0.1, weight_decay=0.0, epochs=1,
    batch_size=32, clip_norm=1.0,
)
for name, how in (("proof_slow", recipe), ("proof_counts", None), ("proof_draws", None)):
    models.MODELS.add(
        dataclasses.replace(
            MODELS["toy"], id=name, title=name, recipe=how,
            build=f"orch_plugin_proofs:{name.partition('_')[2]}",
        )
    )
'''


@pytest.fixture(scope="session")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin's file, loaded here as well."""
    path = tmp_path_factory.mktemp("plugin") / "proofs.py"
    path.write_text(PLUGIN)
    load_plugins([str(TOYS), str(path)])
    return path


def a_sweep(folder: Path, model: str, **fields: object) -> Path:
    values = {"datasets": "[toy]", "methods": "[sgd]", "learning_rates": "[0.1, 0.01]"} | fields
    text = f"name: {model}\nmodels: [{model}]\n"
    path = folder / f"{model}.yaml"
    path.write_text(text + "".join(f"{name}: {value}\n" for name, value in values.items()))
    return path


def files(folder: Path) -> dict[str, str | None]:
    """Every file's contents, but those that SQLite has beside a store while it is open."""
    found = (path for path in folder.rglob("*") if not path.name.endswith(("-wal", "-shm")))
    return {str(path): file_digest(path) for path in found}


# The whole command, with real processes


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_a_run_that_resumes_is_proven(
    orch: Orch, proofs: Path, tmp_path: Path, weights: str
) -> None:
    """A slow model's run, ended twice; the weights that it needs were changed since they are."""
    path = a_sweep(tmp_path, "proof_slow", epochs=4, weights=weights)
    planned = sweeps.load(path).planned
    if weights == "pretrained":
        lent(tmp_path, planned[0].run, b"others")
    before = files(tmp_path)
    done = orch(
        "--plugin", proofs, "verify-resume", path, "--kills", 2, "--seed", 4, "--stop", "both",
        "--json",
    )  # fmt: skip
    found = json.loads(done.stdout)
    asked = [p.run for p in planned if p.requested]
    assert found["id"] == min(asked, key=lambda run: run.learning_rate).id
    assert found["identical"], found
    assert found["differences"] == []
    assert (found["state"], found["epochs"], found["metrics"]) == ("done", 4, 2 * 5)
    assert len(found["weights_sha256"]) == 64
    assert 1 <= len(found["kills"]) <= 2 == found["kills_asked"]
    assert found["attempts"] == len(found["kills"]) + found["rounds"]
    assert found["resumed"], "at least one attempt went on from a checkpoint"
    assert "seed 4" in done.stderr
    assert ("training that first" in done.stderr) == (weights == "pretrained")
    assert "kill 1 of 2: epoch" in done.stderr
    assert files(tmp_path) == before, "nothing is written, no scratch folder is left"


@pytest.mark.parametrize(
    "model", ["proof_counts", pytest.param("proof_draws", marks=pytest.mark.slow)]
)
def test_a_run_that_does_not_resume_is_found(
    orch: Orch, proofs: Path, tmp_path: Path, model: str
) -> None:
    path = a_sweep(tmp_path, model, weights="random", epochs=6)
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    sweep = sweeps.load(path)
    store.register(sweep.name, sweep.text, sweep.requested, {r.id for r in sweep.requested})
    (aim,) = aims(1, seed=19)
    assert 0.6 < aim.share < 0.8, "after a checkpoint, and before the end"
    words = ("--plugin", proofs, "verify-resume", model, "--kills", 1, "--seed", 19)
    found = orch(*words, "--keep-files", check=1)
    assert found.stdout.startswith("not identical after 1 kill at epoch ")
    assert "(seed 19)" in found.stdout
    assert "training loss: " in found.stdout
    told = [line for line in found.stdout.splitlines() if line.startswith("  epoch ")]
    assert 1 <= len(told) <= 5, "the first differences, not hundreds"
    (scratch,) = tmp_path.glob(".verify-*")
    assert str(scratch) in found.stderr
    assert {p.name for p in scratch.iterdir()} == {"base", "whole", "killed-1"}
    assert {s.state for s in store.runs()} == {"pending"}, "the user's store is only read"
    assert not any((tmp_path / "runs").glob("*"))


# Bad input


def refused(proofs: Path, tmp_path: Path, *words: object) -> Result:
    shared = ["--store", tmp_path / "orch.db", "--runs", tmp_path / "runs", "--plugin", TOYS]
    shared += ["--plugin", proofs, "--data", tmp_path / "data", "verify-resume"]
    result = CliRunner().invoke(main, [str(word) for word in (*shared, *words)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob(".verify-*"))
    return result


def test_what_cannot_be_verified_is_said(proofs: Path, tmp_path: Path) -> None:
    path = a_sweep(tmp_path, "proof_slow", epochs=4)
    assert "no sweep file" in refused(proofs, tmp_path, "nothing").output
    assert "missing.yaml" in refused(proofs, tmp_path, "missing.yaml").output
    assert not (tmp_path / "orch.db").exists()
    Store.open(str(tmp_path / "orch.db"), create=True)
    assert 'no sweep "nothing"' in refused(proofs, tmp_path, "nothing").output
    assert "matches none of the sweep's 2 runs" in (
        refused(proofs, tmp_path, path, "--where", "seed=9").output
    )
    assert "begins no run" in refused(proofs, tmp_path, path, "--run", "xyz").output
    assert "begins several" in refused(proofs, tmp_path, path, "--run", "").output
    assert "--kills" in refused(proofs, tmp_path, path, "--kills", "0").output
    real = a_sweep(tmp_path, "tiny_vit", datasets="[mini_waterbirds]")
    missing = refused(proofs, tmp_path, real)
    assert "orch data make-mini" in missing.output
    blocked = tmp_path / "a_file"
    blocked.write_text("")
    assert (
        "cannot be written" in refused(proofs, tmp_path, path, "--scratch", blocked / "in").output
    )


def test_a_device_that_is_not_there_is_said_by_the_child(proofs: Path, tmp_path: Path) -> None:
    path = a_sweep(tmp_path, "proof_counts", weights="random")
    assert "no device cuda:77" in refused(proofs, tmp_path, path, "--device", "cuda:77").output


# The moments


@given(st.integers(0, 40), st.integers(0, 2**32), st.sampled_from([("kill",), ("kill", "term")]))
def test_the_moments_spread_over_training(count: int, seed: int, stops: tuple[str, ...]) -> None:
    plan = aims(count, seed, stops)  # type: ignore[arg-type]
    assert plan == aims(count, seed, stops), "a seed repeats"  # type: ignore[arg-type]
    assert len(plan) == count
    assert all(0 <= aim.share < 1 for aim in plan)
    training = [aim.share for aim in plan if not aim.start_up]
    assert count - len(training) == count // 5
    assert [int(share * len(training)) for share in training] == [*range(len(training))], (
        "one in each stretch of training, in order"
    )
    assert [aim.stop for aim in plan] == [stops[n % len(stops)] for n in range(count)]


# The choice


def test_the_cheapest_run_is_taken() -> None:
    cheap = a_run(epochs=2, learning_rate=0.01)
    runs = [a_run(epochs=3), a_run(epochs=2, learning_rate=0.1), cheap]
    assert chosen(runs, None) == cheap, "the lower rate: it diverges least"
    assert chosen(runs, runs[0].id[:10]) == runs[0]
    small, large = (
        a_run(model="vit_b16_in21k", dataset=name, epochs=1) for name in ("waterbirds", "fmow")
    )
    tiny = a_run(model="tiny_vit", dataset="fmow", epochs=1)
    assert chosen([large, small], None) == small
    assert chosen([large, tiny], None) == tiny
    with pytest.raises(SpecError, match="begins no run"):
        chosen(runs, "nowhere")


# The comparison


def an_end(history: list[EpochRecord], weights: str | None = "w", state: str = "done") -> End:
    return End(state, None, tuple(history), weights, ())  # type: ignore[arg-type]


def test_equal_but_for_the_clock_is_identical() -> None:
    history = a_history(a_run())
    later = [
        EpochRecord(r.epoch, r.train_loss, r.train_accuracy, r.learning_rate, r.metrics[::-1], 9.0)
        for r in history
    ]
    assert list(differences(an_end(history), an_end(later))) == []


def test_every_difference_is_named() -> None:
    history = a_history(a_run())
    other = [*history[:-1]]
    metrics = (Metric("id", "", "accuracy", 0.25, 25, 100), history[1].metrics[1])
    other[1] = EpochRecord(1, 1.0000001, 0.5, 0.1, metrics)
    assert list(differences(an_end(history), an_end(other, "v", "diverged"))) == [
        "uninterrupted the run is done, with kills diverged",
        "epoch 1, training loss: 1.0 uninterrupted, 1.0000001 with kills",
        "epoch 1, id accuracy: 0.51 uninterrupted, 0.25 with kills",
        "epoch 1, id accuracy, correct: None uninterrupted, 25 with kills",
        "4 epochs uninterrupted, 3 with kills",
        "weights sha256 w uninterrupted, v with kills",
    ]


# What a run needs


def lent(tmp_path: Path, need: Run, content: bytes = b"the weights") -> tuple[Store, Folders]:
    """A store and a runs folder in which `need` is done and has left a file, changed since."""
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    store.register("mine", "", [need], {need.id})
    owner = store.enlist()
    (stored,) = store.runs("mine")
    claim = store.claim(stored.key, owner)
    assert claim is not None
    folders = Folders(data=tmp_path, runs=tmp_path / "runs")
    file = folders.runs / need.id / "weights.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"the weights")
    artifact = Artifact("weights", f"{need.id}/{file.name}", str(file_digest(file)), 11)
    store.start(claim, (), Provenance(data_fingerprint="toy-1"), None)
    store.finish(claim, a_history(need), [artifact])
    store.retire(owner)
    file.write_bytes(content)
    return store, folders


def a_trainer(folders: Folders, said: list[str]) -> Trainer:
    return Trainer(folders, (str(TOYS),), "cpu", said.append)


def a_base(tmp_path: Path) -> Stage:
    base = Stage(tmp_path / "scratch" / "base")
    base.runs.mkdir(parents=True)
    return base


def test_weights_at_hand_are_borrowed(tmp_path: Path) -> None:
    need = a_run(kind="pretrain")
    source, folders = lent(tmp_path, need)
    run = a_run(weights=f"run:{need.id}")
    base, said = a_base(tmp_path), list[str]()
    prepare(base, run, [need], source, a_trainer(folders, said))
    scratch = Store.open(str(base.store))
    assert scratch.states([need.id, run.id]) == {need.id: "done", run.id: "pending"}
    assert (base.runs / need.id).is_symlink()
    assert (base.runs / need.id / "weights.safetensors").read_bytes() == b"the weights"
    assert said == []
    claim = scratch.claim(scratch.find_run(run.id).key, scratch.enlist())
    assert claim is not None, "the run may start"
    assert claim.weights_sha256 == file_digest(base.runs / need.id / "weights.safetensors")


def test_a_child_runs_this_very_orch(tmp_path: Path) -> None:
    """Whatever lies in the working directory."""
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "__init__.py").write_text("raise SystemExit('another db')")
    trainer = a_trainer(Folders(data=tmp_path, runs=tmp_path), [])
    command = [*trainer.command(Stage(tmp_path), "x")[:4], "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, env=trainer.environment(), capture_output=True, text=True
    )
    assert done.stdout.startswith("orch "), done.stderr
    assert sys.executable == command[0]
    assert str(ROOT) in trainer.environment()["PYTHONPATH"]
