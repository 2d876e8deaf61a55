"""Several variants in one cell: what tells them apart, what each comes to, how to choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from db.records import RunBrief
from reports.explain import words
from reports.explain.cell import Asking, OneCell, identity_of, number
from reports.explain.records import VariantAudit
from reports.select import Key
from reports.study import Study


def variants_of(
    study: Study, key: Key, splits: Sequence[str], asking: Sequence[Asking]
) -> Iterator[VariantAudit]:
    """Each variant among the runs of a cell, with its own choice, in the order of the runs."""
    members: dict[str, list[RunBrief]] = {}
    for run in study.members[key]:
        members.setdefault(run.variant, []).append(run)
    contents = study.reader.contents([runs[0].key for runs in members.values()])
    fields = {
        variant: {
            name: words.spelled(value) for name, value in identity_of(contents[runs[0].key]).items()
        }
        for variant, runs in members.items()
    }
    differing = [
        name
        for name in next(iter(fields.values()))
        if len({spelled[name] for spelled in fields.values()}) > 1
    ]
    for variant, runs in members.items():
        one = OneCell(study, runs)
        cells = [one.cells(split)[key] for split in splits]
        differs = {name: fields[variant][name] for name in differing}
        yield VariantAudit(
            variant,
            differs,
            tuple(_sweeps_of({run.key for run in runs}, asking)),
            _choosing(variant, differing, fields, members, asking),
            tuple(run.id for run in runs),
            cells[0].n,
            cells[0].expected,
            cells[0].learning_rate,
            tuple(number(cell, split) for cell, split in zip(cells, splits, strict=True)),
        )


def _sweeps_of(run_keys: set[int], asking: Sequence[Asking]) -> dict[str, None]:
    return dict.fromkeys(one.sweep for one in asking if one.run_key in run_keys)


def _choosing(
    variant: str,
    differing: Sequence[str],
    fields: Mapping[str, Mapping[str, str]],
    members: Mapping[str, Sequence[RunBrief]],
    asking: Sequence[Asking],
) -> str:
    """`--sweep`, where one asks for these runs alone; else `--where` with what is theirs alone."""
    others = {run.key for name, runs in members.items() if name != variant for run in runs}
    mixed = _sweeps_of(others, asking)
    for sweep in _sweeps_of({run.key for run in members[variant]}, asking):
        if sweep not in mixed:
            return f"--sweep {sweep}"
    conditions = []
    for name in differing:
        values = {one: spelled[name] for one, spelled in fields.items()}
        if values[variant]:
            conditions.append(f"{name}={values[variant]}")
        else:  # `--where` knows no empty value
            conditions.append(f"{name}!={','.join(sorted({v for v in values.values() if v}))}")
    return f"--where '{' '.join(conditions)}'"
