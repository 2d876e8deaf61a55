"""How commands print: tables for people, JSON for programs, progress for those who wait."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

COUNT_SECONDS = 5.0
"""Between lines of progress in a pipe."""
PIPE = 10_000
"""Characters of a line in a pipe: nothing is cut, whoever reads it."""

STATE_COLOURS = {
    "done": "green",
    "running": "cyan",
    "pending": "white",
    "diverged": "yellow",
    "failed": "red",
    "cancelled": "bright_black",
    "voided": "bright_black",
}


def format_option(command: F) -> F:
    """`--format text|json`, with `--json` for short."""
    command = click.option("--json", "as_json", is_flag=True, help="Same as --format json.")(
        command
    )
    return click.option(
        "--format",
        "style",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="A table to read, or JSON for a program.",
    )(command)


def print_json(value: object) -> None:
    """JSON on stdout, nothing else."""
    click.echo(json.dumps(value, indent=2))


def table(rows: Sequence[Mapping[str, object]], right: Sequence[str] = ()) -> None:
    """Rows as aligned columns, in colour where the output is a terminal; no frame, so it greps."""
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        shown.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        cells = ["" if (value := row.get(name)) is None else str(value) for name in names]
        shown.add_row(*(Text(c, style=STATE_COLOURS.get(c.split(" ")[0], "")) for c in cells))
    console().print(shown)


def console() -> Any:
    """rich's console: as wide as the terminal, or as wide as the lines are in a pipe."""
    from rich.console import Console

    tty = sys.stdout.isatty()
    return Console(width=None if tty else PIPE, highlight=False, soft_wrap=not tty)


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `5 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def percent(value: float | None) -> str:
    """A fraction as the tables print it."""
    return "-" if value is None else f"{100 * value:.1f}"


def plural(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def counting(title: str, work: Generator[tuple[int, int], None, T], *, quiet: bool = False) -> T:
    """Drive a generator of (done, total) to its end and return what it returns.

    On stderr: a bar in a terminal, a line every few seconds elsewhere, nothing where `quiet`.
    """
    if not quiet and sys.stderr.isatty():
        return _with_bar(title, work)
    told = time.monotonic()
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if not quiet and time.monotonic() - told > COUNT_SECONDS:
            told = time.monotonic()
            click.echo(f"{title}: {done:,} of {total:,}", err=True)


def _with_bar(title: str, work: Generator[tuple[int, int], None, T]) -> T:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        while True:
            try:
                done, total = next(work)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            bar.update(task, completed=done, total=total)
