"""`NAME… | SWEEP.yaml…`: what the checks of models and datasets take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from db.records import Run
from orchestrator import sweep as sweeps


def runs_named(words: Iterable[str]) -> tuple[list[str], list[Run]]:
    """The names among the words, and every run that the sweep files among them stand for."""
    names: list[str] = []
    found: list[Run] = []
    for word in words:
        if word.endswith((".yaml", ".yml")):
            found += [planned.run for planned in sweeps.load(Path(word)).planned]
        else:
            names.append(word)
    return names, found
