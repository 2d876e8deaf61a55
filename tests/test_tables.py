"""Tables from cells made by hand: the typography of PROTOCOL section 4, and every layout."""

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from db.errors import ReportError
from handmade import LABELS, cell, entries, plain, study, table
from reports import render, tables
from reports.declared import NUMBERED, PRIOR, Block, Declared
from reports.select import Cell
from reports.tables import AVERAGE, TABLES, NoRuns, Table


def bold(*cells: Cell) -> set[str]:
    """The methods that are bold in the first column."""
    made = table(*cells)
    return {row[0].method for row in made.rows if row[0].bold}


def delta(value: float, baseline: float) -> float:
    """The printed delta against SGD."""
    found = entries(table(cell("sgd", baseline), cell("adamw", value)))["vit", "adamw", "living17"]
    assert found.delta is not None
    return found.delta


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


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100, allow_nan=False),
            st.none() | st.floats(0, 20),
            st.integers(4, 6),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_bold_is_exactly_what_is_near_the_best_of_the_complete(
    drawn: list[tuple[float, float | None, int]],
) -> None:
    cells = [
        cell(f"m{place}", value, ci90=interval, n=n)
        for place, (value, interval, n) in enumerate(drawn)
    ]
    found = bold(*cells)

    whole = [c for c in cells if c.n == 6]
    assert bool(found) == bool(whole)
    best = max(whole, key=lambda c: c.value or 0.0, default=None)
    for one in cells:
        if one not in whole:
            assert one.method not in found
            continue
        assert best is not None
        intervals = [c.ci90 for c in (one, best) if c.ci90 is not None]
        slack = max([*intervals, *([0.2] if len(intervals) < 2 else [])])
        away = abs((one.value or 0.0) - (best.value or 0.0)) - slack
        if abs(away) > 1e-6:
            assert (one.method in found) == (away < 0)


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_delta_added_to_the_printed_baseline_is_the_printed_value(
    value: float, baseline: float
) -> None:
    found = entries(table(cell("sgd", baseline), cell("adamw", value)))
    one, base = found["vit", "adamw", "living17"], found["vit", "sgd", "living17"]

    assert one.delta is not None
    assert f"{float(base.shown) + one.delta:.1f}" == one.shown
    assert one.shown_delta.startswith("-") == (math.copysign(1, one.delta) < 0)
    assert one.tone.endswith("loss") == (value < baseline)


# Partial and missing


def test_a_partial_cell_is_marked_is_never_bold_and_does_not_compete() -> None:
    cells = cell("sgd", 70.0), cell("adamw", 99.0, n=5), cell("freeze", 69.9)

    made = table(*cells)

    assert bold(*cells) == {"sgd", "freeze"}
    assert "99.0 (+29.0) (5/6r)" in render.text(made)
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
    assert f"{value:.1f} \x1b[{code}m({value - 70:+.1f})\x1b[0m" in line


def test_colour_changes_no_letter() -> None:
    made = table(cell("sgd", 70.0), cell("adamw", 75.0), cell("freeze", None, n=0))

    coloured = render.text(made, colour=True)
    bare = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert coloured != bare
    assert [x.rstrip() for x in bare.splitlines()] == render.text(made).splitlines()
    assert "\x1b" not in render.text(made)


# Order and names


def test_models_datasets_and_methods_stand_in_the_order_of_the_labels() -> None:
    made = table(
        cell("freeze", 1.0, model="zoo"),
        cell("zzz", 1.0, "aaa"),
        cell("adamw", 1.0, "fmow", model="bit"),
        cell("adamw", 1.0, "fmow"),
        cell("sgd", 1.0),
    )

    assert [entry.column for entry in made.rows[0]] == ["living17", "fmow", "aaa", AVERAGE]
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


# Which rows and columns


def shape(made: Table) -> list[tuple[str, str]]:
    """Model and method of each row."""
    return [(row[0].model, row[0].method) for row in made.rows]


def test_a_table_by_number_has_the_papers_rows_whatever_the_runs_are() -> None:
    clip = cell("sgd", 70.0, model="clip_vit_b16")
    plugin = cell("mine", 99.0, "digits", model="mine")

    made = tables.build(tables.find("1"), study(clip, plugin))

    assert len(made.rows) == 7 * 4
    assert len({row.block for row in made.rows}) == 7
    assert [column.title for column in made.columns] == [
        "Living-17", "Waterbirds", "DomainNet", "FMoW", "Camelyon17", "Avg.",
    ]  # fmt: skip
    assert [e.shown for e in made.rows[0]] == ["70.0", "—", "—", "—", "—", "70.0"]
    assert {e.shown for row in made.rows[1:] for e in row} == {"—"}
    assert shape(tables.build(tables.find("ood"), study(clip, plugin))) == [
        ("clip_vit_b16", "sgd"),
        ("mine", "mine"),
    ]


def test_number_and_name_find_the_same_table_but_for_ood_and_id() -> None:
    for number, by_number in NUMBERED.items():
        by_name = tables.find(by_number.name)
        assert tables.find(str(number)) is by_number
        assert (by_name is by_number) == (by_number.name not in ("ood", "id"))
        assert by_name.number == number
    assert [t.name for t in NUMBERED.values()] == [
        "ood", "id", "sota", "memory", "clip", "cifar10", "ablations-ood", "ablations-id",
        "convnext-ood", "convnext-id", "adamw-freeze-ood", "adamw-freeze-id", "pretraining-ood",
        "pretraining-id",
    ]  # fmt: skip


def test_what_makes_a_tables_runs_is_there_or_is_said_not_to_be() -> None:
    for one in {**TABLES, **{str(n): t for n, t in NUMBERED.items()}}.values():
        path = ROOT / one.command.removeprefix("orch launch ")
        assert path.is_file() == (not one.lacks), f"{one.name}: mend `lacks`, or `command`"


@pytest.mark.parametrize("name", [*map(str, NUMBERED), "summary", "id-test"])
def test_a_table_without_any_of_its_runs_names_the_command(name: str) -> None:
    one = tables.find(name)
    stranger = cell("sgd", 70.0, "digits", model="tiny")
    others = {split: [stranger] for split in one.splits if split != "ood"}

    found = study(*([] if name in ("summary", "id-test") else [stranger]), **others)
    if name in ("summary", "id-test"):
        found.__dict__["runs"] = ()
    with pytest.raises(NoRuns) as caught:
        tables.build(one, found)

    text = str(caught.value)
    assert "\n" not in text
    if name not in ("summary", "id-test"):
        assert f"no runs yet for Table {name} ({one.name}): `{one.command}`" in text
        assert ("does not have" in text) == bool(one.lacks)


def test_memory_has_no_runs_yet_whatever_there_is() -> None:
    with pytest.raises(NoRuns, match=r"Table 4 \(memory\): `orch launch sweeps/memory.yaml` will"):
        tables.build(tables.find("4"), study(cell("sgd", 1.0, model="clip_vit_b16")))


def test_a_dataset_whose_finished_runs_have_no_such_split_is_no_column() -> None:
    lacking = cell("sgd", None, "cifar10", learning_rate=1e-3)
    waiting = cell("sgd", None, "fmow", n=0)

    assert [c.title for c in table(cell("sgd", 70.0), lacking, waiting).columns] == [
        "Living-17",
        "FMoW",
        "Avg.",
    ]
    with pytest.raises(NoRuns, match="no finished run has a value of the split ood: `evaluate:`"):
        table(lacking)


def test_runs_that_all_failed_are_said_to_have() -> None:
    for asked in ("ood", "1", "summary"):
        failed = cell("sgd", None, model="clip_vit_b16", n=0, expected=1)
        with pytest.raises(ReportError, match=r"no run .* has numbers \(1 failed\): `orch status`"):
            tables.build(tables.find(asked), study(failed, state="failed", id=[failed]))


def test_pending_runs_are_dashes_with_their_counts() -> None:
    waiting = cell("sgd", None, n=0)

    made = tables.build(TABLES["ood"], study(waiting, state="pending"), LABELS)

    assert plain(render.text(made))[-1] == ["Sup ViT-B/16", "SGD", "— (0/6)", "— (0/1)"]


def test_no_cells_are_no_table() -> None:
    with pytest.raises(NoRuns, match="no run to report on: widen --sweep or --where"):
        table()


@pytest.mark.parametrize(("asked", "nearest"), [("oood", "ood"), ("abalations-id", "ablations-id")])
def test_an_unknown_table_names_the_nearest_and_all(asked: str, nearest: str) -> None:
    with pytest.raises(ReportError) as caught:
        tables.find(asked)

    assert f'there is no table "{asked}"; did you mean "{nearest}"?' in str(caught.value)
    assert all(name in str(caught.value) for name in TABLES)
    assert "1 to 14" in str(caught.value)


@pytest.mark.parametrize("asked", ["0", "15", "1.0", "-1", "", "99999"])
def test_there_are_fourteen_numbers(asked: str) -> None:
    with pytest.raises(ReportError, match="there is no table"):
        tables.find(asked)


# Several splits in one table


def test_a_table_of_two_splits_has_two_columns_a_dataset() -> None:
    one = Declared(name="mine", title="Mine", splits=("id", "ood"))
    cells = [cell("sgd", 90.0), cell("sgd", 80.0, "fmow")]
    lower = [dataclasses.replace(c, value=(c.value or 0) - 20) for c in cells]

    made = tables.build(one, study(*lower, id=cells), LABELS)

    assert [(c.title, c.subtitle) for c in made.columns] == [
        (title, subtitle) for title in ("Living-17", "FMoW", "Avg.") for subtitle in ("ID", "OOD")
    ]
    assert [e.shown for e in made.rows[0]] == ["90.0", "70.0", "80.0", "60.0", "85.0", "65.0"]
    assert [e.split for e in made.rows[0]] == ["id", "ood"] * 3


# Blocks, baselines and what may be turned off


def test_own_blocks_decide_what_is_bold() -> None:
    cells = [cell(m, v, model=o) for o, m, v in (
        ("vit", "sgd", 60.0), ("vit", "adamw", 70.0), ("bit", "sgd", 65.0), ("bit", "adamw", 50.0),
    )]  # fmt: skip
    blocks = tuple(Block(models=("vit", "bit"), methods=(how,)) for how in ("sgd", "adamw"))

    made = tables.build(Declared(name="m", title="M", blocks=blocks), study(*cells), LABELS)

    assert shape(made) == [("vit", "sgd"), ("bit", "sgd"), ("vit", "adamw"), ("bit", "adamw")]
    assert [row.block for row in made.rows] == [0, 0, 1, 1]
    assert [row[0].bold for row in made.rows] == [False, True, True, False]
    assert [row[0].delta for row in made.rows] == [None, None, 10.0, -15.0]


def test_what_a_table_may_leave_out() -> None:
    cells = [cell("sgd", 70.0, ci90=3.0), cell("adamw", 69.0, ci90=3.0)]
    plainest = Declared(
        name="m", title="M", baseline=None, intervals=False, bold=False, average=False
    )

    made = tables.build(plainest, study(*cells), LABELS)

    assert plain(render.text(made))[1:] == [["Sup ViT-B/16", "SGD", "70.0"], ["AdamW", "69.0"]]


def test_without_intervals_bold_goes_by_two_tenths_or_by_what_the_table_says() -> None:
    cells = [cell("sgd", 70.0, ci90=3.0), cell("adamw", 69.0, ci90=3.0), cell("freeze", 69.9)]

    def found(**changes: Any) -> list[bool]:
        one = Declared(name="m", title="M", **changes)
        return [row[0].bold for row in tables.build(one, study(*cells), LABELS).rows]

    assert found() == [True, True, True]
    assert found(intervals=False) == [True, False, True]
    assert found(intervals=False, within=0.05) == [True, False, False]


def test_another_baseline_and_one_that_is_no_row() -> None:
    cells = [cell("sgd", 70.0), cell("adamw", 75.0), cell("freeze", 74.0)]

    made = tables.build(
        Declared(name="m", title="M", methods=("sgd", "freeze"), baseline="adamw"),
        study(*cells),
        LABELS,
    )

    assert shape(made) == [("vit", "sgd"), ("vit", "freeze")]
    assert [row[0].delta for row in made.rows] == [-5.0, -1.0]


def test_the_only_model_of_a_table_is_no_column_where_the_title_names_it() -> None:
    made = tables.build(tables.find("7"), study(cell("sgd", 70.0, model="clip_vit_b16")))

    assert made.heads == ("Method",)
    assert [row.heads for row in made.rows][:2] == [("SGD",), ("AdamW",)]
    assert len(made.rows) == 15
    assert {row.block for row in made.rows} == {0}


# A column a model (Tables 4 and 6)


def test_a_column_a_model() -> None:
    cells = [
        cell(method, value, "cifar10", model=model)
        for model, method, value in (
            ("clip_vit_b16", "sgd", 98.0), ("clip_vit_b16", "adamw", 98.3),
            ("clip_vit_l14", "sgd", 99.0), ("clip_vit_l14", "adamw", 99.3),
        )
    ]  # fmt: skip

    made = tables.build(tables.find("6"), study(id_test=cells))

    assert made.declared.splits == ("id_test",), "not the images that chose"
    assert [column.title for column in made.columns] == ["CLIP ViT-B/16", "CLIP ViT-L/14"]
    assert [row.heads for row in made.rows] == [("SGD",), ("AdamW",), ("SGD (freeze-embed)",)]
    assert [[e.shown for e in row] for row in made.rows] == [
        ["98.0", "99.0"], ["98.3", "99.3"], ["—", "—"],
    ]  # fmt: skip
    assert [[e.bold for e in row] for row in made.rows] == [[False] * 2, [True] * 2, [False] * 2]
    assert {e.column for e in made.entries} == {"cifar10"}


def test_a_column_a_model_is_about_one_dataset() -> None:
    one = Declared(name="m", title="M", layout="models")
    with pytest.raises(ReportError, match="name it in `datasets`, or with --where dataset="):
        tables.build(one, study(cell("sgd", 1.0), cell("sgd", 1.0, "fmow")))


# Averages over models and datasets (Figure 1b)


def summary(*cells: Cell, one: Declared = TABLES["summary"]) -> Table:
    """The summary of cells whose ID value is 10 above."""
    ten_up = [
        dataclasses.replace(c, value=None if c.value is None else c.value + 10) for c in cells
    ]
    return tables.build(one, study(*cells, id=ten_up), LABELS)


def shown(made: Table) -> dict[str, list[str]]:
    """The printed numbers by method."""
    return {row.heads[0]: [e.shown for e in row] for row in made.rows}


def test_a_summary_averages_over_the_cells_that_all_its_methods_have() -> None:
    made = summary(
        cell("sgd", 60.0), cell("sgd", 70.0, "fmow"), cell("sgd", 10.0, model="bit"),
        cell("adamw", 70.0), cell("adamw", 76.0, "fmow"),
    )  # fmt: skip

    assert shown(made) == {"SGD": ["75.0", "65.0"], "AdamW": ["83.0", "73.0"]}
    assert [e.delta for e in made.rows[1]] == [8.0, 8.0], "over the same cells"
    assert [e.bold for e in made.rows[1]] == [True, True]
    assert [(e.cell.n, e.cell.expected) for e in made.rows[0]] == [(2, 3), (2, 3)]
    assert "65.0 (2/3)" in render.text(made), "a mean over missing cells is marked"
    assert "Means over the 2 of 3 pairs of model and dataset" in render.text(made)


def test_a_method_that_lacks_cells_shrinks_no_summary() -> None:
    made = summary(
        cell("sgd", 60.0), cell("sgd", 70.0, "fmow"), cell("adamw", 70.0),
        cell("adamw", 76.0, "fmow"), cell("lamb", 99.0), cell("whole", 50.0),
        cell("whole", 50.0, "fmow"),
    )  # fmt: skip

    assert shown(made) == {
        "SGD": ["75.0", "65.0"], "AdamW": ["83.0", "73.0"], "whole": ["60.0", "50.0"],
    }  # fmt: skip
    assert "Left out, as they lack some of those: lamb." in render.text(made)


def test_a_summary_of_unknown_methods_is_over_what_they_share() -> None:
    assert shown(summary(cell("a", 60.0), cell("b", 62.0), cell("b", 0.0, "fmow"))) == {
        "a": ["70.0", "60.0"],
        "b": ["72.0", "62.0"],
    }


def test_a_summary_of_partial_cells_is_marked_and_not_compared() -> None:
    made = summary(cell("sgd", 60.0), cell("adamw", 70.0, n=5))

    assert made.rows[1][0].delta is None
    assert not made.rows[1][0].bold
    assert "70.0 (0/1)" in render.text(made)


def test_a_summary_of_nothing_in_common_says_so() -> None:
    with pytest.raises(ReportError, match="for which all of the methods sgd, adamw have their"):
        summary(cell("sgd", 60.0), cell("adamw", 70.0, "fmow"))


def test_an_own_summary_has_the_methods_it_names() -> None:
    one = Declared(name="m", title="M", layout="summary", splits=("ood",), methods=("sgd", "lamb"))
    made = summary(cell("sgd", 60.0), cell("adamw", 70.0), cell("lamb", 61.0), one=one)

    assert shown(made) == {"SGD": ["60.0"], "lamb": ["61.0"]}


# The best of our cells against prior results (Table 3)


def sota(*cells: Cell) -> Table:
    """Table 3 of some cells."""
    return tables.build(tables.find("sota"), study(*cells))


def test_the_best_cell_of_each_dataset_is_named_beside_prior_results() -> None:
    made = sota(
        cell("sgd", 60.0, "fmow", model="clip_vit_l14"),
        cell("sgd_freeze_embed", 61.0, "fmow", model="clip_vit_b16"),
        cell("adamw", 89.4, "waterbirds", model="bit_r50_in21k"),
        cell("adamw_freeze_embed", 99.0, "waterbirds", model="bit_r50_in21k"),
    )

    prior, best, models, methods = made.rows
    assert [e.shown for e in prior] == ["87.6", "89.3", "87.2", "47.6", "93.3"]
    assert [e.shown for e in best] == ["—", "89.4", "—", "61.0", "—"]
    assert [e.bold for e in best] == [False, True, False, True, False]
    assert [e.bold for e in prior] == [True, True, True, False, True], "89.3 is within 0.2 of 89.4"
    assert [e.shown for e in models] == ["—", "BiT ResNet-50", "—", "CLIP ViT-B/16", "—"]
    assert [e.shown for e in methods] == ["—", "AdamW", "—", "SGD (freeze-embed)", "—"]
    assert (best[3].model, best[3].method) == ("clip_vit_b16", "sgd_freeze_embed")
    assert {(e.model, e.method) for e in prior} == {("", PRIOR)}
    told = " ".join(render.text(made).split())
    assert "picked by the OOD accuracy that is shown, so it is optimistic" in told


def test_a_complete_cell_stands_before_a_partial_one_that_is_better() -> None:
    made = sota(
        cell("sgd", 60.0, "fmow", model="clip_vit_l14"),
        cell("adamw", 61.0, "fmow", model="clip_vit_l14", n=5),
        cell("adamw", 50.0, "domainnet", model="clip_vit_l14", n=5),
    )

    assert made.rows[1][3].shown == "60.0"
    assert "50.0 (5/6r)" in render.text(made)


def test_models_that_saw_living17_with_its_labels_do_not_compete_on_it() -> None:
    made = sota(
        cell("sgd", 94.0, model="convnext_b_in22k"), cell("sgd", 84.0, model="clip_vit_l14")
    )

    assert made.rows[1][0].shown == "84.0"
