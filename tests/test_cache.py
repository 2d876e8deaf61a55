"""The cache on disk: built once, whole or not there, and never trusted further than its sums."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from db.errors import EnvironmentProblem, MissingInputs, OrchError
from worker.data import Transform, cache
from worker.data.cache import (
    INDEX,
    META,
    PIXELS,
    build,
    entries,
    estimate,
    missing,
    remove,
)
from worker.data.cached import cached
from worker.data.images import Images
from worker.data.pool import Part, Pool, files_pool
from worker.data.transforms import plain

FLIPPED = Transform(resize="square", size=32, flip=True, side=32)
ORIGINAL = Transform(crop="resized", crop_size=16, flip=True, keep="original", side=16)
FORK = multiprocessing.get_context("fork")


def files(folder: Path, count: int = 12, seed: int = 0) -> Pool:
    """Images of differing sizes on disk."""
    folder.mkdir(exist_ok=True)
    chance = np.random.default_rng(seed)
    for number in range(count):
        pixels = chance.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return files_pool("some-train", folder, [f"{n}.png" for n in range(count)], "a list")


def part_of(pool: Pool) -> Part:
    rows = torch.arange(len(pool))
    return Part(pool, rows, rows % 2, rows * 0)


def made(pool: Pool, transform: Transform, folder: Path) -> Images:
    list(build(pool, transform, folder, 2))
    return cached(part_of(pool), transform, folder)


def place(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if not path.name.startswith("."))
    return found


def every(images: Images) -> Tensor:
    return images.batch(torch.arange(len(images)))


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return files(tmp_path / "data")


def test_what_is_there_is_not_built_again(pool: Pool, tmp_path: Path) -> None:
    assert missing(pool, FLIPPED, tmp_path / "cache")
    steps = list(build(pool, FLIPPED, tmp_path / "cache", 2))
    assert steps[-1] == (12, 12)
    assert not missing(pool, FLIPPED, tmp_path / "cache")
    assert list(build(pool, FLIPPED, tmp_path / "cache", 2)) == []
    assert {path.name for path in place(tmp_path / "cache").iterdir()} == {PIXELS, INDEX, META}
    assert place(tmp_path / "cache").name.startswith("some-train-square32bilinear-")


def test_transforms_that_keep_the_same_share_it(pool: Pool, tmp_path: Path) -> None:
    list(build(pool, FLIPPED, tmp_path / "cache", 2))
    test = dataclasses.replace(FLIPPED, flip=False)
    assert not missing(pool, test, tmp_path / "cache")
    assert missing(pool, dataclasses.replace(FLIPPED, interpolation="bicubic"), tmp_path / "cache")
    assert missing(pool, ORIGINAL, tmp_path / "cache")


def test_a_build_tells_of_itself_while_it_is_slow(pool: Pool, tmp_path: Path) -> None:
    def slow(row: int) -> Image.Image:
        time.sleep(0.15)
        return pool.read(row)

    steps = list(build(dataclasses.replace(pool, read=slow), FLIPPED, tmp_path / "cache", 1))
    assert len(steps) >= 3
    assert steps == sorted(steps)
    assert {total for _, total in steps} == {12}


def test_changed_data_is_another_cache(pool: Pool, tmp_path: Path) -> None:
    before = every(made(pool, FLIPPED, tmp_path / "cache"))
    changed = files(tmp_path / "data", seed=1)
    assert changed.stamp != pool.stamp
    assert missing(changed, FLIPPED, tmp_path / "cache")
    after = made(changed, FLIPPED, tmp_path / "cache")
    assert torch.equal(every(after), every(plain(part_of(changed), FLIPPED)))
    assert not torch.equal(every(after), before)


def test_another_decoder_is_another_cache(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(build(pool, FLIPPED, tmp_path / "cache", 2))
    monkeypatch.setattr("PIL.__version__", "0.0")
    assert missing(pool, FLIPPED, tmp_path / "cache")


def test_what_a_cache_is_can_be_read(pool: Pool, tmp_path: Path) -> None:
    assert entries(tmp_path / "cache") == []
    list(build(pool, FLIPPED, tmp_path / "cache", 2))
    list(build(pool, ORIGINAL, tmp_path / "cache", 2))
    first, second = entries(tmp_path / "cache")
    assert (first.pool, first.what, first.images) == ("some-train", "original", 12)
    assert (second.what, second.damage) == ("square32bilinear", None)
    assert second.bytes > 12 * 32 * 32 * 3
    meta = json.loads((second.path / META).read_text())
    assert meta["kept"]["resize"] == "square"
    assert meta["layout"] == "planar"


def test_removing_takes_older_datas_too(pool: Pool, tmp_path: Path) -> None:
    list(build(pool, FLIPPED, tmp_path / "cache", 2))
    list(build(pool, ORIGINAL, tmp_path / "cache", 2))
    changed = files(tmp_path / "data", seed=1)
    list(build(changed, FLIPPED, tmp_path / "cache", 2))
    assert len(remove(changed, FLIPPED, tmp_path / "cache")) == 2
    assert [entry.what for entry in entries(tmp_path / "cache")] == ["original"]
    assert remove(changed, FLIPPED, tmp_path / "cache") == []


def test_an_open_cache_outlives_its_removal(pool: Pool, tmp_path: Path) -> None:
    images = made(pool, FLIPPED, tmp_path / "cache")
    remove(pool, FLIPPED, tmp_path / "cache")
    assert torch.equal(every(images), every(plain(part_of(pool), FLIPPED)))


# Damage.


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_last(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "harm", "what"),
    [
        (PIXELS, cut, r"pixels\.bin has 36863 of 36864 bytes"),
        (PIXELS, Path.unlink, r"pixels\.bin is missing"),
        (INDEX, cut, r"index\.npy is not as it was written"),
        (INDEX, flip_last, r"index\.npy is not as it was written"),
        (META, Path.unlink, r"meta\.json is missing"),
        (META, cut, None),
        (META, lambda path: os.truncate(path, 9), r"meta\.json is not as it was written"),
        (META, lambda path: path.write_text("[]"), r"meta\.json is not as it was written"),
    ],
)
def test_a_damaged_cache_is_built_again(
    name: str,
    harm: Callable[[Path], None],
    what: str | None,
    pool: Pool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    list(build(pool, FLIPPED, tmp_path / "cache", 2))
    harm(place(tmp_path / "cache") / name)
    if what is None:
        assert not missing(pool, FLIPPED, tmp_path / "cache")  # a last line end tells nothing
        return
    assert missing(pool, FLIPPED, tmp_path / "cache")
    with pytest.raises(MissingInputs, match=what):
        cached(part_of(pool), FLIPPED, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        images = made(pool, FLIPPED, tmp_path / "cache")
    assert "is built again" in caplog.text
    assert torch.equal(every(images), every(plain(part_of(pool), FLIPPED)))


@pytest.mark.parametrize("transform", [FLIPPED, ORIGINAL])
def test_a_flipped_bit_is_found_at_the_first_read(
    transform: Transform, pool: Pool, tmp_path: Path
) -> None:
    list(build(pool, transform, tmp_path / "cache", 2))
    flip_last(place(tmp_path / "cache") / PIXELS)
    images = cached(part_of(pool), transform, tmp_path / "cache")
    images.batch(torch.arange(11))
    with pytest.raises(MissingInputs, match=r"image 11 .*orch data cache some --rebuild"):
        images.batch(torch.tensor([3, 11]))
    remove(pool, transform, tmp_path / "cache")
    again = made(pool, transform, tmp_path / "cache")
    assert torch.equal(every(again), every(plain(part_of(pool), transform)))


# Builds that fail.


def test_an_unreadable_image_is_named_and_nothing_stays(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "data" / "7.png").write_bytes(b"not an image")
    with pytest.raises(MissingInputs, match=r"7\.png: not a readable image"):
        list(build(pool, FLIPPED, tmp_path / "cache", 2))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_build_that_is_given_up_leaves_nothing(pool: Pool, tmp_path: Path) -> None:
    def slow(row: int) -> Image.Image:
        time.sleep(0.1)
        return pool.read(row)

    building = build(dataclasses.replace(pool, read=slow), FLIPPED, tmp_path / "cache", 1)
    next(building)
    building.close()  # type: ignore[attr-defined]
    assert list((tmp_path / "cache").iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cache")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", *options], capture_output=True).returncode
    ):
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_told_before(tmp_path: Path, small_disk: Path) -> None:
    pool = files(tmp_path / "data")
    large = Transform(resize="square", size=224, side=224)
    with pytest.raises(EnvironmentProblem, match=r"needs about 1\.8 MB and its disk has 1\.0 MB"):
        list(build(pool, large, small_disk / "cache", 2))
    assert list((small_disk / "cache").iterdir()) == []


def test_so_is_one_that_fills_meanwhile(tmp_path: Path, small_disk: Path) -> None:
    pool = files(tmp_path / "data")

    def greedy(row: int) -> Image.Image:
        if row == 9:
            (small_disk / "another's").write_bytes(bytes(900_000))
        return pool.read(row)

    transform = Transform(resize="square", size=100, side=100)
    with pytest.raises(EnvironmentProblem, match=r"No space left.*0\.4 MB.*--cache"):
        list(build(dataclasses.replace(pool, read=greedy), transform, small_disk / "cache", 1))
    assert list((small_disk / "cache").iterdir()) == []


def _limited(pool: Pool, folder: Path, said: multiprocessing.SimpleQueue[str]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        list(build(pool, FLIPPED, folder, 2))
    except OrchError as error:
        said.put(f"{type(error).__name__}: {error}")
    else:
        said.put("built")


def test_a_limit_on_files_is_told_and_nothing_stays(pool: Pool, tmp_path: Path) -> None:
    said = FORK.SimpleQueue()
    process = FORK.Process(target=_limited, args=(pool, tmp_path / "cache", said))
    process.start()
    process.join(30)
    message = said.get()
    said.close()
    assert message.startswith("EnvironmentProblem: ")
    assert os.strerror(errno.EFBIG) in message
    assert "--cache" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(EnvironmentProblem, match=r"cannot be written .*--cache none"):
        list(build(pool, FLIPPED, tmp_path / "cache", 2))


def test_so_is_a_read_only_disk(pool: Pool, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(EnvironmentProblem, match=r"Read-only file system.*--cache"):
        list(build(pool, FLIPPED, small_disk / "cache", 2))


# Several processes.


def _counting(pool: Pool, log: Path, delay: float) -> Pool:
    def read(row: int) -> Image.Image:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"%d\n" % row)
        os.close(descriptor)
        time.sleep(delay)
        return pool.read(row)

    return dataclasses.replace(pool, read=read)


def _build(pool: Pool, transform: Transform, folder: Path) -> None:
    list(build(pool, transform, folder, 2))
    assert not missing(pool, transform, folder)


def test_two_processes_build_it_once(pool: Pool, tmp_path: Path) -> None:
    counting = _counting(pool, tmp_path / "reads", 0.05)
    processes = [
        FORK.Process(target=_build, args=(counting, FLIPPED, tmp_path / "cache")) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert sorted(map(int, (tmp_path / "reads").read_text().split())) == list(range(12))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [
        place(tmp_path / "cache").name
    ]


def test_a_killed_builder_leaves_nothing_in_use(pool: Pool, tmp_path: Path) -> None:
    slow = _counting(pool, tmp_path / "reads", 0.2)
    process = FORK.Process(target=_build, args=(slow, FLIPPED, tmp_path / "cache"))
    process.start()
    while not (tmp_path / "cache").is_dir() or not list((tmp_path / "cache").glob(".*.partial")):
        time.sleep(0.01)
    process.kill()
    process.join(30)
    assert list((tmp_path / "cache").glob(".*.partial"))
    assert missing(pool, FLIPPED, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []

    list(build(pool, ORIGINAL, tmp_path / "cache", 2))  # whoever builds next, whatever it builds
    assert [path.name[:13] for path in (tmp_path / "cache").iterdir()] == ["some-train-or"]
    images = made(pool, FLIPPED, tmp_path / "cache")
    assert torch.equal(every(images), every(plain(part_of(pool), FLIPPED)))


def test_a_living_builder_keeps_what_it_has(pool: Pool, tmp_path: Path) -> None:
    slow = _counting(pool, tmp_path / "reads", 0.2)
    process = FORK.Process(target=_build, args=(slow, FLIPPED, tmp_path / "cache"))
    process.start()
    while not (tmp_path / "cache").is_dir() or not list((tmp_path / "cache").glob(".*.partial")):
        time.sleep(0.01)
    list(build(pool, ORIGINAL, tmp_path / "cache", 2))
    assert process.is_alive()
    process.join(30)
    assert process.exitcode == 0
    assert len(entries(tmp_path / "cache")) == 2


def test_who_waits_says_so(pool: Pool, tmp_path: Path) -> None:
    list(build(pool, FLIPPED, tmp_path / "cache", 2))
    name = place(tmp_path / "cache").name
    shutil.rmtree(tmp_path / "cache" / name)
    with (tmp_path / "cache" / f".{name}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = build(pool, FLIPPED, tmp_path / "cache", 2)
        assert [next(waiting) for _ in range(3)] == [(0, 12)] * 3
    assert list(waiting)[-1] == (12, 12)


# Reading.


def test_many_threads_read_at_once(pool: Pool, tmp_path: Path) -> None:
    for transform in (FLIPPED, ORIGINAL):
        images = made(pool, transform, tmp_path / "cache")
        wanted = every(images)
        wrong: list[int] = []

        def read(start: int, images: Images = images, wanted: Tensor = wanted) -> None:
            for turn in range(30):
                rows = (torch.arange(5) * (turn + 1) + start) % 12
                if not torch.equal(images.batch(rows), wanted[rows]):
                    wrong.append(turn)  # noqa: B023

        threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def _reads(images: Images, wanted: Tensor) -> None:
    torch.set_num_threads(1)  # OpenMP's threads, if there were any, did not come along
    assert torch.equal(every(images), wanted)


def test_a_forked_process_reads_on(pool: Pool, tmp_path: Path) -> None:
    images = made(pool, FLIPPED, tmp_path / "cache")
    process = FORK.Process(target=_reads, args=(images, every(images)))
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_memory_is_used_again_only_when_nobody_holds_it(pool: Pool, tmp_path: Path) -> None:
    images = made(pool, FLIPPED, tmp_path / "cache")
    wanted = every(plain(part_of(pool), FLIPPED))
    views, copies = [], []
    for row in range(12):
        batch = images.batch(torch.tensor([row]))
        views.append(batch[0, 1, 3:])  # the batch itself goes, its memory may not
        copies.append(batch.clone())
    assert torch.equal(torch.cat(copies), wanted)
    assert torch.equal(torch.stack(views), wanted[:, 1, 3:])
    arrays = [images.batch(torch.tensor([row])).numpy() for row in range(12)]
    assert np.array_equal(np.concatenate(arrays), wanted)
    address = images.batch(torch.tensor([0])).data_ptr()
    assert images.batch(torch.tensor([1])).data_ptr() == address


def test_an_empty_batch_and_an_empty_pool(pool: Pool, tmp_path: Path) -> None:
    images = made(pool, FLIPPED, tmp_path / "cache")
    assert images.batch(torch.arange(0)).shape == (0, 3, 32, 32)
    nothing = dataclasses.replace(pool, names=[], stamp="none")
    assert len(made(nothing, FLIPPED, tmp_path / "cache")) == 0


def test_the_estimate_is_exact_where_it_can_be(pool: Pool) -> None:
    assert estimate(pool, FLIPPED) == 12 * 32 * 32 * 3
    assert estimate(pool, ORIGINAL) == sum((20 + number) * 30 * 3 for number in range(12))


def _without_locks(pool: Pool, transform: Transform, folder: Path, host: str) -> None:
    """As another machine builds on a file system where its lock says nothing here."""
    cache._HOST = host
    cache.fcntl.flock = lambda descriptor, flags: None  # type: ignore[attr-defined]
    list(build(pool, transform, folder, 2))


def test_machines_whose_locks_do_not_count_disturb_nobody(pool: Pool, tmp_path: Path) -> None:
    slow = _counting(pool, tmp_path / "reads", 0.02)
    processes = [
        FORK.Process(target=_without_locks, args=(slow, FLIPPED, tmp_path / "cache", host))
        for host in ("one", "other")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    left = [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert left == [place(tmp_path / "cache")]
    images = cached(part_of(pool), FLIPPED, tmp_path / "cache")
    assert torch.equal(every(images), every(plain(part_of(pool), FLIPPED)))


def test_what_other_users_left_is_theirs(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock file that may not be opened belongs to somebody else; our build goes on."""
    folder = tmp_path / "cache"
    (folder / ".theirs.lock").mkdir(parents=True)  # cannot be opened for writing by anybody
    (folder / f".theirs.{cache._HOST}.1{cache.PARTIAL}").mkdir()
    images = made(pool, FLIPPED, folder)
    assert len(images) == 12
    assert (folder / f".theirs.{cache._HOST}.1{cache.PARTIAL}").is_dir()
