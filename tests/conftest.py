"""What tests share: a store in a temporary folder, toy models, the `orch` command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from db.records import EpochRecord, Metric, Run
from db.store import Store
from worker.catalog import load_plugins

TOYS = Path(__file__).parent / "toys.py"
ROOT = TOYS.parent.parent
Orch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def _toys() -> None:
    load_plugins([str(TOYS)])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A new, empty store."""
    return Store.open(str(tmp_path / "orch.db"), create=True)


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    """The real command in a temporary folder: `orch("plan", path)`."""

    def call(*words: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestrator", "--plugin", str(TOYS), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return call


def a_run(**changes: object) -> Run:
    """A run of the toy model."""
    values: dict[str, object] = {
        "kind": "finetune",
        "model": "toy",
        "dataset": "toy",
        "method": "sgd",
        "learning_rate": 0.1,
        "seed": 0,
        "epochs": 3,
        "batch_size": 32,
        "micro_batch": 16,
        "weight_decay": 0.0,
        "schedule": "cosine_per_step",
        "clip_norm": None,
        "weights": "random",
        "precision": "fp32",
        "threads": 1,
        "evaluate": ("id", "ood"),
    }
    return Run(**{**values, **changes})  # type: ignore[arg-type]


def a_history(run: Run, epochs: int | None = None, value: float = 0.5) -> list[EpochRecord]:
    """A made-up history of `run` up to an epoch, by default its last."""
    last = run.epochs if epochs is None else epochs
    return [
        EpochRecord(
            epoch,
            None if epoch == 0 else 1.0 / epoch,
            None if epoch == 0 else 0.5,
            run.learning_rate,
            tuple(
                Metric(split, "", "accuracy", value + epoch / 100, None, 100)
                for split in run.evaluate
            ),
        )
        for epoch in range(last + 1)
    ]
