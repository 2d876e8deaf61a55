"""What goes wrong in a run, and what becomes of it: memory, data, disks, folders, the machine."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import worker
from conftest import a_run
from db.errors import EnvironmentProblem, MissingInputs, SpecError
from db.records import Cause, Run
from worker import disk
from worker.checkpoint import Checkpoints
from worker.data import DATASETS
from worker.data.images import load
from worker.data.mini import make_living17
from worker.device import check_device
from worker.disk import DiskFull
from worker.evaluate import Eye, evaluate
from worker.failures import cause_of
from worker.memory import OutOfMemory


def train(run: Run, runs: Path, **surroundings: Any) -> list[worker.Event]:
    return list(worker.run(run, worker.Context(data=Path("unused"), runs=runs, **surroundings)))


def finished(events: list[worker.Event]) -> worker.Finished:
    assert isinstance(events[-1], worker.Finished), events[-1]
    return events[-1]


def failed(events: list[worker.Event]) -> worker.Failed:
    assert isinstance(events[-1], worker.Failed), events[-1]
    return events[-1]


def of_type(events: list[worker.Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def weights(run: Run, runs: Path) -> dict[str, Tensor]:
    state = Checkpoints(runs / run.id, 10**5).load()
    assert state is not None
    found: dict[str, Tensor] = state["model"]
    return found


# Memory


@pytest.mark.parametrize("loaders", [0, 2])
def test_halved_micro_batches_are_those_of_a_run_that_began_with_them(
    tmp_path: Path, loaders: int
) -> None:
    """Bit for bit, dropout too: the step that failed draws again from where it began."""
    large = a_run(model="toy_oom_once", micro_batch=16)
    small = dataclasses.replace(large, micro_batch=4)
    events = train(large, tmp_path, loaders=loaders)
    assert of_type(events, worker.Shrunk) == [worker.Shrunk(1, 0, 8), worker.Shrunk(1, 0, 4)]
    expected = finished(train(small, tmp_path))
    history = finished(events).history
    assert [r.measured() for r in history] == [r.measured() for r in expected.history]
    one, two = weights(large, tmp_path), weights(small, tmp_path)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_effective_batch_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a run with all the memory: the same images, the same mean, up to rounding."""
    monkeypatch.setattr("torch.nn.Dropout", lambda p: nn.Identity())  # it draws by the batch
    monkeypatch.setenv("ORCH_TOY_MEMORY", "5")
    run = a_run(batch_size=27, micro_batch=27)  # 64 images: two steps of 27, one of 10
    halved = dataclasses.replace(run, model="toy_oom")
    events = train(halved, tmp_path)
    assert [e.micro_batch for e in of_type(events, worker.Shrunk)] == [13, 6, 3]
    whole, ours = finished(train(run, tmp_path)).history, finished(events).history
    for one, two in zip(whole[1:], ours[1:], strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-5)
        assert one.train_accuracy == two.train_accuracy
        assert one.learning_rate == two.learning_rate
        assert one.metrics == two.metrics
    one_model, two_model = weights(run, tmp_path), weights(halved, tmp_path)
    for name in one_model:
        torch.testing.assert_close(one_model[name], two_model[name], rtol=1e-4, atol=1e-6)


def test_a_resume_goes_on_with_the_micro_batch_that_fits(tmp_path: Path) -> None:
    run = a_run(model="toy_oom_once", micro_batch=16)
    asked = iter(range(10**6))
    events = train(run, tmp_path, should_stop=lambda: next(asked) >= 6)
    assert events[-1] == worker.Paused(0, 2)
    again = train(run, tmp_path, fence=2)
    started = again[0]
    assert isinstance(started, worker.Started)
    assert started.provenance.micro_batch == 4
    assert not of_type(again, worker.Shrunk)
    whole = finished(train(dataclasses.replace(run, micro_batch=4), tmp_path))
    assert [r.measured() for r in finished(again).history] == [r.measured() for r in whole.history]


def test_memory_for_not_one_image_is_a_failure_that_says_so(tmp_path: Path) -> None:
    events = train(a_run(model="toy_oom"), tmp_path)
    assert [e.micro_batch for e in of_type(events, worker.Shrunk)] == [8, 4, 2, 1]
    end = failed(events)
    assert end.cause == "out_of_memory"
    assert "memory ran out on cpu with one image at a time" in end.error
    assert "the toy has no room for 1 images" in end.error
    assert "OutOfMemoryError" in end.traceback


def test_an_evaluation_takes_fewer_images_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    class Small(nn.Module):
        """Told apart by brightness, with noise."""

        def __init__(self, most: int) -> None:
            super().__init__()
            self.most = most

        def forward(self, images: Tensor) -> Tensor:
            bright = images.mean(dim=(1, 2, 3)) + 0.01 * torch.rand(len(images))
            if len(images) > self.most:
                raise torch.OutOfMemoryError("no room")
            return torch.stack([0.505 - bright, bright - 0.505], dim=1)

    data, splits = load("toy", Path("unused")), DATASETS["toy"].splits
    found = []
    for most, batch in ((5, 32), (32, 4)):
        torch.manual_seed(0)
        found.append(evaluate(Small(most), data, splits, Eye("cpu", batch=batch)))
    assert found[0] == found[1], "halved three times to four, drawing what four would have drawn"
    assert "memory ran out with 32 images at a time" in caplog.text
    with pytest.raises(OutOfMemory, match="one image at a time"):
        evaluate(Small(0), data, splits, Eye("cpu"))


def test_memory_that_really_runs_out(tmp_path: Path) -> None:
    """A process whose address space ends 400 MB further on; 32 images take 490 at a time."""
    code = f"""
import resource, torch, worker, worker.models
from pathlib import Path
from conftest import a_run, TOYS
from worker.catalog import load_plugins
load_plugins([{str(Path(__file__).parent / "toys.py")!r}])
import orch_plugin_toys

class Large(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(192, 2)
        self.limited = False
    def forward(self, images):
        if torch.is_grad_enabled() and not self.limited:
            self.limited = True
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + (400 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        many = images.flatten(1).repeat(1, 20_000 if torch.is_grad_enabled() else 1)
        return self.head(many[:, :192]) + many.sum(dim=1, keepdim=True) * 0

orch_plugin_toys.toy = lambda classes: Large()
run = a_run(micro_batch=32, epochs=1)
for event in worker.run(run, worker.Context(data=Path("unused"), runs=Path({str(tmp_path)!r}))):
    print(type(event).__name__, getattr(event, "micro_batch", ""), getattr(event, "error", ""))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    lines = done.stdout.split("\n")
    assert "Shrunk 16" in done.stdout, done.stdout + done.stderr
    assert lines[-2].strip() == "Finished", done.stdout + done.stderr
    assert "DefaultCPUAllocator: can't allocate memory" in done.stderr


def test_building_that_runs_out_of_memory_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        torch.empty(1 << 50)

    monkeypatch.setattr("worker.finetune.build", build)
    assert failed(train(a_run(), tmp_path)).cause == "out_of_memory"


# Causes


def _raised(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),
        (_raised(lambda: torch.empty(1 << 50)), "out_of_memory"),
        (_raised(lambda: np.empty(1 << 50)), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (OutOfMemory("one image"), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (MissingInputs("a file"), "bad_data"),
        (EnvironmentProblem("no GPU"), "environment"),
        (_raised(lambda: check_device("cuda:99")), "environment"),
        (_raised(lambda: check_device("cpu", "tf32")), "environment"),
        (PermissionError(errno.EACCES, "Permission denied"), "environment"),
        (OSError(errno.EROFS, "Read-only file system"), "environment"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (DiskFull("full", Path("/"), 1), "disk_full"),
        (SpecError("no such parameters"), "bug"),
        (RuntimeError("CUDA error: device-side assert triggered"), "bug"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "bug"),
        (KeyError("x"), "bug"),
    ],
)
def test_causes(error: BaseException, cause: Cause) -> None:
    assert cause_of(error) == cause


@pytest.mark.parametrize(
    ("changes", "surroundings", "cause", "said"),
    [
        ({"model": "toy_bad_data"}, {}, "bad_data", "7.png: not a readable image"),
        ({"model": "toy_raises"}, {}, "bug", "the toy breaks on purpose"),
        ({"precision": "tf32"}, {}, "environment", "tf32 needs a GPU"),
        ({}, {"device": "cuda:99"}, "environment", "there is no device cuda:99"),
        ({"dataset": "mini_fmow"}, {}, "bad_data", "orch data make-mini"),
        ({}, {"data_fingerprint": "another"}, "bad_data", "not those of this run's first"),
    ],
)
def test_a_failed_run_says_why(
    tmp_path: Path, changes: dict[str, Any], surroundings: dict[str, Any], cause: Cause, said: str
) -> None:
    end = failed(train(a_run(**changes), tmp_path, **surroundings))
    assert end.cause == cause
    assert said in end.error


def test_an_image_that_cannot_be_read_is_bad_data(tmp_path: Path) -> None:
    make_living17(tmp_path / "data" / "mini", train=68, val=34, test=34)
    for path in (tmp_path / "data").rglob("*.JPEG"):
        path.write_bytes(path.read_bytes()[:50])
    run = a_run(model="tiny_bit", dataset="mini_living17", evaluate=("id",), epochs=1)
    for cache in (None, tmp_path / "cache"):
        context = worker.Context(data=tmp_path / "data", runs=tmp_path, cache=cache)
        end = failed(list(worker.run(run, context)))
        assert end.cause == "bad_data"
        assert "JPEG: not a readable image" in end.error


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", *options], capture_output=True).returncode
    ):
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at a full disk follow each other at once."""
    monkeypatch.setattr(disk, "LOOK_SECONDS", 0.001)


def fill(folder: Path, but: int = 0) -> Path:
    """A file that leaves `but` bytes of a disk."""
    free = os.statvfs(folder)
    path = folder / "another's"
    path.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - but)))
    return path


VIT = a_run(
    model="tiny_vit", dataset="digits", method="sgd", epochs=2, images_per_split=40,
    evaluate=("id",),
)  # fmt: skip
"""A checkpoint of it takes 650 kB, its weights alone 325."""


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("keep", ["none", "best", "last"])
def test_a_full_disk_is_waited_for(tmp_path: Path, small_disk: Path, keep: worker.Keep) -> None:
    """Full when the first thing is to be written; room is made when it says so."""
    expected = finished(train(VIT, tmp_path / "whole", keep=keep))
    context = worker.Context(data=Path("unused"), runs=small_disk, keep=keep)
    full, waited, events = fill(small_disk, 4096 * 8), 0, []
    for event in worker.run(VIT, context):
        events.append(event)
        if isinstance(event, worker.Waiting):
            waited += 1
            assert f"{small_disk / VIT.id} is full: " in event.reason
            assert "kB needed" in event.reason or "MB needed" in event.reason
            assert not list((small_disk / VIT.id).glob(".partial*")), "nothing half-written"
            full.unlink()
    assert waited == 1
    end = finished(events)
    assert [r.measured() for r in end.history] == [r.measured() for r in expected.history]
    assert end.artifacts == expected.artifacts


@pytest.mark.usefixtures("quickly")
def test_told_to_stop_while_it_waits_it_pauses_at_what_is_on_disk(
    tmp_path: Path, small_disk: Path
) -> None:
    asked, waiting = iter(range(10**6)), []
    # Two steps an epoch, one pass over one split.
    context = worker.Context(
        data=Path("unused"), runs=small_disk,
        should_stop=lambda: bool(waiting) or next(asked) < 0, checkpoint_seconds=0,
    )  # fmt: skip
    for event in worker.run(VIT, context):
        if isinstance(event, worker.Epoch) and event.record.epoch == 1:
            full = fill(small_disk)
        waiting += of_type([event], worker.Waiting)
    assert event == worker.Paused(1, 0)
    (kept,) = (small_disk / VIT.id).iterdir()
    assert kept.name.startswith("checkpoint-000001-000001-000000-")
    full.unlink()
    started, *_, end = train(VIT, small_disk, fence=2)
    assert isinstance(started, worker.Started)
    assert (started.resumed_from, started.resumed_step) == (1, 0)
    expected = finished(train(VIT, tmp_path / "whole"))
    history = finished([end]).history
    assert [r.measured() for r in history] == [r.measured() for r in expected.history]


@pytest.mark.usefixtures("quickly")
def test_signs_of_life_while_it_waits(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SAY_SECONDS", 0.0)
    full, waited = fill(small_disk, 4096 * 8), 0
    for event in worker.run(VIT, worker.Context(data=Path("unused"), runs=small_disk)):
        waited += isinstance(event, worker.Waiting)
        if waited == 5:
            full.unlink(missing_ok=True)
    assert isinstance(event, worker.Finished)
    assert waited == 5


@pytest.mark.usefixtures("quickly")
def test_what_will_never_fit_is_not_waited_for(small_disk: Path) -> None:
    run = dataclasses.replace(VIT, method="adamw", batch_size=8)
    subprocess.run(["mount", "-o", "remount,size=600k", str(small_disk)], check=True)
    end = failed(train(run, small_disk))
    assert end.cause == "disk_full"
    assert f"{small_disk / run.id} is full" in end.error


@pytest.mark.usefixtures("quickly")
def test_a_cache_waits_for_room_too(tmp_path: Path, small_disk: Path) -> None:
    make_living17(tmp_path / "data" / "mini", train=68, val=34, test=34)
    run = a_run(model="tiny_bit", dataset="mini_living17", evaluate=("id",), epochs=1)
    full, waited = fill(small_disk), []
    context = worker.Context(data=tmp_path / "data", runs=tmp_path, cache=small_disk)
    for event in worker.run(run, context):
        waited += of_type([event], worker.Waiting)
        full.unlink(missing_ok=True)
    assert isinstance(event, worker.Finished), event
    assert [f"{small_disk} is full: " in w.reason for w in waited] == [True]


@pytest.mark.usefixtures("quickly")
def test_told_to_stop_while_its_cache_waits(tmp_path: Path, small_disk: Path) -> None:
    make_living17(tmp_path / "data" / "mini", train=68, val=34, test=34)
    run = a_run(model="tiny_bit", dataset="mini_living17", evaluate=("id",), epochs=1)
    fill(small_disk)
    context = worker.Context(
        data=tmp_path / "data", runs=tmp_path, cache=small_disk, should_stop=lambda: True
    )
    first, end = worker.run(run, context)
    assert isinstance(first, worker.Waiting)
    assert end == worker.Paused(0, 0)
    assert [p.name for p in small_disk.iterdir()] == ["another's"]


# Folders


def _when_the_first_epoch_is_told(run: Run, runs: Path, action: Callable[[], None]) -> worker.Event:
    for event in worker.run(run, worker.Context(data=Path("unused"), runs=runs)):
        if isinstance(event, worker.Epoch) and event.record.epoch == 1:
            action()
    return event


def test_a_folder_that_vanishes_is_named(tmp_path: Path) -> None:
    run = a_run()
    end = _when_the_first_epoch_is_told(run, tmp_path, lambda: shutil.rmtree(tmp_path / run.id))
    assert isinstance(end, worker.Failed)
    assert end.cause == "environment"
    assert f"{tmp_path / run.id} cannot be written (No such file or directory)" in end.error


def test_so_is_one_that_becomes_read_only(small_disk: Path) -> None:
    run = a_run()

    def remount() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    end = _when_the_first_epoch_is_told(run, small_disk, remount)
    assert isinstance(end, worker.Failed)
    assert end.cause == "environment"
    assert f"{small_disk / run.id} cannot be written (Read-only file system)" in end.error
    left = [path.name for path in (small_disk / run.id).iterdir()]
    assert [name.startswith("checkpoint-000001-000001-000000-") for name in left] == [True]


def test_a_runs_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    end = failed(train(a_run(), tmp_path / "runs"))
    assert end.cause == "environment"
    assert str(tmp_path / "runs") in end.error


def test_a_limit_on_the_size_of_files_is_no_full_disk(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        events = train(VIT, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    end = failed(events)
    assert end.cause == "environment"
    assert f"cannot be written ({os.strerror(errno.EFBIG)})" in end.error
    assert list((tmp_path / VIT.id).iterdir()) == []


# What an attempt says of itself


def test_provenance(tmp_path: Path) -> None:
    started = train(a_run(threads=2), tmp_path, node="a1b2")[0]
    assert isinstance(started, worker.Started)
    said = started.provenance
    assert (said.node, said.threads, said.precision, said.micro_batch) == ("a1b2", 2, "fp32", 16)
    assert said.device == "cpu"
    assert said.versions["python"] == sys.version.split()[0]
    assert said.versions["cpu"]
    assert {"torch", "numpy", "orch"} <= said.versions.keys()
    assert "cuda" not in said.versions


def test_the_cpu_holds_nothing_and_has_no_share() -> None:
    worker.limit_memory("cpu", 0.5)
    assert worker.memory_left("cpu") == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_left_empty_and_can_be_shared(tmp_path: Path) -> None:
    train(VIT, tmp_path, device="cuda:0")
    assert worker.memory_left("cuda:0") == 0
    worker.limit_memory("cuda:0", 0.001)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1 << 30, device="cuda:0")
    worker.limit_memory("cuda:0", 1.0)
    torch.empty(1 << 20, device="cuda:0")


def test_a_failure_holds_nothing_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the engine hears of it, the model is gone already: the next run may need the memory."""
    import gc
    import weakref

    caplog.set_level(logging.CRITICAL, "worker")  # a record of the log would hold the traceback
    models: list[weakref.ref[nn.Module]] = []
    real = worker.finetune.build  # type: ignore[attr-defined]

    def build(*arguments: Any) -> Any:
        built = real(*arguments)
        models.append(weakref.ref(built.model))
        return built

    monkeypatch.setattr("worker.finetune.build", build)
    for event in worker.run(
        a_run(model="toy_raises"), worker.Context(data=Path("unused"), runs=tmp_path)
    ):
        if isinstance(event, worker.Failed):
            gc.collect()
            assert models[0]() is None
    assert isinstance(event, worker.Failed)
