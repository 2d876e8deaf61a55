"""The `orch` command. torch, ray and pandas are imported inside the commands that need them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from db.errors import OrchError, SpecError
from worker.context import Folders

INTERRUPTED = 130


@dataclass(frozen=True)
class Settings:
    """The options that every command shares."""

    store: str
    data: Path
    runs: Path
    plugins: tuple[str, ...]
    cache: Path | None = None
    """None: images are decoded anew each time."""
    weights: Path | None = None
    """A folder of published weights; the libraries' own caches are looked through after it."""
    given: bool = False
    """Whether any of them was typed, so that a command to repeat needs them again."""

    @property
    def folders(self) -> Folders:
        """Where files are, for the rooms that know no command line."""
        return Folders(data=self.data, runs=self.runs, cache=self.cache, weights=self.weights)


class _Group(click.Group):
    """Turns orch's own errors into one message and exit code 2; there is no other such place."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OrchError as error:
            click.echo(f"orch: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our pipe has left, as `head` does
            sys.exit(0)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="orch", message="orch %(version)s")
@click.option(
    "--store",
    default="sqlite:///orch.db",
    show_default=True,
    envvar="ORCH_STORE",
    help="The results database: a URL, or the path of an SQLite file.",
)
@click.option(
    "--data",
    default="data",
    show_default=True,
    envvar="ORCH_DATA",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that holds the datasets; only read, but for miniatures.",
)
@click.option(
    "--runs",
    default="runs",
    show_default=True,
    envvar="ORCH_RUNS",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder for checkpoints, logs and artifacts.",
)
@click.option(
    "--cache",
    default="cache",
    show_default=True,
    envvar="ORCH_CACHE",
    help="The folder for decoded images, best on this machine's own disk; `none` decodes anew.",
)
@click.option(
    "--weights",
    envvar="ORCH_WEIGHTS",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder of published weights, looked through before the libraries' own caches.",
)
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    envvar="ORCH_PLUGINS",
    help="A Python file that declares models, datasets or methods of your own. May be repeated.",
)
@click.pass_context
def main(
    ctx: click.Context,
    store: str,
    data: Path,
    runs: Path,
    cache: str,
    weights: Path | None,
    plugins: tuple[str, ...],
) -> None:
    """Run fine-tuning sweeps, keep every epoch in a database, and read the tables.

    \b
    Start here:
      orch data make-mini
      orch launch sweeps/demo.yaml
      orch report --table ood
    """
    from worker.catalog import load_plugins

    paths = tuple(str(Path(plugin).resolve()) for plugin in plugins)
    load_plugins(paths)
    if not cache or Path(cache).is_file():
        raise SpecError(f'--cache "{cache}" is not a folder; name one, or none.')
    typed = click.core.ParameterSource.COMMANDLINE
    given = any(ctx.get_parameter_source(name) is typed for name in ctx.params)
    ctx.obj = Settings(
        store,
        data.resolve(),
        runs.resolve(),
        paths,
        None if cache == "none" else Path(cache).resolve(),
        weights.resolve() if weights else None,
        given,
    )


def _commands() -> None:
    from orchestrator.cli import (
        claims,
        data,
        exchanging,
        explain,
        extending,
        inputs,
        launching,
        methods,
        models,
        reporting,
        runs,
        store,
        verifying,
    )

    modules = (
        launching, extending, reporting, explain, claims, exchanging, runs, data, inputs, models,
        methods, store, verifying,
    )  # fmt: skip
    for module in modules:
        for command in module.COMMANDS:
            main.add_command(command)


_commands()
