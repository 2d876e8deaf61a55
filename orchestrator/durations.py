"""How long the finished runs of a store took: what estimates learn from."""

from __future__ import annotations

import json

import sqlalchemy as sa

from db.reading import EPOCHS, RUNS, Reader
from db.records import Run
from orchestrator.estimate import Estimate, Setting


def estimate(reader: Reader) -> Estimate:
    """An estimate by the store's own timings."""
    return Estimate(timings(reader))


def timings(reader: Reader) -> dict[Setting, float]:
    """Mean seconds in epochs of the finished runs of each setting; their start-up is not in it."""
    total = (
        sa.select(EPOCHS.c.run_key, sa.func.sum(EPOCHS.c.seconds).label("seconds"))
        .group_by(EPOCHS.c.run_key)
        .subquery()
    )
    # One run speaks for its variant: whatever a run's time depends on is the same in all of them.
    query = (
        sa.select(sa.func.max(RUNS.c.content), sa.func.sum(total.c.seconds), sa.func.count())
        .join(total, total.c.run_key == RUNS.c.key)
        .where(RUNS.c.state == "done", total.c.seconds > 0)  # what was imported has no times
        .group_by(RUNS.c.kind, RUNS.c.model, RUNS.c.dataset, RUNS.c.variant)
    )
    seconds: dict[Setting, float] = {}
    runs: dict[Setting, int] = {}
    with reader.read() as connection:
        for content, total_seconds, count in connection.execute(query):
            setting = Setting.of(Run.from_content(json.loads(content)))
            seconds[setting] = seconds.get(setting, 0.0) + total_seconds
            runs[setting] = runs.get(setting, 0) + count
    return {setting: s / runs[setting] for setting, s in seconds.items() if s > 0}
