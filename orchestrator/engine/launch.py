"""A launch from start to end: take over, queue, hand to Ray Tune, leave nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from db.errors import EnvironmentProblem
from db.records import State, StoredRun
from db.store import Store
from orchestrator.engine.session import Observer, Session, queue_of
from orchestrator.spec import Resources
from orchestrator.sweep import Planned
from worker.context import Folders

# Read by Ray when it is imported, or by its workers when they start.
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
OBJECT_STORE_BYTES = 80 * 2**20
MAX_PENDING = 16
"""Actors that start at the same time: each imports torch, and reads it from one disk."""
MAX_TRIALS = 5_000
"""Of one Tune experiment: its driver keeps 27 kB and a folder for each."""


@dataclass(frozen=True)
class Options:
    """How to launch; none of it changes a number."""

    folders: Folders
    max_concurrent: int | None = None
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a launch came to."""

    states: Counter[State]
    """Runs that this launch brought to each final state."""
    taken_elsewhere: int
    """Runs that another launch is training."""
    interrupted: bool


def launch(
    store: Store,
    runs: Sequence[StoredRun],
    planned: Mapping[str, Planned],
    options: Options,
    observer: Observer,
) -> Outcome:
    """Train what is missing of `runs`; returns when nothing is left or a signal came.

    Raises what went wrong with the store or Ray, after giving back every claim.
    """
    owner = store.enlist()
    session = Session(
        store=store,
        owner=owner,
        queue=queue_of(store, runs),
        keys={stored.id: stored.key for stored in runs},
        planned=planned,
        folders=options.folders,
        observer=observer,
        plugins=options.plugins,
        git=git_state(),
    )
    try:
        with scratch_folder() as scratch, ray_cluster(scratch), told_to_stop(session):
            slots = _slots({planned[stored.id].resources for stored in runs})
            # All actors start at once, and one run is claimed ahead so that none waits for a claim.
            os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(min(slots, MAX_PENDING))
            session.max_claims = options.max_concurrent or slots + 1
            while session.startable() and not session.stop.is_set():
                before = len(session.queue)
                _experiment(session, scratch)
                if len(session.queue) == before:
                    break
    finally:
        told = session.stop.is_set() and session.failure is None
        store.retire(owner, "paused" if told else "lost")
    if session.failure is not None:
        raise session.failure
    return Outcome(
        session.states,
        len(session.elsewhere & session.keys.keys()),
        session.stop.is_set(),
    )


def _experiment(session: Session, scratch: Path) -> None:
    """One Tune experiment over the session's queue, and its folder's end."""
    from ray import tune

    from orchestrator.engine import tune as seam

    name = f"launch-{uuid.uuid4().hex[:8]}"
    seam.SESSIONS[name] = session
    tuner = tune.Tuner(
        tune.with_resources(seam.train, seam.resources_of),
        tune_config=tune.TuneConfig(
            search_alg=seam.StoreSearcher(name), num_samples=MAX_TRIALS, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(scratch / "tune"),
            callbacks=[seam.StoreCallback(name)],
            stop=seam.StopWhenTold(name),
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        del seam.SESSIONS[name]
        shutil.rmtree(scratch / "tune", ignore_errors=True)


@contextlib.contextmanager
def ray_cluster(scratch: Path) -> Iterator[None]:
    """A Ray of our own on this machine, for as long as the block lasts."""
    os.environ.update(RAY_SETTINGS)
    import ray

    # Ray puts the working directory first on its workers' path, where a folder called `db` or
    # `worker` would shadow ours; so it starts from an empty one.
    with contextlib.chdir(scratch):
        ray.init(
            address="local",  # whatever RAY_ADDRESS says
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(scratch / "ray"),
        )
    # Tune prints a traceback of its own for a worker that died; the attempt has the reason.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def _slots(wanted: set[Resources]) -> int:
    """How many runs fit at once; raises `EnvironmentProblem` where one fits on no node."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for need in wanted:
        for name, amount in (("CPU", need.cpus), ("GPU", need.gpus)):
            most = max(node.get(name, 0.0) for node in nodes)
            if amount > most:
                raise EnvironmentProblem(
                    f"a run asks for {amount:g} {name}s and this machine has {most:g}; "
                    f"lower `resources.{name.lower()}s` in the sweep file."
                )
    return max(sum(_fits(need, node) for node in nodes) for need in wanted)


def _fits(need: Resources, node: dict[str, float]) -> int:
    fits = node.get("CPU", 0.0) / need.cpus
    return int(min(fits, node.get("GPU", 0.0) / need.gpus) if need.gpus else fits)


@contextlib.contextmanager
def told_to_stop(session: Session) -> Iterator[None]:
    """SIGINT and SIGTERM end the launch in order; a second one does not wait for that."""

    def handler(number: int, frame: FrameType | None) -> None:
        if session.stop.is_set():
            raise KeyboardInterrupt
        session.stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Room for Ray's and Tune's own files; removed at the end, a killed launch's at the next."""
    root = Path(tempfile.gettempdir())
    if len(str(root)) > 20:  # Ray's sockets live inside, and a socket's path ends at 107 bytes
        root = Path("/tmp")
    for left in root.glob(f"orch-{os.getuid()}-*"):
        pid = left.name.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = root / f"orch-{os.getuid()}-{os.getpid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def git_state() -> tuple[str, bool] | None:
    """The commit that orch runs from and whether files differ from it; None outside a checkout."""
    here = Path(__file__).resolve()
    try:
        _, commit, changes = (
            subprocess.run(
                ["git", "-C", str(here.parent), *command],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for command in (
                # Fails where orch is installed inside somebody else's checkout.
                ["ls-files", "--error-unmatch", here.name],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip(), bool(changes.strip())
