"""Tables from a study: which rows and columns a declared table has, filled with its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from db.errors import ReportError
from db.records import RunBrief
from reports.declared import (
    AVERAGE,
    LABELLED,
    NEAR_BEST,
    PRIOR,
    PRIOR_RESULTS,
    SPLIT_TITLES,
    TABLES,
    Declared,
    find,
)
from reports.entries import (
    DASH,
    Column,
    Entry,
    Labels,
    Line,
    Row,
    Table,
    average,
    block_of,
    nothing,
)
from reports.select import Cell, Key
from reports.study import KINDS, Study

__all__ = [
    "AVERAGE",
    "NEAR_BEST",
    "TABLES",
    "Column",
    "Declared",
    "Entry",
    "Labels",
    "NoRuns",
    "Row",
    "Table",
    "build",
    "find",
]

Cells = Mapping[str, Mapping[Key, Cell]]
"""The cells of a study, by split."""


class NoRuns(ReportError):
    """The study has no run that the table is about, or none with the split that it shows."""


def build(declared: Declared, study: Study, labels: Labels | None = None) -> Table:
    """Fill a declared table from a study.

    Raises `NoRuns` where the study has none of its runs, and `ReportError` where none of them can
    have a number any more, or where a cell mixes variants.
    """
    if declared.kind not in KINDS or (declared.exact and not study.runs):
        raise _no_runs(declared)
    if not study.runs:
        raise NoRuns(
            "there is no run to report on: widen --sweep or --where, or train some with "
            "`orch launch`."
        )
    _refuse_failures(declared, study.runs)
    cells = {split: study.cells(split) for split in declared.splits}
    made = _LAYOUTS[declared.layout](declared, cells, labels or Labels())
    if all(entry.cell.value is None for entry in made.entries if entry.column != AVERAGE):
        keys = {(e.cell.model, e.cell.dataset, e.cell.method) for e in made.entries}
        _refuse_failures(declared, [run for run in study.runs if run.cell in keys])
    return replace(made, rule=study.rule, partial=study.partial, sweep=_sweep(study))


def _sweep(study: Study) -> str | None:
    """The sweep that the runs are of, where it is one."""
    if study.sweep is None and len(sweeps := study.reader.sweeps()) == 1:
        return sweeps[0].name
    return study.sweep


def _no_runs(declared: Declared) -> NoRuns:
    what = f"Table {declared.published} ({declared.name})" if declared.published else declared.name
    if not declared.command:
        return NoRuns(f"there are no runs yet for the table {what}: widen --sweep or --where.")
    if declared.lacks:
        return NoRuns(
            f"there are no runs yet for {what}: `{declared.command}` will make them, with "
            f"{declared.lacks} that this version of orch does not have."
        )
    return NoRuns(f"there are no runs yet for {what}: `{declared.command}` makes them.")


def _refuse_failures(declared: Declared, runs: Iterable[RunBrief]) -> None:
    """Dashes alone, because every run failed, are no table."""
    states = Counter(run.state for run in runs)
    if not states or set(states) - {"failed", "cancelled", "voided"}:
        return
    told = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    raise ReportError(
        f"no run that the table {declared.name} is about has numbers ({told}): `orch status` says "
        "why, `orch runs retry` makes them pending again."
    )


def _ordered(names: Iterable[str], order: Mapping[str, str]) -> list[str]:
    places = {name: place for place, name in enumerate(order)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


# A column a dataset: rows of models and methods


def _datasets(declared: Declared, cells: Cells, labels: Labels) -> Table:
    known = cells[declared.splits[0]]
    blocks = _blocks(declared, known, labels)
    rows = {pair for block in blocks for pair in block}
    datasets = declared.datasets or _shown(declared, cells, rows, labels)
    if not any((model, d, method) in known for model, method in rows for d in datasets):
        raise _no_runs(declared)

    def numbers(model: str, method: str) -> tuple[tuple[str, Cell], ...]:
        keys = [(model, dataset, method) for dataset in datasets]
        found = [[cells[s].get(key) or nothing(*key) for s in declared.splits] for key in keys]
        if declared.average:
            found.append([average(column) for column in zip(*found, strict=True)])
        return tuple(pair for row in found for pair in zip(declared.splits, row, strict=True))

    models = {labels.models.get(model, model) for model, _ in rows}
    named = len(models) == 1 and models.pop() in declared.title  # of one model: once is enough

    def line(model: str, method: str) -> Line:
        heads = (labels.models.get(model, model), labels.methods.get(method, method))[named:]
        if declared.baseline in (None, method):
            return Line(heads, numbers(model, method))
        base = tuple(cell for _, cell in numbers(model, str(declared.baseline)))
        return Line(heads, numbers(model, method), base)

    titles = [labels.datasets.get(dataset, dataset) for dataset in datasets]
    columns = tuple(
        Column(title, s, SPLIT_TITLES.get(s, s) if len(declared.splits) > 1 else "")
        for title in (*titles, *(["Avg."] if declared.average else []))
        for s in declared.splits
    )
    made = [
        row
        for number, block in enumerate(blocks)
        for row in block_of(declared, [line(*pair) for pair in block], number)
    ]
    return Table(declared, ("Model", "Method")[named:], columns, tuple(made), labels)


def _blocks(
    declared: Declared, known: Mapping[Key, Cell], labels: Labels
) -> list[list[tuple[str, str]]]:
    """The rows as (model, method), block by block; those that there are where none is declared."""
    if declared.blocks:
        return [[(m, how) for m in b.models for how in b.methods] for b in declared.blocks]
    there = {(model, method) for model, _, method in known}
    models = declared.models or _ordered({model for model, _ in there}, labels.models)
    methods = declared.methods or _ordered({method for _, method in there}, labels.methods)
    fixed = bool(declared.models and declared.methods)
    found = [[(m, how) for how in methods if fixed or (m, how) in there] for m in models]
    return [block for block in found if block]


def _shown(
    declared: Declared, cells: Cells, rows: set[tuple[str, str]], labels: Labels
) -> list[str]:
    """The datasets of the rows, but for those of whose finished runs none has such a split."""
    lacking: dict[str, bool] = {}
    reasons: set[str] = set()
    for split in declared.splits:
        for (model, dataset, method), cell in cells[split].items():
            if (model, method) in rows:
                empty = cell.value is None and not cell.partial
                lacking[dataset] = lacking.get(dataset, True) and empty
                reasons.add(cell.reason)
    shown = [dataset for dataset, lacks in lacking.items() if not lacks]
    if lacking and not shown:
        none = f"no finished run has a value of the split {' or '.join(declared.splits)}"
        raise NoRuns(
            f"{(len(reasons) == 1 and reasons.pop()) or none}: "
            "`evaluate:` in the sweep file says which splits its runs evaluate."
        )
    return _ordered(shown, labels.datasets)


# A column a model: rows of methods, for one dataset (Tables 4 and 6)


def _models(declared: Declared, cells: Cells, labels: Labels) -> Table:
    split = declared.splits[0]
    known = cells[split]
    datasets = declared.datasets or tuple({dataset: None for _, dataset, _ in known})
    if len(datasets) > 1:
        raise ReportError(
            f"the table {declared.name} has a column a model, so it is about one dataset; name it "
            "in `datasets`, or with --where dataset=…"
        )
    there = {(model, method) for model, dataset, method in known if dataset == datasets[0]}
    models = declared.models or _ordered({model for model, _ in there}, labels.models)
    methods = declared.methods or _ordered({method for _, method in there}, labels.methods)
    if not there & {(model, method) for model in models for method in methods}:
        raise _no_runs(declared)

    def numbers(method: str) -> tuple[Cell, ...]:
        keys = [(model, datasets[0], method) for model in models]
        return tuple(known.get(key) or nothing(*key) for key in keys)

    base = numbers(declared.baseline) if declared.baseline else None
    lines = [
        Line(
            (labels.methods.get(method, method),),
            tuple((split, cell) for cell in numbers(method)),
            None if method == declared.baseline else base,
        )
        for method in methods
    ]
    columns = tuple(Column(labels.models.get(model, model), split) for model in models)
    rows = tuple(block_of(declared, lines, 0))
    title = labels.datasets.get(datasets[0], datasets[0])
    notes = () if title in declared.title else (f"On {title}.",)
    return Table(declared, ("Method",), columns, rows, labels, notes)


# Averages over models and datasets (Figure 1b)


def _summary(declared: Declared, cells: Cells, labels: Labels) -> Table:
    known = {key: cell for key, cell in cells[declared.splits[0]].items() if _about(declared, key)}
    if not known:
        raise _no_runs(declared)
    scored: dict[str, set[tuple[str, str]]] = {}
    for model, dataset, method in known:
        key = model, dataset, method
        if all(cells[split][key].value is not None for split in declared.splits):
            scored.setdefault(method, set()).add((model, dataset))
    first = [method for method in declared.over if method in scored] or list(scored)
    common = sorted(set.intersection(*(scored[method] for method in first))) if first else []
    if not common:
        names = ", ".join(_ordered(first, labels.methods)) or "that were asked for"
        raise ReportError(
            "there is no model and dataset yet for which all of the methods "
            f"{names} have their numbers; --where 'method=…' can leave some out."
        )
    # Other methods join where they do not shrink what is averaged over.
    methods = _ordered((m for m in scored if scored[m] >= set(common)), labels.methods)

    def means(method: str) -> tuple[Cell, ...]:
        found = [[cells[s][model, dataset, method] for model, dataset in common] for s in
                 declared.splits]  # fmt: skip
        return tuple(replace(average(column), model=AVERAGE) for column in found)

    base = means(declared.baseline) if declared.baseline in methods else None
    lines = [
        Line(
            (labels.methods.get(method, method),),
            tuple(zip(declared.splits, means(method), strict=True)),
            None if method == declared.baseline else base,
        )
        for method in methods
    ]
    asked = len({(model, dataset) for model, dataset, _ in known})
    rows = tuple(
        replace(row, entries=tuple(_of(entry, asked) for entry in row))
        for row in block_of(declared, lines, 0)
    )
    notes = [
        f"Means over the {len(common)} of {asked} pairs of model and dataset for which all of "
        "these methods have their numbers."
    ]
    if left := _ordered({method for _, _, method in known} - set(methods), labels.methods):
        names = ", ".join(labels.methods.get(method, method) for method in left)
        notes.append(f"Left out, as they lack some of those: {names}.")
    columns = tuple(Column(SPLIT_TITLES.get(s, s), s) for s in declared.splits)
    return Table(declared, ("Method",), columns, rows, labels, tuple(notes))


def _about(declared: Declared, key: Key) -> bool:
    """Whether a summary is about a cell."""
    wanted = declared.models, declared.datasets, declared.methods
    return all(not names or name in names for name, names in zip(key, wanted, strict=True))


def _of(entry: Entry, asked: int) -> Entry:
    """A mean that counts what is missing from it, too."""
    return replace(entry, cell=replace(entry.cell, expected=asked))


# The best of our cells against prior results (Table 3)


def _sota(declared: Declared, cells: Cells, labels: Labels) -> Table:
    split = declared.splits[0]
    prior = [
        replace(nothing("", d, PRIOR), metric="accuracy", value=PRIOR_RESULTS.get(d))
        for d in declared.datasets
    ]
    best = [_best(declared, cells[split], dataset) for dataset in declared.datasets]
    if not any(cell.expected for cell in best):
        raise _no_runs(declared)
    lines = [
        Line((title,), tuple((split, cell) for cell in found))
        for title, found in (
            (labels.methods.get(PRIOR, PRIOR), prior),
            ("Best result here", best),
        )
    ]

    def words(title: str, say: Callable[[Cell], str]) -> Row:
        entries = (
            Entry(
                cell.model, cell.method, cell.dataset, split, cell, text=say(cell), interval=False
            )
            for cell in best
        )
        return Row((title,), tuple(entries), 1)

    rows = (
        *block_of(declared, lines, 0),
        words("its model", lambda cell: labels.models.get(cell.model, cell.model) or DASH),
        words("its method", lambda cell: labels.methods.get(cell.method, cell.method) or DASH),
    )
    columns = tuple(Column(labels.datasets.get(d, d), split) for d in declared.datasets)
    return Table(declared, ("",), columns, rows, labels)


def _best(declared: Declared, known: Mapping[Key, Cell], dataset: str) -> Cell:
    """The cell of a dataset with the highest value; complete ones come first."""
    models = [m for m in declared.models if dataset != "living17" or m not in LABELLED]
    keys = [(model, dataset, method) for model in models for method in declared.methods]
    compete = [known[key] for key in keys if key in known]
    if not any(cell.value is not None for cell in compete):
        counted = sum(cell.n for cell in compete), sum(cell.expected for cell in compete)
        return replace(nothing("", dataset, ""), n=counted[0], expected=counted[1])
    return max(compete, key=lambda c: (not c.partial, c.value is not None, c.value or 0.0))


_LAYOUTS: Mapping[str, Callable[[Declared, Cells, Labels], Table]] = {
    "datasets": _datasets,
    "models": _models,
    "summary": _summary,
    "sota": _sota,
}
