"""The figures that the paper prints, as data: Tables 1-14, 1,144 of them.

Source: A. Kumar, R. Shen, S. Bubeck, S. Gunasekar, *How to Fine-Tune Vision Models with SGD*,
Tables 1-14, one decimal as printed. A cell that several tables print has the same value in all.
`tables.csv` keeps the columns `table,model,method,dataset,metric,value,ci90,delta_vs_sgd,bold`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = "How to Fine-Tune Vision Models with SGD (Kumar, Shen, Bubeck, Gunasekar), Tables 1-14"
OUT_OF_MEMORY = "oom"
_FILE = Path(__file__).parent / "tables.csv"


@dataclass(frozen=True)
class Figure:
    """One printed number, in percent (memory: in GB)."""

    table: int
    model: str
    """Empty for a prior result, which is of other people's models."""
    method: str
    """`best_prior_result` for what others had published before (Table 3)."""
    dataset: str
    """`avg` for a row's average; empty where the table has no dataset (memory)."""
    metric: str
    """`ood`, `id` or `memory_gb`."""
    value: float | None
    """None: out of memory."""
    ci90: float | None
    """Half-width of the 90% interval over three seeds, where it is printed (Table 5)."""
    delta: float | None
    """Against SGD of the same model, as printed: `-0.0` keeps its sign."""
    bold: bool

    @property
    def out_of_memory(self) -> bool:
        """Whether the paper prints that it did not fit in place of a number."""
        return self.value is None

    @property
    def split(self) -> str:
        """The split that our runs measure it on: Table 6 prints CIFAR-10's test images."""
        return "id_test" if self.dataset == "cifar10" and self.metric == "id" else self.metric


Place = tuple[str, str, str, str]
"""Model, dataset, method, split."""


@cache
def figures() -> tuple[Figure, ...]:
    """Every printed figure, in the tables' order."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return tuple(map(_figure, csv.DictReader(file)))


def _figure(row: Mapping[str, str]) -> Figure:
    return Figure(
        int(row["table"]),
        row["model"],
        row["method"],
        row["dataset"],
        row["metric"],
        None if row["value"] == OUT_OF_MEMORY else float(row["value"]),
        _number(row["ci90"]),
        _number(row["delta_vs_sgd"]),
        row["bold"] == "yes",
    )


def _number(text: str) -> float | None:
    return float(text) if text else None


def table(number: int) -> tuple[Figure, ...]:
    """The figures of one table; none for a number that the paper has not."""
    return tuple(figure for figure in figures() if figure.table == number)


@cache
def by_place() -> Mapping[Place, Figure]:
    """One figure a place; of several tables that print it, the one with an interval or a delta.

    The interval comes first, then the delta. Memory and prior results have no place.
    """
    found: dict[Place, Figure] = {}
    for figure in figures():
        if not figure.model or not figure.dataset:
            continue
        place = (figure.model, figure.dataset, figure.method, figure.split)
        if place not in found or _told(figure) > _told(found[place]):
            found[place] = figure
    return found


def _told(figure: Figure) -> tuple[bool, bool]:
    return figure.ci90 is not None, figure.delta is not None
