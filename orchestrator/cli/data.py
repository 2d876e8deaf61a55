"""`orch data`: what a sweep can train on, and making miniatures."""

from __future__ import annotations

from pathlib import Path

import click

from db.errors import EnvironmentProblem
from orchestrator.cli import Settings
from orchestrator.cli.show import format_option, plural, print_json, table
from worker.data import DATASETS


@click.group()
def data() -> None:
    """The datasets that a sweep can name."""


@data.command("list")
@format_option
@click.pass_obj
def data_list(settings: Settings, style: str, as_json: bool) -> None:
    """List the datasets, their splits, and whether their files are under --data.

    \b
    Example: orch data list
    """
    found = [(d, _presence(settings.data, d.id)) for d in DATASETS.values()]
    if as_json or style == "json":
        print_json(
            [
                {
                    "id": d.id,
                    "title": d.title,
                    "classes": d.classes,
                    "epochs": d.epochs,
                    "splits": [
                        {"name": s.name, "metric": s.metric, "source": s.source} for s in d.splits
                    ],
                    "folder": d.folder,
                    "side": d.side,
                    "images": dict(d.images),
                    "presence": presence,
                    "remedy": d.remedy,
                    "version": d.version,
                }
                for d, presence in found
            ]
        )
        return
    table(
        [
            {
                "id": d.id,
                "classes": d.classes,
                "epochs": d.epochs,
                "in-distribution (selects)": d.splits[0].source,
                "out-of-distribution": next((s.source for s in d.splits if s.name == "ood"), None),
                "pixels": d.side,
                "files": presence,
                "get it": d.remedy if presence == "missing" else None,
            }
            for d, presence in found
        ],
        right=("classes", "epochs", "pixels"),
    )


def _presence(root: Path, name: str) -> str:
    dataset = DATASETS[name]
    if not dataset.folder:
        return "built in"
    return "missing" if dataset.missing(root) else "present"


@data.command("make-mini")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Another seed draws other images.",
)
@click.option(
    "--train", default=512, show_default=True, type=click.IntRange(min=8), help="Training images."
)
@click.option(
    "--val",
    default=256,
    show_default=True,
    type=click.IntRange(min=8),
    help="In-distribution validation images.",
)
@click.option(
    "--test",
    default=512,
    show_default=True,
    type=click.IntRange(min=8),
    help="Out-of-distribution test images.",
)
@click.pass_obj
def make_mini(settings: Settings, seed: int, train: int, val: int, test: int) -> None:
    """Write the miniature benchmarks, in the real ones' layout, under --data.

    The same options write the same bytes; what is there already is left alone.

    \b
    Example: orch data make-mini
    """
    from worker.data.mini import make_waterbirds

    try:
        folder = make_waterbirds(settings.data / "mini", seed=seed, train=train, val=val, test=test)
    except OSError as error:
        raise EnvironmentProblem(f"{error}; move it away, or name another --data.") from error
    click.echo(f"mini_waterbirds: {plural(train + val + test, 'image')} in {folder}")


COMMANDS: list[click.Command] = [data]
