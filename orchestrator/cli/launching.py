"""`orch plan | launch | resume | status`."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from db.errors import NotFound, SpecError, StoreMissing
from orchestrator import imported, preflight, where
from orchestrator import sweep as sweeps
from orchestrator.advice import spoken
from orchestrator.cli import INTERRUPTED, Settings
from orchestrator.cli.durations import DURATION
from orchestrator.cli.show import duration, format_option, plural, print_json, table
from orchestrator.engine.queue import HOPELESS
from orchestrator.extend import with_extensions
from orchestrator.planning import Plan, on_miniature, plan, surely_absent
from worker.data import DATASETS

if TYPE_CHECKING:
    from db.records import Run
    from db.store import Store

F = TypeVar("F", bound=Callable[..., Any])
RAY_STARTS = "ORCH_RAY_STARTS"
"""In the environment: how often this launch has begun again because Ray died."""
BEGAN = "ORCH_LAUNCH_BEGAN"
"""In the environment of such a launch: when the first one began, in seconds since 1970."""
MAX_RAY_STARTS = 3


def _choice_options(command: F) -> F:
    for option in (
        click.option(
            "--where",
            "conditions",
            multiple=True,
            help="Only runs with these fields: 'model=tiny_vit dataset!=digits seed=0,1'.",
        ),
        click.option("--limit", type=click.IntRange(min=1), help="Only the first N of them."),
    ):
        command = option(command)
    return command


def _execution_options(command: F) -> F:
    for option in (
        click.option(
            "--retry-failed",
            is_flag=True,
            help="Also train again what failed in an earlier launch.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be trained, and stop."),
        click.option(
            "--max-concurrent",
            type=click.IntRange(min=1),
            help="At most N runs at once; by default as many as the machine holds.",
        ),
        click.option(
            "--address",
            envvar="ORCH_ADDRESS",
            help="A running Ray cluster, such as 10.0.0.1:6379; by default this machine alone.",
        ),
        click.option(
            "--time-limit",
            type=DURATION,
            help="Stop in order after so long, such as 4h, 90min or 3600.",
        ),
        click.option(
            "--grace",
            type=DURATION,
            default="30s",
            show_default=True,
            help="How long runs in training have to save where they are when the launch stops.",
        ),
        click.option(
            "--lease",
            type=DURATION,
            default="60s",
            show_default=True,
            help="After so long without a sign of life, other launches take this one's runs over.",
        ),
        click.option(
            "--checkpoint-every",
            type=DURATION,
            default="180s",
            show_default=True,
            envvar="ORCH_CHECKPOINT_EVERY",
            help="Save the state of long epochs inside, too, so often.",
        ),
        click.option(
            "--frozen-after",
            type=DURATION,
            default="120s",
            show_default=True,
            help="End a worker process that said nothing for so long, and try its run again.",
        ),
        click.option(
            "--no-wait",
            is_flag=True,
            help="Leave when nothing is left to start, though other launches are still training.",
        ),
    ):
        command = option(command)
    return _choice_options(command)


@click.command("plan")
@click.argument("path", metavar="SWEEP.yaml", type=click.Path(path_type=Path))
@_choice_options
@format_option
@click.pass_obj
def plan_command(
    settings: Settings,
    path: Path,
    conditions: tuple[str, ...],
    limit: int | None,
    style: str,
    as_json: bool,
) -> None:
    """Say how many runs a sweep file stands for, how many are done, and what the rest takes.

    Hours by the store's timings where it has some, else arithmetic; the disk that checkpoints take.
    Nothing is trained and nothing is written.

    \b
    Example: orch plan sweeps/full_grid.yaml
    """
    sweep = _with_extensions(settings, sweeps.load(path))
    found = plan(sweep.name, _chosen(sweep, conditions, limit), settings.store)
    if as_json or style == "json":
        print_json(found.as_json())
        return
    click.echo(_summary(found))
    if found.to_do():
        click.echo(found.left())
    click.echo()
    table(found.rows())


def _chosen(
    sweep: sweeps.Sweep, conditions: tuple[str, ...], limit: int | None
) -> list[sweeps.Planned]:
    chosen = sweeps.chosen(sweep.planned, where.parse(conditions), limit)
    if not chosen:
        total = plural(len(sweep.requested), "run")
        raise SpecError(f"--where {' '.join(conditions)}: matches none of the sweep's {total}.")
    return chosen


def _summary(found: Plan) -> str:
    needed = Counter(run.kind for run in found.needed)
    nouns = {"pretrain": "pretraining run", "linear_probe": "linear probe"}
    named = [plural(needed[kind], noun) for kind, noun in nouns.items() if needed[kind]]
    extra = f", and {' and '.join(named)}" if named else ""
    counts = ", ".join(f"{n:,} {state}" for state, n in found.count(found.requested).items())
    cells = plural(len(found.cells()), "cell")
    return f"{found.name}: {plural(len(found.requested), 'run')} in {cells}{extra} ({counts})"


@click.command()
@click.argument("path", metavar="SWEEP.yaml", type=click.Path(path_type=Path))
@_execution_options
@click.pass_obj
def launch(settings: Settings, /, path: Path, **options: Any) -> None:
    """Train what is missing of a sweep. Launching again resumes; what is done stays done.

    \b
    Examples:
      orch launch sweeps/demo.yaml
      orch launch sweeps/demo.yaml --where 'model=tiny_bit dataset=digits' --limit 4
    """
    _launch(settings, sweeps.load(path), f"orch launch {path}", **options)


@click.command()
@click.argument("name", metavar="[SWEEP]", required=False)
@_execution_options
@click.pass_obj
def resume(settings: Settings, /, name: str | None, **options: Any) -> None:
    """Go on with a sweep from the store alone, by its name; without one, the latest.

    \b
    Example: orch resume demo
    """
    from db.reading import Reader

    reader = Reader.open(settings.store)
    known = sorted(reader.sweeps(), key=lambda info: info.imported)  # the launched ones first
    if not known:
        raise NotFound(f"{reader.place} has no sweep yet; start one with: orch launch SWEEP.yaml")
    info = reader.sweep(name) if name else known[0]
    _launch(settings, imported.sweep_of(info), f"orch resume {info.name}", **options)


@dataclass(frozen=True)
class How:
    """How to train, as the command line says it."""

    max_concurrent: int | None
    address: str | None
    time_limit: float | None
    grace: float
    lease: float
    checkpoint_every: float
    frozen_after: float
    no_wait: bool


def _launch(
    settings: Settings,
    sweep: sweeps.Sweep,
    again: str,
    *,
    conditions: tuple[str, ...],
    limit: int | None,
    dry_run: bool,
    retry_failed: bool,
    **how: Any,
) -> None:
    extended = _with_extensions(settings, sweep)
    chosen = _chosen(extended, conditions, limit)
    if conditions or limit or settings.given:
        again += " with the same options"
    found = plan(sweep.name, chosen, settings.store)
    failed = [run for run in (*found.needed, *found.requested) if found.state(run) == "failed"]
    to_do = found.to_do() + (failed if retry_failed else [])
    if dry_run:
        click.echo(_summary(found))
        for run in to_do:
            click.echo(f"would train {run.id} {run.kind} {run}")
        return
    preflight.check(to_do, dict(found.states), settings.folders)

    from db.store import Store

    store = Store.open(settings.store, create=True)
    _heed_miniatures(store, chosen, to_do, settings.data)
    _register(store, sweep)
    click.echo(_summary(found))
    if not to_do:
        click.echo("Nothing is left to train.")
        sys.exit(_advise(store, found, again))
    sys.exit(_train(settings, store, found, chosen, again, How(**how), retry_failed))


def _with_extensions(settings: Settings, sweep: sweeps.Sweep) -> sweeps.Sweep:
    """The sweep with the runs that `orch extend` added to it in the store, where there is one."""
    if surely_absent(settings.store):
        return sweep
    from db.reading import Reader

    try:
        reader = Reader.open(settings.store)
        stored = reader.runs(sweep.name)
    except (NotFound, StoreMissing):
        return sweep
    if any(one.run.source for one in stored):
        raise SpecError(
            f'"{sweep.name}" in {reader.place} holds imported numbers, which no sweep file asks '
            "for; give the file another `name:`."
        )
    planned = tuple(with_extensions(sweep.planned, stored))
    return dataclasses.replace(sweep, planned=planned)


def _register(store: Store, sweep: sweeps.Sweep) -> None:
    """Make the store's sweep what the file says, and tell where that takes runs off its tables."""
    runs = [p.run for p in sweep.planned]
    asked = {s.id for s in store.runs(sweep.name)} if _knows(store, sweep.name) else set()
    store.register(sweep.name, sweep.text, runs, {run.id for run in sweep.requested}, sweep.last)
    if dropped := asked - {stored.id for stored in store.runs(sweep.name)}:
        click.echo(
            f'note: "{sweep.name}" asked for {plural(len(dropped), "run")} that this file does not '
            "name; they are kept, and not in its tables. Another `name:` keeps both sweeps."
        )


def _heed_miniatures(
    store: Store, chosen: list[sweeps.Planned], to_do: list[Run], data: Path
) -> None:
    """Tell where a miniature stands in for a real dataset.

    Raises `SpecError`, before the sweep is registered, where the real one is here now and chosen
    runs had a miniature, in whatever sweep: they count as done, and would hide the real ones.
    """
    for dataset in dict.fromkeys(run.dataset for run in to_do):
        if DATASETS[dataset].images and DATASETS[dataset].is_miniature(data):
            click.echo(
                f"note: {data / DATASETS[dataset].folder} is a miniature; what is trained on it "
                f"says nothing of {DATASETS[dataset].title}."
            )
    asked = {planned.run.id for planned in chosen}
    had = Counter(s.run.dataset for s in store.runs() if s.id in asked and on_miniature(s))
    for dataset, count in had.items():
        entry = DATASETS[dataset]
        if entry.absence(data) is None and not entry.is_miniature(data):
            raise SpecError(
                f"{plural(count, 'run')} of this sweep had miniature data for {dataset}, and "
                f"--data {data} has the real one; give the real runs a --store of their own."
            )
        click.echo(f"note: {plural(count, 'run')} of this sweep had miniature data for {dataset}.")


def _knows(store: Store, name: str) -> bool:
    return any(known.name == name for known in store.sweeps())


def _train(
    settings: Settings,
    store: Store,
    found: Plan,
    chosen: list[sweeps.Planned],
    again: str,
    how: How,
    retry_failed: bool,
) -> int:
    """Launch what is chosen and say what came of it; returns the exit code."""
    back, holders = store.recover()
    if back:
        click.echo(f"{plural(back, 'run')} of a launch that died: going on from their checkpoints.")
    for process in holders:
        click.echo(f"process {process.pid} on {process.host} trains runs of this store too.")
    wanted = {p.run.id: p for p in chosen}
    runs = [stored for stored in store.runs(found.name) if stored.id in wanted]
    began_anew = float(os.environ.pop(BEGAN, 0.0))
    if began_anew:  # what failed meanwhile has had its turn
        retry_failed = False
    began_at = began_anew or time.time()
    if retry_failed and store.retry([s.key for s in runs if s.state == "failed"]):
        runs = [stored for stored in store.runs(found.name) if stored.id in wanted]
    open_runs = sum(stored.state in ("pending", "running") for stored in runs)

    from orchestrator import progress
    from orchestrator.engine.launch import Options, launch

    began = time.monotonic()
    options = Options(
        settings.folders,
        how.max_concurrent,
        settings.plugins,
        address=how.address,
        grace=how.grace,
        time_limit=how.time_limit and max(0.0, how.time_limit - (time.time() - began_at)),
        lease=how.lease,
        checkpoint_seconds=how.checkpoint_every,
        stays=not how.no_wait,
        silence=how.frozen_after,
        on_ray_death=functools.partial(_start_anew, began_at),
    )
    with progress.observer(open_runs) as observer:
        outcome = launch(store, runs, wanted, options, observer)
    counts = ", ".join(f"{n:,} {state}" for state, n in sorted(outcome.states.items())) or "none"
    click.echo(f"This launch: {counts}, in {duration(time.monotonic() - began)}.")
    if outcome.interrupted:
        click.echo(f"Stopped by {outcome.interrupted}; nothing is lost. Go on with: {again}")
        if outcome.interrupted == "SIGUSR1":
            _requeue_job()
        return INTERRUPTED
    if outcome.taken_elsewhere:
        click.echo(f"Left to other launches: {plural(outcome.taken_elsewhere, 'run')}.")
    for family, error in outcome.held_back.items():
        click.echo(f"Not started: the other runs of {spoken(family)}; three failed alike: {error}")
    return max(_advise(store, found, again), 1 if outcome.held_back else 0)


def _start_anew(began_at: float, reason: str, progressed: bool) -> None:
    """Ray died under the launch: begin again in its place, unless it dies before any progress."""
    starts = 1 if progressed else int(os.environ.get(RAY_STARTS, "0")) + 1
    if starts > MAX_RAY_STARTS:
        click.echo(f"{reason}, {starts} times before any run got further: giving up.", err=True)
        return
    click.echo(f"{reason}: starting anew, going on from the checkpoints.")
    os.environ |= {RAY_STARTS: str(starts), BEGAN: str(began_at)}
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _requeue_job() -> None:
    """Slurm's early warning came: ask for the job to be run again, where it is one."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        click.echo(f"Slurm job {job} is queued again.")
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or error
        click.echo(f"Slurm job {job} could not be queued again: {str(detail).strip()}", err=True)


def _advise(store: Store, found: Plan, again: str) -> int:
    """Say what the user may want to do next; returns 1 where runs failed or can never start."""
    everything = (*found.needed, *found.requested)
    states = store.states([run.id for run in everything])
    failed = [run for run in everything if states.get(run.id) == "failed"]
    hopeless = {run.id for run in everything if states.get(run.id) in HOPELESS}
    blocked = [
        run
        for run in everything
        if states.get(run.id) == "pending" and hopeless.intersection(run.needs)
    ]
    for run in failed[:3]:
        click.echo(f"failed: {run}; the reason: orch runs show {run.id[:8]}")
    if failed:
        click.echo(f"{plural(len(failed), 'run')} failed. Try again: {again}, and --retry-failed")
    if blocked:
        culprit = next(need for need in blocked[0].needs if need in hopeless)
        click.echo(
            f"{plural(len(blocked), 'run')} cannot start: what they need is {states[culprit]}; "
            f"see: orch runs show {culprit[:8]}"
        )
    stuck = {run.id for run in blocked}
    left = [r for r in everything if states.get(r.id) == "pending" and r.id not in stuck]
    if left:
        click.echo(f"Still to be trained: {plural(len(left), 'run')}. Go on with: {again}")
    if not failed and not blocked and not left:
        click.echo(f"Read the table with: orch report --sweep {found.name} --table ood")
    return 1 if failed or blocked or left else 0


@click.command()
@click.argument("name", metavar="[SWEEP]", required=False)
@format_option
@click.pass_obj
def status(settings: Settings, name: str | None, style: str, as_json: bool) -> None:
    """Show how far each sweep is, what failed, and how long the rest may take.

    \b
    Example: orch status demo
    """
    from db.reading import Reader
    from orchestrator import standing

    reader = Reader.open(settings.store)
    found = [standing.of(reader, s.name) for s in reader.sweeps() if name in (None, s.name)]
    if name and not found:
        reader.sweep(name)  # raises, naming the sweeps there are
    if as_json or style == "json":
        print_json([one.as_json() for one in found])
        return
    if not found:
        click.echo(f"{reader.place} has no sweep yet; start one with: orch launch SWEEP.yaml")
    for one in found:
        click.echo("\n".join(one.lines()))


COMMANDS: list[click.Command] = [plan_command, launch, resume, status]
