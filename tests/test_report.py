"""`orch report`: what is found by name, number and sweep, where it goes, and what is refused."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from conftest import ROOT
from db.store import Store
from orchestrator import sweep as sweeps
from orchestrator.cli import main, reporting
from reports import render, tables
from reports.select import RULES
from studies import fill

SWEEP = """\
name: small
models: [tiny_vit, tiny_bit]
datasets: [digits, mini_waterbirds]
methods: [sgd, adamw]
weights: random
learning_rates: {sgd: [1e-4, 3e-4, 1e-3], adamw: [1e-6, 3e-6]}
tables:
  both: {splits: [id, ood], methods: [adamw, sgd], title: Both splits}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished sweep that declares a table, and its file beside it."""
    folder = tmp_path_factory.mktemp("report")
    path = folder / "orch.db"
    (folder / "small.yaml").write_text(SWEEP)
    filled(path, SWEEP)
    return path


def filled(path: Path, text: str, **others: object) -> None:
    """A store in which the runs of a sweep's text are finished."""
    loaded = sweeps.loads(text, "small.yaml")
    made = fill(str(path), loaded.requested, name=loaded.name, epochs=2, **others)  # type: ignore[arg-type]
    made.register(loaded.name, text, loaded.requested, {r.id for r in loaded.requested})
    made.engine.dispose()


def report(store: Path, *words: object) -> Result:
    """`orch report` on a store."""
    words = ("--store", store, "report", *words)
    return CliRunner().invoke(main, [str(word) for word in words])


def shown(store: Path, *words: object) -> str:
    """What it prints, where it succeeds."""
    result = report(store, *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result, *said: str) -> None:
    """It ends with 2 and one sentence that says all of this, without a traceback."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stderr.startswith("orch: ")
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    for part in said:
        assert part in result.stderr


def test_options_offer_what_there_is() -> None:
    assert reporting.RULES == RULES
    assert reporting.FORMATS == render.FORMATS
    assert set(reporting.SUFFIXES.values()) == set(render.FORMATS)


# Which table


def test_without_a_name_the_table_is_ood(store: Path) -> None:
    assert shown(store) == shown(store, "--table", "ood")
    assert shown(store).startswith("Out-of-distribution accuracy (%)\n")


def test_several_tables_stand_in_the_order_asked_and_each_once(store: Path) -> None:
    text = shown(store, "--table", "id", "--table", "summary", "--table", "id")
    titles = ("In-distribution", "Figure 1b")

    assert [text.count(title + " a") for title in titles] == [1, 0]
    assert text.index("In-distribution accuracy") < text.index("Figure 1b: average")


def test_a_sweeps_own_table_is_found_by_its_name_or_file(store: Path) -> None:
    by_name = shown(store, "--table", "both", "--sweep", "small")

    assert by_name.startswith("Both splits\n")
    assert "Digits ID" in by_name
    assert by_name == shown(store, "--table", "both", "--sweep", store.with_name("small.yaml"))
    refused(report(store, "--table", "both"), "belongs to the sweep small: add --sweep small")
    refused(report(store, "--table", "botch", "--sweep", "small"), 'did you mean "both"')


def test_a_file_that_has_changed_since_shows_its_own_tables(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP + "  late: {columns: models, datasets: [digits]}\n")

    assert "late: OOD accuracy (%)" in shown(store, "--sweep", path, "--table", "late")
    refused(report(store, "--sweep", "small", "--table", "late"), 'no table "late"')


def test_a_file_that_was_never_launched_is_named(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(SWEEP.replace("name: small", "name: other"))

    refused(report(store, "--sweep", path), 'no sweep "other" yet', f"orch launch {path}")
    path.write_text("name: other\nmodells: [x]\n")
    assert f"{path}:2: modells" in report(store, "--sweep", path).stderr


def test_a_table_without_runs_is_a_note_beside_others_and_an_error_alone(store: Path) -> None:
    both = report(store, "--table", "1", "--table", "ood")

    assert both.exit_code == 0
    assert both.stdout == shown(store)
    assert "note: there are no runs yet for Table 1 (ood)" in both.stderr
    refused(report(store, "--table", "1"), "`orch launch sweeps/full_grid.yaml` makes them")
    refused(report(store, "--table", "4"), "sweeps/memory.yaml", "does not have")
    refused(report(store, "--table", "memory"), "no runs yet for Table 4")


def test_what_does_not_exist_is_refused(store: Path) -> None:
    refused(report(store, "--table", "ablation-ood"), 'did you mean "ablations-ood"', "1 to 14")
    refused(report(store, "--table", "15"), 'no table "15"')
    refused(report(store, "--sweep", "nope"), 'no sweep "nope"', "it has: small")
    refused(report(store, "--where", "model=tiny_vt"), 'mean "tiny_vit"')
    refused(report(store, "--where", "seed=7"), "no run to report on: widen --sweep or --where")
    assert report(store, "--select", "best").exit_code == 2
    assert report(store, "--format", "pdf").exit_code == 2
    assert report(store, "--compare", "other").exit_code == 2


def test_a_store_without_runs_or_with_failed_ones_alone(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    Store.open(str(empty), create=True).engine.dispose()
    refused(report(empty), "no run to report on")
    refused(report(empty, "--table", "7"), "sweeps/clip_ablations.yaml")
    failed = tmp_path / "failed.db"
    filled(failed, SWEEP, state=lambda run: "failed")
    for words in ((), ("--table", "summary"), ("--sweep", "small", "--table", "both")):
        refused(report(failed, *words), "has numbers (20 failed)", "orch runs retry")
    pending = tmp_path / "pending.db"
    filled(pending, SWEEP, state=lambda run: "pending")
    assert "— (0/3)" in shown(pending)


# How cells are chosen


def test_conditions_choose_runs(store: Path) -> None:
    text = shown(store, "--where", "model=tiny_bit", "--where", "dataset=digits")

    assert "Tiny BiT" in text
    assert "Tiny ViT" not in text
    assert "Mini Waterbirds" not in text


def test_an_oracle_is_labelled_in_every_format(store: Path) -> None:
    for style in ("text", "markdown", "latex", "html"):
        assert "ORACLE" in shown(store, "--select", "ood-oracle", "--format", style)
        assert "ORACLE" not in shown(store, "--format", style)
    rows = json.loads(shown(store, "--select", "ood-oracle", "--format", "json"))
    assert {row["select"] for row in rows} == {"ood-oracle"}
    rows = list(csv.DictReader(io.StringIO(shown(store, "--select", "last", "--format", "csv"))))
    assert {row["select"] for row in rows} == {"last"}
    assert "[last epoch]" in shown(store, "--select", "last")
    assert "[rates that lack seeds compete]" in shown(store, "--partial")


# Where it goes


@pytest.mark.parametrize("suffix", reporting.SUFFIXES)
def test_the_ending_of_a_file_says_its_format(store: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"

    assert shown(store, "-o", path) == ""

    assert path.read_text() == shown(store, "--format", reporting.SUFFIXES[suffix])
    shown(store, "--format", "csv", "-o", path)
    assert path.read_text().startswith("table,model,method")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_that_cannot_be_written_is_named(store: Path, tmp_path: Path) -> None:
    refused(report(store, "-o", tmp_path / "no" / "x.tex"), "cannot be written", "x.tex")
    assert report(store, "-o", tmp_path).exit_code == 2
    kept = tmp_path / "kept.tex"
    kept.write_text("as it was")
    refused(report(store, "--table", "7", "-o", kept), "no runs yet")
    assert kept.read_text() == "as it was"


def test_a_pipe_is_written_to(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    shown(store, "-o", path)

    assert os.read(reader, 1 << 16).decode() == shown(store)
    assert stat.S_ISFIFO(path.stat().st_mode)
    os.close(reader)


def test_a_terminal_gets_colours_and_a_pipe_none(store: Path) -> None:
    read, write = pty.openpty()
    words = [sys.executable, "-m", "orchestrator", "--store", str(store), "report"]
    command = subprocess.Popen(words, stdout=write, cwd=ROOT)
    os.close(write)
    seen = b""
    with contextlib.suppress(OSError):  # how a terminal says that its other end has closed
        while piece := os.read(read, 1 << 16):
            seen += piece
    os.close(read)
    assert command.wait() == 0
    assert b"\x1b[3" in seen
    assert "\x1b" not in shown(store)


# Comparisons, figures, pages


def test_what_excludes_each_other_is_refused(store: Path, tmp_path: Path) -> None:
    refused(report(store, "--figure", "summary"), "-o FILE.png")
    refused(
        report(store, "--figure", "summary", "--table", "ood", "-o", tmp_path / "x.png"),
        "--figure draws a figure and nothing else",
    )
    refused(report(store, "--html", tmp_path, "--format", "csv"), "--html writes a folder")
    assert not list(tmp_path.iterdir())


def test_a_figure_is_drawn_where_it_is_asked_for(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "summary.svg"

    assert shown(store, "--figure", "summary", "-o", path) == f"{path}\n"

    assert "<svg" in path.read_text()
    refused(report(store, "--figure", "sumary", "-o", path), 'did you mean "summary"')


def test_a_page_has_every_table_and_the_sweeps_own(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "page"

    written = shown(store, "--html", folder, "--sweep", "small").strip()

    page = Path(written).read_text()
    for title in ("Out-of-distribution accuracy", "Figure 1b", "Both splits"):
        assert title in page


def test_a_comparison_with_the_paper(tmp_path: Path) -> None:
    path = tmp_path / "orch.db"
    filled(path, SWEEP.replace("[tiny_vit, tiny_bit]", "[clip_vit_b16]").replace(
        "[digits, mini_waterbirds]", "[living17]"))  # fmt: skip

    assert "82.8" in shown(path, "--compare", "paper"), "AdamW's published accuracy"


def test_the_tables_that_number_and_name_share_are_one_list(tmp_path: Path) -> None:
    path = tmp_path / "orch.db"
    text = SWEEP.replace("[tiny_vit, tiny_bit]", "[clip_vit_b16]")
    filled(path, text.replace("[digits, mini_waterbirds]", "[living17]"))

    rows = json.loads(shown(path, "--table", "1", "--table", "ood", "--format", "json"))
    assert len(rows) == 7 * 4 * 6 + 2 * 2
    assert {(row["table"], row["number"]) for row in rows} == {("ood", 1), ("ood", None)}
    assert tables.find("1").name == "ood"
