"""Tables as text, Markdown, CSV and JSON: the same numbers and marks in each."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from typing import Any

import pytest

from handmade import LABELS, cell, plain, study, table
from reports import render, tables
from reports.declared import Declared
from reports.entries import Table
from reports.select import RULES
from reports.tables import AVERAGE, TABLES

COLUMNS = [
    "table", "model", "method", "dataset", "metric", "value", "shown", "ci90", "delta", "bold",
    "learning_rate", "n", "expected", "edge",
]  # fmt: skip
MORE = ["measure", "select", "number", "seeds", "diverged", "hyperparameters"]


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


def legend(made: Table) -> str:
    """The lines under a text table."""
    return render.text(made).split("\n\n")[-1]


# Text


def test_a_text_table_reads_like_the_papers(rich: Table) -> None:
    assert render.text(rich).startswith("Out-of-distribution accuracy (%)\n\n")
    assert plain(render.text(rich)) == [
        ["Model", "Method", "Living-17", "FMoW", "Avg."],
        ["Sup ViT-B/16", "SGD", "70.0 ±0.3‹", "60.0*!", "65.0*"],
        ["AdamW", "75.2 ±0.5* (+5.2)›", "61.0 (+1.0) (5/6r)", "68.1 (1/2)"],
        ["SGD (freeze-embed)", "75.0* (+5.0)›!", "— (1/6)", "75.0 (1/2)"],
        ["BiT ResNet-50", "SGD", "50.0*", "—", "50.0 (1/2)"],
    ]


def test_columns_of_a_text_table_are_aligned(rich: Table) -> None:
    lines = render.text(rich).split("\n\n")
    rows = [line for block in lines[1:-1] for line in block.splitlines()]

    for name in ("Method", "Living-17", "FMoW", "Avg."):
        at = rows[0].index(name)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows)


def test_models_are_told_apart_by_a_blank_line(rich: Table) -> None:
    blocks = render.text(rich).split("\n\n")

    assert [len(block.splitlines()) for block in blocks[1:-1]] == [5, 1]


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ({"n": 5, "rates": 5, "rates_expected": 6}, "70.0 (5/6r)"),
        ({"n": 17, "expected": 18, "seeds": 2, "seeds_expected": 3, "rates_expected": 6}, "(2/3s)"),
        ({"n": 4, "seeds": 2, "seeds_expected": 3, "rates": 1, "rates_expected": 2}, "(2/3s 1/2r)"),
        ({"n": 5, "rates": 6, "rates_expected": 6}, "70.0 (5/6)"),
        ({"n": 6, "rates": 5, "rates_expected": 6}, "70.0*"),
    ],
    ids=["rates", "seeds", "both", "neither", "complete: a rate without any score"],
)
def test_a_partial_cell_says_what_it_is_of(counts: dict[str, int], shown: str) -> None:
    made = render.text(table(cell("sgd", 70.0, **counts)))

    assert any(part.endswith(shown) for part in plain(made)[1])


def test_a_narrow_terminal_gets_panels_and_wrapped_lines(rich: Table) -> None:
    whole = render.text(rich)
    narrow = render.text(rich, width=66)

    assert max(map(len, narrow.splitlines())) <= 66 < max(map(len, whole.splitlines()))
    assert [line.split() for line in narrow.splitlines() if line.startswith("Model")] == [
        ["Model", "Method", "Living-17"],
        ["Model", "Method", "FMoW", "Avg."],
    ]
    assert narrow.count("SGD (freeze-embed)") == 2, "each panel names its rows"
    told = [word for word in narrow.split() if set(word) != {"─"}]
    assert set(told) == {word for word in whole.split() if set(word) != {"─"}}
    assert render.text(rich, width=200).split("\n\n")[1] == whole.split("\n\n")[1]


def test_a_terminal_too_narrow_for_one_column_shows_one(rich: Table) -> None:
    assert render.text(rich, width=10).count("Model") == 3


# Markdown


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
    told = [f"{n.mark} {n.text}".strip() for n in render.legend(rich)]
    assert [note.replace("**bold** best", "* best") for note in notes] == told


def test_markdown_sees_no_markup_in_a_name() -> None:
    labels = dataclasses.replace(LABELS, methods={"sgd": "a|b *c* _d_ <e> [f](g) `h`"})
    made = tables.build(TABLES["ood"], study(cell("sgd", 70.0)), labels)

    assert r"| a\|b \*c\* \_d\_ \<e\> \[f\](g) \`h\` |" in render.markdown(made)


# CSV and JSON


def test_csv_has_the_promised_columns_and_one_row_a_cell(rich: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(render.as_csv([rich]))))

    assert render.as_csv([rich]).splitlines()[0] == ",".join(COLUMNS + MORE)
    assert len(rows) == 4 * 3
    assert rows[3] == {
        "table": "ood",
        "model": "vit",
        "method": "adamw",
        "dataset": "living17",
        "metric": "ood",
        "value": "75.25",
        "shown": "75.2",
        "ci90": "0.45",
        "delta": "5.2",
        "bold": "yes",
        "learning_rate": "0.001",
        "n": "6",
        "expected": "6",
        "edge": "high",
        "measure": "accuracy",
        "select": "id_val",
        "number": "",
        "seeds": "1",
        "diverged": "no",
        "hyperparameters": "{}",
    }
    missing = next(r for r in rows if (r["method"], r["dataset"]) == ("freeze", "fmow"))
    assert (missing["value"], missing["shown"], missing["bold"]) == ("", "—", "no")
    assert (missing["n"], missing["expected"]) == ("1", "6")
    assert [r["dataset"] for r in rows[:3]] == ["living17", "fmow", "avg"]


def test_csv_and_json_are_the_same_rows(rich: Table) -> None:
    from_csv = list(csv.DictReader(io.StringIO(render.as_csv([rich]))))
    from_json = json.loads(render.as_json([rich]))

    assert [list(row) for row in from_json] == [COLUMNS + MORE] * len(from_csv)
    for one, other in zip(from_csv, from_json, strict=True):
        words = {name: "yes" if other[name] else "no" for name in ("bold", "diverged")}
        spelled = {k: "" if v is None else str(v) for k, v in {**other, **words}.items()}
        assert one == spelled


def test_long_rows_agree_with_the_text(rich: Table) -> None:
    printed = [part for row in plain(render.text(rich))[1:] for part in row[-3:]]

    for part, row in zip(printed, json.loads(render.as_json([rich])), strict=True):
        assert part.startswith(row["shown"])
        assert ("*" in part) == row["bold"]
        assert (f"±{row['ci90'] or 0:.1f}" in part) == (row["ci90"] is not None)
        assert (f"({row['delta'] or 0:+.1f})" in part) == (row["delta"] is not None)
        assert (f"({row['n']}/{row['expected']}" in part) == (row["n"] < row["expected"])
        assert {"low": "‹", "high": "›", "": ""}[row["edge"]] in part
        if row["value"] is not None:
            assert f"{row['value']:.1f}" == row["shown"]


def test_several_tables_share_one_header_or_one_list(rich: Table) -> None:
    other = table(cell("sgd", 90.0), name="id")

    assert render.as_csv([rich, other]).count("learning_rate") == 1
    assert {row["table"] for row in json.loads(render.as_json([rich, other]))} == {"ood", "id"}


def test_rows_of_the_papers_own_tables_carry_its_number() -> None:
    found = study(cell("sgd", 70.0, model="clip_vit_b16"))
    both = [tables.build(tables.find(asked), found) for asked in ("ood", "1")]

    rows = json.loads(render.as_json(both))
    assert {row["table"] for row in rows} == {"ood"}
    assert [row["number"] for row in rows] == [None] * 2 + [1] * 7 * 4 * 6


def test_words_in_a_table_are_no_rows_of_numbers() -> None:
    found = study(cell("sgd", 60.0, "fmow", model="clip_vit_l14"))
    made = tables.build(tables.find("sota"), found)

    rows = json.loads(render.as_json([made]))
    assert len(rows) == 2 * 5
    assert [(r["model"], r["method"]) for r in rows if r["dataset"] == "fmow"] == [
        ("", "best_prior_result"),
        ("clip_vit_l14", "sgd"),
    ]


# Legend

MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "±": ("± 90% interval", {"ci90": 0.5}),
    "‹": ("‹ ›  the best rate is the lowest", {"edge": "low"}),
    "›": ("or highest tried", {"edge": "high"}),
    "!": ("!  a chosen run diverged", {"diverged": True}),
    "(n/mr)": ("(n/mr)  only n of m rates", {"n": 5}),
    "(n/ms)": ("(n/ms)  only n of m seeds", {"n": 5, "rates": 6, "seeds_expected": 3}),
    "(n/m)": ("(n/m)  only n of m runs", {"n": 5, "rates": 6}),
    "—": ("—  no rate", {"value": None}),
}


def test_the_legend_of_a_plain_table_says_only_how_it_was_chosen_and_what_is_bold() -> None:
    made = list(render.legend(table(cell("freeze", 70.0))))

    assert len(made) == 2
    assert "in-distribution validation" in made[0].text
    assert "within 0.2 points" in made[1].text


@pytest.mark.parametrize("mark", MARKS)
def test_the_legend_explains_exactly_the_marks_that_occur(mark: str) -> None:
    _, changes = MARKS[mark]
    marked = cell("freeze", **({"value": 70.0} | changes))
    found = legend(table(marked, cell("adamw", 10.0)))

    occurring = {mark, "‹", "›"} if mark in "‹›" else {mark}
    for name, (explanation, _) in MARKS.items():
        assert (explanation in found) == (name in occurring), name


def test_the_footnote_of_edges_names_the_command_and_the_sweep() -> None:
    made = table(cell("sgd", 70.0, edge="low"))

    assert "`orch extend --edges demo` adds" in legend(made)
    other = dataclasses.replace(made, rule="last", sweep=None)
    assert "`orch extend --edges SWEEP` goes by in-distribution validation" in legend(other)


def test_the_legend_explains_deltas_where_there_are_some() -> None:
    with_deltas = legend(table(cell("sgd", 70.0), cell("adamw", 71.0)))
    without = legend(table(cell("sgd", 70.0), cell("adamw", None, n=0)))

    assert "(+x.x)  against SGD of the same model." in with_deltas
    assert "(+x.x)" not in without


def test_the_legend_explains_partial_averages() -> None:
    whole = table(cell("sgd", 70.0), cell("sgd", 71.0, "fmow"))
    holes = table(cell("sgd", 70.0), cell("adamw", 70.0), cell("sgd", 71.0, "fmow"))

    assert "in a mean:" not in legend(whole)
    assert "(n/m) in a mean:  only n of m of what it averages is complete" in legend(holes)


def test_images_that_chose_are_said_to_be_optimistic() -> None:
    chose = "The ID images also chose the epoch and the learning rate, so ID figures are optimistic"
    assert chose in legend(table(cell("sgd", 70.0), name="id"))
    assert "optimistic" not in legend(table(cell("sgd", 70.0)))
    assert "The ID-test images chose nothing." in legend(table(cell("sgd", 70.0), name="id-test"))


@pytest.mark.parametrize("rule", RULES)
def test_another_rule_of_choice_is_said_in_title_and_legend(rule: Any) -> None:
    both = Declared(name="m", title="Mine", splits=("id", "id_test", "ood"))
    cells = [cell("sgd", 70.0)]
    given = study(*cells, id=cells, id_test=cells)
    given.rule = rule

    found = render.render([tables.build(both, given, LABELS)], "text")

    title = found.splitlines()[0]
    assert (
        title
        == {
            "id_val": "Mine",
            "last": "Mine [last epoch]",
            "ood-oracle": "Mine [ORACLE: chosen by OOD]",
            "id_test": "Mine [chosen by the ID test]",
        }[rule]
    )
    assert ("ORACLE: learning rate and epoch by the out-of-distr" in found) == (
        rule == "ood-oracle"
    )
    assert ("an upper bound, not a result" in found) == (rule == "ood-oracle")
    assert ("The ID images also chose the epoch and the" in found) == (rule == "id_val")
    assert ("The ID images also chose the learning rate, so" in found) == (rule == "last")
    assert ("The ID-test images themselves chose" in found) == (rule == "id_test")
    assert ("The ID-test images chose nothing" in found) == (rule != "id_test")
    for style in ("markdown", "latex", "html"):
        whole = render.render([tables.build(both, given, LABELS)], style)
        assert ("ORACLE" in whole) == (rule == "ood-oracle"), style


def test_rates_that_lack_seeds_are_said_to_compete() -> None:
    given = study(cell("sgd", 70.0))
    given.partial = True

    made = tables.build(TABLES["ood"], given, LABELS)
    assert render.heading(made).endswith("[rates that lack seeds compete]")


def test_every_format_is_rendered(rich: Table) -> None:
    for style in render.FORMATS:
        whole = render.render([rich, rich], style)
        assert whole.endswith("\n")
        assert "75.2" in whole
        assert "\x1b" not in whole
    assert AVERAGE == "avg"
