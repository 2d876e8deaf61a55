"""The paper's real architectures on its real layouts, through the engine; no number counts.

`sweeps/paper_smoke.yaml` runs unchanged, on miniature files of 224 pixels, with a plugin that stops
each run once after its first epoch and compares its last weights with its first.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from db.reading import Reader
from worker.models import MODELS

PLUGIN = ROOT / "tests" / "resume_once.py"
SWEEP = ROOT / "sweeps" / "paper_smoke.yaml"


def orch(folder: Path, *words: object, timeout: float) -> str:
    command = [sys.executable, "-m", "orchestrator", *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def smoke(folder: Path, *words: object, timeout: float) -> Reader:
    """The sweep on new miniatures; returns its store."""
    counts = ("--train", 80, "--val", 40, "--test", 80, "--size", 224)
    names = ("living17", "waterbirds", "domainnet", "fmow", "camelyon17")
    orch(folder, "--data", "data", "data", "make-mini", *names, *counts, timeout=300)
    orch(folder, "--plugin", PLUGIN, "--data", "data/mini", "launch", SWEEP, *words,
         timeout=timeout)  # fmt: skip
    return Reader.open(str(folder / "orch.db"))


def looked_over(reader: Reader, runs: Path) -> list[tuple[str, str]]:
    """Asserts what every run must show; returns the models and datasets."""
    seen = []
    for stored in reader.runs("paper_smoke"):
        if stored.state == "pending":
            continue
        assert stored.state == "done", stored
        first, second = reader.attempts(stored.key)
        assert (first.outcome, second.outcome) == ("paused", "done")
        assert second.resumed_from == 1, "its checkpoint was resumed"
        history = reader.history(stored.key)
        assert [record.epoch for record in history] == [0, 1, 2]
        assert all(math.isfinite(r.train_loss) for r in history[1:] if r.train_loss is not None)
        assert {m.n for m in history[2].metrics if m.metric == "accuracy" and not m.group} <= {4}
        weights = json.loads((runs / stored.id / "weights.json").read_text())
        assert weights["frozen"], "the embedding layer"
        assert all(n.startswith(MODELS[stored.run.model].embedding) for n in weights["frozen"])
        assert weights["frozen_changed"] == []
        assert weights["trained_unchanged"] == []
        assert len(weights["changed"]) > 2 * len(weights["rounded"])
        seen.append((stored.run.model, stored.run.dataset))
    return seen


@pytest.mark.slow
def test_one_architecture_on_one_layout(tmp_path: Path) -> None:
    """The smallest of the 35, so that every `make test` trains a real one at 224 pixels."""
    only = ("--where", "model=bit_r50_in21k dataset=camelyon17")
    reader = smoke(tmp_path, *only, timeout=300)
    assert looked_over(reader, tmp_path / "runs") == [("bit_r50_in21k", "camelyon17")]


@pytest.mark.slow
def test_every_architecture_on_every_layout(tmp_path: Path) -> None:
    reader = smoke(tmp_path, timeout=3000)
    seen = looked_over(reader, tmp_path / "runs")
    assert len(set(seen)) == 35
