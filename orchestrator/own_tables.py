"""`tables:` of a sweep file: tables of the user's own, declared as the paper's are.

A table changes no run and no run's id: it says which rows and columns `orch report` shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from db.errors import SpecError
from orchestrator import yaml_file
from orchestrator.listed import unique
from orchestrator.spec import Block, Strict, is_name, sentence
from reports import declared
from worker.catalog import nearest
from worker.data import DATASETS

Names = Annotated[list[str], AfterValidator(unique)]
AtLeastOne = Annotated[list[str], Field(min_length=1), AfterValidator(unique)]


class Rows(Strict):
    """Rows among which the best is bold: every model with every method."""

    models: AtLeastOne
    methods: AtLeastOne


class OwnTable(Strict):
    """One table; a list that is left out, or empty, stands for whatever the sweep has."""

    title: str | None = None
    """None: its name and what it shows."""
    columns: Literal["datasets", "models", "summary"] = "datasets"
    """A column a dataset, with their average; a column a model, for one dataset; or ID and OOD
    averaged over the models and datasets that all methods have."""
    splits: AtLeastOne = Field(default_factory=lambda: ["ood"])
    """Which splits are shown: each dataset has a column for each. A summary's default: both."""
    models: Names = Field(default_factory=list)
    datasets: Names = Field(default_factory=list)
    methods: Names = Field(default_factory=list)
    blocks: list[Rows] = Field(default_factory=list)
    """Rows in other blocks than one a model."""
    baseline: str | None = "sgd"
    """The method that deltas are against, for the same model; `null`: no deltas."""
    intervals: bool = True
    """Whether 90% intervals over seeds are printed, and decide what is bold."""
    bold: bool = True
    within: Annotated[float, Field(ge=0, allow_inf_nan=False)] = declared.NEAR_BEST
    """Points from the best of its block that are bold too."""
    average: bool = True
    note: str = ""
    """Printed under the table."""

    def declared(self, name: str) -> declared.Declared:
        """The table as reports read it."""
        both = self.columns == "summary" and "splits" not in self.model_fields_set
        splits = ("id", "ood") if both else tuple(self.splits)
        shown = " and ".join(declared.SPLIT_TITLES.get(split, split) for split in splits)
        return declared.Declared(
            name=name,
            title=self.title or f"{name}: {shown} accuracy (%)",
            layout=self.columns,
            splits=splits,
            models=tuple(self.models),
            datasets=tuple(self.datasets),
            methods=tuple(self.methods),
            blocks=tuple(
                declared.Block(models=tuple(b.models), methods=tuple(b.methods))
                for b in self.blocks
            ),
            baseline=self.baseline,
            intervals=self.intervals,
            bold=self.bold,
            within=self.within,
            average=self.average,
            note=self.note,
        )


def tables_of(
    file: yaml_file.YamlFile, blocks: Sequence[Block] | None = None
) -> tuple[declared.Declared, ...]:
    """The tables that a file declares, in its order.

    Names are held against those of the file's `blocks`, where they are given. Raises `SpecError`
    with every complaint, one a line.
    """
    given = file.values.get("tables", {}) if isinstance(file.values, dict) else {}
    if not isinstance(given, dict):
        raise SpecError(file.problem(("tables",), "must be `name: {field: value}` pairs"))
    found: dict[str, OwnTable] = {}
    problems: list[str] = []
    for name, fields in given.items():
        if (wrong := _name_problem(name)) is not None:
            problems.append(file.problem(("tables", name), wrong))
        try:
            found[name] = OwnTable.model_validate(fields or {})
        except ValidationError as error:
            problems += _explain(file, name, error)
    for name, table in found.items():
        problems += _contradictions(file, name, table)
        if blocks is not None:
            problems += _strangers(file, name, table, blocks)
    if problems:
        raise SpecError("\n".join(dict.fromkeys(problems)))
    return tuple(table.declared(name) for name, table in found.items())


def _name_problem(name: str) -> str | None:
    if not is_name(name):
        return "a table's name has letters, digits, . _ - only"
    if name in declared.TABLES or name.isdecimal():
        return "is one of the paper's tables; call it something else"
    return None


def _explain(file: yaml_file.YamlFile, name: str, error: ValidationError) -> Iterator[str]:
    """Pydantic's findings as sentences where the field stands."""
    for found in error.errors():
        fields = Rows.model_fields if "blocks" in found["loc"] else OwnTable.model_fields
        yield file.problem(("tables", name, *found["loc"]), sentence(found, fields))


def _contradictions(file: yaml_file.YamlFile, name: str, table: OwnTable) -> Iterator[str]:
    """Fields that cannot both be meant."""
    if table.blocks and (table.models or table.methods):
        yield file.problem(
            ("tables", name, "blocks"), "stands beside `models` or `methods`; keep one of the two"
        )
    if table.blocks and table.columns != "datasets":
        yield file.problem(
            ("tables", name, "blocks"), f"is for columns of datasets, not of {table.columns}"
        )
    if table.columns == "models" and len(table.splits) > 1:
        yield file.problem(
            ("tables", name, "splits"), "has several, and a column a model shows one; keep one"
        )


def _strangers(
    file: yaml_file.YamlFile, name: str, table: OwnTable, blocks: Sequence[Block]
) -> Iterator[str]:
    """Names of which the file asks for no run, and splits that none of its datasets has."""
    known: Mapping[str, list[str]] = {
        field: list(dict.fromkeys(n for block in blocks for n in getattr(block, field)))
        for field in ("models", "datasets", "methods")
    }
    for place, field, names in _named(table):
        for index, given in enumerate(names):
            if given not in known[field]:
                yield file.problem(
                    ("tables", name, *place, index),
                    f'"{given}" is not one of the file\'s {field}; {nearest(given, known[field])}',
                )
    base = table.baseline if "baseline" in table.model_fields_set else None
    if base is not None and base not in known["methods"]:
        yield file.problem(
            ("tables", name, "baseline"),
            f'"{base}" is not one of the file\'s methods; {nearest(base, known["methods"])}',
        )
    datasets = [d for d in table.datasets if d in known["datasets"]] or known["datasets"]
    splits = list(dict.fromkeys(split.name for d in datasets for split in DATASETS[d].splits))
    for index, split in enumerate(table.splits):
        if split not in splits:
            yield file.problem(
                ("tables", name, "splits", index),
                f'none of its datasets has a split "{split}"; {nearest(split, splits)}',
            )
    if table.columns == "models" and len(datasets) > 1:
        yield file.problem(
            ("tables", name, "datasets"),
            f"a column a model is about one dataset; name one of {', '.join(datasets)}",
        )


def _named(table: OwnTable) -> Iterator[tuple[tuple[Any, ...], str, Iterable[str]]]:
    """Every list of names in a table: where it stands, what it names, the names."""
    for field in ("models", "datasets", "methods"):
        yield (field,), field, getattr(table, field)
    for index, rows in enumerate(table.blocks):
        yield ("blocks", index, "models"), "models", rows.models
        yield ("blocks", index, "methods"), "methods", rows.methods
