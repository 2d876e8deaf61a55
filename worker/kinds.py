"""The kinds of run: what `worker.run` does with each. One entry a kind."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from db.records import Run
from worker.catalog import Catalog, resolve
from worker.context import Context
from worker.events import Event, Failed, measured

log = logging.getLogger(__name__)

PATH_STEPS = 50
"""Regularisations that a linear probe tries, each an epoch of its run."""
PROBE_BATCH = 64
"""Images that a linear probe shows its model at once: no number of the paper's depends on it."""
NO_RATE = 1.0
"""What stands for the learning rate of runs that have none; positive, as axes are logarithmic."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Something the paper measured that is trained, probed or counted by a run."""

    id: str
    run: str
    """`module:function`, (Run, Context) -> Iterator[Event]."""
    version: int = 1


KINDS: Catalog[Kind] = Catalog(
    "kind",
    [
        Kind(id="pretrain", run="worker.pretrain:pretrain"),
        Kind(id="finetune", run="worker.finetune:finetune"),
        Kind(id="linear_probe", run="worker.probe:linear_probe"),
    ],
)


def run(run: Run, context: Context) -> Iterator[Event]:
    """Do one run here and now, yielding what happens; the last event says how it ended.

    An exception becomes a `Failed` event with its cause and traceback: an outcome is a result or a
    traceback, never a missing file.
    """
    try:
        for event in resolve(KINDS.find(run.kind).run)(run, context):
            for record in measured(event):
                if wrong := record.not_finite():
                    raise ArithmeticError(f"{wrong}: a kind of run measures finite numbers")
            yield event
        return
    except Exception as error:
        from worker.failures import cause_of

        log.exception("the run failed")
        text = f"{type(error).__name__}: {error}"
        failed = Failed(text, traceback.format_exc(), cause_of(error))
    yield failed  # when the traceback holds nothing of the run any more
