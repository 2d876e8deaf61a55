"""`orch import` and `orch export` as a user meets them, and what other commands say afterwards."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from conftest import ROOT, a_history, a_run
from db.records import Provenance
from db.store import Store
from orchestrator.cli import main
from orchestrator.exchange.fields import COLUMNS

PUBLISHED = ROOT / "reports" / "published" / "tables.csv"
ENGINES = ("sqlite", "postgresql")
FIGURES = """\
sweep,model,dataset,method,lr,seed,epoch,split,metric,value
figures,clip_vit_b16,fmow,sgd,1e-4,0,3,id,accuracy,0.50
figures,clip_vit_b16,fmow,sgd,1e-4,0,3,ood,accuracy,0.25
figures,clip_vit_b16,fmow,lookahead,1e-4,0,3,id,accuracy,0.75
figures,clip_vit_b16,fmow,lookahead,1e-4,0,3,ood,accuracy,0.50
"""


def invoke(store: str, *words: object) -> Result:
    return CliRunner().invoke(main, ["--store", store, *map(str, words)])


def said(store: str, *words: object, code: int = 0) -> str:
    """What a command prints on both streams, without a traceback."""
    done = invoke(store, *words)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done.output


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    """A file of two runs."""
    path = tmp_path / "figures.csv"
    path.write_text(FIGURES)
    return path


@pytest.fixture
def imported(store: Store, store_url: str, figures: Path) -> str:
    """A store into which it was imported."""
    said(store_url, "import", figures)
    return store_url


def test_from_figures_to_a_table(store: Store, store_url: str, figures: Path) -> None:
    first = invoke(store_url, "import", figures)
    assert first.exit_code == 0
    assert first.stdout == (
        "4 rows of 2 runs: 2 new, 0 with more numbers or another state, 0 as they were.\n"
        "Read the table with: orch report --sweep figures --table ood\n"
    )
    assert "note: no method that this orch trains: lookahead." in first.stderr
    assert said(store_url, "report", "--sweep", "figures").splitlines()[4].split() == [
        "CLIP", "ViT-B/16", "SGD", "25.0", "25.0",
    ]  # fmt: skip
    assert said(store_url, "import", figures).endswith("4 rows of 2 runs: nothing new.\n")


def test_changed_figures_are_refused_and_a_void_lets_them_in(imported: str, figures: Path) -> None:
    figures.write_text(FIGURES.replace("0.25", "0.35"))
    refusal = said(imported, "import", figures, code=2)
    assert f"{figures}, line 3: run " in refusal
    assert "has ood accuracy 0.25 after epoch 3 in the store, and 0.35 here" in refusal
    assert refusal.endswith("Nothing was imported.\n")
    assert "25.0" in said(imported, "report")

    run_id = refusal.partition("orch runs void ")[2].split()[0]
    assert "orch import FILE" in said(imported, "runs", "void", run_id, "--reason", "a typo")
    assert "brings others" in said(imported, "status")
    assert "was not trained by orch" in said(imported, "runs", "retry", run_id, code=2)
    assert "1 with more numbers or another state" in said(imported, "import", figures)
    assert "35.0" in said(imported, "report")


def test_a_bad_file_makes_no_store(tmp_path: Path, figures: Path) -> None:
    store = tmp_path / "none.db"
    figures.write_text(FIGURES.replace("0.50", "50.0"))
    refusal = said(str(store), "import", figures, code=2)
    assert refusal.splitlines() == [
        f"orch: {figures}, line 2: value 50 is not a fraction in [0, 1]; is it percent? "
        "Divide by 100.",
        f"{figures}, line 5: value 50 is not a fraction in [0, 1]; is it percent? Divide by 100.",
        "Nothing was imported.",
    ]
    assert not store.exists()
    missing = said(str(store), "import", tmp_path / "no.csv", code=2)
    assert f"{tmp_path / 'no.csv'} cannot be read (No such file or directory)" in missing
    assert "Is a directory" in said(str(store), "import", tmp_path, code=2)


def test_what_trains_says_that_there_is_nothing_to_train(
    imported: str, figures: Path, tmp_path: Path
) -> None:
    assert "2/2 runs: 2 done (2 of them imported)" in said(imported, "status")
    assert json.loads(said(imported, "status", "--json"))[0]["imported"] == 2
    without_file = '"figures" was imported as numbers, without a sweep file'
    for words in (
        ["resume", "figures"], ["resume"], ["extend", "--edges", "figures"],
        ["verify-resume", "figures"],
    ):  # fmt: skip
        assert without_file in said(imported, *words, code=2), words
    listed = json.loads(said(imported, "runs", "list", "--json"))
    assert {run["source"] for run in listed} == {"import:figures"}
    run_id = listed[0]["id"]
    shown = said(imported, "runs", "show", run_id)
    assert "source: import:figures" in shown
    for words in (
        ["runs", "logs", run_id], ["runs", "run", run_id, "--local"],
        ["evaluate", run_id, "--dataset", "fmow"],
    ):  # fmt: skip
        assert "its numbers were imported (import:figures)" in said(imported, *words, code=2)
    assert "is done, not pending or running" in said(imported, "runs", "cancel", run_id, code=2)

    sweep = tmp_path / "figures.yaml"
    text = (
        "models: [toy]\ndatasets: [toy]\nmethods: [sgd]\nlearning_rates: [0.1]\nweights: random\n"
    )
    sweep.write_text(f"name: figures\n{text}")
    assert "holds imported numbers" in said(imported, "plan", sweep, code=2)
    assert "holds imported numbers" in said(imported, "launch", sweep, code=2)
    sweep.write_text(f"name: mine\n{text}")
    assert said(imported, "plan", sweep).startswith("mine: 1 run in 1 cell (1 pending)")


def test_names_that_only_imported_runs_have(imported: str) -> None:
    chosen = said(imported, "runs", "list", "--where", "method=lookahead source!=none")
    assert chosen.splitlines()[-1] == "1 run"
    assert "50.0" in said(imported, "report", "--where", "method=lookahead")
    assert 'unknown method "lookbehind"' in said(
        imported, "runs", "list", "--where", "method=lookbehind", code=2
    )


def test_a_copy_has_imported_runs_too(imported: str, tmp_path: Path, figures: Path) -> None:
    target = str(tmp_path / "copy.db")
    said(imported, "store", "copy", target)
    assert said(target, "export") == said(imported, "export")
    assert said(target, "import", figures).endswith("nothing new.\n")


def test_an_export_is_written_whole_or_not_at_all(imported: str, tmp_path: Path) -> None:
    assert "name the file with -o" in said(imported, "export", "--format", "parquet", code=2)
    said(imported, "export", "-o", tmp_path / "x.parquet")
    said(imported, "export", "--format", "parquet", "-o", tmp_path / "x.dat")
    assert (tmp_path / "x.dat").read_bytes() == (tmp_path / "x.parquet").read_bytes()
    said(imported, "export", "-o", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == said(imported, "export")
    said(imported, "export", "--times", "-o", tmp_path / "times.csv")
    header = (tmp_path / "times.csv").read_text().partition("\n")[0].split(",")
    assert header[:10] == [*COLUMNS]
    assert header[-2:] == ["seconds", "images_per_second"]
    before = sorted(tmp_path.iterdir())
    said(imported, "export", "--sweep", "nosuch", "-o", tmp_path / "y.csv", code=2)
    assert sorted(tmp_path.iterdir()) == before


def test_a_store_goes_through_a_pipe(tmp_path: Path, figures: Path) -> None:
    orch = f"{sys.executable} -m orchestrator"
    script = (
        f"cat {figures} | {orch} --store a.db import - && "
        f"{orch} --store a.db export | {orch} --store b.db import - && "
        f"{orch} --store b.db export | cmp - <({orch} --store a.db export)"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_imports_nothing_heavy(tmp_path: Path, figures: Path) -> None:
    code = (
        "import sys\n"
        "from orchestrator.cli import main\n"
        f"try: main(['--store', 'x.db', 'import', {str(figures)!r}])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_runs_that_were_trained_elsewhere(store: Store, store_url: str, tmp_path: Path) -> None:
    """A half-trained run and a failed one, with the sweep's file: the sweep can go on here."""
    source = tmp_path / "source.db"
    sweep = tmp_path / "toys.yaml"
    sweep.write_text(
        "name: toys\nmodels: [toy]\ndatasets: [toy]\nmethods: [sgd]\nweights: random\n"
        "learning_rates: [0.1, 0.2, 0.3]\n"
    )
    from orchestrator import sweep as sweeps

    loaded = sweeps.load(sweep)
    filled = Store.open(str(source), create=True)
    filled.register("toys", loaded.text, loaded.requested, {run.id for run in loaded.requested})
    done, half, failed = filled.runs("toys")
    owner = filled.enlist()
    for stored in (done, half, failed):
        claim = filled.claim(stored.key, owner)
        assert claim is not None
        filled.start(claim, a_history(stored.run, 1), Provenance(data_fingerprint="d"), None)
        if stored is done:
            filled.finish(claim, a_history(stored.run))
        elif stored is failed:
            filled.fail(claim, "OSError: gone", "Traceback …")

    said(str(source), "export", "-o", tmp_path / "toys.csv")
    assert "3 new" in said(store_url, "import", tmp_path / "toys.csv")

    status = said(store_url, "status")
    assert "2/3 runs: 1 done, 1 pending, 1 failed" in status
    assert "failed where it was trained, and imported as such" in status
    again = said(store_url, "resume", "toys", "--dry-run")
    assert "(1 done, 1 pending, 1 failed)" in again
    assert f"would train {half.id}" in again
    logs = said(store_url, "runs", "logs", done.id, code=2)
    assert "was trained elsewhere and imported; its log is there" in logs
    assert said(store_url, "runs", "retry", failed.id) == (
        "1 run will be trained again.\nTrain with: orch resume toys\n"
    )
    assert said(store_url, "report", "--sweep", "toys") == said(str(source), "report")
    assert a_run().id == done.id


def test_the_published_figures_as_one_best_run_a_cell(
    store: Store, store_url: str, tmp_path: Path
) -> None:
    """The paper's Tables 1 and 2 by someone who writes the ten columns from them."""
    with PUBLISHED.open(newline="") as file:
        published = [row for row in csv.DictReader(file) if row["table"] in ("1", "2")]
    expected = {
        (row["metric"], row["model"], row["dataset"], row["method"]): float(row["value"])
        for row in published
        if row["dataset"] != "avg"
    }
    assert len(expected) == 2 * 7 * 5 * 4
    with (tmp_path / "paper.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for (split, *cell), value in expected.items():
            writer.writerow(["paper", *cell, 1e-3, 0, 1, split, "accuracy", value / 100])

    assert "280 rows of 140 runs: 140 new" in said(store_url, "import", tmp_path / "paper.csv")

    found: dict[tuple[str, ...], float] = defaultdict(float)
    for table in ("ood", "id"):
        text = said(store_url, "report", "--sweep", "paper", "--table", table, "--format", "csv")
        for row in csv.DictReader(text.splitlines()):
            if row["dataset"] != "avg":
                found[table, row["model"], row["dataset"], row["method"]] = float(row["shown"])
    assert found == expected
