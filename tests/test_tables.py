"""The typography of tables (PROTOCOL, section 4), on cells made by hand, in every rendering."""

import csv
import io
import json
import math
import re
from typing import Any

import pytest

from db.errors import ReportError
from reports import render, tables
from reports.select import Cell
from reports.tables import AVERAGE, TABLES, Entry, Labels, Table

LABELS = Labels(
    models={"vit": "Sup ViT-B/16", "bit": "BiT ResNet-50"},
    datasets={"living17": "Living-17", "fmow": "FMoW"},
    methods={"sgd": "SGD", "adamw": "AdamW", "freeze": "SGD (freeze-embed)"},
)
COLUMNS = [
    "table", "model", "method", "dataset", "metric", "value", "shown", "ci90", "delta", "bold",
    "learning_rate", "n", "expected", "edge",
]  # fmt: skip


def cell(method: str, value: float | None, dataset: str = "living17", **others: Any) -> Cell:
    """A finished cell of one run a rate."""
    given = {"model": "vit", "metric": "accuracy", "n": 6, "expected": 6, "learning_rate": 1e-3}
    return Cell(method=method, dataset=dataset, value=value, **{**given, **others})


def table(*cells: Cell, name: str = "ood") -> Table:
    """The table of some cells."""
    by_key = {(c.model, c.dataset, c.method): c for c in cells}
    assert len(by_key) == len(cells)
    return tables.build(TABLES[name], by_key, LABELS)


def entries(made: Table) -> dict[tuple[str, str, str], Entry]:
    """Entries by (model, method, column)."""
    return {(e.model, e.method, e.column): e for row in made.rows for e in row}


def bold(*cells: Cell) -> set[str]:
    """The methods that are bold in the first column."""
    made = table(*cells)
    return {e.method for row in made.rows for e in row if e.bold and e.column == made.columns[0]}


def delta(value: float, baseline: float) -> float:
    """The printed delta against SGD."""
    found = entries(table(cell("sgd", baseline), cell("adamw", value)))["vit", "adamw", "living17"]
    assert found.delta is not None
    return found.delta


def plain(text: str) -> list[list[str]]:
    """The rows of a text table, cell by cell, from the header to the last."""
    grid = text.split("\n\n")[1:-1]
    lines = [line for block in grid for line in block.splitlines() if "─" not in line]
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


# Bold


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sgd": 70.0, "adamw": 75.0, "freeze": 74.9}, {"adamw", "freeze"}),
        ({"sgd": 70.0, "adamw": 75.0, "freeze": 74.8}, {"adamw", "freeze"}),
        ({"sgd": 70.0, "adamw": 75.0, "freeze": 74.79}, {"adamw"}),  # printed 74.8 all the same
        ({"sgd": 70.0, "adamw": 75.04, "freeze": 74.85}, {"adamw", "freeze"}),
        ({"sgd": 75.0, "adamw": 75.0, "freeze": 75.0}, {"sgd", "adamw", "freeze"}),
        ({"sgd": 70.0}, {"sgd"}),
        ({"sgd": 0.0, "adamw": 0.1}, {"sgd", "adamw"}),
    ],
)
def test_bold_is_within_two_tenths_of_the_best_before_rounding(
    values: dict[str, float], expected: set[str]
) -> None:
    assert bold(*(cell(method, value) for method, value in values.items())) == expected


@pytest.mark.parametrize(
    ("best", "other", "expected"),
    [
        ((75.0, 1.0), (74.1, 0.3), {"adamw", "sgd"}),
        ((75.0, 0.3), (74.1, 1.0), {"adamw", "sgd"}),
        ((75.0, 0.3), (74.1, 0.3), {"adamw"}),
        ((75.0, 0.05), (74.9, 0.05), {"adamw"}),  # intervals below 0.2 are the rule, not 0.2
        ((75.0, 0.05), (74.9, None), {"adamw", "sgd"}),  # a missing one counts as 0.2
        ((75.0, None), (74.9, 0.05), {"adamw", "sgd"}),
        ((75.0, 0.5), (74.6, None), {"adamw", "sgd"}),
        ((75.0, 0.0), (75.0, 0.0), {"adamw", "sgd"}),
    ],
)
def test_intervals_decide_what_is_near_the_best(
    best: tuple[float, float | None], other: tuple[float, float | None], expected: set[str]
) -> None:
    found = bold(cell("adamw", best[0], ci90=best[1]), cell("sgd", other[0], ci90=other[1]))

    assert found == expected


def test_bold_is_decided_within_a_model_and_a_column() -> None:
    made = table(
        cell("sgd", 60.0),
        cell("sgd", 90.0, "fmow"),
        cell("adamw", 70.0),
        cell("adamw", 50.0, "fmow"),
        cell("sgd", 10.0, model="bit"),
    )

    assert {key for key, entry in entries(made).items() if entry.bold} == {
        ("vit", "adamw", "living17"),
        ("vit", "sgd", "fmow"),
        ("vit", "sgd", AVERAGE),
        ("bit", "sgd", "living17"),
    }


# Partial and missing


def test_a_partial_cell_is_marked_is_never_bold_and_does_not_compete() -> None:
    cells = cell("sgd", 70.0), cell("adamw", 99.0, n=5), cell("freeze", 69.9)

    made = table(*cells)

    assert bold(*cells) == {"sgd", "freeze"}
    assert "99.0 (+29.0) (5/6)" in render.text(made)
    assert "99.0*" not in render.text(made)


def test_nothing_is_bold_where_every_cell_is_partial() -> None:
    assert bold(cell("sgd", 70.0, n=5), cell("adamw", 71.0, n=1)) == set()


def test_a_cell_without_a_value_is_a_dash_with_its_count() -> None:
    made = table(cell("sgd", None, n=2), cell("adamw", 70.0))

    found = entries(made)["vit", "sgd", "living17"]
    assert (found.shown, found.bold, found.delta) == ("—", False, None)
    assert "— (2/6)" in render.text(made)


def test_a_cell_that_nobody_asked_for_is_a_dash() -> None:
    made = table(cell("sgd", 70.0), cell("sgd", 80.0, "fmow"), cell("adamw", 75.0))

    found = entries(made)["vit", "adamw", "fmow"]
    assert (found.shown, found.bold, found.delta) == ("—", False, None)
    assert plain(render.text(made))[-1] == ["AdamW", "75.0* (+5.0)", "—", "75.0 (1/2)"]


def test_methods_that_a_model_never_has_are_no_row() -> None:
    made = table(cell("sgd", 70.0), cell("adamw", 75.0), cell("sgd", 60.0, model="bit"))

    assert [(row[0].model, row[0].method) for row in made.rows] == [
        ("vit", "sgd"),
        ("vit", "adamw"),
        ("bit", "sgd"),
    ]


# Averages


def test_an_average_is_of_the_unrounded_columns() -> None:
    made = table(cell("sgd", 70.04), cell("sgd", 70.04, "fmow"), cell("sgd", 70.09, "digits"))

    average = entries(made)["vit", "sgd", AVERAGE]
    assert average.cell.value == pytest.approx(210.17 / 3)
    assert average.shown == "70.1"  # of 70.0, 70.0 and 70.1 it would be 70.0
    assert not average.cell.partial


@pytest.mark.parametrize(
    "second",
    [None, cell("adamw", None, "fmow", n=3), cell("adamw", 72.0, "fmow", n=5)],
    ids=["missing", "without a value", "partial"],
)
def test_an_average_of_less_than_all_columns_says_so_and_is_compared_with_none(
    second: Cell | None,
) -> None:
    whole = cell("sgd", 60.0), cell("sgd", 62.0, "fmow"), cell("adamw", 70.0)

    made = table(*whole, *([second] if second else []))

    average = entries(made)["vit", "adamw", AVERAGE]
    value = 71.0 if second and second.value else 70.0
    assert (average.cell.value, average.delta, average.gain, average.bold) == (
        value,
        None,
        None,
        False,
    )
    assert plain(render.text(made))[-1][-1] == f"{value} (1/2)"
    assert entries(made)["vit", "sgd", AVERAGE].bold


def test_an_average_is_not_compared_with_a_baseline_of_fewer_columns() -> None:
    made = table(cell("sgd", 60.0), cell("adamw", 70.0), cell("adamw", 72.0, "fmow"))

    assert entries(made)["vit", "adamw", AVERAGE].delta is None
    assert entries(made)["vit", "adamw", "living17"].delta == 10.0


def test_an_average_of_nothing_is_a_dash() -> None:
    assert entries(table(cell("sgd", None, n=0)))["vit", "sgd", AVERAGE].shown == "—"


# Deltas


@pytest.mark.parametrize(
    ("value", "baseline", "expected"),
    [
        (75.0, 70.0, 5.0),
        (70.0, 75.0, -5.0),
        (70.06, 70.04, 0.1),  # 70.1 − 70.0, though the gain is 0.02
        (70.14, 70.06, 0.0),
        (0.3, 0.1, 0.2),
        (76.3, 76.1, 0.2),
    ],
)
def test_a_delta_is_the_difference_of_what_is_printed(
    value: float, baseline: float, expected: float
) -> None:
    found = delta(value, baseline)

    assert found == expected
    assert f"{found:+.1f}" == f"{expected:+.1f}"


def test_a_loss_too_small_to_print_keeps_its_sign() -> None:
    assert math.copysign(1, delta(70.01, 70.04)) == -1
    assert math.copysign(1, delta(70.04, 70.01)) == 1
    assert math.copysign(1, delta(70.0, 70.0)) == 1

    made = table(cell("sgd", 70.04), cell("adamw", 70.01))

    assert "(-0.0)" in render.text(made)
    assert "(-0.0)" in render.markdown(made)
    assert '"delta": -0.0' in render.as_json([made])
    assert ",-0.0," in render.as_csv([made])


def test_the_baseline_and_a_model_without_one_have_no_deltas() -> None:
    made = table(cell("sgd", 70.0), cell("adamw", 71.0), cell("adamw", 72.0, model="bit"))

    deltas = {(e.model, e.method): e.delta for e in entries(made).values() if e.column != AVERAGE}
    assert deltas == {("vit", "sgd"): None, ("vit", "adamw"): 1.0, ("bit", "adamw"): None}


@pytest.mark.parametrize(
    ("value", "code"),
    [(70.2, "32"), (70.19, "92"), (70.0, "92"), (69.99, "91"), (69.76, "91"), (69.7, "31")],
)
def test_the_papers_four_colours(value: float, code: str) -> None:
    """Dark and light green by the unrounded gain, light and dark red by the rounded loss."""
    made = table(cell("sgd", 70.0), cell("adamw", value), cell("freeze", 90.0))

    line = next(x for x in render.text(made, colour=True).splitlines() if x.startswith(" " * 14))
    assert f"\x1b[{code}m{value:.1f}" in line


def test_colour_changes_no_letter() -> None:
    made = table(cell("sgd", 70.0), cell("adamw", 75.0), cell("freeze", None, n=0))

    coloured = render.text(made, colour=True)
    bare = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert coloured != bare
    assert [x.rstrip() for x in bare.splitlines()] == render.text(made).splitlines()
    assert "\x1b" not in render.text(made)


# Renderings


@pytest.fixture
def rich() -> Table:
    """Two models, with every mark there is."""
    return table(
        cell("sgd", 70.04, ci90=0.3, edge="low"),
        cell("sgd", 60.0, "fmow", diverged=True),
        cell("adamw", 75.25, ci90=0.45, edge="high"),
        cell("adamw", 61.0, "fmow", n=5),
        cell("freeze", 75.0, edge="high", diverged=True),
        cell("freeze", None, "fmow", n=1, learning_rate=None),
        cell("sgd", 50.0, model="bit"),
    )


def test_a_text_table_reads_like_the_papers(rich: Table) -> None:
    assert render.text(rich).startswith("Out-of-distribution accuracy (%)\n\n")
    assert plain(render.text(rich)) == [
        ["model", "method", "Living-17", "FMoW", "average"],
        ["Sup ViT-B/16", "SGD", "70.0 ±0.3‹", "60.0*!", "65.0*"],
        ["AdamW", "75.2 ±0.5* (+5.2)›", "61.0 (+1.0) (5/6)", "68.1 (1/2)"],
        ["SGD (freeze-embed)", "75.0* (+5.0)›!", "— (1/6)", "75.0 (1/2)"],
        ["BiT ResNet-50", "SGD", "50.0*", "—", "50.0 (1/2)"],
    ]


def test_columns_of_a_text_table_are_aligned(rich: Table) -> None:
    lines = [line for line in render.text(rich).splitlines() if "(+x.x)" not in line]
    rows = [line for line in lines if "SGD" in line or "AdamW" in line]

    header = next(line for line in lines if line.startswith("model"))
    for name in ("method", "Living-17", "FMoW", "average"):
        at = header.index(name)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows)


def test_markdown_says_the_same_as_text(rich: Table) -> None:
    lines = render.markdown(rich).splitlines()
    grid = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    rows = [[re.sub(r"\*\*(.+?)\*\*", r"\1*", part) for part in row] for row in grid]

    assert lines[0] == "**Out-of-distribution accuracy (%)**"
    assert re.fullmatch(r"\|( --- \|){2}( ---: \|){3}", lines[3])
    assert [[part for part in row if part] for row in (rows[0], *rows[2:])] == plain(
        render.text(rich)
    )
    notes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    assert [note.replace("**bold** best", "*  best") for note in notes] == list(render.legend(rich))


def test_csv_has_the_promised_columns_and_one_row_a_cell(rich: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(render.as_csv([rich]))))

    assert render.as_csv([rich]).splitlines()[0] == ",".join(COLUMNS)
    assert len(rows) == 4 * 3
    assert rows[3] == {
        "table": "ood",
        "model": "vit",
        "method": "adamw",
        "dataset": "living17",
        "metric": "accuracy",
        "value": "75.25",
        "shown": "75.2",
        "ci90": "0.45",
        "delta": "5.2",
        "bold": "yes",
        "learning_rate": "0.001",
        "n": "6",
        "expected": "6",
        "edge": "high",
    }
    missing = next(r for r in rows if (r["method"], r["dataset"]) == ("freeze", "fmow"))
    assert (missing["value"], missing["shown"], missing["bold"]) == ("", "—", "no")
    assert (missing["n"], missing["expected"]) == ("1", "6")
    assert [r["dataset"] for r in rows[:3]] == ["living17", "fmow", AVERAGE]


def test_csv_and_json_are_the_same_rows(rich: Table) -> None:
    from_csv = list(csv.DictReader(io.StringIO(render.as_csv([rich]))))
    from_json = json.loads(render.as_json([rich]))

    assert [list(row) for row in from_json] == [COLUMNS] * len(from_csv)
    for one, other in zip(from_csv, from_json, strict=True):
        bold = {"bold": "yes" if other["bold"] else "no"}
        spelled = {k: "" if v is None else str(v) for k, v in {**other, **bold}.items()}
        assert one == spelled


def test_long_rows_agree_with_the_text(rich: Table) -> None:
    printed = [part for row in plain(render.text(rich))[1:] for part in row[-3:]]

    for part, row in zip(printed, json.loads(render.as_json([rich])), strict=True):
        assert part.startswith(row["shown"])
        assert ("*" in part) == row["bold"]
        assert (f"±{row['ci90'] or 0:.1f}" in part) == (row["ci90"] is not None)
        assert (f"({row['delta'] or 0:+.1f})" in part) == (row["delta"] is not None)
        assert (f"({row['n']}/{row['expected']})" in part) == (row["n"] < row["expected"])
        assert {"low": "‹", "high": "›", "": ""}[row["edge"]] in part
        if row["value"] is not None:
            assert f"{row['value']:.1f}" == row["shown"]


# Legend

MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "±": ("± 90% interval", {"ci90": 0.5}),
    "‹": ("lowest", {"edge": "low"}),
    "›": ("highest", {"edge": "high"}),
    "!": ("diverged", {"diverged": True}),
    "(n/m)": ("only n of m runs", {"n": 5}),
    "—": ("—", {"value": None}),
}


def test_the_legend_of_a_plain_table_says_only_how_it_was_chosen_and_what_is_bold() -> None:
    made = list(render.legend(table(cell("freeze", 70.0))))

    assert len(made) == 2
    assert "in-distribution validation" in made[0]
    assert "within 0.2 points" in made[1]


@pytest.mark.parametrize("mark", MARKS)
def test_the_legend_explains_exactly_the_marks_that_occur(mark: str) -> None:
    _, changes = MARKS[mark]
    marked = cell("freeze", **({"value": 70.0} | changes))
    found = "\n".join(render.legend(table(marked, cell("adamw", 10.0))))

    occurring = {mark, "‹", "›"} if mark in "‹›" else {mark}
    for name, (explanation, _) in MARKS.items():
        assert (explanation in found) == (name in occurring), name


def test_the_legend_explains_deltas_where_there_are_some() -> None:
    with_deltas = "\n".join(render.legend(table(cell("sgd", 70.0), cell("adamw", 71.0))))
    without = "\n".join(render.legend(table(cell("sgd", 70.0), cell("adamw", None, n=0))))

    assert "(+x.x) against SGD of the same model." in with_deltas
    assert "(+x.x)" not in without


def test_the_legend_explains_partial_averages() -> None:
    whole = table(cell("sgd", 70.0), cell("sgd", 71.0, "fmow"))
    holes = table(cell("sgd", 70.0), cell("adamw", 70.0), cell("sgd", 71.0, "fmow"))

    assert "n of m datasets" not in "\n".join(render.legend(whole))
    assert "n of m datasets are complete" in "\n".join(render.legend(holes))


def test_the_id_table_says_that_its_figures_are_optimistic() -> None:
    assert "optimistic" in render.text(table(cell("sgd", 70.0), name="id"))
    assert "optimistic" not in render.text(table(cell("sgd", 70.0)))


# Order and names


def test_models_datasets_and_methods_stand_in_the_order_of_the_labels() -> None:
    made = table(
        cell("freeze", 1.0, model="zoo"),
        cell("zzz", 1.0, "aaa"),
        cell("adamw", 1.0, "fmow", model="bit"),
        cell("adamw", 1.0, "fmow"),
        cell("sgd", 1.0),
    )

    assert made.columns == ("living17", "fmow", "aaa", AVERAGE)
    assert [(row[0].model, row[0].method) for row in made.rows] == [
        ("vit", "sgd"),
        ("vit", "adamw"),
        ("vit", "zzz"),
        ("bit", "adamw"),
        ("zoo", "freeze"),
    ]
    assert plain(render.text(made))[-1][:2] == ["zoo", "SGD (freeze-embed)"]


def test_the_order_of_cells_changes_nothing() -> None:
    cells = [cell("sgd", 70.0), cell("adamw", 75.0), cell("sgd", 60.0, "fmow", model="bit")]

    assert render.text(table(*cells)) == render.text(table(*cells[::-1]))


def test_an_unknown_table_names_those_there_are() -> None:
    with pytest.raises(ReportError, match="there are: ood, id"):
        tables.find("odd")


def test_no_cells_are_no_table() -> None:
    with pytest.raises(ReportError, match="no run to report on; widen --sweep or --where"):
        tables.build(TABLES["ood"], {}, LABELS)
