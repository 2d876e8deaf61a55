"""A run that is stopped or killed anywhere, any number of times, ends like an uninterrupted one."""

from __future__ import annotations

import dataclasses
import itertools
import math
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import worker
from conftest import TOYS, a_run
from db.records import Run
from worker.checkpoint import Checkpoints
from worker.context import Keep

EVALUATED = 12
"""Images a forward pass of evaluation here: three passes over the 32 of a toy's split."""
TOY = a_run(batch_size=9, micro_batch=4, evaluate=("id",), evaluate_on_improvement=("ood",))
"""Eight steps an epoch, the last a short one; nothing is a multiple of anything."""
NEVER = 10**9


class Killed(BaseException):
    """What a kill does to a process, as far as another thread of it can tell."""


@pytest.fixture(scope="module", autouse=True)
def _small_passes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.evaluate.LARGE_BATCH", EVALUATED)
        patch.setattr("worker.evaluate.EVALUATION_BATCH", EVALUATED)
        yield


def attempt(
    run: Run,
    runs: Path,
    fence: int,
    stop: int = NEVER,
    kill: int = NEVER,
    **surroundings: Any,
) -> list[worker.Event]:
    """The events of an attempt that is told to stop, or is killed, at its n-th step or pass."""
    asked = itertools.count()

    def should_stop() -> bool:
        now = next(asked)
        if now >= kill:
            raise Killed
        return now >= stop

    context = worker.Context(
        data=Path("unused"), runs=runs, fence=fence, should_stop=should_stop, **surroundings
    )
    events: list[worker.Event] = []
    try:
        for event in worker.run(run, context):
            events.append(event)
    except Killed:
        pass
    return events


def outcome(run: Run, runs: Path, end: worker.Event) -> dict[str, Any]:
    """Everything that a finished run comes to, but the clock."""
    assert isinstance(end, worker.Finished), end
    state = Checkpoints(runs / run.id, 10**5).load()
    assert state is not None
    return {
        "history": [record.measured() for record in end.history],
        **{name: state[name] for name in ("model", "optimizer", "random")},
    }


def equal(one: Any, two: Any) -> bool:
    """Bit for bit, through dicts and lists."""
    if isinstance(one, Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(equal, one, two))
    return bool(one == two)


_whole: dict[str, dict[str, Any]] = {}


def uninterrupted(run: Run) -> dict[str, Any]:
    """What `run` comes to in one go; trained once a module."""
    if run.id not in _whole:
        with tempfile.TemporaryDirectory() as folder:
            _whole[run.id] = outcome(run, Path(folder), attempt(run, Path(folder), 1)[-1])
    return _whole[run.id]


def number_of_passes(run: Run) -> int:
    """How often a run asks whether to stop."""
    asked = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        context = worker.Context(
            data=Path("unused"), runs=Path(folder), should_stop=lambda: next(asked) < 0
        )
        list(worker.run(run, context))
    return next(asked)


# The law


CUTS = st.lists(
    st.tuples(st.sampled_from(["stop", "kill"]), st.integers(0, 40), st.integers(0, 2)),
    min_size=1,
    max_size=5,
)
"""How, at which moment, and with how many threads that prepare images."""


def check_cuts(method: str, cuts: list[tuple[str, int, int]]) -> None:
    """Cut a run and compare: steps, evaluations, the one before training; dropout in all."""
    run = dataclasses.replace(TOY, method=method)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        for fence, (how, moment, loaders) in enumerate(cuts, 1):
            # A checkpoint at every step; a kill loses what came after the last.
            attempt(run, runs, fence, **{how: moment}, checkpoint_seconds=0, loaders=loaders)
        end = attempt(run, runs, len(cuts) + 1)[-1]
        assert equal(outcome(run, runs, end), uninterrupted(run))


@settings(max_examples=10, deadline=None)
@given(method=st.sampled_from(["sgd", "adamw"]), cuts=CUTS)
def test_any_stops_and_kills_change_no_bit(method: str, cuts: list[tuple[str, int, int]]) -> None:
    check_cuts(method, cuts)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(method=st.sampled_from(["sgd", "adamw"]), cuts=CUTS)
def test_hundreds_of_stops_and_kills(method: str, cuts: list[tuple[str, int, int]]) -> None:
    check_cuts(method, cuts)


@pytest.mark.parametrize("step", range(0, 44, 5))
def test_a_stop_loses_nothing(tmp_path: Path, step: int) -> None:
    """Wherever it falls: steps and passes of both attempts together are those of one."""
    first = attempt(TOY, tmp_path, 1, stop=step)
    paused = first[-1]
    assert isinstance(paused, worker.Paused)
    asked = itertools.count()
    context = worker.Context(
        data=Path("unused"), runs=tmp_path, fence=2, should_stop=lambda: next(asked) < 0
    )
    second = list(worker.run(TOY, context))
    assert equal(outcome(TOY, tmp_path, second[-1]), uninterrupted(TOY))
    assert step + next(asked) == number_of_passes(TOY)
    started = second[0]
    assert isinstance(started, worker.Started)
    assert (started.resumed_from or 0, started.resumed_step) == (paused.epoch, paused.step)


def test_where_stops_fall() -> None:
    """What `Paused` says of each moment of a run's beginning: evaluation, steps, evaluation."""
    said = []
    for step in (0, 1, 3, 4, 11, 12, 14, 17):
        with tempfile.TemporaryDirectory() as folder:
            paused = attempt(TOY, Path(folder), 1, stop=step)[-1]
            assert isinstance(paused, worker.Paused)
            assert Checkpoints(Path(folder) / TOY.id, 1).newest() == (paused.epoch, paused.step)
            said.append((paused.epoch, paused.step))
    # Three passes, eight steps, three passes and, as the first epoch improves, three more.
    assert said == [(0, 0), (0, 0), (0, 0), (0, 1), (0, 8), (0, 8), (0, 8), (1, 0)]


def test_a_stop_before_anything_leaves_no_file(tmp_path: Path) -> None:
    assert attempt(TOY, tmp_path, 1, stop=0)[-1] == worker.Paused(0, 0)
    assert list((tmp_path / TOY.id).iterdir()) == []


def test_a_stop_after_a_stop_writes_nothing_again(tmp_path: Path) -> None:
    attempt(TOY, tmp_path, 1, stop=7)
    (before,) = (tmp_path / TOY.id).iterdir()
    assert before.name.startswith("checkpoint-000001-000000-000004-")
    assert attempt(TOY, tmp_path, 2, stop=0)[-1] == worker.Paused(0, 4)
    assert list((tmp_path / TOY.id).iterdir()) == [before]


@pytest.mark.parametrize("cuts", [(3,), (1, 2), (4, 3, 3)])
def test_a_real_model_goes_on_at_the_very_next_step(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    run = a_run(
        model="tiny_vit", dataset="digits", method="adamw", learning_rate=1e-3, epochs=2,
        images_per_split=40, clip_norm=1.0,
    )  # fmt: skip
    for fence, stop in enumerate(cuts, 1):
        attempt(run, tmp_path, fence, stop=stop, loaders=2)
    end = attempt(run, tmp_path, len(cuts) + 1)[-1]
    assert equal(outcome(run, tmp_path, end), uninterrupted(run))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_kept_weights_are_the_same_under_cuts(tmp_path: Path, keep: Keep) -> None:
    """A stop at each third moment: candidates are written before and after their epochs' ends."""
    whole = attempt(TOY, tmp_path / "whole", 1, keep=keep)[-1]
    assert isinstance(whole, worker.Finished)
    for fence in itertools.count(1):
        end = attempt(TOY, tmp_path / "cut", fence, stop=3, keep=keep)[-1]
        if not isinstance(end, worker.Paused):
            break
    assert isinstance(end, worker.Finished)
    assert end.artifacts == whole.artifacts
    assert fence > 10
    assert not list((tmp_path / "cut" / TOY.id).glob("candidate-*"))


def test_the_best_weights_survive_a_kill_after_each_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = attempt(TOY, tmp_path / "whole", 1, keep="best")[-1]
    assert isinstance(whole, worker.Finished)
    real = Checkpoints.save

    def save(*arguments: Any) -> None:
        real(*arguments)
        raise Killed

    for fence in range(1, TOY.epochs + 1):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save)
            attempt(TOY, tmp_path / "cut", fence, keep="best")
    end = attempt(TOY, tmp_path / "cut", TOY.epochs + 1, keep="best")[-1]
    assert isinstance(end, worker.Finished)
    assert end.artifacts == whole.artifacts


def test_pretrained_weights_are_the_same_under_cuts(tmp_path: Path) -> None:
    run = dataclasses.replace(TOY, kind="pretrain")
    (whole,) = attempt(run, tmp_path / "whole", 1)[-1].artifacts  # type: ignore[union-attr]
    attempt(run, tmp_path / "cut", 1, stop=20)
    (cut,) = attempt(run, tmp_path / "cut", 2)[-1].artifacts  # type: ignore[union-attr]
    assert cut == whole


def test_the_time_of_an_epoch_is_the_sum_of_its_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a second with each look: at the beginning and end of each step."""
    _clock(monkeypatch)
    whole = attempt(TOY, tmp_path / "whole", 1)[-1]
    for fence, stop in enumerate((5, 9, 3), 1):
        attempt(TOY, tmp_path / "cut", fence, stop=stop)
    cut = attempt(TOY, tmp_path / "cut", 4)[-1]
    assert isinstance(whole, worker.Finished)
    assert isinstance(cut, worker.Finished)
    for one, two in zip(whole.history[1:], cut.history[1:], strict=True):
        assert one.images_per_second == two.images_per_second == 64 / 8
        assert 0 <= two.seconds - one.seconds <= 3, "a lap more for each piece of an evaluation"


def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time for runs that goes on by a second with each look."""
    now = map(float, itertools.count())
    clocks = types.SimpleNamespace(monotonic=now.__next__, perf_counter=now.__next__)
    monkeypatch.setattr("worker.pace.time", clocks)


# Time


def test_checkpoints_come_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that goes on by a second with each look, of which there are three a step."""
    _clock(monkeypatch)
    saved = []
    real = Checkpoints.save

    def save(self: Checkpoints, epoch: int, state: dict[str, Any], step: int = 0) -> None:
        saved.append((epoch, step))
        real(self, epoch, state, step)

    monkeypatch.setattr(Checkpoints, "save", save)
    attempt(TOY, tmp_path / "never", 1, checkpoint_seconds=math.inf)
    assert saved == [(1, 0), (2, 0), (3, 0)], "epochs always"
    saved.clear()
    attempt(TOY, tmp_path / "often", 1, checkpoint_seconds=9)
    inside = [place for place in saved if place[1]]
    assert len(inside) >= 3
    assert [place for place in saved if not place[1]][-3:] == [(1, 0), (2, 0), (3, 0)]
    files = list((tmp_path / "often" / TOY.id).iterdir())
    assert len(files) == 1, "only the newest is kept"


def test_signs_of_life_come_from_evaluations_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pace.PROGRESS_SECONDS", -1.0)
    said = [e for e in attempt(TOY, tmp_path, 1) if isinstance(e, worker.Progress)]
    before = [(e.step, e.steps) for e in said if e.epoch == 0]
    assert before == [(0, 32), (12, 32), (24, 32)]
    first = [(e.doing, e.step, e.steps) for e in said if e.epoch == 1]
    assert first[:8] == [("training", step, 8) for step in range(8)]
    assert {doing for doing, _, _ in first[8:]} == {"evaluating"}


# Files


def test_a_checkpoint_of_yesterday_is_gone_on_from(tmp_path: Path) -> None:
    """Its name has no step, and nothing in it tells of an epoch under way."""
    attempt(TOY, tmp_path, 1, kill=20)
    (path,) = (tmp_path / TOY.id).iterdir()
    state = torch.load(path, weights_only=True)
    assert state.pop("under_way")["step"] == 0
    path.unlink()
    Checkpoints(tmp_path / TOY.id, 1).save(1, state)
    (path,) = (tmp_path / TOY.id).iterdir()
    path.rename(path.with_name(path.name.replace("-000001-000000-", "-000001-")))
    assert Checkpoints(tmp_path / TOY.id, 2).newest() == (1, 0)
    started, *_, end = attempt(TOY, tmp_path, 2)
    assert isinstance(started, worker.Started)
    assert (started.resumed_from, started.resumed_step) == (1, 0)
    assert equal(outcome(TOY, tmp_path, end), uninterrupted(TOY))
    assert len(list((tmp_path / TOY.id).iterdir())) == 1, "the old one is gone"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
@pytest.mark.parametrize("place", ["only", "newest", "older"])
def test_damaged_checkpoints_cost_time_and_no_bit(tmp_path: Path, damage: str, place: str) -> None:
    """The only one: from the start. The newest of two: from the older. An older one: no matter."""
    folder = tmp_path / TOY.id
    attempt(TOY, tmp_path, 1, stop=8)
    (older,) = folder.iterdir()
    kept = older.read_bytes()
    if place != "only":
        attempt(TOY, tmp_path, 2, stop=15)
        (newest,) = folder.iterdir()
        older.write_bytes(kept)  # as if killed before it was dropped
    path = newest if place == "newest" else older
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"truncated": data[:-9], "flipped": data, "empty": b""}[damage])
    started, *_, end = attempt(TOY, tmp_path, 3)
    assert isinstance(started, worker.Started)
    expected = {"only": (None, 0), "newest": (0, 5), "older": (1, 6)}[place]
    assert (started.resumed_from, started.resumed_step) == expected
    assert equal(outcome(TOY, tmp_path, end), uninterrupted(TOY))
    set_aside = [p.name for p in folder.iterdir() if p.suffix == ".unreadable"]
    assert len(set_aside) == (place != "older")


def test_what_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    """Older attempts' only: a newer one may be at it."""
    folder = tmp_path / TOY.id
    attempt(TOY, tmp_path, 2, stop=8)
    names = [".partial-000001-abcdefgh", ".partial-000002-abcdefgh", ".partial-000003-abcdefgh"]
    for name in names:
        (folder / name).write_bytes(b"half")
    attempt(TOY, tmp_path, 2, stop=0)
    assert [p.name for p in sorted(folder.glob(".partial*"))] == names[1:]


def test_a_process_killed_while_it_trains_goes_on(tmp_path: Path) -> None:
    """SIGKILL to a real one, which writes a checkpoint at every step."""
    code = (
        "import worker, worker.evaluate\n"
        "from pathlib import Path\n"
        "from db.records import Run\n"
        "from worker.catalog import load_plugins\n"
        f"load_plugins([{str(TOYS)!r}])\n"
        f"worker.evaluate.LARGE_BATCH = {EVALUATED}\n"
        f"run = Run.from_content({TOY.content()!r})\n"
        f"context = worker.Context(data=Path('unused'), runs=Path({str(tmp_path)!r}),"
        " checkpoint_seconds=0)\n"
        "for event in worker.run(run, context):\n"
        "    print(type(event).__name__, flush=True)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.strip() == "Epoch")  # the one before training
        process.send_signal(signal.SIGKILL)
    started, *_, end = attempt(TOY, tmp_path, 2)
    assert isinstance(started, worker.Started)
    assert started.provenance.micro_batch == TOY.micro_batch
    assert equal(outcome(TOY, tmp_path, end), uninterrupted(TOY))
