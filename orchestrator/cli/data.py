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
            }
            for d, presence in found
        ],
        right=("classes", "epochs", "pixels"),
    )
    if any(presence == "missing" for _, presence in found):
        click.echo("Of a missing one, `orch data check NAME` says what to get, and where.")


def _presence(root: Path, name: str) -> str:
    dataset = DATASETS[name]
    if not dataset.folder:
        return "built in"
    return "missing" if dataset.missing(root) else "present"


@data.command("make-mini")
@click.argument(
    "names",
    metavar="[NAME]...",
    nargs=-1,
    type=click.Choice(["living17", "waterbirds", "domainnet", "fmow", "camelyon17", "cifar10"]),
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Another seed draws other images.",
)
@click.option(
    "--train", default=512, show_default=True, type=click.IntRange(min=1), help="Training images."
)
@click.option(
    "--val",
    default=256,
    show_default=True,
    type=click.IntRange(min=1),
    help="In-distribution validation images.",
)
@click.option(
    "--test",
    default=512,
    show_default=True,
    type=click.IntRange(min=1),
    help="Out-of-distribution test images.",
)
@click.option(
    "--size",
    default=32,
    show_default=True,
    type=click.IntRange(min=16, max=512),
    help="Height of the images in pixels; camelyon17 has at most 96, cifar10 always 32.",
)
@click.option(
    "--contact-sheet",
    "sheets",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for a picture of each one's classes and shifts, NAME.png.",
)
@click.pass_obj
def make_mini(
    settings: Settings,
    names: tuple[str, ...],
    seed: int,
    train: int,
    val: int,
    test: int,
    size: int,
    sheets: Path | None,
) -> None:
    """Write the miniature benchmarks, in the real ones' layout, under --data.

    All six, or those of living17, waterbirds, domainnet, fmow, camelyon17 and cifar10 that are
    named. The same options write the same bytes; what is there already is left alone.

    \b
    Example: orch data make-mini
    """
    from worker.data.mini import BENCHMARKS, contact_sheet, count_images

    root = settings.data / "mini"
    for name in dict.fromkeys(names or BENCHMARKS):
        try:
            folder = BENCHMARKS[name](root, seed=seed, train=train, val=val, test=test, size=size)
            click.echo(f"mini_{name}: {plural(count_images(folder), 'image')} in {folder}")
        except OSError as error:
            raise EnvironmentProblem(f"{error}; move it away, or name another --data.") from error
        if sheets is not None:
            try:
                sheets.mkdir(parents=True, exist_ok=True)
                contact_sheet(folder).save(sheets / f"{name}.png")
            except OSError as error:
                raise EnvironmentProblem(f"{error}; name another --contact-sheet.") from error
            click.echo(f"mini_{name}: sheet in {sheets / f'{name}.png'}")


COMMANDS: list[click.Command] = [data]
