"""Checkpoints are whole or not there, and the right one is found."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from db.errors import EnvironmentProblem
from worker.checkpoint import Checkpoints, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_loaded_and_alone(tmp_path: Path) -> None:
    mine = Checkpoints(tmp_path, fence=1)
    for epoch in (1, 2, 10):
        mine.save(epoch, {"epoch": epoch, "w": torch.ones(3)})
    loaded = mine.load()
    assert loaded is not None
    assert loaded["epoch"] == 10
    assert len(names(tmp_path)) == 1


def test_steps_count_after_epochs_and_before_nothing(tmp_path: Path) -> None:
    """In whatever order files were left behind, the newest is the furthest, in numbers."""
    places = [(0, 11), (0, 9), (0, 1_000_000), (1, 0), (1, 2)]
    for number, (epoch, step) in enumerate(places):
        folder = tmp_path / str(number)
        folder.mkdir()
        Checkpoints(folder, 1).save(epoch, {"at": [epoch, step]}, step)
        (path,) = folder.iterdir()
        path.rename(tmp_path / path.name)
        folder.rmdir()
        mine = Checkpoints(tmp_path, 1)
        expected = max(places[: number + 1])
        assert mine.newest() == expected
        assert mine.load() == {"at": [*expected]}
    mine.save(1, {}, 3)
    assert len(names(tmp_path)) == 1


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, fence=1).load() is None


def test_a_frozen_writer_cannot_take_back_the_run(tmp_path: Path) -> None:
    old, new = Checkpoints(tmp_path, fence=1), Checkpoints(tmp_path, fence=2)
    new.save(1, {"by": "new"})
    old.save(5, {"by": "old"})
    loaded = Checkpoints(tmp_path, fence=3).load()
    assert loaded is not None
    assert loaded["by"] == "new", "the fence counts before the epoch"
    new.save(2, {"by": "new"})
    assert len(names(tmp_path)) == 1, "what an older fence left goes too"


def test_another_stores_checkpoint_becomes_ours(tmp_path: Path) -> None:
    Checkpoints(tmp_path, fence=3).save(4, {"epoch": 4})
    ours = Checkpoints(tmp_path, fence=1)
    assert ours.load() == {"epoch": 4}
    ours.save(5, {"epoch": 5})
    assert Checkpoints(tmp_path, fence=2).load() == {"epoch": 5}


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    Checkpoints(tmp_path, fence=1).save(1, {"epoch": 1})
    kept = tmp_path / names(tmp_path)[0]
    copy = kept.read_bytes()
    Checkpoints(tmp_path, fence=2).save(2, {"epoch": 2})
    kept.write_bytes(copy)  # as if the older one had not been dropped yet
    newest = tmp_path / names(tmp_path)[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"truncate": data[:-9], "flip": data, "empty": b""}[damage])
    loaded = Checkpoints(tmp_path, fence=3).load()
    assert loaded is not None
    assert loaded["epoch"] == 1
    assert [n for n in names(tmp_path) if n.endswith(".unreadable")]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(file: object) -> None:
        raise OSError("disk full")

    with pytest.raises(EnvironmentProblem, match=rf"{tmp_path} cannot be written \(disk full\)"):
        write_whole(tmp_path, write, lambda path: "file")
    assert names(tmp_path) == []


def test_killed_while_writing_the_older_one_stands(tmp_path: Path) -> None:
    Checkpoints(tmp_path, fence=1).save(1, {"epoch": 1})
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from worker.checkpoint import write_whole\n"
        "def write(file):\n"
        "    file.write(b'x' * 1000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_whole(Path({str(tmp_path)!r}), write,"
        " lambda d: 'checkpoint-000001-000002-00000000.pt')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL
    loaded = Checkpoints(tmp_path, fence=2).load()
    assert loaded is not None
    assert loaded["epoch"] == 1
