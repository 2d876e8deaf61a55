"""`orch verify-resume`: the user's own proof that a resume changes nothing."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from db.errors import SpecError, StoreMissing
from orchestrator import imported, preflight, where
from orchestrator import sweep as sweeps
from orchestrator.cli import Settings
from orchestrator.cli.show import duration, format_option, plural, print_json

if TYPE_CHECKING:
    from db.reading import Reader
    from db.records import Run
    from orchestrator.verify import Stop, Verdict

SHOWN = 5
"""Differences that the text tells; JSON has all."""


@click.command("verify-resume")
@click.argument("sweep", metavar="SWEEP")
@click.option("--run", "run_id", metavar="ID", help="This run; by default the cheapest to train.")
@click.option("--where", "conditions", multiple=True, help="Only a run with these fields.")
@click.option(
    "--kills",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often the second training is ended.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Draws the moments; by default another each time. It is told, so that they repeat.",
)
@click.option(
    "--stop",
    type=click.Choice(["kill", "term", "both"]),
    default="kill",
    show_default=True,
    help="By SIGKILL, by SIGTERM (which lets a run stop in order), or in turns.",
)
@click.option("--device", help="Such as cpu or cuda:0; by default what the sweep asks for.")
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="At most so long between checkpoints: by default 1, less where the training is short, so "
    "that kills inside epochs count.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to work, on a local disk; by default beside --runs.",
)
@click.option("--keep-files", is_flag=True, help="Leave the scratch folder, and say where it is.")
@format_option
@click.pass_obj
def verify_resume(
    settings: Settings,
    sweep: str,
    run_id: str | None,
    conditions: tuple[str, ...],
    kills: int,
    seed: int | None,
    stop: str,
    device: str | None,
    checkpoint_seconds: float | None,
    scratch: Path | None,
    keep_files: bool,
    style: str,
    as_json: bool,
) -> None:
    """Prove here that a killed run ends as if nothing had happened.

    Takes one run of SWEEP (a file, or a sweep's name in the store), trains it uninterrupted, and
    once more with kills at random moments, each time going on from its checkpoint. Then compares
    every epoch and metric, and the last weights, bit by bit. Exit code 0: identical; 1: not.

    Nothing of yours is written: both trainings have a scratch folder with a store of their own.

    \b
    Examples:
      orch verify-resume sweeps/demo.yaml
      orch verify-resume demo --where 'model=tiny_bit' --kills 20 --seed 7
    """
    from orchestrator import verify
    from orchestrator.scratch import Trainer

    source = _store(settings.store)
    found = _sweep(sweep, source, settings.store)
    run = verify.chosen(_requested(found, conditions), run_id)
    needed = _needed(found, run)
    if device is None:
        device = "cuda:0" if found[run.id].resources.gpus else "cpu"
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    stops: dict[str, Sequence[Stop]] = {
        "kill": ("kill",), "term": ("term",), "both": ("kill", "term")
    }  # fmt: skip

    def say(text: str) -> None:
        click.echo(text, err=True)

    say(f"run {run.id}, {run.kind} {run}, {plural(run.epochs, 'epoch')}, on {device}; seed {seed}")
    trainer = Trainer(settings.folders, settings.plugins, device, say, checkpoint_seconds)
    with _folder(scratch or settings.runs.parent, keep_files) as folder, _ended_in_order():
        verdict = verify.verify(run, needed, source, trainer, kills, seed, stops[stop], folder)
        place = folder if keep_files else None
    if as_json or style == "json":
        print_json(_as_json(run, seed, kills, verdict, place))
    else:
        click.echo("\n".join(_lines(seed, kills, verdict)))
    sys.exit(1 if verdict.differences else 0)


def _store(url: str) -> Reader | None:
    """The user's store for reading, where there is one."""
    from db.reading import Reader

    with contextlib.suppress(StoreMissing):
        return Reader.open(url)
    return None


def _sweep(name: str, source: Reader | None, store: str) -> dict[str, sweeps.Planned]:
    """The runs of a sweep file, or of a sweep that the store knows by that name, by id."""
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return {p.run.id: p for p in sweeps.load(Path(name)).planned}
    if source is None:
        from db.engines import hidden

        raise SpecError(
            f'"{name}" is no sweep file (NAME.yaml), and there is no store {hidden(store)} that '
            "could know a sweep of that name."
        )
    found = {p.run.id: p for p in imported.sweep_of(source.sweep(name)).planned}
    like = {p.run.model: p.resources for p in found.values()}
    for stored in source.runs(name):  # what was added to the sweep without its file
        if stored.id not in found and stored.run.model in like:
            found[stored.id] = sweeps.Planned(stored.run, like[stored.run.model])
    return found


def _requested(found: dict[str, sweeps.Planned], conditions: tuple[str, ...]) -> list[Run]:
    wanted = where.parse(conditions)
    runs = [p.run for p in found.values() if p.requested]
    left = [run for run in runs if wanted.matches(run)]
    if not left:
        total = plural(len(runs), "run")
        raise SpecError(f"--where {' '.join(conditions)}: matches none of the sweep's {total}.")
    return left


def _needed(found: dict[str, sweeps.Planned], run: Run) -> list[Run]:
    """What a run needs, each after what it needs itself."""
    needed: dict[str, Run] = {}
    for need in run.needs:
        needed |= {r.id: r for r in (*_needed(found, found[need].run), found[need].run)}
    return list(needed.values())


@contextlib.contextmanager
def _folder(beside: Path, keep: bool) -> Iterator[Path]:
    """A new scratch folder, gone at the end unless it is to be kept."""
    preflight.writable(beside, "the folder of --runs (or --scratch)")
    folder = Path(tempfile.mkdtemp(prefix=".verify-", dir=beside))
    try:
        yield folder
    finally:
        if keep:
            click.echo(f"files: {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the proof as Ctrl-C does: its child is killed and the scratch folder goes."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lines(seed: int, asked: int, verdict: Verdict) -> list[str]:
    from orchestrator.verify import metrics_of

    hits = verdict.hits
    places = Counter(map(str, hits))
    at = ", ".join(f"{place} ({n} times)" if n > 1 else place for place, n in places.items())
    kills = f"{plural(len(hits), 'kill')} at {at}"
    if len(hits) < asked:
        kills += f" (of {asked}: the run was over before the others)"
    if verdict.differences:
        left = len(verdict.differences) - SHOWN
        return [
            f"not identical after {kills} (seed {seed}):",
            *(f"  {line}" for line in verdict.differences[:SHOWN]),
            *([f"  and {left:,} more: --format json"] if left > 0 else []),
            "This run does not repeat: does its model draw from generators other than torch's, "
            "keep a state that is no tensor, or use a kernel that is not deterministic here?",
        ]
    whole = verdict.whole
    epochs, metrics = plural(len(whole.history) - 1, "epoch"), metrics_of(whole.history)
    resumed = plural(len(verdict.resumed), "attempt")
    weights = f"weights sha256 {whole.weights}" if whole.weights else f"{whole.state}, no weights"
    return [
        f"identical: {epochs}, {plural(metrics, 'metric')}, {weights}, after {kills} "
        f"({resumed} went on from a checkpoint; training took {duration(verdict.seconds)}; "
        f"seed {seed})",
    ]


def _as_json(
    run: Run, seed: int, asked: int, verdict: Verdict, folder: Path | None
) -> dict[str, Any]:
    from orchestrator.verify import metrics_of

    whole = verdict.whole
    return {
        "id": run.id,
        "run": str(run),
        "identical": not verdict.differences,
        "differences": list(verdict.differences),
        "state": whole.state,
        "epochs": len(whole.history) - 1,
        "metrics": metrics_of(whole.history),
        "weights_sha256": whole.weights,
        "training_seconds": verdict.seconds,
        "seed": seed,
        "kills_asked": asked,
        "kills": [vars(hit) for hit in verdict.hits],
        "attempts": sum(len(cut.attempts) for cut in verdict.cuts),
        "rounds": len(verdict.cuts),
        "resumed": [{"epochs": epochs, "steps": steps} for epochs, steps in verdict.resumed],
        "files": str(folder) if folder else None,
    }


COMMANDS: list[click.Command] = [verify_resume]
