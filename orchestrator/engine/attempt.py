"""One attempt at a run, inside whatever process trains it: its log, its events."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import worker
from db.records import Run

log = logging.getLogger("orch")


def log_path(folder: Path, fence: int) -> Path:
    """Where an attempt's output is kept."""
    return folder / f"attempt-{fence}.log"


@contextmanager
def captured(path: Path) -> Iterator[None]:
    """Send this process's stdout and stderr to a file, native code's too, until the block ends.

    Where the file cannot be had, as on a full disk, they go where they went.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)
        yield
        return
    flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        flush()
        for target, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.close(file)


def flush() -> None:
    """Have what was printed where it goes."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk does not end a run for its log's sake
            stream.flush()


def make_folder(run: Run, context: worker.Context) -> Iterator[worker.Event]:
    """Make the run's folder, waiting for room where the disk is full.

    Says so; an attempt that ends here says how, as the run itself would.
    """
    from worker.disk import with_room
    from worker.events import Stopped
    from worker.failures import cause_of

    try:
        yield from with_room(lambda: context.folder(run.id), context.should_stop)
    except Stopped:
        yield worker.Paused(0)
    except Exception as error:
        yield worker.Failed(f"{type(error).__name__}: {error}", "", cause_of(error))


def attempt(run: Run, context: worker.Context) -> Iterator[worker.Event]:
    """Train `run`, telling the log what happens."""
    log.info("run %s, attempt %d: %s", run.id, context.fence, run)
    for event in worker.run(run, context):
        if line := _line(run, event):
            log.info("%s", line)
        yield event


def _line(run: Run, event: worker.Event) -> str:
    match event:
        case worker.Started():
            start = resumed(event.resumed_from, event.resumed_step) or "from the start"
            return f"on {event.provenance.host} ({event.provenance.device}), {start}"
        case worker.Epoch():
            record = event.record
            shares = ", ".join(f"{m.split} {m.value:.4f}" for m in record.metrics if not m.group)
            loss = "" if record.train_loss is None else f"loss {record.train_loss:.4f}, "
            return f"epoch {record.epoch}/{run.epochs}: {loss}{shares} ({record.seconds:.2f} s)"
        case worker.Diverged():
            return f"diverged: the loss is not finite at epoch {event.epoch}, step {event.step}"
        case worker.Finished():
            return "done"
        case worker.Paused():
            return f"paused {resumed(event.epoch, event.step)}"
        case worker.Shrunk():
            return (
                f"memory ran out at epoch {event.epoch}, step {event.step}: going on with "
                f"{event.micro_batch} images a forward pass"
            )
        case worker.Waiting():
            return f"waiting: {event.reason}"
    return ""


def resumed(epoch: int | None, step: int) -> str:
    """`after epoch 3`, `after epoch 3 and 120 steps`; empty for a start from nothing."""
    if epoch is None and not step:
        return ""
    steps = f" and {step} steps" if step else ""
    return f"after epoch {epoch or 0}{steps}"


def log_to(handler: logging.Handler) -> None:
    """Make `handler` the log's only one, with times."""
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("orch", "worker"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
