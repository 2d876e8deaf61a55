"""What a launch shows while it lasts: a live picture in a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any

import click

from db.records import Claim, EpochRecord, State
from orchestrator.cli.show import console, duration, percent
from orchestrator.engine.attempt import resumed
from worker.events import Diverged, Epoch, Event, Finished, Progress, Shrunk, Started, Waiting

SIGN_OF_LIFE = 30.0
"""Seconds between lines about one run in a pipe: long epochs should not look like silence."""


class Lines:
    """One line a finished run, and now and then one about a run that takes long."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.ended_count = 0
        self.began = time.monotonic()
        self.training_since: float | None = None
        """When the first run started: until then workers only import torch."""
        self.latest: dict[str, EpochRecord] = {}
        self.decoding: dict[str, str] = {}
        """Of runs whose images are being decoded, or made into features, how far that is."""
        self.waits: dict[str, str] = {}
        self._claimed: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def claimed(self, claim: Claim) -> None:
        """A run waits for its worker."""
        self._claimed[claim.run.id] = self._told[claim.run.id] = time.monotonic()

    def said(self, claim: Claim, event: Event) -> None:
        """Remember the newest numbers."""
        run_id = claim.run.id
        match event:
            case Started():
                self._claimed[run_id] = time.monotonic()
                self.decoding.pop(run_id, None)
                self.training_since = self.training_since or time.monotonic()
                if where := resumed(event.resumed_from, event.resumed_step):
                    self.line(f"resumed  {claim.run} {where}")
            case Shrunk():
                self.line(
                    f"smaller  {claim.run}: memory ran out, {event.micro_batch} images a pass now"
                )
            case Waiting() if self.waits.get(run_id) != event.reason:
                self.waits[run_id] = event.reason
                self.line(f"waiting  {claim.run}: {event.reason}")
            case Epoch():
                self.latest[run_id] = event.record
            case Progress() if event.doing == "decoding":
                decoded = f"decoding images, {event.step:,} of {event.steps:,}"
                self.decoding[run_id] = decoded
            case Progress() if event.doing == "extracting":
                extracted = f"extracting features, {event.step:,} of {event.steps:,} images"
                self.decoding[run_id] = extracted
            case Finished() | Diverged() if event.history:
                self.latest[run_id] = event.history[-1]
        if not isinstance(event, Waiting) and self.waits.pop(run_id, ""):
            self.line(f"going on {claim.run}")
        long_silent = time.monotonic() - self._told[run_id] > SIGN_OF_LIFE
        if isinstance(event, (Epoch, Progress)) and long_silent:
            self._told[run_id] = time.monotonic()
            self.line(f"training {claim.run}: {self.numbers(claim)}")

    def ended(self, claim: Claim, state: State, error: str | None) -> None:
        """Tell how it went."""
        seconds = time.monotonic() - self._claimed.get(claim.run.id, time.monotonic())
        if state == "pending":
            word = f"again    {claim.run}: {error}" if error else f"paused   {claim.run}"
            self.line(word)
            return
        self.ended_count += 1
        count = f"[{self.ended_count:>{len(str(self.total))}}/{self.total}]"
        text = error if error else self.numbers(claim)
        colour = {"done": None, "diverged": "yellow"}.get(state, "red")
        word = click.style(f"{state:<8}", fg=colour) if sys.stdout.isatty() else f"{state:<8}"
        self.line(f"{count} {word} {claim.run}: {text} ({duration(seconds)})")
        self.latest.pop(claim.run.id, None)

    def numbers(self, claim: Claim) -> str:
        """`epoch 3/6, id 91.2, ood 74.0`, as of the newest epoch."""
        record = self.latest.get(claim.run.id)
        if record is None:
            return self.decoding.get(claim.run.id, "starting")
        shares = (f"{s} {percent(record.headline(s))}" for s in claim.run.evaluate)
        return f"epoch {record.epoch}/{claim.run.epochs}, " + ", ".join(shares)

    def line(self, text: str) -> None:
        """Print one line at once, so that a pipe sees it; train on where nobody reads any more."""
        try:
            click.echo(text)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Live(Lines):
    """The same with a bar, the runs in training and the time that is left, redrawn in place."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        from rich.live import Live as RichLive
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._console = console()
        self._bar = RichProgress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
        )
        self._task = self._bar.add_task("runs", total=total, left="")
        self._running: dict[str, Claim] = {}
        self._live = RichLive(
            console=self._console, refresh_per_second=4, get_renderable=self._picture
        )

    def __enter__(self) -> Live:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def claimed(self, claim: Claim) -> None:
        """Show the run among those in training."""
        super().claimed(claim)
        self._running[claim.run.id] = claim

    def ended(self, claim: Claim, state: State, error: str | None) -> None:
        """Take it off the picture; its line stays above."""
        self._running.pop(claim.run.id, None)
        super().ended(claim, state, error)

    def line(self, text: str) -> None:
        """Print above the picture."""
        from rich.text import Text

        self._console.print(Text.from_ansi(text))

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        now = time.monotonic()
        left = f"{duration(now - self.began)} so far"
        if self.ended_count and self.training_since is not None:
            a_run = (now - self.training_since) / self.ended_count
            rest = a_run * (self.total - self.ended_count)
            left += f", about {duration(rest)} left"
        self._bar.update(self._task, completed=self.ended_count, left=left)
        running = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for claim in list(self._running.values()):
            running.add_row(f"  {claim.run}", self.numbers(claim))
        return Group(running, self._bar)


def observer(total: int) -> Lines:
    """Live in a terminal, lines elsewhere."""
    return Live(total) if sys.stdout.isatty() else Lines(total)
