"""Launches on disks that are small, full or read-only: they say so, break nothing, and go on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

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
    undisturbed,
)
from worker.checkpoint import crc32

MB = 1 << 20
Disk = Callable[..., Path]


def mount(*options: str) -> bool:
    return not subprocess.run(["mount", *options], capture_output=True).returncode


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes file systems of their own, of so many megabytes."""
    made: list[Path] = []

    def make(megabytes: int, options: str = "") -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        settings = f"size={megabytes}m{options}"
        if not shutil.which("mount") or not mount(
            "-t", "tmpfs", "-o", settings, "tmpfs", str(folder)
        ):
            pytest.skip("mounting a file system is not allowed here")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """A file that takes all the space but `leave` bytes."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        if leave:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - leave)
            return filler
        for size in (MB, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


def check_files(runs: Path) -> None:
    """Whatever is called a checkpoint is whole, and nothing half-written lies beside it."""
    for path in runs.rglob("checkpoint-*.pt"):
        assert path.stem.rpartition("-")[2] == crc32(path), f"{path} is damaged"
    assert not list(runs.rglob("*.unreadable"))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "long.yaml"
    path.write_text(LONG)
    return path


@pytest.mark.slow
def test_a_full_disk_is_waited_for(
    tmp_path: Path, sweep: Path, disk: Disk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, store = disk(40), tmp_path / "orch.db"
    words = ("--runs", place / "runs", "launch", sweep, "--max-concurrent", 1)
    (place / "runs").mkdir()

    # Too small for what the runs need, which is told before any is claimed.
    filler = fill(place, leave=8 * MB)
    said = run(tmp_path, *words, code=2)
    assert f"orch: --runs {place}/runs has 8 MB free and the checkpoints of 1 run" in said
    assert "make space" in said
    assert {s.attempts for s in runs_of(store)} == {0}
    assert list((place / "runs").iterdir()) == []
    filler.unlink()

    # Full in mid-run, and told to stop while it waits: what is on disk stays good.
    with Launch(tmp_path, *words, ORCH_TOY_STEP="0.1") as launch:
        going = a_run_under_way(store, "toy_long")
        filler = fill(place)
        launch.sees(rf"waiting  {going.run}: .*{going.id} is full: .* needed; make room there")
        launch.process.send_signal(signal.SIGTERM)
        said = launch.ends(130)
    assert "Go on with: orch launch" in said
    check_files(place / "runs")
    stopped = attempts_of(store)[going.id]
    assert [a.outcome for a in stopped] == ["paused"]
    assert "running" not in {s.state for s in runs_of(store)}
    filler.unlink()

    # It goes on from the last checkpoint that found room; once more full, nothing new starts.
    with Launch(tmp_path, *words, ORCH_TOY_STEP="0.1") as launch:
        launch.sees(f"resumed  {going.run} after epoch 1")
        a_run_under_way(store, "toy_long", epoch=2)
        filler = fill(place)
        launch.sees("paused: .* free and a run needs 16 MB; nothing more starts until there is")
        launch.sees(f"waiting  {going.run}")
        filler.unlink()
        launch.sees(f"going on {going.run}")
        launch.sees("going on: .* has room again")
        said = launch.ends(0)
    assert "failed" not in said
    assert measured(store) == undisturbed(tmp_path_factory)[0]
    assert all(a.outcome in ("paused", "done") for n in attempts_of(store).values() for a in n)
    check_files(place / "runs")
    assert not list((place / "runs").rglob(".partial-*"))


def test_a_folder_that_cannot_be_written_is_told_first(
    tmp_path: Path, sweep: Path, disk: Disk
) -> None:
    place, store = disk(40), tmp_path / "orch.db"
    few = ("launch", sweep, "--where", "model=toy")
    assert mount("-o", "remount,ro", str(place))
    said = run(tmp_path, "--runs", place / "runs", *few, code=2)
    assert f"orch: --runs {place}/runs cannot be written (Read-only file system)" in said
    assert len(said.splitlines()) == 1
    (tmp_path / "file").touch()
    said = run(tmp_path, "--runs", tmp_path / "file" / "runs", *few, code=2)
    assert "cannot be written (Not a directory); name another folder" in said
    assert not store.exists(), "nothing is registered"
    assert mount("-o", "remount,rw", str(place))
    run(tmp_path, "--runs", place / "runs", *few)
    assert [s.state for s in runs_of(store) if s.run.model == "toy"] == ["done", "done"]


@pytest.mark.slow
def test_a_full_disk_under_the_store_is_waited_for(
    tmp_path: Path, sweep: Path, disk: Disk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = disk(40)
    store = place / "orch.db"
    with Launch(tmp_path, "--store", store, "launch", sweep, ORCH_TOY_STEP="0.1") as launch:
        a_run_under_way(store, "toy_long")
        filler = fill(place)
        launch.sees(f"waiting: store {store}: the disk is full; make room under {place}")
        filler.unlink()
        said = launch.ends(0)
    assert "failed" not in said
    assert measured(store) == undisturbed(tmp_path_factory)[0]
    assert {len(attempts) for attempts in attempts_of(store).values()} == {1}


@pytest.mark.slow
def test_a_launch_is_told_to_stop_while_its_store_is_full(
    tmp_path: Path, sweep: Path, disk: Disk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = disk(40)
    store = place / "orch.db"
    words = ("--store", store, "launch", sweep, "--lease", "3s")
    with Launch(tmp_path, *words, "--grace", "3s", ORCH_TOY_STEP="0.1") as launch:
        a_run_under_way(store, "toy_long")
        filler = fill(place)
        launch.sees("waiting: store")
        launch.process.send_signal(signal.SIGTERM)
        launch.ends(130)
    filler.unlink()
    assert Reader.open(str(store)).runs()
    run(tmp_path, *words, ORCH_TOY_STEP="0")
    assert measured(store) == undisturbed(tmp_path_factory)[0]


@pytest.mark.slow
def test_a_disk_without_room_for_names(
    tmp_path: Path, sweep: Path, disk: Disk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, store = disk(40, ",nr_inodes=100"), tmp_path / "orch.db"
    words = ("--runs", place / "runs", "launch", sweep, "--max-concurrent", 1)
    names = [place / f"name-{n}" for n in range(200)]
    with Launch(tmp_path, *words, ORCH_TOY_STEP="0.1") as launch:
        going = a_run_under_way(store, "toy_long")
        with contextlib.suppress(OSError):
            for name in names:
                name.touch()
        launch.sees(f"waiting  {going.run}")
        for name in names:
            name.unlink(missing_ok=True)
        launch.ends(0)
    assert measured(store) == undisturbed(tmp_path_factory)[0]
