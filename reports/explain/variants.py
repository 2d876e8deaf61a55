"""Several variants in one cell: what tells them apart, what each comes to, how to choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from db.records import CELL, CHOSEN_OVER, Run, RunBrief
from reports.explain import words
from reports.explain.cell import Asking, OneCell, number
from reports.explain.records import VariantAudit
from reports.select import Key
from reports.study import Study

Fields = Mapping[str, tuple[str, ...]]
"""By field, the values that it has among the runs of one variant: one, but for their heads."""


def variants_of(
    study: Study, key: Key, splits: Sequence[str], asking: Sequence[Asking]
) -> Iterator[VariantAudit]:
    """Each variant among the runs of a cell, with its own choice, in the order of the runs."""
    members: dict[str, list[RunBrief]] = {}
    for run in study.members[key]:
        members.setdefault(run.variant, []).append(run)
    contents = study.reader.contents([run.key for run in study.members[key]])
    fields = {
        variant: _fields([contents[run.key] for run in runs]) for variant, runs in members.items()
    }
    differing = [
        name
        for name in next(iter(fields.values()))
        if len({values[name] for values in fields.values()}) > 1
    ]
    for variant, runs in members.items():
        one = OneCell(study, runs)
        cells = [one.cells(split)[key] for split in splits]
        yield VariantAudit(
            variant,
            {name: ", ".join(fields[variant][name]) for name in differing},
            tuple(_sweeps_of(runs, asking)),
            _own_sweep(variant, members, asking) or _conditions(variant, fields, differing),
            tuple(run.id for run in runs),
            cells[0].n,
            cells[0].expected,
            cells[0].learning_rate,
            tuple(number(cell, split) for cell, split in zip(cells, splits, strict=True)),
        )


def _fields(runs: Sequence[Run]) -> Fields:
    return {
        name: tuple(sorted({words.spelled(getattr(run, name)) for run in runs}))
        for name in Run.__dataclass_fields__
        if name not in (*CELL, *CHOSEN_OVER)
    }


def _sweeps_of(runs: Sequence[RunBrief], asking: Sequence[Asking]) -> dict[str, None]:
    keys = {run.key for run in runs}
    return dict.fromkeys(one.sweep for one in asking if one.run_key in keys)


def _own_sweep(
    variant: str, members: Mapping[str, Sequence[RunBrief]], asking: Sequence[Asking]
) -> str | None:
    """`--sweep` with one that asks for all of the variant's runs and no other; None without."""
    strangers = [run for name, runs in members.items() if name != variant for run in runs]
    others = _sweeps_of(strangers, asking)
    for sweep in _sweeps_of(members[variant], asking):
        asked = {one.run_key for one in asking if one.sweep == sweep}
        if sweep not in others and asked >= {run.key for run in members[variant]}:
            return f"--sweep {sweep}"
    return None


def _conditions(variant: str, fields: Mapping[str, Fields], differing: Sequence[str]) -> str:
    """`--where` with what tells the variant from every other."""
    conditions = []
    for name in differing:
        values = fields[variant][name]
        if "" in values:  # `--where` knows no empty value
            others = {value for one in fields.values() for value in one[name]}
            conditions.append(f"{name}!={','.join(sorted(others.difference(values)))}")
        else:
            conditions.append(f"{name}={','.join(values)}")
    return f"--where '{' '.join(conditions)}'"
