"""Runs and sweeps that came in as numbers: what commands that train say of them."""

from __future__ import annotations

from db.errors import SpecError
from db.records import StoredRun, SweepInfo
from orchestrator import sweep as sweeps


def sweep_of(info: SweepInfo) -> sweeps.Sweep:
    """A sweep from the file that the store kept; raises `SpecError` where it came without one."""
    refuse_sweep(info)
    return sweeps.loads(info.yaml, f"sweep {info.name} in the store")


def refuse_sweep(info: SweepInfo) -> None:
    """Raises `SpecError` for a sweep of which there are only numbers."""
    if info.imported:
        raise SpecError(
            f'"{info.name}" was imported as numbers, without a sweep file: there is nothing to '
            f"train, and its tables are in `orch report --sweep {info.name}`."
        )


def refuse_run(stored: StoredRun) -> None:
    """Raises `SpecError` for a run that orch has not trained and cannot train."""
    if stored.run.source:
        raise SpecError(
            f"run {stored.id[:8]} was not trained by orch, its numbers were imported "
            f"({stored.run.source}): `orch runs void` takes them out, `orch import` brings others."
        )
