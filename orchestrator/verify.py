"""The user's own proof that a resume changes nothing: one run trained whole, and again with kills.

Both trainings are the real command in processes of their own, over two copies of one scratch store
and runs folder. What must be equal: every epoch and metric but the clock, and the last weights.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from db.errors import EnvironmentProblem, SpecError
from db.reading import Reader
from db.records import (
    RESULTS,
    Artifact,
    Attempt,
    EpochRecord,
    Provenance,
    Run,
)
from db.store import Store
from orchestrator import preflight
from orchestrator.scratch import (
    POLL_SECONDS,
    UNFINISHED,
    End,
    Stage,
    Trainer,
    ending,
    file_digest,
    latest,
)
from worker.context import Folders
from worker.data import DATASETS
from worker.models import MODELS

GRACE_SECONDS = 60.0
"""For a run that was told to stop, before it is killed."""
CHECKPOINT_SECONDS = 1.0
CHECKPOINT_SHARE = 0.05
"""Of the training's time: between checkpoints, so that kills inside epochs count in a short run."""
MAX_ROUNDS = 5
"""Times that the run is begun to be killed: a fast one may be over before the last kill."""
START_UP = 5
"""One kill in so many is aimed at the start-up and not at training."""
UNKNOWN_IMAGES = 5_000
"""For the choice of the cheapest run, where a dataset does not say its size."""

T = TypeVar("T")
Stop = Literal["kill", "term"]


@dataclass(frozen=True)
class Aim:
    """A moment to end a process at."""

    share: float
    """Of the start-up or of all of training, in [0, 1)."""
    start_up: bool
    stop: Stop = "kill"


@dataclass(frozen=True)
class Hit:
    """A process that was ended before its run was over."""

    stop: Stop
    epoch: int | None
    """The one in training (0: the evaluation before it); None: training had not begun."""
    seconds: float
    """After training, or the process, began."""

    def __str__(self) -> str:
        return "start-up" if self.epoch is None else f"epoch {self.epoch}"


@dataclass(frozen=True)
class Verdict:
    """Both trainings of a run, compared."""

    whole: End
    cuts: tuple[End, ...]
    """Of each round with kills."""
    hits: tuple[Hit, ...]
    differences: tuple[str, ...]
    """One a line, in the order of epochs; empty where the two are identical."""
    seconds: float
    """Of the uninterrupted training."""

    @property
    def resumed(self) -> list[tuple[int, int]]:
        """Where attempts went on from a checkpoint: (whole epochs, steps of the next one)."""
        return [
            (attempt.resumed_from or 0, attempt.resumed_step or 0)
            for cut in self.cuts
            for attempt in cut.attempts
            if attempt.resumed_from is not None or attempt.resumed_step
        ]


def aims(count: int, seed: int, stops: Sequence[Stop] = ("kill",)) -> list[Aim]:
    """`count` moments in the order to be taken, spread over all of training, drawn from `seed`.

    One in five hits the start-up. The `stops` take turns.
    """
    drawn = random.Random(seed)
    start_ups = set(drawn.sample(range(count), count // START_UP))
    training = count - len(start_ups)
    shares = iter([(place + drawn.random()) / training for place in range(training)])
    return [
        Aim(
            drawn.random() if number in start_ups else next(shares),
            number in start_ups,
            stops[number % len(stops)],
        )
        for number in range(count)
    ]


def chosen(runs: Sequence[Run], prefix: str | None) -> Run:
    """The run whose id begins with `prefix`, or the one that is cheapest to train.

    Raises `SpecError` for none, or for several that begin so.
    """
    if prefix is None:
        return min(runs, key=lambda run: (cost(run), run.learning_rate))
    found = [run for run in runs if run.id.startswith(prefix)]
    if len(found) != 1:
        many = "begins several runs" if found else "begins no run"
        raise SpecError(
            f'--run "{prefix}" {many} of the sweep that --where leaves; '
            "`orch launch SWEEP.yaml --dry-run` and `orch runs list` show the ids."
        )
    return found[0]


def cost(run: Run) -> float:
    """How long a run takes, for comparison only: images seen times parameters."""
    images = DATASETS[run.dataset].images.get("train", UNKNOWN_IMAGES)
    images = min(images, run.images_per_split or images)
    return float(run.epochs * images * MODELS[run.model].parameters)


def verify(
    run: Run,
    needed: Sequence[Run],
    source: Reader | None,
    trainer: Trainer,
    kills: int,
    seed: int,
    stops: Sequence[Stop],
    scratch: Path,
) -> Verdict:
    """Train `run` whole and again, ended `kills` times at moments drawn from `seed`, and compare.

    Where the run is over before the last kill, another round begins with those that are left.
    `needed` are the runs that it needs, each after what it needs itself; they are taken from the
    `source` store and the trainer's runs folder where they are done and unharmed, and trained
    otherwise. Raises `MissingInputs` or `EnvironmentProblem` where the run cannot be trained here,
    and where it is over before any kill.
    """
    base = Stage(scratch / "base")
    base.runs.mkdir(parents=True)
    prepare(base, run, needed, source, trainer)
    trainer.say("uninterrupted: training")
    first, start_up = trainer.train(base.copied("whole"), run)
    if first.state not in RESULTS:
        raise EnvironmentProblem(
            f"run {run.id} failed without any kill, so there is nothing to compare: {first.error}"
        )
    seconds = _training_seconds(first)
    trainer.say(
        f"uninterrupted: {first.state}, {seconds:.1f} s of training after "
        f"{start_up:.1f} s of start-up"
    )
    if trainer.checkpoint_seconds is None:
        often = min(CHECKPOINT_SECONDS, seconds * CHECKPOINT_SHARE)
        trainer = replace(trainer, checkpoint_seconds=often)
    hits: list[Hit] = []
    cuts: list[End] = []
    while len(hits) < kills and len(cuts) < MAX_ROUNDS:
        cut = base.copied(f"killed-{len(cuts) + 1}")
        plan = aims(kills - len(hits), seed + len(cuts), stops)
        hits += _kills(trainer, cut, run, plan, first, start_up)
        cuts.append(_ended(trainer, cut, run))
    if not hits:
        raise EnvironmentProblem(
            f"run {run.id} trains for {seconds:.1f} s and was over before any kill; name a longer "
            "one with --run or --where."
        )
    found = (line for cut in cuts for line in differences(first, cut))
    verdict = Verdict(first, tuple(cuts), tuple(hits), tuple(found), seconds)
    if not verdict.differences and not verdict.resumed:
        raise EnvironmentProblem(
            f"run {run.id} was killed before its first checkpoint only, which proves nothing; name "
            "a longer one with --run or --where, or draw with another --seed."
        )
    return verdict


def _ended(trainer: Trainer, stage: Stage, run: Run) -> End:
    """The end of a run that was killed, trained to it unless it is there already."""
    end = ending(stage, run)
    if end.state in UNFINISHED:
        trainer.say("after the last kill: training to the end")
        end, _ = trainer.train(stage, run)
    return end


def _training_seconds(end: End) -> float:
    last = end.attempts[-1]
    return (last.ended or 0.0) - (last.started or 0.0)


# Before: what the run needs


def prepare(
    base: Stage, run: Run, needed: Sequence[Run], source: Reader | None, trainer: Trainer
) -> None:
    """Have the run registered, and what it needs done, in the base stage."""
    store = Store.open(str(base.store), create=True)
    store.register("verify-resume", "", [*needed, run], {run.id})
    to_train = [
        need for need in needed if not _borrowed(need, store, base, source, trainer.folders.runs)
    ]
    there = Folders(**{**vars(trainer.folders), "runs": base.runs})
    preflight.check([*to_train, run], store.states([n.id for n in needed]), there)
    store.engine.dispose()
    for need in to_train:
        trainer.say(f"it needs {need.kind} run {need.id[:8]}, not at hand: training that first")
        end, _ = trainer.train(base, need, "none")
        if end.state != "done":
            raise EnvironmentProblem(f"{need.kind} run {need.id} is {end.state}: {end.error}")


def _borrowed(need: Run, store: Store, base: Stage, source: Reader | None, runs: Path) -> bool:
    """Enter a needed run as done, its folder a link to the user's; False where it cannot be."""
    if source is None or source.states([need.id]).get(need.id) != "done":
        return False
    files = source.artifacts().get(need.id, [])
    artifacts = [Artifact(f["name"], f["path"], f["sha256"], f["bytes"]) for f in files]
    if not artifacts or any(file_digest(runs / a.path) != a.sha256 for a in artifacts):
        return False
    stored = source.find_run(need.id)
    owner = store.enlist()
    claim = store.claim(store.find_run(need.id).key, owner)
    assert claim is not None  # nobody else knows this store
    inputs = Provenance(
        data_fingerprint=stored.data_fingerprint or "", weights_sha256=stored.weights_sha256 or ""
    )
    history = source.history(stored.key)
    store.start(claim, history, inputs, None)
    store.finish(claim, history, artifacts)
    store.retire(owner)
    (base.runs / need.id).symlink_to(runs / need.id)
    return True


# The kills


@dataclass(frozen=True)
class _Target:
    """Where in training a share of it lies: so many seconds into an epoch."""

    epoch: int
    seconds: float


def _target(share: float, history: Sequence[EpochRecord]) -> _Target:
    left = share * sum(record.seconds for record in history)
    for record in history:
        if left < record.seconds:
            return _Target(record.epoch, left)
        left -= record.seconds
    return _Target(history[-1].epoch if history else 0, 0.0)


def _kills(
    trainer: Trainer, cut: Stage, run: Run, plan: Sequence[Aim], whole: End, start_up: float
) -> Iterator[Hit]:
    """Start the run and end it, aim after aim, until it is over; yields the kills that hit."""
    reader = Reader.open(str(cut.store))
    key = reader.find_run(run.id).key
    last: _Target | None = None
    for number, aim in enumerate(plan, 1):
        target = None if aim.start_up else _target(aim.share, whole.history)
        before, began = len(reader.attempts(key)), time.time()
        with trainer.process(cut, run.id) as child:
            if target is None:
                attempt = _wait(child, lambda: None, began + aim.share * start_up)
            else:
                attempt = _at(trainer, child, reader, key, before, target, last)
            alive = child.poll() is None
            epoch, now = latest(reader, key) + 1, time.time()
            if alive:
                _stop(child, aim.stop)
        state = reader.find_run(run.id).state
        if state not in UNFINISHED:
            trainer.say(f"kill {number} of {len(plan)}: too late, the run was {state}")
            return
        if not alive:
            raise EnvironmentProblem(f"run {run.id} ended by itself: {cut.last_words()}")
        hit = (
            Hit(aim.stop, None, now - began)
            if attempt is None or attempt.started is None
            else Hit(aim.stop, epoch, now - attempt.started)
        )
        last = target or last
        trainer.say(f"kill {number} of {len(plan)}: {hit}, after {hit.seconds:.2f} s")
        yield hit


def _at(
    trainer: Trainer,
    child: subprocess.Popen[bytes],
    reader: Reader,
    key: int,
    before: int,
    target: _Target,
    last: _Target | None,
) -> Attempt | None:
    """Wait until this attempt is where the target is, or the child has ended."""

    def started() -> Attempt | None:
        newest = reader.attempts(key)[before:]
        return newest[-1] if newest and newest[-1].started is not None else None

    attempt = _wait(child, started)
    if attempt is None:
        return None
    _wait(child, lambda: latest(reader, key) >= target.epoch - 1 or None)
    came, ahead = time.time(), 0.0
    if attempt.resumed_from == target.epoch - 1 or target.epoch == 0:
        came = attempt.started or came  # the epoch is where this attempt goes on
        if attempt.resumed_step and last and last.epoch == target.epoch:
            ahead = max(0.0, last.seconds - (trainer.checkpoint_seconds or 0.0))
    _wait(child, lambda: None, came + max(0.0, target.seconds - ahead))
    return attempt


def _wait(
    child: subprocess.Popen[bytes], found: Callable[[], T | None], until: float | None = None
) -> T | None:
    """What `found` returns first; None once the child has ended or the time `until` has come."""
    while child.poll() is None and (until is None or time.time() < until):
        if (thing := found()) is not None:
            return thing
        left = POLL_SECONDS if until is None else until - time.time()
        time.sleep(min(POLL_SECONDS, max(0.0, left)))
    return None


def _stop(child: subprocess.Popen[bytes], stop: Stop) -> None:
    """End a process and all that it started."""
    number = signal.SIGTERM if stop == "term" else signal.SIGKILL
    os.killpg(child.pid, number)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)


# After: the comparison


def differences(whole: End, cut: End) -> Iterator[str]:
    """Where two trainings of a run differ, clock aside, one a line; none where they are equal."""
    if whole.state != cut.state or whole.error != cut.error:
        yield f"uninterrupted the run is {_state(whole)}, with kills {_state(cut)}"
    for one, two in zip(whole.history, cut.history, strict=False):
        yield from _epoch(one, two)
    if len(whole.history) != len(cut.history):
        yield f"{len(whole.history)} epochs uninterrupted, {len(cut.history)} with kills"
    if whole.weights != cut.weights:
        yield f"weights sha256 {whole.weights} uninterrupted, {cut.weights} with kills"
    for attempt in cut.attempts:
        if attempt.irreproducible:
            yield f"attempt {attempt.number} stored numbers that a later attempt did not repeat"


def _state(end: End) -> str:
    return end.state + (f" ({end.error})" if end.error else "")


def _epoch(one: EpochRecord, two: EpochRecord) -> Iterator[str]:
    ours, theirs = _named(one), _named(two)
    for name in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(name, "nothing"), theirs.get(name, "nothing")
        if a != b:
            yield f"epoch {one.epoch}, {name}: {a} uninterrupted, {b} with kills"


def _named(record: EpochRecord) -> Mapping[str, object]:
    """Everything that an epoch measured but the clock, by name."""
    values: dict[str, object] = {
        "number": record.epoch,
        "training loss": record.train_loss,
        "training accuracy": record.train_accuracy,
        "learning rate": record.learning_rate,
    }
    for m in record.metrics:
        name = " ".join(filter(None, (m.split, m.group, m.metric)))
        values |= {name: m.value, f"{name}, correct": m.correct, f"{name}, images": m.n}
    return values


def metrics_of(history: Iterable[EpochRecord]) -> int:
    """How many numbers of splits a history has."""
    return sum(len(record.metrics) for record in history)
