"""`tables:` of a sweep file: what may be declared, how mistakes read, and that no run changes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from conftest import ROOT
from db.errors import SpecError
from orchestrator import sweep as sweeps
from orchestrator import yaml_file
from orchestrator.cli import main
from orchestrator.own_tables import OwnTable, tables_of
from reports.declared import TABLES, Block, Declared

SWEEP = """\
name: s
models: [tiny_vit, tiny_bit]
datasets: [digits, mini_fmow]
methods: [sgd, adamw]
"""


def declared(tables: str) -> tuple[Declared, ...]:
    """The tables of a sweep file, given as they stand under `tables:`."""
    lines = "".join(f"  {line}\n" for line in tables.strip().splitlines())
    return sweeps.loads(f"{SWEEP}tables:\n{lines}", "s.yaml").tables


def test_a_table_with_every_field() -> None:
    (found,) = declared("""
mine:
  title: 50% & more
  columns: datasets
  splits: [id, ood, id_test]
  models: [tiny_bit]
  datasets: [mini_fmow, digits]
  methods: [adamw, sgd]
  baseline: adamw
  intervals: false
  bold: false
  within: 0.5
  average: false
  note: Mind the gap.
""")

    assert found == Declared(
        name="mine",
        title="50% & more",
        splits=("id", "ood", "id_test"),
        models=("tiny_bit",),
        datasets=("mini_fmow", "digits"),
        methods=("adamw", "sgd"),
        baseline="adamw",
        intervals=False,
        bold=False,
        within=0.5,
        average=False,
        note="Mind the gap.",
    )


def test_a_table_of_nothing_but_its_name_is_ood_of_everything() -> None:
    assert declared("mine: {}") == (Declared(name="mine", title="mine: OOD accuracy (%)"),)
    assert declared("mine:") == declared("mine: {}")


def test_blocks_and_no_baseline() -> None:
    (found,) = declared("""
mine:
  baseline: null
  blocks:
    - {models: [tiny_vit, tiny_bit], methods: [sgd]}
    - {models: [tiny_bit], methods: [adamw]}
""")

    assert found.baseline is None
    assert found.blocks == (
        Block(models=("tiny_vit", "tiny_bit"), methods=("sgd",)),
        Block(models=("tiny_bit",), methods=("adamw",)),
    )


def test_a_summary_shows_both_splits_unless_told() -> None:
    both, one = declared("a: {columns: summary}\nb: {columns: summary, splits: [ood]}")

    assert both.splits == ("id", "ood")
    assert one.splits == ("ood",)


def test_tables_change_no_run() -> None:
    plain = sweeps.loads(SWEEP, "s.yaml")
    with_tables = sweeps.loads(SWEEP + "tables:\n  mine: {}\n", "s.yaml")

    assert [p.run.id for p in plain.planned] == [p.run.id for p in with_tables.planned]
    assert plain.planned == with_tables.planned
    assert plain.tables == ()


def test_tables_stand_beside_grids() -> None:
    text = (
        "name: s\nmethods: [sgd]\ndatasets: [digits]\ngrids:\n  - models: [tiny_vit]\n"
        "  - models: [tiny_bit]\ntables:\n  mine: {models: [tiny_bit, tiny_vit]}\n"
    )

    assert sweeps.loads(text, "s.yaml").tables[0].models == ("tiny_bit", "tiny_vit")
    inside = text.replace("tables:\n  mine:", "    tables:\n      mine:")
    with pytest.raises(SpecError, match="belongs at the top of the file; move it there"):
        sweeps.loads(inside, "s.yaml")


def test_a_stored_text_is_read_without_its_plugins_names() -> None:
    """The store's text was checked when it was launched; a report may lack the plugin."""
    text = "name: s\nmodels: [mine]\ntables:\n  t: {models: [mine]}\n"

    assert tables_of(yaml_file.parse(text, "sweep s"))[0].models == ("mine",)
    assert tables_of(yaml_file.parse("name: s\n", "sweep s")) == ()


class Bad(NamedTuple):
    """What stands under `tables:`, and where and how that is answered."""

    tables: str
    line: int
    said: str


BAD = {
    "unknown field": Bad(
        "t: {colums: models}", 6, 't.colums: unknown field; did you mean "columns"?'
    ),
    "no table": Bad("t: 3", 6, "t: must be `field: value` pairs, not 3"),
    "name": Bad("two words: {}", 6, "letters, digits, . _ - only"),
    "the paper's name": Bad("ood: {}", 6, "is one of the paper's tables; call it something else"),
    "the paper's number": Bad("'7': {}", 6, "is one of the paper's tables; call it something else"),
    "model": Bad("t:\n  models: [tiny_vti]", 7, 't.models[0]: "tiny_vti" is not one of the file\'s '
                 'models; did you mean "tiny_vit"?'),
    "dataset": Bad("t: {datasets: [digitz]}", 6, 'did you mean "digits"?'),
    "method": Bad("t: {methods: [sgdd]}", 6, 'did you mean "sgd"?'),
    "method of another file": Bad("t: {methods: [lamb]}", 6, "one of the file's methods"),
    "baseline": Bad("t: {baseline: adam}", 6, 'did you mean "adamw"?'),
    "split": Bad("t: {splits: [odd]}", 6, 'none of its datasets has a split "odd"; did you mean'),
    "split of another dataset": Bad(
        "t: {datasets: [digits], splits: [id_test]}", 6, 'has a split "id_test"'
    ),
    "twice": Bad("t: {methods: [sgd, sgd]}", 6, "'sgd' is listed twice; keep one of them"),
    "no splits": Bad("t: {splits: []}", 6, "is empty; give at least one"),
    "a word for a list": Bad("t: {methods: sgd}", 6, "must be a list, such as [sgd]"),
    "a word for a truth": Bad("t: {bold: maybe}", 6, "t.bold: "),
    "columns": Bad("t: {columns: rows}", 6, "'rows' is not one of 'datasets', 'models' or"),
    "within": Bad("t: {within: -1}", 6, "-1 is too small; give at least 0"),
    "blocks and models": Bad(
        "t:\n  models: [tiny_vit]\n  blocks:\n    - {models: [tiny_vit], methods: [sgd]}", 8,
        "t.blocks: stands beside `models` or `methods`; keep one of the two",
    ),
    "blocks of a summary": Bad(
        "t:\n  columns: summary\n  blocks:\n    - {models: [tiny_vit], methods: [sgd]}", 8,
        "t.blocks: is for columns of datasets, not of summary",
    ),
    "in a block": Bad(
        "t:\n  blocks:\n    - {models: [tiny_vit], methods: [sgdd]}", 8,
        't.blocks[0].methods[0]: "sgdd" is not one',
    ),
    "block without methods": Bad(
        "t:\n  blocks:\n    - {models: [tiny_vit]}", 8, "t.blocks[0].methods: is missing; add it"
    ),
    "models of two datasets": Bad("t: {columns: models}", 6, "is about one dataset; name one of"),
    "models of two splits": Bad(
        "t: {columns: models, datasets: [digits], splits: [id, ood]}", 6, "keep one"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_with_its_line_field_and_remedy(name: str, tmp_path: Path) -> None:
    bad = BAD[name]
    path = tmp_path / "s.yaml"
    lines = "".join(f"  {line}\n" for line in bad.tables.splitlines())
    path.write_text(f"{SWEEP}tables:\n{lines}")

    result = CliRunner().invoke(main, ["--store", str(tmp_path / "x.db"), "plan", str(path)])

    assert result.exit_code == 2, result.output
    assert bad.said in result.stderr
    assert f"{path}:{bad.line}: tables." in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("tables", ["tables: [a]", "tables: 3", "tables:"])
def test_tables_are_pairs(tables: str) -> None:
    with pytest.raises(SpecError, match=r"s\.yaml:5: tables: must be `name: "):
        sweeps.loads(f"{SWEEP}{tables}\n", "s.yaml")


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        declared("a: {bold: 1}\nood: {}\nb: {methods: [sgdd], models: [x]}")

    assert len(str(caught.value).splitlines()) == 4


GUIDE = (ROOT / "docs" / "tables.md").read_text()


def test_the_guide_has_every_field_and_every_table() -> None:
    for field in OwnTable.model_fields:
        assert f"| `{field}` |" in GUIDE
    for name in TABLES:
        assert f"`{name}`" in GUIDE


def test_the_guides_sweep_is_a_sweep() -> None:
    text = GUIDE.split("```yaml\n")[1].split("```")[0]

    assert [t.name for t in sweeps.loads(text, "guide").tables] == [
        "freezing",
        "digits",
        "by_method",
    ]
