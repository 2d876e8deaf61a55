"""A plugin that stops every run after its first epoch once, and looks at its weights at the end.

`orch --plugin tests/resume_once.py launch …`: the first attempt yields `Paused` when the first
epoch's checkpoint is on disk; the engine gives the run to another attempt, which resumes. Then a
report in the run's folder says which tensors differ from the initial ones, built anew by seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import worker.kinds as kinds
from db.records import Artifact, Run
from worker import Context, Epoch, Event, Paused

REPORT = "weights.json"


def finetune(run: Run, context: Context) -> Iterator[Event]:
    """Fine-tuning as ever, cut once."""
    from worker import finetune as real

    def look(model, runs: Path, run_id: str) -> tuple[Artifact, ...]:  # type: ignore[no-untyped-def]
        report = compare(model, run, context)
        (runs / run_id / REPORT).write_text(json.dumps(report))
        return ()

    for event in real.finetune(run, context, export=look):
        yield event
        if context.fence == 1 and isinstance(event, Epoch) and event.record.epoch == 1:
            yield Paused(1)
            return


def compare(model, run: Run, context: Context) -> dict[str, list[str]]:  # type: ignore[no-untyped-def]
    """What became of each tensor, by name.

    A trainable one that is as before has to have had a gradient, too small for its rounding: behind
    ConvNeXt's layer scale, 1e-6 at first, are such.
    """
    import torch

    from worker.data import DATASETS
    from worker.determinism import settle
    from worker.models.weights import build
    from worker.optim import freeze

    settle(run.seed, run.threads, run.precision)
    built = build(run, DATASETS[run.dataset].classes, context.runs, context.weights)
    freeze(built.model, run)
    found: dict[str, list[str]] = {
        "frozen": [], "frozen_changed": [], "changed": [], "rounded": [], "trained_unchanged": []
    }  # fmt: skip
    now = dict(model.named_parameters())
    for name, before in built.model.named_parameters():
        same = torch.equal(before, now[name].detach().cpu())
        if not before.requires_grad:
            found["frozen"].append(name)
        if before.requires_grad:
            gradient = now[name].grad
            pulled = gradient is not None and bool(gradient.abs().max() > 0)
            sort = "changed" if not same else "rounded" if pulled else "trained_unchanged"
            found[sort].append(name)
        if not before.requires_grad and not same:
            found["frozen_changed"].append(name)
    return found


# The engine asks for a kind's function by name, each time: this one answers in its place.
kinds.KINDS._entries["finetune"] = kinds.Kind(
    id="finetune", run="orch_plugin_resume_once:finetune", version=kinds.KINDS["finetune"].version
)
