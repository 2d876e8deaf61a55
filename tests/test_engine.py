"""Launches through real Ray into a real store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
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


@pytest.mark.slow
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
    assert "(1/4r)" in partial
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


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_in_order_within_a_step(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_TOY_STEP", "0.1")  # half a second a step: an epoch is three seconds
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    path = write(tmp_path, "toy_long", "0.1, 0.2, 0.3")
    command = [sys.executable, "-u", "-m", "orchestrator", "--plugin", str(TOYS)]
    with subprocess.Popen(
        [*command, "launch", str(path), "--max-concurrent", "1", "--grace", "1h"], cwd=tmp_path,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as launch:  # fmt: skip
        logs: list[Path] = []
        while not any("epoch 0/" in log.read_text() for log in logs):
            logs = [*tmp_path.glob("runs/*/attempt-1.log")]
        time.sleep(1.2)
        launch.send_signal(number)
        assert launch.stdout is not None
        rest = launch.stdout.read()
    assert launch.returncode == 130, rest
    assert re.search(rf"Stopped by {number.name}; nothing is lost. Go on with: orch launch", rest)
    assert ("Slurm job 77" in rest) == (number == signal.SIGUSR1)
    paused = re.search(r"paused after epoch (\d+) and (\d+) steps", logs[0].read_text())
    assert paused, "inside an epoch"
    assert set(states_by_rate(tmp_path).values()) == {"pending"}
    assert not list(Path("/tmp").glob(f"orch-{os.getuid()}-{launch.pid}"))

    if number == signal.SIGTERM:
        reader = Reader.open(str(tmp_path / "orch.db"))
        subprocess.run([*command, "launch", str(path), "--limit", "1"], cwd=tmp_path, check=True)
        stored = next(s for s in reader.runs() if s.attempts == 2)
        first, second = reader.attempts(stored.key)
        assert (first.outcome, second.outcome) == ("paused", "done")
        went_on = (second.resumed_from, second.resumed_step)
        assert went_on == (int(paused[1]), int(paused[2])), "not a step before where it stopped"


def states_by_rate(folder: Path) -> dict[float, str]:
    load_plugins([str(TOYS)])
    runs = Reader.open(str(folder / "orch.db")).runs()
    return {stored.run.learning_rate: stored.state for stored in runs}


@pytest.mark.slow
def test_a_launch_stops_by_itself_at_its_time_limit(tmp_path: Path, orch: Orch) -> None:
    path = write(tmp_path, "toy_long", "0.1, 0.2, 0.3, 0.4")
    path.write_text(path.read_text() + "epochs: 50\n")
    stopped = orch("launch", path, "--time-limit", "20s", check=130)
    assert "Stopped by the time limit; nothing is lost" in stopped.stdout
    assert set(states_by_rate(tmp_path).values()) == {"pending"}
    refused = orch("launch", path, "--time-limit", "soon", check=2)
    assert "not a duration" in refused.stderr
