"""The command line as a user meets it: help, errors, exit codes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pty
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from conftest import ROOT, TOYS, a_history
from db.reading import Reader
from db.records import Provenance
from db.store import Store
from orchestrator import sweep as sweeps
from orchestrator.cli import main
from worker.data import DATASETS, MINIATURE
from worker.data.mini import make_waterbirds


def _reference() -> Iterator[tuple[str, click.Command]]:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "docs" / "cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield from module.commands(main, ("orch",))
    assert module.render() == (ROOT / "docs" / "cli.md").read_text(), "run: make docs"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_every_command_explains_itself() -> None:
    """Help, an example, and a sentence for every option; and the reference is what they print."""
    for name, command in _reference():
        assert command.help, name
        if not isinstance(command, click.Group):
            assert re.search(rf"Examples?:\s+{name} ?", command.help), f"{name} has no example"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def test_the_commands_of_the_design_exist() -> None:
    names = {name for name, _ in _reference()}
    assert {
        "orch plan", "orch launch", "orch resume", "orch status", "orch report", "orch export",
        "orch runs list", "orch runs show", "orch runs logs", "orch runs run",
        "orch data make-mini", "orch data list", "orch models list", "orch methods list",
    } <= names  # fmt: skip


def test_lists_are_json_for_programs() -> None:
    models = json.loads(invoke("models", "list", "--format", "json").stdout)
    by_id = {m["id"]: m for m in models}
    assert by_id["clip_vit_b16"]["parameters"] == 86_197_770
    assert by_id["clip_vit_b16"]["embedding_parameters"] == 591_360
    methods = json.loads(invoke("methods", "list", "--json").stdout)
    assert methods[0]["learning_rates"] == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    data = {d["id"]: d for d in json.loads(invoke("data", "list", "--json").stdout)}
    assert data["waterbirds"]["splits"][1]["metric"] == "worst_group_accuracy"
    for words in (["models", "list"], ["methods", "list"], ["data", "list"]):
        assert invoke(*words).exit_code == 0


SWEEP = """
name: small
models: [tiny_vit]
datasets: [mini_waterbirds]
methods: [sgd]
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return path


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output


def test_missing_data_is_listed_before_anything_starts(tmp_path: Path, sweep: Path) -> None:
    where = ["--store", tmp_path / "orch.db", "--data", tmp_path / "data", "--runs", tmp_path / "r"]
    refused(
        invoke(*where, "launch", sweep),
        "mini_waterbirds", str(tmp_path / "data" / "mini"), "orch data make-mini",
    )  # fmt: skip
    assert not (tmp_path / "orch.db").exists(), "nothing half-written"


def test_the_full_grid_says_all_that_is_missing_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    where = ["--store", tmp_path / "x.db", "--data", tmp_path, "--runs", tmp_path / "runs"]
    sweep = ROOT / "sweeps" / "full_grid.yaml"
    result = invoke(*where, "launch", sweep)
    grid = sweeps.load(sweep)
    for name in {run.model for run in grid.requested}:
        refused(result, f'model "{name}": its weights are not here; orch models fetch {name}')
    for name in {run.dataset for run in grid.requested}:
        refused(result, f'dataset "{name}"', DATASETS[name].remedy)
    lines = result.output.strip().splitlines()
    assert len(lines) == 1 + 7 + 5, "each once"
    assert not (tmp_path / "x.db").exists()


@pytest.mark.parametrize(
    "words", [["status"], ["report"], ["runs", "list"], ["export"], ["resume"]]
)
def test_a_store_that_cannot_be_read_is_named(tmp_path: Path, words: list[str]) -> None:
    missing = tmp_path / "none.db"
    refused(invoke("--store", missing, *words), str(missing), "does not exist", "orch launch")
    assert not missing.exists()
    text = tmp_path / "text.db"
    text.write_text("no database at all, just words\n" * 40)
    refused(invoke("--store", text, *words), str(text), "is not a database", "--store")
    newer = tmp_path / "newer.db"
    Store.open(str(newer), create=True)
    with contextlib.closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    refused(invoke("--store", newer, *words), "schema 9999", "install a newer orch")


def test_a_launch_into_a_bad_store_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text(SWEEP.replace("mini_waterbirds", "digits"))
    text = tmp_path / "text.db"
    text.write_text("words\n" * 100)
    refused(invoke("--store", text, "--runs", tmp_path / "r", "launch", path), "is not a database")
    assert text.read_text() == "words\n" * 100


def test_an_unwritable_runs_folder(tmp_path: Path) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text(SWEEP.replace("mini_waterbirds", "digits"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = invoke("--store", tmp_path / "o.db", "--runs", blocked / "runs", "launch", path)
    refused(result, "--runs", "cannot be written")


def test_an_unwritable_cache(tmp_path: Path, sweep: Path) -> None:
    make_waterbirds(tmp_path / "mini", train=8, val=4, test=4)
    (tmp_path / "file").write_text("")
    where = ["--store", tmp_path / "x.db", "--data", tmp_path, "--runs", tmp_path / "r"]
    result = invoke(*where, "--cache", tmp_path / "file" / "cache", "launch", sweep)
    refused(result, "--cache", "cannot be written")
    assert not (tmp_path / "x.db").exists()


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    store = tmp_path / "orch.db"
    Store.open(str(store), create=True)
    refused(invoke("--store", store, "report", "--table", "oood"), "no table", "ood, id")
    refused(invoke("--store", store, "report"), "no run to report on")
    refused(invoke("--store", store, "status", "mine"), 'no sweep "mine"')
    refused(invoke("--store", store, "resume"), "no sweep yet", "orch launch")
    refused(invoke("--store", store, "runs", "show", "abc"), 'no run "abc"', "orch runs list")
    refused(invoke("--store", store, "runs", "list", "--where", "modell=x"), 'mean "model"')
    refused(invoke("--plugin", "nowhere.py", "models", "list"), "nowhere.py", "no such file")
    refused(
        invoke("--store", store, "export", "-o", tmp_path / "no" / "x.csv"), "cannot be written"
    )


def test_an_empty_file_is_where_a_store_can_be_made(tmp_path: Path, sweep: Path) -> None:
    empty = tmp_path / "orch.db"
    empty.touch()
    assert invoke("--store", empty, "plan", sweep).exit_code == 0
    refused(invoke("--store", empty, "status"), "is empty", "orch launch")


def test_a_where_that_matches_nothing(sweep: Path) -> None:
    for command in ("plan", "launch"):
        refused(invoke(command, sweep, "--where", "seed=99"), "matches none of the sweep's 6 runs")


def test_another_database_is_refused_by_plan_too(sweep: Path) -> None:
    result = invoke("--store", "mysql://me:secret@host/db", "plan", sweep)
    refused(result, '"mysql" is no store', "sqlite:///", "postgresql://")
    assert "secret" not in result.output


def test_make_mini_leaves_what_it_did_not_make(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mini" / "waterbirds_v1.0"
    folder.mkdir(parents=True)
    refused(invoke("--data", tmp_path / "data", "data", "make-mini"), str(folder), "--data")
    refused(invoke("data", "make-mini", "--seed", "-1"), "--seed")


def test_a_plan_reads_the_store_where_there_is_one(tmp_path: Path, sweep: Path) -> None:
    result = invoke("--store", tmp_path / "none.db", "plan", sweep)
    assert result.exit_code == 0
    assert "6 runs in 1 cell, and 1 pretraining run (6 pending)" in result.output


def test_ctrl_c_in_a_terminal_stops_a_launch_in_order(tmp_path: Path) -> None:
    """A real terminal, a script around the command, and the live picture on."""
    path = tmp_path / "slow.yaml"
    rates = ", ".join(f"0.{n:03}" for n in range(1, 30))
    path.write_text(
        "name: slow\nmodels: [toy_slow]\ndatasets: [toy]\nmethods: [sgd]\nweights: random\n"
        f"learning_rates: [{rates}]\n"
    )
    launch = f"{sys.executable} -m orchestrator --plugin {TOYS} launch {path}"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvp("sh", ["sh", "-c", f"trap : INT; {launch}; echo exit=$?; sleep 1"])
    seen, pressed, end = "", False, time.monotonic() + 120
    while time.monotonic() < end and "exit=" not in seen:
        try:
            seen += os.read(terminal, 65536).decode(errors="replace")
        except OSError:
            break
        if not pressed and "[ 1/29]" in seen:
            os.write(terminal, b"\x03")
            pressed = True
    os.close(terminal)
    os.waitpid(pid, 0)
    assert "exit=130" in seen, seen[-2000:]
    assert "Go on with: orch launch" in seen
    states = {s.state for s in Reader.open(str(tmp_path / "orch.db")).runs()}
    assert states == {"done", "pending"}


def test_real_names_on_miniature_data_are_told_of(tmp_path: Path, store: Store) -> None:
    """A run that trained on a stand-in is done; nobody may take its numbers for the real ones."""
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nmodels: [bit_r50_in21k]\ndatasets: [waterbirds]\nmethods: [sgd]\n"
        "learning_rates: [1e-3]\nweights: random\n"
    )
    (run,) = sweeps.load(path).requested
    store.register("s", path.read_text(), [run], {run.id})
    (stored,) = store.runs()
    claim = store.claim(stored.key, store.enlist())
    assert claim is not None
    store.start(claim, [], Provenance(data_fingerprint=f"{MINIATURE}0123", weights_sha256=""), None)
    store.finish(claim, a_history(run))
    where = ["--store", tmp_path / "orch.db", "--data", tmp_path, "--runs", tmp_path / "runs"]
    result = invoke(*where, "launch", path)
    assert result.exit_code == 0, result.output
    assert "1 run of this sweep had miniature data for waterbirds" in result.output
    reported = invoke("--store", tmp_path / "orch.db", "report")
    assert "Waterbirds (miniature)" in reported.stdout
    assert "runs of waterbirds had miniature data" in reported.stderr
    (tmp_path / "waterbirds_v1.0").mkdir()
    for name in ("RELEASE_v1.0.txt", "metadata.csv"):
        (tmp_path / "waterbirds_v1.0" / name).touch()
    refused(
        invoke(*where, "launch", path),
        "had miniature data for waterbirds", "has the real one", "--store",
    )  # fmt: skip
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text().replace("name: s", "name: other"))
    refused(invoke(*where, "launch", other), "had miniature data for waterbirds")
    assert [info.name for info in store.sweeps()] == ["s"], "a refused sweep is not registered"
    shown = invoke("--store", tmp_path / "orch.db", "runs", "show", run.id)
    assert f"data {MINIATURE}0123" in shown.output
    assert "random weights" in shown.output
