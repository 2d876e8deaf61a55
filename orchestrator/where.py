"""`--where`: which runs a command is about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from db.errors import SpecError
from db.records import Run
from worker.catalog import Catalog, nearest
from worker.data import DATASETS
from worker.methods import METHODS
from worker.models import MODELS

CATALOGS: dict[str, Catalog[Any]] = {"model": MODELS, "dataset": DATASETS, "method": METHODS}


@dataclass(frozen=True)
class Where:
    """Conditions on a run's identity fields, all of which must hold."""

    conditions: dict[str, tuple[bool, frozenset[str]]] = field(default_factory=dict)
    """{field: (wanted or unwanted, values)}."""

    def matches(self, run: Run) -> bool:
        """Whether a run meets every condition."""
        return all(
            (_spelled(getattr(run, name)) in values) is wanted
            for name, (wanted, values) in self.conditions.items()
        )


def parse(
    texts: tuple[str, ...], stored: Callable[[], Mapping[str, Collection[str]]] = dict
) -> Where:
    """Read `model=a,b dataset!=c` (blanks or several options mean "and").

    Raises `SpecError` for a field that does not exist, and for a name that is neither in this
    version nor among the `stored` ones, such as those of imported runs (`db.summary.names`).
    """
    conditions: dict[str, tuple[bool, frozenset[str]]] = {}
    for text in " ".join(texts).split():
        name, sign, value = text.partition("=")
        wanted, name = not name.endswith("!"), name.removesuffix("!")
        if not sign or not value:
            raise SpecError(f'--where "{text}": write field=value, or field!=value,value.')
        if name not in Run.__dataclass_fields__:
            raise SpecError(
                f'--where: unknown field "{name}"; {nearest(name, Run.__dataclass_fields__)}'
            )
        if name in conditions:
            raise SpecError(f"--where: {name} is given twice; write {name}=a,b.")
        for entry in value.split(",") if name in CATALOGS else ():
            if entry not in CATALOGS[name] and entry not in stored().get(name, ()):
                CATALOGS[name].find(entry)
        conditions[name] = (wanted, frozenset(_spelled(part) for part in value.split(",")))
    return Where(conditions)


def _spelled(value: object) -> str:
    """Numbers by value (1e-3, 0.001 and 1.0E-3 are one rate), lists as `a+b`, nothing as `none`."""
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    try:
        return repr(float(str(value)))
    except ValueError:
        return str(value) or "none"
