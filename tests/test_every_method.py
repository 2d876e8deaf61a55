"""Every method on every tiny model and two miniature datasets, through the engine in one sweep.

A plugin stops each fine-tuning run once after its first epoch, and compares its last weights with
its first.
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
from test_methods import FINE_TUNING, TINY, applies, still
from worker.methods import METHODS

PLUGIN = ROOT / "tests" / "resume_once.py"
DATASETS = ("mini_waterbirds", "mini_domainnet")
# Rates at which a few steps move every tensor; LAMB's and LARS's are relative to the weights.
RATES = "{sgd: [0.05], adamw: [3e-3], lamb: [1e-2], lars: [1.0]}"


def orch(folder: Path, *words: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "orchestrator", "--plugin", str(PLUGIN), *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def sweep(methods_of: dict[str, list[str]]) -> str:
    blocks = "".join(
        f"  - {{models: [{model}], methods: [{', '.join(methods)}]}}\n"
        for model, methods in methods_of.items()
    )
    return (
        f"name: every\ndatasets: [{', '.join(DATASETS)}]\nlearning_rates: {RATES}\n"
        "weights: random\nepochs: 2\nimages_per_split: 96\nmicro_batch: 32\n"
        f"grids:\n{blocks}"
    )


@pytest.mark.slow
def test_every_method_on_every_tiny_model(tmp_path: Path) -> None:
    every = [name for name in METHODS if name in FINE_TUNING or name == "linear_probe"]
    fitting = {model: [m for m in every if applies(m, model)] for model in TINY}
    (tmp_path / "all.yaml").write_text(sweep(dict.fromkeys(TINY, every)))
    refused = orch(tmp_path, "plan", "all.yaml", code=2)
    for model in TINY:
        # A block is refused with its first method that does not apply.
        (first, *_) = [m for m in every if m not in fitting[model]]
        assert f".methods[{every.index(first)}]: model" in refused
        assert f'"{model}" has no' in refused

    (tmp_path / "every.yaml").write_text(sweep(fitting))
    names = [name.removeprefix("mini_") for name in DATASETS]
    orch(tmp_path, "data", "make-mini", *names, "--train", 96, "--val", 48, "--test", 96)
    orch(tmp_path, "launch", "every.yaml")

    seen = set()
    for stored in Reader.open(str(tmp_path / "orch.db")).runs("every"):
        run = stored.run
        assert stored.state == "done", stored
        seen.add((run.model, run.dataset, run.method))
        if run.kind != "finetune":
            continue
        reader = Reader.open(str(tmp_path / "orch.db"))
        first, second = reader.attempts(stored.key)
        assert (first.outcome, second.outcome, second.resumed_from) == ("paused", "done", 1)
        losses = [record.train_loss for record in reader.history(stored.key)[1:]]
        assert all(loss is not None and math.isfinite(loss) for loss in losses), run
        weights = json.loads((tmp_path / "runs" / run.id / "weights.json").read_text())
        assert all(name.startswith(still(run.method, run.model)) for name in weights["frozen"])
        assert bool(weights["frozen"]) == bool(still(run.method, run.model)), run
        assert weights["frozen_changed"] == [], run
        assert weights["trained_unchanged"] == [], run
        assert len(weights["changed"]) > 4 * len(weights["rounded"]), run
    wanted = {(m, d, method) for m in TINY for d in DATASETS for method in fitting[m]}
    assert seen == wanted
