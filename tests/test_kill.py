"""SIGKILL at random moments: nothing lost, nothing trained twice, no bit moves.

`python tests/kills.py --kills 100` is the long form, on either store.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

import kills
from conftest import ROOT, PostgresServer
from db.reading import Reader
from db.store import Store


def folders(tmp_path: Path) -> tuple[Path, Path]:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    return whole, cut


def under_kills(tmp_path: Path, sweep: Path, store: str, wanted: list[str], longest: float) -> None:
    """Train `sweep` whole and again with those kills; everything must be the same."""
    seed = random.randrange(10**6)
    print(f"random moments from seed {seed}")
    whole, cut = folders(tmp_path)
    kills.launch(whole, str(whole / "orch.db"), sweep)
    stores = (str(whole / "orch.db"), store or str(cut / "orch.db"))
    hit, outcomes = kills.compare(whole, cut, stores, sweep, wanted, random.Random(seed), longest)
    print(dict(hit.hit), dict(outcomes))
    assert hit.total > 0


def toys(tmp_path: Path) -> Path:
    sweep = tmp_path / "kill.yaml"
    sweep.write_text(kills.TOY_SWEEP)
    return sweep


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    under_kills(tmp_path, toys(tmp_path), "", [*kills.TARGETS], longest=2)


@pytest.mark.slow
def test_killed_at_random_moments_on_postgresql(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    wanted = [*kills.TARGETS] * 2
    under_kills(tmp_path, toys(tmp_path), own_postgres.empty(), wanted, longest=2)


@pytest.mark.slow
def test_the_demo_killed_at_random_moments(tmp_path: Path) -> None:
    make = kills.command(tmp_path / "x", "none.db", "data", "make-mini")
    subprocess.run(make, cwd=tmp_path, check=True)
    under_kills(tmp_path, ROOT / "sweeps" / "demo.yaml", "", [*kills.TARGETS, "driver"], longest=20)


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_time_and_nothing_else(tmp_path: Path) -> None:
    sweep = tmp_path / "one.yaml"
    sweep.write_text(kills.TOY_SWEEP.replace("toy_long, toy_slow, toy", "toy_long"))
    whole, cut = folders(tmp_path)
    stores = [str(folder / "orch.db") for folder in (whole, cut)]
    kills.launch(whole, stores[0], sweep)

    Store.open(stores[1], create=True).engine.dispose()
    words = ("launch", str(sweep), "--max-concurrent", "1")
    with subprocess.Popen(
        kills.command(cut, stores[1], *words), cwd=cut, stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as driver:  # fmt: skip
        reader = Reader.open(stores[1])
        while not any(epoch >= 2 for epoch in reader.latest_epochs(range(1, 5)).values()):
            assert driver.poll() is None
        workers = [pid for pid, name in kills.below(driver.pid) if kills.is_target(name, "worker")]
        driver.send_signal(signal.SIGKILL)
    while any(Path(f"/proc/{pid}").exists() for pid in workers):  # they may save once more
        time.sleep(0.1)
    damaged = [*cut.glob("runs/*/checkpoint-*")]
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    kills.launch(cut, stores[1], sweep)

    one, other = (kills.everything(f, s) for f, s in zip((whole, cut), stores, strict=True))
    assert one == other
    assert damaged
    assert [*cut.glob("runs/*/*.unreadable")], "set aside, for a look at what damaged it"
    assert kills.left_over(cut) == []
