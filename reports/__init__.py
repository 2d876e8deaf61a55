"""What a store says: tables, figures, claims, and data frames for analyses of one's own.

    import reports
    study = reports.load("orch.db", sweep="demo")
    study.cells()

Everything heavy is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from db.records import Run
    from reports.frames import Frames
    from reports.select import Rule

__all__ = ["load"]


def load(
    store: str = "orch.db",
    sweep: str | None = None,
    where: Mapping[str, Any] | Callable[[Run], bool] | None = None,
    select: Rule = "id_val",
    partial: bool = False,
) -> Frames:
    """A study as pandas data frames: the runs of a sweep, or of all, and what is chosen among them.

    `store` is a path or a URL, as for `--store`. `where` leaves some of the runs: a mapping from
    fields of a run to a value or a list of values, as in `{"model": ["tiny_vit"], "seed": 0}`, or
    a function of the run. `select` and `partial` are `orch report`'s: by what the epoch and the
    rate are chosen, and whether rates compete that lack seeds.

    Raises `StoreMissing`, `NotFound` for an unknown sweep, `ReportError` for an unknown field or
    rule.
    """
    from reports.frames import Frames, study

    return Frames(study(store, sweep, where, select, partial))
