"""A launch from start to end: take over, queue, hand to Ray Tune, leave nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from db.errors import EnvironmentProblem
from db.lease import Lease
from db.records import State, StoredRun
from db.store import Store
from orchestrator import durations
from orchestrator.advice import Family
from orchestrator.engine.bell import LAST_SECONDS
from orchestrator.engine.checkout import git_state
from orchestrator.engine.session import Observer, Session, queue_of
from orchestrator.engine.watch import SILENCE_SECONDS, Watch, free_bytes, megabytes
from orchestrator.engine.watchdog import Watchdog, descendants, end
from orchestrator.estimate import checkpoint_bytes
from orchestrator.order import ordered
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
RAY_TRIES = 3
"""Times that Ray is started anew where its processes do not come up: a busy machine is slow."""
CONNECT_SECONDS = 5.0
SPARE_BYTES = 16 << 20
"""That must be free beside checkpoints: logs, and what an estimate leaves out."""
INTERRUPTED = 130
RAY_DIED = 1
"""Exit code where Ray died and nobody was there to start it anew."""


@dataclass(frozen=True)
class Options:
    """How to launch; none of it changes a number."""

    folders: Folders
    max_concurrent: int | None = None
    plugins: tuple[str, ...] = ()
    address: str | None = None
    """Of a running Ray cluster; None: a Ray of our own on this machine."""
    grace: float = 30.0
    """Seconds that runs in training have to save where they are when the launch is to stop."""
    time_limit: float | None = None
    """Seconds after which the launch stops by itself."""
    lease: float = 60.0
    """Seconds without a sign of life after which other launches may take this one's runs."""
    checkpoint_seconds: float = 180.0
    stays: bool = True
    """Whether to wait for runs that other launches hold, to take them over if those die."""
    silence: float = SILENCE_SECONDS
    on_ray_death: Callable[[str, bool], None] | None = None
    """Called from a thread when Ray's own processes are gone, with why and whether the launch had
    brought any run further until then; it may put another program in this one's place."""


@dataclass(frozen=True)
class Outcome:
    """What a launch came to."""

    states: Counter[State]
    """Runs that this launch brought to each final state."""
    taken_elsewhere: int
    """Runs that another launch is training."""
    held_back: Mapping[Family, str]
    """Families whose runs wait because three of them failed alike, with the error."""
    interrupted: str | None
    """What stopped it before the end."""


def launch(
    store: Store,
    runs: Sequence[StoredRun],
    planned: Mapping[str, Planned],
    options: Options,
    observer: Observer,
) -> Outcome:
    """Train what is missing of `runs`; returns when nothing is left or it was told to stop.

    Raises what went wrong with the store or Ray, after giving back every claim.
    """
    began = time.monotonic()
    # Before any other thread or process: see `told_to_stop`.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    left = [stored for stored in runs if stored.state in ("pending", "running")]
    with (
        Lease(store, ttl=options.lease) as lease,
        scratch_folder() as scratch,
        ray_cluster(scratch, options.address) as head,
    ):
        slots = min(_slots(left, planned), options.max_concurrent or sys.maxsize)
        reserve = _reserve(left, options.folders.runs, slots)
        session = Session(
            store=store,
            owner=lease.owner,
            queue=queue_of(store, _in_order(store, left, slots)),
            stored={stored.id: stored for stored in runs},
            planned=planned,
            folders=options.folders,
            observer=observer,
            # One run is claimed ahead, so that no worker waits for a claim.
            max_claims=options.max_concurrent or slots + 1,
            plugins=options.plugins,
            git=git_state(),
            checkpoint_seconds=options.checkpoint_seconds,
            stays=options.stays,
        )
        deadline = None if options.time_limit is None else began + options.time_limit
        watch = Watch(session, options.grace, reserve, deadline, options.silence)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(min(slots, MAX_PENDING))
        dog = Watchdog(
            lambda reason: _ray_died(reason, lease, dog, session, options, scratch), head
        )
        with dog, told_to_stop(session) as told:  # after Ray, which sets handlers of its own
            _experiments(session, watch, scratch, options)
        if session.stop.is_set() and session.failure is None:
            lease.outcome = "paused"
    if session.failure is not None:
        raise session.failure
    return Outcome(
        session.states,
        len(session.elsewhere & session.stored.keys()),
        session.families if session.held_back() else {},
        _stopped_by(session, watch, told),
    )


def _stopped_by(session: Session, watch: Watch, told: Told) -> str | None:
    if not session.stop.is_set():
        return None
    return "the time limit" if watch.timed_out else told.name


def _in_order(store: Store, left: Sequence[StoredRun], slots: int) -> list[StoredRun]:
    """The runs as they are to be taken on so many workers, by what the store has timed."""
    by_id = {stored.id: stored for stored in left}
    runs = [stored.run for stored in left]
    return [by_id[run_id] for run_id in ordered(runs, durations.estimate(store), slots)]


def _experiments(session: Session, watch: Watch, scratch: Path, options: Options) -> None:
    """Successive Tune experiments, until one changes nothing."""
    from orchestrator.engine import tune as seam

    session.bell = f"orch-bell-{uuid.uuid4().hex[:8]}"
    session.lane = seam.RayLane(session.bell)
    storage = scratch / "tune"
    if options.address:  # Tune looks from every node whether its storage is there
        storage = options.folders.runs / f".tune-{session.bell}"
    try:
        while session.startable() and not session.stop.is_set():
            before = (len(session.queue), len(session.elsewhere), sum(session.states.values()))
            _experiment(session, watch, storage)
            now = (len(session.queue), len(session.elsewhere), sum(session.states.values()))
            if now == before:
                break
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _ray_died(
    reason: str, lease: Lease, dog: Watchdog, session: Session, options: Options, scratch: Path
) -> None:
    """Give back what we hold and hand over: nothing can be heard of workers any more."""
    stopped = session.stop.is_set()
    try:
        lease.outcome = "paused" if stopped else "died"
        # Orphans save where they are; a successor beside them might find no memory.
        dog.end_processes(LAST_SECONDS)
        lease.__exit__(None, None, None)
        shutil.rmtree(scratch, ignore_errors=True)
        if stopped:  # a signal to the whole process group reaches Ray as well
            print("Stopped, and Ray with it; nothing is lost: launch again to go on.", flush=True)
            os._exit(INTERRUPTED)
        if options.on_ray_death:
            options.on_ray_death(reason, session.progressed)
    finally:
        os._exit(RAY_DIED)


def _reserve(left: Sequence[StoredRun], folder: Path, slots: int) -> int:
    """Bytes that must be free for a run to start: its checkpoints'.

    Raises `EnvironmentProblem` where there is not room for all that train at once.
    """
    sizes = sorted((checkpoint_bytes(stored.run) for stored in left), reverse=True)
    most = sum(sizes[:slots]) + SPARE_BYTES
    free = free_bytes(folder)
    if free is not None and free < most:
        raise EnvironmentProblem(
            f"--runs {folder} has {megabytes(free)} free and the checkpoints of "
            f"{min(slots, len(sizes))} runs at once need about {megabytes(most)}; make space, name "
            "another folder, or train fewer with --max-concurrent."
        )
    return (sizes[0] if sizes else 0) + SPARE_BYTES


def _experiment(session: Session, watch: Watch, storage: Path) -> None:
    """One Tune experiment over the session's queue."""
    from ray import tune

    from orchestrator.engine import tune as seam

    name = f"launch-{uuid.uuid4().hex[:8]}"
    seam.SESSIONS[name], seam.WATCHES[name] = session, watch
    tuner = tune.Tuner(
        tune.with_resources(seam.train, seam.resources_of),
        tune_config=tune.TuneConfig(
            search_alg=seam.StoreSearcher(name), num_samples=MAX_TRIALS, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(storage),
            callbacks=[seam.StoreCallback(name)],
            stop=seam.StopWhenTold(name),
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        del seam.SESSIONS[name], seam.WATCHES[name]
        shutil.rmtree(storage / name, ignore_errors=True)


@contextlib.contextmanager
def ray_cluster(scratch: Path, address: str | None = None) -> Iterator[tuple[str, int] | None]:
    """A running Ray for as long as the block lasts: our own on this machine, or a cluster's.

    Yields where the cluster's control store listens, None for our own. Raises `EnvironmentProblem`
    where there is no cluster at `address`.
    """
    os.environ.update(RAY_SETTINGS)
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {
            "address": "local",  # whatever RAY_ADDRESS says
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(scratch / "ray"),
        }
    else:
        _check_address(address)
        options |= {"address": address, "runtime_env": {"env_vars": RAY_SETTINGS}}
    # Ray puts the working directory first on its workers' path, where a folder called `db` or
    # `worker` would shadow ours; so it starts from an empty one.
    with contextlib.chdir(scratch):
        _start_ray(options)
    # For a worker that died Tune prints a traceback and Ray, whatever `log_to_driver` says, a page;
    # the attempt has the reason.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    ray._private.worker.print_to_stdstream = lambda *page, **how: None
    try:
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        yield (host, int(port)) if address else None
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise `EnvironmentProblem` unless something listens there: Ray would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise EnvironmentProblem(
            f'--address "{address}" is not HOST:PORT; give the head node\'s, such as '
            "10.0.0.1:6379, or auto on a node of the cluster."
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EnvironmentProblem(
            f"--address {address}: nothing answers there ({error}); start the head with "
            "`ray start --head --port=6379`, and this machine's part with "
            "`ray start --address=HEAD:6379`."
        ) from error


def _start_ray(options: dict[str, Any]) -> None:
    """Start or join Ray; raises `EnvironmentProblem` where it cannot be had."""
    import ray

    before = {child.pid for child in descendants(os.getpid())}
    for left in reversed(range(RAY_TRIES)):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises the bare class where its processes are too slow
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            ray.shutdown()
            if (address := options["address"]) != "local":
                raise EnvironmentProblem(
                    f"--address {address}: {reason} Start this machine's part of the cluster with "
                    "`ray start --address=HEAD:6379`, or leave --address out."
                ) from error
            # What it had started already would stay.
            end([child for child in descendants(os.getpid()) if child.pid not in before])
            if not left:
                raise EnvironmentProblem(
                    f"Ray does not start on this machine: {reason} Is it out of memory, or too "
                    "busy? Launch again when it is not."
                ) from error


def _slots(left: Sequence[StoredRun], planned: Mapping[str, Planned]) -> int:
    """How many runs fit at once; raises `EnvironmentProblem` where one fits on no node."""
    import ray

    wanted = {planned[stored.id].resources for stored in left}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    whose = "this machine" if len(nodes) == 1 else "the largest node"
    for need in wanted:
        for name, amount in (("CPU", need.cpus), ("GPU", need.gpus)):
            most = max(node.get(name, 0.0) for node in nodes)
            if amount > most:
                raise EnvironmentProblem(
                    f"a run asks for {amount:g} {name}s and {whose} has {most:g}; "
                    f"lower `resources.{name.lower()}s` in the sweep file."
                )
    return max((sum(_fits(need, node) for node in nodes) for need in wanted), default=1)


def _fits(need: Resources, node: dict[str, float]) -> int:
    fits = node.get("CPU", 0.0) / need.cpus
    return int(min(fits, node.get("GPU", 0.0) / need.gpus) if need.gpus else fits)


@dataclass
class Told:
    """Which signal ended the launch, if one did."""

    name: str = ""


@contextlib.contextmanager
def told_to_stop(session: Session) -> Iterator[Told]:
    """SIGINT, SIGTERM and SIGUSR1 end the launch in order; a second one does not wait for that."""
    told = Told()

    def handler(number: int, frame: FrameType | None) -> None:
        if session.stop.is_set() and number != signal.SIGUSR1:
            session.over.set()
            raise KeyboardInterrupt
        told.name = told.name or signal.Signals(number).name
        session.stop.set()

    def wait_for_warning() -> None:
        # Blocked in every thread and waited for: Tune sets a handler of its own for this one. Not
        # by sigtimedwait, which returns rubbish after a SIGCONT (CPython does not look at EINTR).
        while signal.sigwait({signal.SIGUSR1}) and not ended.is_set():
            handler(signal.SIGUSR1, None)

    ended = threading.Event()
    waiting = threading.Thread(target=wait_for_warning, name="signals", daemon=True)
    waiting.start()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield told
    finally:
        ended.set()
        assert waiting.ident is not None, "started above"
        signal.pthread_kill(waiting.ident, signal.SIGUSR1)
        waiting.join()
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
