"""`orch runs list | show | logs | retry | cancel | void | run`, and `orch evaluate`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from db.errors import EnvironmentProblem, SpecError
from db.records import RESULTS, Attempt, Cause, State, StoredRun
from orchestrator import imported, preflight, where
from orchestrator.advice import advice, cause_of
from orchestrator.cli import INTERRUPTED, Settings
from orchestrator.cli.show import duration, format_option, percent, plural, print_json, table
from orchestrator.engine.attempt import resumed
from worker.context import Keep

if TYPE_CHECKING:
    from db.reading import Reader

F = TypeVar("F", bound=Callable[..., Any])


def _which(command: F) -> F:
    """The runs that a command is about: by id, or by sweep and fields."""
    for option in (
        click.option("--where", "conditions", multiple=True, help="Only runs with these fields."),
        click.option("--sweep", help="Only the runs of this sweep."),
        click.argument("run_ids", metavar="[ID]...", nargs=-1),
    ):
        command = option(command)
    return command


@click.group()
def runs() -> None:
    """Single runs: list them, look into one, cancel, void or retry some, train one here."""


@runs.command("list")
@click.option("--sweep", help="Only the runs of this sweep.")
@click.option("--where", "conditions", multiple=True, help="Only runs with these fields.")
@click.option(
    "--state",
    type=click.Choice(list(get_args(State))),
    help="Only runs in this state.",
)
@click.option("--failed", is_flag=True, help="Same as --state failed.")
@click.option("--cause", type=click.Choice(get_args(Cause)), help="Only what ended for this cause.")
@format_option
@click.pass_obj
def runs_list(
    settings: Settings,
    sweep: str | None,
    conditions: tuple[str, ...],
    state: str | None,
    failed: bool,
    cause: Cause | None,
    style: str,
    as_json: bool,
) -> None:
    """List runs with their state.

    \b
    Example: orch runs list --where 'model=tiny_bit method=sgd'
    """
    from db.reading import Reader

    reader = Reader.open(settings.store)
    wanted, state = _where(reader, conditions), "failed" if failed else state
    found = [
        stored
        for stored in reader.runs(sweep)
        if wanted.matches(stored.run)
        and state in (None, stored.state)
        and cause in (None, cause_of(stored))
    ]
    if as_json or style == "json":
        print_json([_as_json(stored) for stored in found])
        return
    table(
        [
            {
                "id": stored.id[:8],
                "kind": stored.run.kind,
                "model": stored.run.model,
                "dataset": stored.run.dataset,
                "method": stored.run.method,
                "lr": f"{stored.run.learning_rate:g}",
                "seed": stored.run.seed,
                "state": stored.state,
                "attempts": stored.attempts,
                "cause": cause_of(stored) or "",
                "error": (stored.error or "")[:60],
            }
            for stored in found
        ],
        right=("lr", "seed", "attempts"),
    )
    click.echo(plural(len(found), "run"))


def _as_json(stored: StoredRun) -> dict[str, Any]:
    return {
        "id": stored.id,
        **stored.run.content(),
        "variant": stored.run.variant,
        "state": stored.state,
        "attempts": stored.attempts,
        "cause": stored.cause,
        "error": stored.error,
        "void_reason": stored.void_reason,
        "extended": stored.extended,
        "data_fingerprint": stored.data_fingerprint,
        "weights_sha256": stored.weights_sha256,
    }


@runs.command("show")
@click.argument("run_id", metavar="ID")
@format_option
@click.pass_obj
def runs_show(settings: Settings, run_id: str, style: str, as_json: bool) -> None:
    """Show one run: its configuration, attempts, traceback and epochs. ID may be shortened.

    \b
    Example: orch runs show 3f2a91c0
    """
    from db.reading import Reader

    reader = Reader.open(settings.store)
    stored = reader.find_run(run_id)
    attempts, history = reader.attempts(stored.key), reader.history(stored.key)
    if as_json or style == "json":
        print_json(
            {
                **_as_json(stored),
                "voids": [asdict(void) for void in reader.voids(stored.key)],
                "attempts": [asdict(a) for a in attempts],
                "epochs": [asdict(record) for record in history],
            }
        )
        return
    click.echo(f"{stored.id}  {stored.state}  {stored.run}")
    for name, value in stored.run.content().items():
        click.echo(f"  {name}: {value}")
    if stored.data_fingerprint:
        weights = stored.weights_sha256
        click.echo(f"data {stored.data_fingerprint}")
        click.echo(f"starts from weights with SHA-256 {weights}" if weights else "random weights")
    for one in attempts:
        click.echo("\n".join(_attempt_lines(one)))
    for void in reader.voids(stored.key):
        when = datetime.fromtimestamp(void.voided).astimezone().isoformat(" ", "seconds")
        click.echo(
            f"voided {when}, when {void.state} after attempt {void.attempt} with "
            f"{plural(len(void.history), 'epoch record')}: {void.reason}"
        )
    if advised := advice(stored):
        click.echo(advised)
    click.echo()
    path = stored.run.kind == "linear_probe"
    table(
        [
            {
                "epoch": record.epoch,
                **({"C": f"{record.learning_rate:.3g}"} if path else {}),
                "train_loss": _number(record.train_loss),
                "train_accuracy": percent(record.train_accuracy),
                "seconds": f"{record.seconds:.2f}",
                **{f"{m.split} {m.group}".strip(): percent(m.value) for m in record.metrics},
            }
            for record in history
        ],
        right=("epoch", "C", "train_loss", "train_accuracy", "seconds"),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _attempt_lines(one: Attempt) -> list[str]:
    began = datetime.fromtimestamp(one.claimed).astimezone().isoformat(" ", "seconds")
    lasted = "" if one.ended is None else f", {duration(one.ended - one.claimed)}"
    where = resumed(one.resumed_from, one.resumed_step or 0)
    start = f", resumed {where}" if where else ""
    where_ran = f"{one.host or 'not started'} ({one.device or '-'}), process {one.pid}"
    lines = [f"attempt {one.number}: {one.outcome or 'running'}, {began}{lasted}{start}"]
    lines.append(f"  on {where_ran}" + (f", node {one.node}" if one.node else ""))
    used = [f"{one.threads} CPU threads"] if one.threads else []
    used += [one.precision] if one.precision else []
    used += [f"{one.micro_batch} images a forward pass"] if one.micro_batch else []
    if used:
        lines.append("  " + ", ".join(used))
    if one.weights_sha256:
        lines.append(f"  from weights with SHA-256 {one.weights_sha256}")
    if one.git_commit:
        dirty = " with local changes" if one.git_dirty else ""
        lines.append(f"  orch at commit {one.git_commit[:12]}{dirty}")
    if one.versions:
        lines.append("  " + ", ".join(f"{k} {v}" for k, v in one.versions.items()))
    if one.irreproducible:
        lines.append("  a later attempt measured other numbers: this one could not be repeated")
    if one.error:
        lines.append(f"  {one.cause}: {one.error}" if one.cause else f"  {one.error}")
    if one.traceback:
        lines += [f"    {line}" for line in one.traceback.rstrip().splitlines()]
    return lines


@runs.command("logs")
@click.argument("run_id", metavar="ID")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt; by default the last.")
@click.pass_obj
def runs_logs(settings: Settings, run_id: str, attempt: int | None) -> None:
    """Print what an attempt wrote to stdout and stderr.

    \b
    Example: orch runs logs 3f2a91c0 --attempt 1
    """
    from db.reading import Reader
    from orchestrator.engine.attempt import log_path

    stored = Reader.open(settings.store).find_run(run_id)
    imported.refuse_run(stored)
    if not stored.attempts and stored.state in RESULTS:
        raise SpecError(f"run {stored.id} was trained elsewhere and imported; its log is there.")
    if not stored.attempts:
        raise SpecError(f"run {stored.id} has not been tried yet; `orch launch` trains it.")
    path = log_path(settings.runs / stored.id, attempt or stored.attempts)
    try:
        click.echo(path.read_text(errors="replace"), nl=False)
    except FileNotFoundError as error:
        raise SpecError(
            f"{path} does not exist; run {stored.id} has {plural(stored.attempts, 'attempt')}, "
            "and --runs must name the folder it was trained with."
        ) from error


@runs.command("retry")
@_which
@click.option(
    "--cause", type=click.Choice(get_args(Cause)), help="Only what failed for this cause."
)
@click.pass_obj
def runs_retry(settings: Settings, /, **which: Any) -> None:
    """Make failed, cancelled or voided runs pending again; the next launch trains them.

    Without IDs: every failed run, or those that --sweep, --where and --cause leave.

    \b
    Examples:
      orch runs retry 3f2a91c0
      orch runs retry --sweep demo --cause out_of_memory
    """
    from db.store import Store

    cause = which.pop("cause")
    store = Store.open(settings.store)
    again = ("failed", "cancelled", "voided") if which["run_ids"] else ("failed",)
    found = [s for s in _found(store, **which) if cause in (None, cause_of(s))]
    for stored in found if which["run_ids"] else ():
        imported.refuse_run(stored)
    chosen = [s for s in found if s.state in again]
    _refuse_others(which["run_ids"], found, chosen, "failed, cancelled or voided")
    click.echo(f"{plural(store.retry([s.key for s in chosen]), 'run')} will be trained again.")
    _name_launch(store, chosen)


@runs.command("cancel")
@_which
@click.pass_obj
def runs_cancel(settings: Settings, /, **which: Any) -> None:
    """Take runs out: pending ones are not started, those in training end within seconds.

    Name them by ID, or choose with --sweep and --where. `orch runs retry ID` brings one back; its
    checkpoint is kept.

    \b
    Examples:
      orch runs cancel 3f2a91c0
      orch runs cancel --sweep demo --where 'method=adamw'
    """
    from db.store import Store

    store = Store.open(settings.store)
    if not any(which.values()):
        raise SpecError("which runs? Give their IDs, or --sweep, or --where.")
    found = _found(store, **which)
    chosen = [s for s in found if s.state in ("pending", "running")]
    _refuse_others(which["run_ids"], found, chosen, "pending or running")
    click.echo(f"{plural(store.cancel([s.key for s in chosen]), 'run')} cancelled.")


@runs.command("void")
@click.argument("run_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why the numbers count no more; kept with them.")
@click.pass_obj
def runs_void(settings: Settings, run_ids: tuple[str, ...], reason: str) -> None:
    """Take the numbers of finished runs out of every table and export, and keep them with a reason.

    A voided run counts as missing. `orch runs retry ID` has it trained anew, from the start.

    \b
    Example: orch runs void 3f2a91c0 --reason 'trained on the wrong copy of the data'
    """
    from db.store import Store
    from orchestrator.engine.recorder import clear

    if not reason.strip():
        raise SpecError("--reason is empty; say why the numbers shall count no more.")
    store = Store.open(settings.store)
    found = [store.find_run(run_id) for run_id in run_ids]
    for stored in found:
        store.void(stored.key, reason.strip())
        clear(settings.runs / stored.id)  # a failed one's checkpoint must not be gone on from
        again = "orch import FILE" if stored.run.source else f"orch runs retry {stored.id[:8]}"
        click.echo(f"{stored.id} ({stored.run}) is voided; again: {again}")


def _found(
    store: Reader, run_ids: tuple[str, ...], sweep: str | None, conditions: tuple[str, ...]
) -> list[StoredRun]:
    wanted = _where(store, conditions)
    found = [store.find_run(run_id) for run_id in run_ids] if run_ids else store.runs(sweep)
    return [stored for stored in found if wanted.matches(stored.run)]


def _where(store: Reader, conditions: tuple[str, ...]) -> where.Where:
    from db.summary import names

    return where.parse(conditions, lambda: names(store))


def _refuse_others(
    named: tuple[str, ...], found: list[StoredRun], chosen: list[StoredRun], states: str
) -> None:
    """A run that was named and is in no fitting state is the user's mistake; nothing is done."""
    if named and (wrong := [s for s in found if s not in chosen]):
        raise SpecError(
            f"run {wrong[0].id[:8]} is {wrong[0].state}, not {states}; nothing was changed."
        )


def _name_launch(store: Reader, chosen: list[StoredRun]) -> None:
    """Which sweep to resume for the runs to be trained."""
    for info in store.sweeps():
        if info.imported:
            continue
        if chosen and any(s.id == chosen[0].id for s in store.runs(info.name)):
            click.echo(f"Train with: orch resume {info.name}")
            return


@runs.command("run")
@click.argument("run_id", metavar="ID")
@click.option("--local", is_flag=True, help="In this process, without Ray.")
@click.option("--device", default="cpu", show_default=True, help="Such as cpu or cuda:0.")
@click.option(
    "--keep",
    type=click.Choice(["none", "best", "last"]),
    help="Whose epoch's weights to leave; by default what the run's sweep says.",
)
@click.pass_obj
def runs_run(settings: Settings, run_id: str, local: bool, device: str, keep: Keep | None) -> None:
    """Train one run here, to debug it or to check it.

    A run that is not done is recorded like any attempt. One that is done is trained again from the
    start and compared with what is stored; if nothing differs, weights that others need or that
    --keep asks for are left in their place.

    \b
    Examples:
      orch runs run 3f2a91c0 --local
      orch runs run 3f2a91c0 --local --keep best
    """
    if not local:
        raise SpecError("orch runs run ID works in this process: add --local (or: orch launch).")
    from db.store import Store
    from orchestrator.engine import local as here
    from worker.device import check_device

    store = Store.open(settings.store)
    stored = store.find_run(run_id)
    imported.refuse_run(stored)
    check_device(device, stored.run.precision)
    preflight.check([stored.run], store.states(stored.run.needs), settings.folders)
    work = here.Local(store, settings.folders, device, keep or _wanted(store, stored))
    if stored.state in ("done", "diverged"):
        differences = work.repeat(stored)
        if differences:
            raise EnvironmentProblem("the repetition differs: " + "; ".join(differences[:3]))
        click.echo("Repeated: every epoch and metric equals what is stored, bit by bit.")
        return
    state = work.train(stored)
    if state == "pending":
        click.echo(f"{stored.id} was stopped; go on with the same command.")
        sys.exit(INTERRUPTED)
    click.echo(f"{stored.id} is {state}.")
    sys.exit(1 if state == "failed" else 0)


def _wanted(store: Reader, stored: StoredRun) -> Keep:
    """What the sweeps that ask for the run say of its weights."""
    for info in store.sweeps():
        with contextlib.suppress(SpecError):  # a sweep with entries that this version lacks
            for planned in imported.sweep_of(info).planned:
                if planned.run.id == stored.id and planned.keep != "none":
                    return planned.keep
    return "none"


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--dataset", required=True, help="The dataset whose splits are to be evaluated.")
@click.option("--split", "splits", multiple=True, help="Only this one. May be repeated.")
@click.option("--device", help="Such as cpu or cuda:0; by default what the run was trained on.")
@click.option("--replace", is_flag=True, help="Store numbers that differ from those stored before.")
@format_option
@click.pass_obj
def evaluate(
    settings: Settings,
    run_id: str,
    dataset: str,
    splits: tuple[str, ...],
    device: str | None,
    replace: bool,
    style: str,
    as_json: bool,
) -> None:
    """Evaluate the weights that a run kept on more splits, and store what they score.

    The numbers join the epoch whose weights were kept (`keep: best` or `keep: last` in the sweep
    file). Splits of another dataset are stored as DATASET:SPLIT. Splits that training evaluated are
    compared with what it found.

    \b
    Example: orch evaluate 3f2a91c0 --dataset domainnet --split clipart
    """
    from db.store import Store
    from orchestrator.engine import local as here
    from worker.device import check_device

    store = Store.open(settings.store)
    stored = store.find_run(run_id)
    imported.refuse_run(stored)
    device = device or here.device_of(store, stored)
    check_device(device, stored.run.precision)
    work = here.Local(store, settings.folders, device)
    epoch, metrics = work.evaluate(stored, dataset, splits, replace=replace)
    rows = [
        {
            "split": m.split,
            "group": m.group,
            "metric": m.metric,
            "value": m.value,
            "n": m.n,
            "stored": "equals training's" if m.split in here.own_splits(stored.run) else "yes",
        }
        for m in metrics
    ]
    if as_json or style == "json":
        print_json({"id": stored.id, "epoch": epoch, "metrics": rows})
        return
    click.echo(f"{stored.id}, epoch {epoch}:")
    shown = [{**row, "value": percent(m.value)} for row, m in zip(rows, metrics, strict=True)]
    table(shown, right=("value", "n"))


COMMANDS: list[click.Command] = [runs, evaluate]
