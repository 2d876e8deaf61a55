"""Our tables beside the published ones: verdicts, what they rest on, scorecard, suspects."""

import csv
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from paper_numbers import Numbers, as_published, shifted, stored
from reports import compare, declared, published, tables
from reports.compare import Compared, Comparison
from reports.compare.cells import ROUNDING, common, spread
from reports.compare.output import LONG, as_table
from reports.declared import AVERAGE, FIVE, SEVEN
from reports.likeness import Likeness
from reports.select import Key
from reports.study import Study

CLIP = "clip_vit_b16"


def beside(study: Study, table: str) -> Comparison:
    """A table of a study beside the paper's."""
    built = tables.build(declared.find(table), study)
    return compare.compare(built, published.by_place(), study)


def clip(**others: Any) -> Numbers:
    """The published numbers of one model."""
    return {key: cell for key, cell in as_published(**others).items() if key[0] == CLIP}


def of(comparison: Comparison, method: str, dataset: str, model: str = CLIP) -> Compared:
    """One of its cells."""
    (found,) = (
        one
        for one in comparison.cells
        if (one.entry.model, one.entry.method, one.entry.column) == (model, method, dataset)
    )
    return found


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The paper's figures, with three seeds where it prints intervals."""
    return stored(tmp_path_factory.mktemp("compare") / "orch.db", as_published(seeds=True))


# The published figures


def test_the_published_figures_are_all_there() -> None:
    figures = published.figures()

    assert len(figures) == 1144
    assert {f.table for f in figures} == set(range(1, 15))
    assert sum(f.ci90 is not None for f in figures) == 30
    assert sum(f.out_of_memory for f in figures) == 1
    assert [f.model for f in published.table(3) if f.method == "best_prior_result"] == [""] * 5
    assert {f.split for f in published.table(6)} == {"id_test"}
    assert published.table(15) == ()
    assert [math.copysign(1, f.delta) for f in figures if f.delta == 0].count(-1) == 13


def test_a_number_that_several_tables_print_is_one_number() -> None:
    found = published.by_place()
    for figure in published.figures():
        if figure.model and figure.dataset:
            place = (figure.model, figure.dataset, figure.method, figure.split)
            assert found[place].value == figure.value
    assert found[CLIP, "living17", "sgd", "ood"].ci90 == 1.3
    assert found["clip_vit_l14", "living17", "adamw", "ood"].delta is not None


# Verdicts


@pytest.mark.parametrize("number", [n for n in range(1, 15) if n != 4])
def test_the_papers_own_numbers_are_within_everywhere(paper: Study, number: int) -> None:
    found = beside(paper, str(number))
    figures = [f for f in published.table(number) if f.method != "best_prior_result"]

    assert len(found.cells) == len(figures)
    assert {one.verdict for one in found.cells} == {"within"}
    assert all(abs(one.difference or 0.0) < 0.1 for one in found.cells)
    card = found.scorecard
    assert sum(card.counts.values()) + sum(card.averages.values()) == len(figures)
    assert card.mean_absolute == pytest.approx(0, abs=1e-9)
    assert all(one.same == one.pairs > 0 for one in card.order.values())
    assert card.deltas.same == card.deltas.pairs
    assert found.suspects == ()


def test_intervals_count_where_both_sides_have_them(paper: Study) -> None:
    found = beside(paper, "5")

    one = of_split(found, "sgd", "living17", "ood")
    assert one.entry.cell.ci90 == pytest.approx(1.3)
    assert one.basis == "intervals"
    assert one.allowed == pytest.approx(math.hypot(1.3, 1.3) + ROUNDING)
    lamb = of_split(found, "lamb", "living17", "ood")
    assert lamb.basis == "Table 5's spread"
    assert found.scorecard.by_spread == sum(
        o.basis == "Table 5's spread" for o in found.cells if o.entry.column != AVERAGE
    )


def of_split(comparison: Comparison, method: str, dataset: str, split: str) -> Compared:
    """One of its cells, of a table with two splits."""
    (found,) = (
        one
        for one in comparison.cells
        if (one.entry.method, one.entry.column, one.entry.split) == (method, dataset, split)
    )
    return found


def test_the_spread_is_the_median_of_table_5() -> None:
    # Of 1.3, 1.2 and 0.8 the middle one; DomainNet's 18.0 under SGD decides nothing.
    assert spread("living17", "ood") == pytest.approx(1.2 * math.sqrt(3) / 1.645)
    assert spread("domainnet", "ood") == pytest.approx(1.1 * math.sqrt(3) / 1.645)
    assert spread("camelyon17", "id") == pytest.approx(0.05 * math.sqrt(3) / 1.645)
    assert 0 < spread("cifar10", "id") < 0.5


def test_one_run_against_one_run_gets_the_spread_of_both(tmp_path: Path) -> None:
    key = ("clip_vit_l14", "fmow", "sgd")
    study = stored(tmp_path / "s.db", {key: as_published()[key]})

    one = of(beside(study, "1"), "sgd", "fmow", "clip_vit_l14")

    noise = 1.645 * spread("fmow", "ood")
    assert one.allowed == pytest.approx(math.sqrt(2) * noise + ROUNDING)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_verdict_follows_the_size_of_the_shift(tmp_path: Path, sign: int) -> None:
    steps = (0.0, 0.5, 0.9, 1.1, 3.0)
    allowed = {
        one.entry.column: one.allowed
        for one in beside(stored(tmp_path / "0.db", clip()), "1").cells
        if (one.entry.model, one.entry.method) == (CLIP, "sgd")
    }
    base = clip()
    for number, step in enumerate(steps, 1):
        by = sign * step
        numbers = {
            key: {"ood": (cell["ood"][0] + by * (allowed[key[1]] or 0.0),), "id": cell["id"]}
            for key, cell in base.items()
            if key[2] == "sgd" and key[1] in FIVE
        }
        found = beside(stored(tmp_path / f"{number}.db", numbers), "1")
        for dataset in FIVE:
            one = of(found, "sgd", dataset)
            outside = "above" if sign > 0 else "below"
            assert one.verdict == ("within" if step < 1 else outside)
            assert one.difference == pytest.approx(by * (one.allowed or 0.0), abs=1e-6)
            assert one.excess == pytest.approx(step, abs=1e-6)


def test_a_miniature_is_never_compared(tmp_path: Path) -> None:
    study = stored(
        tmp_path / "s.db",
        clip(),
        fingerprint=lambda key: "miniature-0f" if key[1] == "fmow" else "d" * 16,
    )

    found = beside(study, "1")

    mini = of(found, "sgd", "fmow")
    assert (mini.verdict, mini.difference) == ("not comparable", None)
    assert mini.reason == "miniature data, not the real one"
    assert of(found, "sgd", AVERAGE).verdict == "not comparable"
    assert found.scorecard.counts["not comparable"] == 4
    assert found.scorecard.compared == 16
    assert "not comparable: miniature data" in compare.render([found], "text")


@pytest.mark.parametrize("style", ["text", "markdown", "latex", "html"])
def test_of_miniatures_alone_nothing_is_said_but_why(tmp_path: Path, style: str) -> None:
    study = stored(tmp_path / "s.db", clip(), fingerprint=lambda key: "miniature-0f")

    text = compare.render([beside(study, "ood")], style)

    sentence = "Nothing here can be compared with the paper: miniature data, not the real one."
    assert sentence in " ".join(text.split())
    assert "Scorecard" not in text


def test_models_and_datasets_of_our_own_are_left_out(tmp_path: Path) -> None:
    numbers = {
        **{key: cell for key, cell in clip().items() if key[2] in ("sgd", "adamw")},
        (CLIP, "mini_fmow", "sgd"): {"id": (1.0,), "ood": (2.0,)},
        ("tiny_vit", "living17", "sgd"): {"id": (1.0,), "ood": (2.0,)},
        (CLIP, "living17", "adam_spd"): {"id": (1.0,), "ood": (2.0,)},
    }
    found = beside(stored(tmp_path / "s.db", numbers), "ood")

    assert {one.entry.model for one in found.cells} == {CLIP}
    assert {one.entry.method for one in found.cells} == {"sgd", "adamw"}
    assert {one.entry.column for one in found.cells} == {*FIVE, AVERAGE}
    # The average is of six columns here.
    assert of(found, "sgd", AVERAGE).verdict == "not comparable"
    text = compare.render([found], "text")
    assert "tiny" not in text
    assert "mini" not in text


def test_nothing_of_the_papers_is_said_in_a_sentence(tmp_path: Path) -> None:
    numbers = {("tiny_vit", "digits", "sgd"): {"id": (1.0,), "ood": (2.0,)}}

    found = beside(stored(tmp_path / "s.db", numbers), "ood")

    assert found.cells == ()
    assert found.nothing == (
        "Nothing here can be compared with the paper: it has no number of these models, datasets "
        "and methods."
    )
    assert found.nothing in " ".join(compare.render([found], "text").split())
    assert json.loads(compare.render([found], "json"))[0]["nothing"] == found.nothing


def test_what_has_no_number_yet_is_no_difference(tmp_path: Path) -> None:
    numbers = {key: cell for key, cell in clip().items() if key[1] != "fmow"}
    waits = (CLIP, "living17", "sgd")

    found = beside(stored(tmp_path / "s.db", numbers, pending=[waits]), "1")

    assert of(found, "adamw", "fmow").verdict == "no number"
    assert of(found, "adamw", "fmow").reason == "no run was asked for"
    assert of(found, "sgd", "living17").verdict == "no number"
    assert of(found, "sgd", "living17").reason
    assert of(found, "adamw", AVERAGE).verdict == "not comparable"
    assert found.scorecard.counts["no number"] == 4 + 1 + 6 * 5 * 4


# The scorecard


def test_the_scorecard_counts_what_moved(tmp_path: Path) -> None:
    def moved(key: Key, split: str) -> float:
        return -30.0 if key[2] == "adamw" and key[1] == "domainnet" else 0.0

    found = beside(stored(tmp_path / "s.db", shifted(clip(), moved)), "1")
    card = found.scorecard

    assert (card.counts["within"], card.counts["below"], card.counts["above"]) == (19, 1, 0)
    assert card.mean_absolute == pytest.approx(30 / 20)
    assert card.mean_signed == pytest.approx(-30 / 20)
    assert [one.entry.column for one in found.suspects] == ["domainnet"]
    # AdamW was first of four on DomainNet, and is last: three pairs turn over, one against SGD.
    order = card.order[CLIP]
    assert (order.same, order.opposite, order.pairs) == (27, 3, 30)
    assert order.tau == pytest.approx(24 / 30)
    assert (card.deltas.same, card.deltas.opposite) == (14, 1)
    assert of(found, "adamw", AVERAGE).verdict == "below"


def test_suspects_come_with_the_furthest_first(tmp_path: Path) -> None:
    sizes = {"living17": 9.0, "waterbirds": 30.0, "fmow": -40.0}

    def moved(key: Key, split: str) -> float:
        return sizes.get(key[1], 0.0) if key[2] == "adamw" else 0.0

    found = beside(stored(tmp_path / "s.db", shifted(clip(), moved)), "1")

    assert {one.entry.column for one in found.suspects} == sizes.keys()
    excesses = [one.excess for one in found.suspects]
    assert excesses == sorted(excesses, reverse=True)
    assert min(excesses) > 1


# Causes


def test_causes_name_the_fields_that_differ(tmp_path: Path) -> None:
    def changes(key: Key) -> dict[str, object]:
        return {"weights": "random", "precision": "bf16"} if key[2] == "sgd" else {}

    off = shifted(clip(), lambda key, split: -40.0 if key[2] in ("sgd", "adamw") else 0.0)
    found = beside(stored(tmp_path / "s.db", off, changes=changes), "1")

    assert found.common == (
        "schedule: cosine_per_step here, cosine_per_epoch in the published runs",
        "1 of the paper's 6 learning rates tried",
    )
    sgd, adamw = of(found, "sgd", "waterbirds"), of(found, "adamw", "fmow")
    assert sgd.causes == (
        "random weights, not pretrained ones",
        found.common[0],
        "epochs: 1 here, 20 in the published runs",
        "precision: bf16 here, fp32 in the published runs",
        "waterbirds_selection: validation here, test in the published runs",
        "1 of the paper's 3 seeds",
        found.common[1],
    )
    assert "weight_decay: 0.01 here, 0.0 in the published runs" in adamw.causes
    text = compare.render([found], "text")
    assert "All runs here differ from the published ones:\n    - schedule: cosine" in text
    assert "Suspects, 10, the worst first:" in text
    assert text.count("schedule: cosine_per_step") == 1


def test_runs_like_the_published_ones_have_nothing_against_them(tmp_path: Path) -> None:
    epochs = {"living17": 20, "domainnet": 50, "fmow": 5, "camelyon17": 3}
    numbers = {k: v for k, v in as_published().items() if k[0] == "dino_vit_b16" and k[1] in epochs}

    def changes(key: Key) -> dict[str, object]:
        return {"schedule": "cosine_per_epoch", "weight_decay": 0.0, "epochs": epochs[key[1]]}

    study = stored(tmp_path / "s.db", numbers, changes=changes)

    assert not [text for key in study.members for text in Likeness(study).protocol(key)]


def test_weights_of_two_checksums_are_told(tmp_path: Path) -> None:
    study = stored(
        tmp_path / "s.db", clip(), weights=lambda key: "ab" if key[1] == "fmow" else "cd"
    )

    told = f"weights of different checksums among the runs of {CLIP}"
    assert beside(study, "1").common[0] == told


@pytest.mark.parametrize(
    ("method", "changes", "told"),
    [
        ("lars", {}, "LARS: layer-wise here, equal to SGD with momentum in the published runs"),
        ("lp_ft_sgd", {"learning_rate": 1e-3}, "learning rates: divided by 10 here, not"),
        ("lp_ft_sgd", {"learning_rate": 1e-2}, ""),
        ("lp_ft_adamw", {"learning_rate": 1e-5}, "learning rates: divided by 10 here, not"),
        ("sgd_low_lr_embed", {}, "low_lr_proj: trained here, fixed in the published runs"),
        ("linear_probe", {}, ""),
        ("sgd", {"source": "import:x", "schedule": ""}, ""),
    ],
)
def test_methods_that_the_authors_ran_otherwise(
    tmp_path: Path, method: str, changes: dict[str, Any], told: str
) -> None:
    key = (CLIP, "fmow", method)
    settings = {"epochs": 5, "schedule": "cosine_per_epoch", "weight_decay": 0.0, **changes}
    study = stored(tmp_path / "s.db", {key: clip()[key]}, changes=lambda key: settings)

    found = [*Likeness(study).protocol(key)]

    assert len(found) == bool(told)
    assert not told or found[0].startswith(told)


def test_what_a_choice_leaves_open_is_told(tmp_path: Path) -> None:
    key = (CLIP, "fmow", "sgd")
    study = stored(tmp_path / "s.db", {key: clip()[key]})
    likeness = Likeness(study)
    cell = dataclasses.replace(study.cells("ood")[key], edge="low", n=3, expected=6, diverged=True)

    told = [*likeness.choice(dataclasses.replace(cell, rule="ood-oracle"), 3)]

    assert told == [
        "the best rate is the lowest tried; `orch extend --edges` adds the next",
        "1 of the paper's 3 seeds",
        "1 of the paper's 6 learning rates tried",
        "3 of 6 runs are finished",
        "a chosen run diverged",
        "chosen by ood-oracle here, by ID validation in the published runs",
    ]


def test_imported_numbers_are_told_as_such(tmp_path: Path) -> None:
    study = stored(tmp_path / "s.db", clip(), changes=lambda key: {"source": "import:paper"})

    assert beside(study, "1").common == ("imported, not measured here",)


def test_what_one_cell_does_is_common_to_nothing(paper: Study) -> None:
    (first, *_) = beside(paper, "1").cells

    assert first.causes
    assert common([first]) == ()
    assert common([first, first]) == first.causes


# What is printed


class Rows(HTMLParser):
    """The number of cells of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append(0)
        elif tag in ("td", "th"):
            self.rows[-1] += 1


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A table with a cell of every verdict."""
    moves = {"living17": 20.0, "waterbirds": -40.0}
    numbers = shifted(clip(), lambda key, split: moves.get(key[1], 0.0))
    numbers = {key: cell for key, cell in numbers.items() if key[1:] != ("fmow", "sgd")}
    mini = {"camelyon17": "miniature-0"}
    path = tmp_path_factory.mktemp("odd") / "orch.db"
    study = stored(path, numbers, fingerprint=lambda key: mini.get(key[1], "d"))
    return beside(study, "ablations-ood")


def test_text_has_ours_theirs_and_the_difference(odd: Comparison) -> None:
    text = compare.render([odd], "text")
    row = next(line for line in text.splitlines() if re.match(r"AdamW ", line.strip()))

    assert text.startswith("Table 7: Ablations on CLIP ViT-B/16: out-of-distribution accuracy (%)")
    assert re.search(r"102\.8 +82\.8 \+20\.0▲ +31\.9 +71\.9 -40\.0▼ +89\.2 +89\.2 \+0\.0", row)
    assert re.search(r"95\.7 +95\.7 +×", row)
    assert "×" in text
    assert "— no number here yet." in text
    assert "Suspects, the 10 worst of 30:" in text
    grid = text.partition("\n\nOurs,")[0].splitlines()[2:]
    assert len({line.rfind("─") for line in grid if "─" in line}) == 1


def test_a_terminal_gets_colours_and_panels(
    odd: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")

    painted = compare.render([odd], "text", colour=True)
    plain = re.sub(r"\x1b\[[\d;]*m", "", painted)

    assert "\x1b[31m" in painted
    assert max(map(len, plain.splitlines())) <= 100
    grids = [line for line in plain.splitlines() if line.startswith("─")]
    assert len(grids) == 3
    assert max(map(len, grids)) <= 90


def test_the_long_forms_have_every_number(odd: Comparison) -> None:
    rows = [*csv.DictReader(io.StringIO(compare.render([odd], "csv")))]
    (whole,) = json.loads(compare.render([odd], "json"))

    assert [*rows[0]] == [*LONG] == [*whole["cells"][0]]
    assert len(rows) == len(whole["cells"]) == len(odd.cells) == 15 * 6
    assert {row["verdict"] for row in rows} == {
        "within", "above", "below", "no number", "not comparable",
    }  # fmt: skip
    card = whole["scorecard"]
    assert sum(card["counts"].values()) == 15 * 5
    assert card["compared"] == odd.scorecard.compared
    assert whole["common"] == [*odd.common]
    for row, one in zip(rows, odd.cells, strict=True):
        assert row["difference"] == ("" if one.difference is None else repr(one.difference))


def test_other_formats_are_those_of_tables(odd: Comparison) -> None:
    made = as_table(odd)
    html, latex, markdown = (
        compare.render([odd], style) for style in ("html", "latex", "markdown")
    )

    parser = Rows()
    parser.feed(html)
    assert parser.rows.count(len(made.heads) + len(made.columns)) == 16
    assert r"\textbf{102.8 / 82.8 (+20.0)}" in latex
    assert latex.count(r"\\") >= 16
    assert "**102.8 / 82.8 (+20.0)**" in markdown
    assert "- Cells within the interval: " in markdown
    assert all(entry.delta is None for entry in made.entries)


def test_the_best_results_are_compared_with_the_papers_best(tmp_path: Path) -> None:
    # Another cell is the best here: it stands beside the paper's best of that dataset.
    numbers = shifted(
        {key: cell for key, cell in as_published().items() if key[0] in SEVEN},
        lambda key, split: 9.0 if key == ("bit_r50_in21k", "fmow", "adamw") else 0.0,
    )
    numbers = {k: v for k, v in numbers.items() if k[0] != "clip_vit_l14" or k[1] != "fmow"}
    found = beside(stored(tmp_path / "s.db", numbers), "sota")

    one = next(one for one in found.cells if one.entry.column == "fmow")
    assert one.theirs == 49.9
    assert one.entry.cell.model == "bit_r50_in21k"
    assert len(found.cells) == 5
