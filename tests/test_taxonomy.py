"""Sweeps in which runs go wrong in every way there is: each is told apart, the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from db.reading import Reader
from launches import (
    LONG,
    Launch,
    a_run_under_way,
    attempts_of,
    measured,
    run,
    runs_of,
    states_of,
    told,
    undisturbed,
)
from orchestrator.engine import deaths

TWELVE = """
name: twelve
datasets: [toy]
methods: [sgd]
weights: random
grids:
  - models: [toy_nan, toy_raises, toy_oom, toy_dies]
    learning_rates: [0.1]
  - models: [toy_slow]
    learning_rates: [0.1, 0.2, 0.3, 0.4]
  - models: [toy]
    learning_rates: [0.1, 0.2, 0.3]
  - models: [toy_oom_once]
    learning_rates: [0.1]
"""
TROUBLE = {
    # model: (state, cause, what its error says, what its advice says)
    "toy_raises": ("failed", "bug", "RuntimeError: the toy breaks on purpose", "its traceback"),
    "toy_oom": ("failed", "out_of_memory", "one image at a time", "--max-concurrent"),
    "toy_dies": ("failed", "process_death", "killed or crashed (3 times)", "dmesg"),
    "toy_nan": ("diverged", "diverged", "the loss is not finite at epoch 3", "a result"),
}


def rows_of(export: str, run_id: str) -> list[str]:
    """The lines with a run's numbers."""
    lines = export.splitlines()
    return [line for line in lines if line.split(",")[14] == run_id and line.split(",")[9]]


@pytest.mark.slow
def test_four_of_twelve_are_in_trouble_and_eight_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_TOYS", str(tmp_path))
    path, store = tmp_path / "twelve.yaml", tmp_path / "orch.db"
    path.write_text(TWELVE)
    said = run(tmp_path, "launch", path, code=1)
    assert "This launch: 1 diverged, 8 done, 3 failed" in said
    assert "3 runs failed. Try again: orch launch" in said
    assert max(map(len, said.splitlines())) < 250, "no page of Ray's"

    ids = {s.run.model: s.id for s in runs_of(store) if s.run.model in TROUBLE}
    listed = json.loads(told(tmp_path, "status", "--json"))[0]
    assert listed["states"] == {"done": 8, "diverged": 1, "failed": 3}
    troubled: dict[str, dict[str, Any]] = {t["id"]: t for t in listed["troubled"]}
    assert troubled.keys() == set(ids.values())
    text = told(tmp_path, "status")
    for model, (state, cause, error, advice) in TROUBLE.items():
        one = troubled[ids[model]]
        assert (one["state"], one["cause"]) == (state, cause)
        assert error in one["error"]
        assert advice in one["advice"]
        assert f"  {state:<9}{ids[model][:8]} {model}" in text
        assert one["advice"] in text
        if state == "failed":
            assert one["advice"].endswith(f"orch runs retry {ids[model][:8]}")

    failed = told(tmp_path, "runs", "list", "--failed")
    assert failed.rstrip().endswith("3 runs")
    by_cause = json.loads(told(tmp_path, "runs", "list", "--cause", "out_of_memory", "--json"))
    assert [one["id"] for one in by_cause] == [ids["toy_oom"]]
    shown = told(tmp_path, "runs", "show", ids["toy_raises"])
    assert "  bug: RuntimeError: the toy breaks on purpose\n    Traceback" in shown
    assert 'raise RuntimeError("the toy breaks on purpose")' in shown
    (halved,) = (s.id for s in runs_of(store) if s.run.model == "toy_oom_once")
    assert "4 images a forward pass" in told(tmp_path, "runs", "show", halved)
    assert f"smaller  toy_oom_once toy sgd lr=0.1 s0: memory ran out, {4} images" in said

    # What was mended, or has memory now, is tried again; a run is voided and trained anew.
    (tmp_path / "mended").touch()
    before = told(tmp_path, "export")
    void = next(s.id for s in runs_of(store) if (s.run.model, s.state) == ("toy", "done"))
    assert len(rows_of(before, void)) == 8
    told(tmp_path, "runs", "void", void[:8], "--reason", "the wrong labels")
    gone = told(tmp_path, "export")
    assert rows_of(gone, void) == []
    assert {line for line in before.splitlines() if void not in line} <= {*gone.splitlines()}
    assert "1 voided" in told(tmp_path, "status")
    assert "(6/7)" not in told(tmp_path, "report", "--table", "id")
    assert "1 run will be" in told(tmp_path, "runs", "retry", "--cause", "bug")
    assert "1 run will be" in told(tmp_path, "runs", "retry", "--cause", "out_of_memory")
    assert "1 run will be" in told(tmp_path, "runs", "retry", void)
    monkeypatch.setenv("ORCH_TOY_MEMORY", "4")
    again = run(tmp_path, "launch", path, code=1)
    assert "This launch: 3 done" in again
    assert [m for m, state in states_of(store).items() if state == "failed"] == ["toy_dies 0.1"]
    after = told(tmp_path, "export")
    assert rows_of(after, void) == rows_of(before, void)
    shown = told(tmp_path, "runs", "show", void)
    assert "the wrong labels" in shown
    outcomes = {i: [a.outcome for a in found] for i, found in attempts_of(store).items()}
    assert outcomes[void] == ["done", "done"]
    assert outcomes[ids["toy_raises"]] == ["failed", "done"]
    raised = attempts_of(store)[ids["toy_raises"]]
    assert raised[1].resumed_from == 1, "what it had done before the bug is not done again"


@pytest.mark.slow
def test_three_failures_alike_pause_a_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_TOYS", str(tmp_path))
    path, store = tmp_path / "family.yaml", tmp_path / "orch.db"
    path.write_text(
        "name: family\ndatasets: [toy]\nmethods: [sgd]\nweights: random\ngrids:\n"
        "  - {models: [toy_raises], learning_rates: [0.1, 0.2, 0.3, 0.4, 0.5]}\n"
        "  - {models: [toy_bad_data], learning_rates: [0.1, 0.2, 0.3, 0.4]}\n"
        "  - {models: [toy], learning_rates: [0.1, 0.2]}\n"
    )
    said = run(tmp_path, "launch", path, "--max-concurrent", 1, code=1)
    assert "paused   toy_raises with sgd: three runs failed alike" in said
    assert "Not started: the other runs of toy_raises with sgd; three failed alike" in said
    models = [(s.run.model, s.state, s.cause, s.attempts) for s in runs_of(store)]
    assert models.count(("toy_raises", "failed", "bug", 1)) == 3
    assert models.count(("toy_raises", "pending", None, 0)) == 2
    assert models.count(("toy_bad_data", "failed", "bad_data", 1)) == 4, "no bug: none is paused"
    assert models.count(("toy", "done", None, 1)) == 2
    text = told(tmp_path, "status")
    assert "paused   toy_raises with sgd: 2 runs would fail alike" in text
    assert "4 runs" in text
    assert "orch data check toy" in text
    (paused,) = json.loads(told(tmp_path, "status", "--json"))[0]["paused"]
    assert (paused["model"], paused["method"], paused["waiting"]) == ("toy_raises", "sgd", 2)

    (tmp_path / "mended").touch()
    told(tmp_path, "runs", "retry", "--cause", "bug")
    again = run(tmp_path, "launch", path, code=1)
    assert "This launch: 5 done" in again
    assert "paused" not in told(tmp_path, "status")
    assert {state for name, state in states_of(store).items() if "raises" in name} == {"done"}


@pytest.mark.slow
def test_runs_are_cancelled_before_and_while_they_train(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, store = tmp_path / "long.yaml", tmp_path / "orch.db"
    path.write_text(LONG)
    with Launch(tmp_path, "launch", path, "--max-concurrent", 1, ORCH_TOY_STEP="0.1") as launch:
        going = a_run_under_way(store, "toy_long")
        waits = next(s for s in runs_of(store) if s.state == "pending")
        assert "2 runs cancelled" in told(tmp_path, "runs", "cancel", going.id, waits.id)
        launch.sees(rf"cancelled {going.run}: by hand")
        said = launch.ends(0)
    assert "Traceback" not in said
    states = {s.id: s.state for s in runs_of(store)}
    assert states.pop(going.id) == states.pop(waits.id) == "cancelled"
    assert set(states.values()) == {"done"}
    assert [a.outcome for a in attempts_of(store)[going.id]] == ["cancelled"]
    assert attempts_of(store)[waits.id] == []
    log = told(tmp_path, "runs", "logs", going.id)
    assert "paused after epoch" in log, "the worker was told, and saved where it was"
    text = told(tmp_path, "status")
    assert "2 cancelled" in text
    assert f"orch runs retry {going.id[:8]} brings it back" in text

    told(tmp_path, "runs", "retry", going.id, waits.id)
    run(tmp_path, "launch", path, ORCH_TOY_STEP="0")
    resumed = attempts_of(store)[going.id]
    assert [a.outcome for a in resumed] == ["cancelled", "done"]
    assert (resumed[1].resumed_from or 0) >= 1
    assert measured(store) == undisturbed(tmp_path_factory)[0]


@pytest.mark.slow
def test_the_machines_memory_runs_out(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(LONG)
    full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "200"}
    only = ("--where", "model=toy_long", "--limit", 1, "--max-concurrent", 1)
    said = run(tmp_path, "launch", path, *only, code=1, ORCH_TOY_STEP="0.1", **full)
    assert "memory was nearly full" in said
    (failed,) = json.loads(told(tmp_path, "runs", "list", "--cause", "out_of_memory", "--json"))
    assert (failed["state"], failed["attempts"]) == ("failed", 3)
    assert "--max-concurrent" in told(tmp_path, "status")
    told(tmp_path, "runs", "retry", "--cause", "out_of_memory")
    run(tmp_path, "launch", path, *only, ORCH_TOY_STEP="0")
    stored = Reader.open(str(tmp_path / "orch.db")).find_run(failed["id"])
    assert (stored.state, stored.attempts) == ("done", 4)


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (
            "1 worker(s) were killed due to the node running low on memory. Memory on the node "
            "(IP: 10.0.0.2, ID: dd67) was 22.39GB used / 23.54GB limit (0.951)\nTop 10 users\n",
            "OutOfMemory: the machine's memory was nearly full (22.39GB of 23.54GB in use), so Ray "
            "ended it",
        ),
        (
            "The actor died\nWorker exits unexpectedly. Worker exits with an exit code 2.",
            "the worker process ended with exit code 2",
        ),
        (
            "Worker unexpectedly exits with a connection error code 2. End of file. Some common",
            "the worker process was killed or crashed",
        ),
        ("The actor died because its node has died.", "the worker process died with its node"),
        ("first\nlast ", "last"),
        ("", "the worker process died"),
        ("x" * 1000, "x" * 199 + "…"),
    ],
)
def test_a_death_in_a_sentence(page: str, sentence: str) -> None:
    assert deaths.sentence(page) == sentence
