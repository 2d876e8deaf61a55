"""Launches through real Ray into a real store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TOYS, Orch
from db.reading import Reader
from worker.catalog import load_plugins

SWEEP = """
name: toys
models: [{models}]
datasets: [toy]
methods: [sgd]
weights: random
learning_rates: [{rates}]
"""


def write(folder: Path, models: str, rates: str = "0.1") -> Path:
    path = folder / "toys.yaml"
    path.write_text(SWEEP.format(models=models, rates=rates))
    return path


def states(folder: Path) -> dict[str, str]:
    return {s.run.model: s.state for s in Reader.open(str(folder / "orch.db")).runs()}


def test_each_outcome_is_told_apart_and_the_rest_goes_on(
    tmp_path: Path, orch: Orch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_TOYS", str(tmp_path))
    path = write(tmp_path, "toy_raises, toy_dies_once, toy_dies, toy, toy_nan")
    first = orch("launch", path, "--max-concurrent", 1, check=1)
    assert states(tmp_path) == {
        "toy": "done",
        "toy_nan": "diverged",
        "toy_raises": "failed",
        "toy_dies": "failed",
        "toy_dies_once": "done",
    }
    assert "2 failed" in first.stdout
    assert "Traceback" not in first.stdout + first.stderr
    reader = Reader.open(str(tmp_path / "orch.db"))
    runs = {s.run.model: s for s in reader.runs()}
    assert [a.outcome for a in reader.attempts(runs["toy_dies"].key)] == ["died", "died", "failed"]
    assert runs["toy_raises"].attempts == 1, "a bug is not tried again by itself"
    once = reader.attempts(runs["toy_dies_once"].key)
    assert [(a.outcome, a.resumed_from) for a in once] == [("died", None), ("done", 1)]

    shown = orch("runs", "show", runs["toy_raises"].id).stdout
    assert "RuntimeError: the toy breaks on purpose" in shown
    assert "misbehave" in shown, "the traceback"
    logs = orch("runs", "logs", runs["toy_raises"].id).stdout
    assert "epoch 1/3" in logs
    assert "the toy breaks on purpose" in logs
    status = orch("status").stdout
    assert "2 failed" in status
    assert "orch runs retry" in status

    again = orch("launch", path, check=1)
    assert "Nothing is left to train" in again.stdout
    (tmp_path / "mended").touch()
    orch("launch", path, "--retry-failed", "--where", "model=toy_raises")
    assert states(tmp_path)["toy_raises"] == "done"


def test_a_folder_that_shadows_our_packages_does_no_harm(tmp_path: Path, orch: Orch) -> None:
    for name in ("db", "worker", "orchestrator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('shadowed')")
    path = write(tmp_path, "toy")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "orch"), "--plugin", str(TOYS), "launch", str(path)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(tmp_path) == {"toy": "done"}


def test_limit_where_dry_run_resume_and_export(tmp_path: Path, orch: Orch) -> None:
    path = write(tmp_path, "toy", "0.1, 0.2, 0.3, 0.4")
    dry = orch("launch", path, "--dry-run", "--limit", 2).stdout
    assert dry.count("would train") == 2
    assert not (tmp_path / "orch.db").exists(), "a dry run writes nothing"
    first = orch("launch", path, "--limit", 1, "--where", "learning_rate=0.2,0.3").stdout
    assert "lr=0.2" in first
    counts = json.loads(orch("status", "--json").stdout)[0]["states"]
    assert counts == {"done": 1, "pending": 3}
    partial = orch("report", "--table", "ood").stdout
    assert "(1/4)" in partial
    orch("resume", "toys")
    counts = json.loads(orch("status", "--json").stdout)[0]["states"]
    assert counts == {"done": 4}
    rows = orch("export").stdout.splitlines()
    assert rows[0].startswith("sweep,model,dataset,method,lr,seed,epoch,split,metric,value")
    assert len(rows) == 1 + 4 * 4 * 2, "runs × epochs × splits"
    listed = json.loads(orch("runs", "list", "--json").stdout)
    assert {
        "id",
        "model",
        "dataset",
        "method",
        "learning_rate",
        "seed",
        "state",
        "attempts",
    } <= set(listed[0])
    one = listed[0]["id"][:8]
    assert "equals what is stored" in orch("runs", "run", one, "--local").stdout


def test_a_machine_without_gpus_says_so(tmp_path: Path, orch: Orch) -> None:
    path = write(tmp_path, "toy")
    path.write_text(path.read_text() + "resources: {gpus: 1}\n")
    refused = orch("launch", path, check=2)
    assert "asks for 1 GPUs and this machine has 0" in refused.stderr
    assert "resources.gpus" in refused.stderr
    assert states(tmp_path) == {"toy": "pending"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    path = write(tmp_path, "toy_slow", ", ".join(f"0.{n}" for n in range(1, 10)))
    command = [
        sys.executable,
        "-u",
        "-m",
        "orchestrator",
        "--plugin",
        str(TOYS),
        "launch",
        str(path),
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as launch:
        assert launch.stdout is not None
        for line in launch.stdout:
            if "done" in line:
                break
        launch.send_signal(number)
        rest = launch.stdout.read()
    assert launch.returncode == 130, rest
    assert re.search(r"Go on with: orch launch", rest)
    load_plugins([str(TOYS)])
    assert "running" not in {s.state for s in Reader.open(str(tmp_path / "orch.db")).runs()}
    assert not list(Path("/tmp").glob(f"orch-{os.getuid()}-{launch.pid}"))
