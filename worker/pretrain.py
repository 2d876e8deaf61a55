"""Pretraining a tiny model on its generated upstream task: fine-tuning from random weights.

DESIGN: Appendix E's machinery. The weights, head included, are the run's artifact.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from db.records import Artifact, Run
from worker.context import Context
from worker.events import Event
from worker.finetune import finetune
from worker.models.weights import save_weights


def _export(model: nn.Module, runs: Path, run_id: str) -> tuple[Artifact, ...]:
    return (save_weights(model, runs, run_id),)


def pretrain(run: Run, context: Context) -> Iterator[Event]:
    """Train `run` as `finetune` does and leave its weights behind."""
    yield from finetune(run, context, export=_export)
