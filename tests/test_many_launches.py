"""Several launches at once over the same runs: each run is trained once, whoever is killed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import PostgresServer
from db.reading import Reader
from launches import (
    LONG,
    Launch,
    a_run_under_way,
    attempts_of,
    measured,
    run,
    runs_of,
    undisturbed,
    until,
)

SHORT = """
name: {name}
models: [toy]
datasets: [toy]
methods: [sgd, adamw]
weights: random
epochs: 1
learning_rates: [0.1, 0.2, 0.3, 0.4, 0.5]
seeds: [{seeds}]
"""


def short(folder: Path, runs: int, first: int = 0, name: str = "short") -> Path:
    """A sweep of so many runs of one epoch, ten a seed."""
    path = folder / f"{name}.yaml"
    seeds = ", ".join(str(seed) for seed in range(first, first + runs // 10))
    path.write_text(SHORT.format(name=name, seeds=seeds))
    return path


def launch_at_once(
    folder: Path, store: object, sweeps: Sequence[Path], kill_at: int | None = None
) -> int | None:
    """A launch of each, at once, one worker each; returns the process id of the one killed.

    The first is killed as soon as it trains a run after so many of all runs are done.
    """
    options = ("--max-concurrent", 1, "--lease", "5s")
    with contextlib.ExitStack() as stack:
        launches = [
            stack.enter_context(Launch(folder, "--store", store, "launch", path, *options))
            for path in sweeps
        ]
        victim = None
        if kill_at is not None:
            victim = launches.pop(0).process

            def under_way() -> bool:
                reader = Reader.open(str(store))
                runs = reader.runs()
                holds = [
                    s.key for s in runs
                    if s.state == "running" and reader.attempts(s.key)[-1].pid == victim.pid
                ]  # fmt: skip
                return bool(holds) and sum(s.state == "done" for s in runs) >= kill_at

            until(under_way)
            victim.kill()
        for launch in launches:
            launch.ends(0)
    return victim.pid if victim else None


def check_each_once(store: object, runs: int, killed: int | None) -> None:
    """Every run is done by one attempt; only the killed launch's had another, and that was lost."""
    attempts = attempts_of(store)
    assert len(attempts) == runs
    assert {s.state for s in runs_of(store)} == {"done"}
    for found in attempts.values():
        assert [a.outcome for a in found][-1] == "done"
        assert all((a.outcome, a.pid) == ("lost", killed) for a in found[:-1])
    by = {a.pid for found in attempts.values() for a in found}
    assert len(by) > 1, "they shared the work"
    lost = sum(len(found) - 1 for found in attempts.values())
    assert lost <= (2 if killed else 0), "it held one run, and had claimed another"


def test_launches_share_a_sweep_and_one_is_killed(tmp_path: Path) -> None:
    store = tmp_path / "orch.db"
    killed = launch_at_once(tmp_path, store, [short(tmp_path, 60)] * 2, kill_at=5)
    check_each_once(store, 60, killed)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_four_launches_share_200_runs_and_one_is_killed(
    tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    store: object = tmp_path / "orch.db"
    if engine == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        store = server.fresh()
    killed = launch_at_once(tmp_path, store, [short(tmp_path, 200)] * 4, kill_at=60)
    check_each_once(store, 200, killed)


@pytest.mark.slow
def test_overlapping_sweeps_train_what_they_share_once(tmp_path: Path) -> None:
    sweeps = [short(tmp_path, 60, name="one"), short(tmp_path, 60, first=3, name="other")]
    launch_at_once(tmp_path, tmp_path / "orch.db", sweeps)
    check_each_once(tmp_path / "orch.db", 90, None)
    assert {len(Reader.open(str(tmp_path / "orch.db")).runs(n)) for n in ("one", "other")} == {60}


@pytest.mark.slow
def test_a_launch_waits_for_what_others_train_unless_told_to_leave(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store, path = tmp_path / "orch.db", tmp_path / "long.yaml"
    path.write_text(LONG)
    words = ("launch", path, "--max-concurrent", 1)
    with Launch(tmp_path, *words, ORCH_TOY_STEP="1") as first:
        going = a_run_under_way(store, "toy_long", epoch=0)
        with Launch(tmp_path, *words, ORCH_TOY_STEP="0") as stays:
            until(lambda: sum(s.state == "done" for s in runs_of(store)) == 2)
            said = run(tmp_path, *words, "--no-wait")
            assert "This launch: none" in said
            assert "Left to other launches: 1 run." in said
            assert stays.process.poll() is None
            first.process.kill()
            stays.sees(f"done     {going.run}")
            stays.ends(0)
    attempts = attempts_of(store)[going.id]
    assert [a.outcome for a in attempts] == ["lost", "done"]
    assert measured(store) == undisturbed(tmp_path_factory)[0]
