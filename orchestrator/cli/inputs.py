"""`orch data fetch | check | cache`: getting datasets, whether they will do, readying them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from typing import Any

import click

from db.errors import MissingInputs, SpecError
from orchestrator.cli import Settings
from orchestrator.cli.data import data
from orchestrator.cli.named import runs_named
from orchestrator.cli.show import counting, format_option, plural, print_json, table
from worker.data import DATASETS


def _datasets(words: tuple[str, ...], default: Callable[[], list[str]]) -> list[str]:
    names, found = runs_named(words)
    for name in names:
        DATASETS.find(name)
    wanted = list(dict.fromkeys([*names, *(run.dataset for run in found)]))
    return wanted if words else default()


def _threads_option(command: Any) -> Any:
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=os.cpu_count() or 1,
        show_default="as many as the machine has cores",
        help="Images decoded at once.",
    )(command)


@data.command("fetch")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def data_fetch(settings: Settings, names: tuple[str, ...]) -> None:
    """Download datasets into --data, by the libraries that know where they are.

    Waterbirds, FMoW (50 GB), Camelyon17 (10 GB) through wilds, CIFAR-10 through torchvision. Of the
    others `orch data check` says where to get them.

    \b
    Example: orch data fetch waterbirds cifar10
    """
    from worker.catalog import resolve

    entries = [DATASETS.find(name) for name in names]
    for entry in entries:
        if entry.fetch is None:
            raise SpecError(f"{entry.id} is not downloaded by orch; get it: {entry.remedy or '-'}")
    for entry in entries:
        if entry.absence(settings.data):
            assert entry.fetch is not None
            resolve(entry.fetch)(entry, settings.data)
        place = settings.data / entry.folder
        click.echo(f"{entry.id}: in {place}; now: orch data check {entry.id}")


@data.command("check")
@click.argument("words", metavar="[NAME|SWEEP.yaml]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Open every image, not a sample of them.")
@_threads_option
@format_option
@click.pass_obj
def data_check(
    settings: Settings, words: tuple[str, ...], every: bool, threads: int, style: str, as_json: bool
) -> None:
    """Verify datasets: files, counts, labels, and that images open.

    Takes datasets, or sweep files whose datasets are meant; without any, every dataset that has
    files under --data. Says what is missing and where to get it.

    \b
    Examples:
      orch data check waterbirds --all
      orch data check sweeps/full_grid.yaml
    """
    from worker.data.check import Report, check

    def present() -> list[str]:
        here = [d.id for d in DATASETS.values() if d.folder and not d.missing(settings.data)]
        if not here:
            raise MissingInputs(
                f"no dataset is under --data {settings.data}; `orch data list` says how to get "
                "each, `orch data make-mini` writes miniatures."
            )
        return here

    reports: list[Report] = []
    quiet = as_json or style == "json"
    for name in _datasets(words, present):
        work = check(name, settings.data, every=every, threads=threads)
        reports.append(counting(f"opening images of {name}", work, quiet=quiet))
    broken = [report for report in reports if report.problems]
    if quiet:
        print_json([_as_json(report) for report in reports])
    else:
        table(
            [
                {
                    "dataset": report.dataset,
                    "split": one.split,
                    "images": f"{one.images:,}",
                    "expected": "" if one.expected is None else f"{one.expected:,}",
                    "classes": one.classes,
                    "groups": ", ".join(f"{name} {n:,}" for name, n in one.groups.items()),
                }
                for report in reports
                for one in report.splits
            ],
            right=("images", "expected", "classes"),
        )
        for report in reports:
            click.echo(_verdict(report))
    sys.exit(2 if broken else 0)


def _verdict(report: Any) -> str:
    what = " (a miniature)" if report.miniature else ""
    if report.problems:
        word = click.style("not usable", fg="red") if sys.stdout.isatty() else "not usable"
        return "\n".join(
            [f"{report.dataset}{what}: {word}", *(f"  - {p}" for p in report.problems)]
        )
    opened = f", {plural(report.opened, 'image')} opened" if report.opened else ""
    return f"{report.dataset}{what}: ok{opened}"


def _as_json(report: Any) -> dict[str, Any]:
    return {
        "id": report.dataset,
        "ok": not report.problems,
        "problems": list(report.problems),
        "miniature": report.miniature,
        "opened": report.opened,
        "fingerprint": report.fingerprint,
        "splits": [vars(one) for one in report.splits],
    }


@data.command("cache")
@click.argument("words", metavar="[NAME|SWEEP.yaml]...", nargs=-1)
@click.option("--rebuild", is_flag=True, help="Throw away what there is and decode again.")
@_threads_option
@format_option
@click.pass_obj
def data_cache(
    settings: Settings,
    words: tuple[str, ...],
    rebuild: bool,
    threads: int,
    style: str,
    as_json: bool,
) -> None:
    """Decode datasets into --cache ahead of a launch; without names, list what is there.

    A run builds what it lacks by itself. Several may start at once: one builds, the others wait.

    \b
    Examples:
      orch data cache waterbirds fmow
      orch data cache sweeps/full_grid.yaml
      orch data cache
    """
    from worker.data import cache
    from worker.data.images import pools, prepare

    if settings.cache is None:
        raise SpecError("--cache none: there is no cache to build; name a folder.")
    for name in _datasets(words, list):
        if DATASETS[name].source is None:
            continue
        if rebuild:
            for pool, transform in pools(name, settings.data):
                cache.remove(pool, transform, settings.cache)

        def built(dataset: str = name) -> Generator[tuple[int, int], None, None]:
            assert settings.cache is not None
            yield from prepare(dataset, settings.data, settings.cache, threads)

        counting(f"decoding {name}", built(), quiet=as_json or style == "json")
    entries = cache.entries(settings.cache)
    if as_json or style == "json":
        print_json([{**vars(e), "path": str(e.path)} for e in entries])
        return
    table(
        [
            {
                "of": e.pool,
                "images": f"{e.images:,}",
                "kept": e.what,
                "size": f"{e.bytes / 1e6:,.1f} MB",
                "built": e.created,
                "folder": e.path.name,
                "damage": e.damage,
            }
            for e in entries
        ],
        right=("images", "size"),
    )
    total = sum(e.bytes for e in entries)
    click.echo(f"{plural(len(entries), 'cache')}, {total / 1e9:,.2f} GB, in {settings.cache}")


COMMANDS: list[click.Command] = []  # they belong to `orch data`
