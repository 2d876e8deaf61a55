"""The Python API: data frames that say what the tables say."""

from __future__ import annotations

import doctest
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import reports
from conftest import ROOT, a_run
from db.errors import NotFound, ReportError, StoreMissing
from db.records import EpochRecord, Metric, Provenance, Run
from db.store import Store
from orchestrator.cli import main
from reports.study import Study

ENGINES = ("sqlite", "postgresql")
PAGE = (ROOT / "docs" / "analysis.md").read_text()


def blocks(language: str) -> list[str]:
    """The page's code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_is_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, its commands and its Python, with what they print."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures.csv").write_text(blocks("csv")[0])
    for command, printed in re.findall(r"\$ orch (.*)\n((?:[^$].*\n)*)", blocks("console")[0]):
        assert CliRunner().invoke(main, command.split()).output == printed
    example = doctest.DocTestParser().get_doctest(
        "\n".join(blocks("pycon")), {}, "docs/analysis.md", "docs/analysis.md", 0
    )
    assert len(example.examples) > 15
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


def test_importing_it_is_cheap() -> None:
    code = (
        "import sys, reports\n"
        "heavy = {'pandas', 'sqlalchemy', 'torch', 'ray', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import reports.frames\n"
        "heavy = {'torch', 'ray', 'matplotlib', 'worker', 'orchestrator'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def curve(run: Run, *values: float) -> list[EpochRecord]:
    """Epochs with these `id` values; `ood` is half of each, and has a group."""
    return [
        EpochRecord(
            epoch,
            1.0,
            0.75,
            0.01,
            (
                Metric("id", "", "accuracy", value, None, 64),
                Metric("ood", "", "accuracy", value / 2, 3, 64),
                Metric("ood", "land", "accuracy", value / 4, None, None),
            ),
            seconds=2.0,
        )
        for epoch, value in enumerate(values)
    ]


@pytest.fixture
def filled(store: Store, store_url: str) -> str:
    """Two rates of two seeds in one cell, one of them half-trained; and a cell to come."""
    low, high = (
        [a_run(epochs=2, learning_rate=rate, seed=seed) for seed in (0, 1)] for rate in (0.1, 0.2)
    )
    later = a_run(method="adamw", learning_rate=0.3)
    runs = [*low, *high, later]
    store.register("s", "name: s", runs, {run.id for run in runs})
    owner = store.enlist()
    values = {low[0]: (0.125, 0.25, 0.5), low[1]: (0.0, 0.75, 0.5), high[0]: (0.0, 1.0, 0.0)}
    for run, made in values.items():
        claim = store.claim(store.find_run(run.id).key, owner)
        assert claim is not None
        store.start(claim, (), Provenance(data_fingerprint="miniature-d"), None)
        store.finish(claim, curve(run, *made))
    claim = store.claim(store.find_run(high[1].id).key, owner)
    assert claim is not None
    store.start(claim, curve(high[1], 0.0, 0.5), Provenance(), None)
    store.retire(owner)
    return store_url


def test_cells_are_the_studys(filled: str, store: Store) -> None:
    frame = reports.load(filled, "s").cells()
    assert next(frame.itertuples(index=False))._asdict() == {
        "model": "toy", "dataset": "toy", "method": "sgd", "id": 62.5,
        "id_ci90": pytest.approx(1.645 * 12.5), "ood": 31.25,
        "ood_ci90": pytest.approx(1.645 * 6.25),
        "learning_rate": 0.1, "hyperparameters": "{}", "epochs": (2, 1),
        "runs": Study(store).cells("id")["toy", "toy", "sgd"].runs, "seeds": 2, "seeds_expected": 2,
        "n": 3, "expected": 4, "edge": "low", "diverged": False, "miniature": True,
    }  # fmt: skip
    assert math.isnan(frame["ood"][1])
    assert (frame["method"][1], frame["n"][1], frame["expected"][1]) == ("adamw", 0, 1)
    partial = reports.load(filled, select="ood-oracle", partial=True).cells(["ood"])
    assert (partial["learning_rate"][0], partial["ood"][0]) == (0.2, 50.0)
    assert "id" not in partial


def test_runs_of_every_state(filled: str) -> None:
    frame = reports.load(filled).runs()
    assert [*frame["state"]] == ["done", "done", "done", "pending", "pending"]
    assert [*frame["best_epoch"].fillna(-1)] == [2, 1, 1, -1, -1]
    assert [*frame["id"].fillna(-1)] == [50.0, 75.0, 100.0, -1.0, -1.0]
    assert [*frame["chosen"]] == [True, True, False, False, False]
    assert frame["run_id"].is_unique


def test_metrics_and_epochs_have_every_number(filled: str, store: Store) -> None:
    study = reports.load(filled)
    metrics, epochs = study.metrics(), study.epochs()
    assert (len(metrics), len(epochs)) == (3 * (3 * 3 + 2), 3 * 3 + 2)
    first = store.runs()[0]
    own = metrics[metrics["run_id"] == first.id]
    stored = [
        (r.epoch, m.split, m.group, 100 * m.value)
        for r in store.history(first.key)
        for m in r.metrics
    ]
    assert [*own[["epoch", "split", "group", "value"]].itertuples(index=False, name=None)] == stored
    assert [*own["correct"].fillna(-1)] == [-1, 3, -1] * 3
    row = epochs.iloc[1]
    assert (row["epoch"], row["id"], row["ood"], row["train_accuracy"]) == (1, 25.0, 12.5, 75.0)
    assert (row["epoch_lr"], row["learning_rate"], row["seconds"]) == (0.01, 0.1, 2.0)
    assert [*epochs["run_id"].drop_duplicates()] == [s.id for s in store.runs()][:4]


def test_a_table_in_its_own_layout(filled: str) -> None:
    study = reports.load(filled)
    labels = {"toy": "Toy"}
    assert study.table("ood", labels=labels).to_dict("list") == {
        "Toy": [31.25, pytest.approx(math.nan, nan_ok=True)],
        "Avg.": [31.25, pytest.approx(math.nan, nan_ok=True)],
    }
    assert [*study.table("ood", labels=labels).index] == [("Toy", "SGD"), ("Toy", "AdamW")]
    assert [*study.table("ood", "shown")["Avg."]] == ["31.2", "—"]
    assert study.table("ood", "ci90").iloc[0, 0] == pytest.approx(1.645 * 6.25)
    with pytest.raises(ReportError, match="nosuch"):
        study.table("nosuch")


def test_where_leaves_runs(filled: str) -> None:
    assert len(reports.load(filled, where={"learning_rate": [0.1, 0.3]}).runs()) == 3
    assert len(reports.load(filled, where={"seed": 1}).runs()) == 2
    assert len(reports.load(filled, where=lambda run: run.method == "adamw").runs()) == 1


def test_what_is_not_there_is_said(filled: str, tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        reports.load(str(tmp_path / "none.db"))
    with pytest.raises(NotFound, match="it has: s"):
        reports.load(filled, "nosuch")
    with pytest.raises(ReportError, match='no field "modell"; did you mean "model"'):
        reports.load(filled, where={"modell": "x"})
    with pytest.raises(ReportError, match="choose one of id_val, last"):
        reports.load(filled, select="best")  # type: ignore[arg-type]


def test_a_store_without_numbers_has_empty_frames(store: Store, store_url: str) -> None:
    study = reports.load(store_url)
    for frame in (study.cells(), study.runs(), study.metrics(), study.epochs()):
        assert frame.empty
        assert {"model", "dataset", "method"} <= {*frame.columns}
    store.register("s", "name: s", [a_run()], {a_run().id})
    study = reports.load(store_url)
    assert (len(study.cells()), len(study.runs()), len(study.metrics())) == (1, 1, 0)
