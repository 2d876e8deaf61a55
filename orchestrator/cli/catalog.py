"""`orch models | methods | data`: what can be named in a sweep file, and making miniatures."""

from __future__ import annotations

from pathlib import Path

import click

from db.errors import EnvironmentProblem
from orchestrator.cli import Settings
from orchestrator.cli.show import format_option, plural, print_json, table
from worker.data import DATASETS
from worker.methods import METHODS
from worker.models import MODELS


@click.group()
def models() -> None:
    """The models that a sweep can name."""


@models.command("list")
@format_option
def models_list(style: str, as_json: bool) -> None:
    """List the models, their size, and the share that freeze-embed freezes.

    \b
    Example: orch models list --format json
    """
    if as_json or style == "json":
        print_json(
            [
                {
                    "id": m.id,
                    "title": m.title,
                    "family": m.family,
                    "parameters": m.parameters,
                    "embedding_parameters": m.embedding_parameters,
                    "embedding": list(m.embedding),
                    "weights": "pretrained by orch" if m.recipe else "published",
                    "trainable": m.build is not None,
                    "version": m.version,
                }
                for m in MODELS.values()
            ]
        )
        return
    table(
        [
            {
                "id": m.id,
                "model": m.title,
                "parameters": f"{m.parameters:,}",
                "embedding": f"{m.embedding_parameters:,}",
                "share": f"{100 * m.embedding_share:.3f}%",
                "weights": "pretrained by orch" if m.recipe else "published",
                "here": "trains" if m.build else "plans only",
            }
            for m in MODELS.values()
        ],
        right=("parameters", "embedding", "share"),
    )


@click.group()
def methods() -> None:
    """The fine-tuning methods that a sweep can name."""


@methods.command("list")
@format_option
def methods_list(style: str, as_json: bool) -> None:
    """List the methods with what they freeze and their default learning rates.

    \b
    Example: orch methods list
    """
    if as_json or style == "json":
        print_json(
            [
                {
                    "id": m.id,
                    "title": m.title,
                    "family": m.family,
                    "optimizer": m.optimizer,
                    "momentum": m.momentum if m.optimizer == "sgd" else None,
                    "weight_decay": m.weight_decay,
                    "freeze": m.freeze,
                    "learning_rates": list(m.learning_rates),
                    "version": m.version,
                }
                for m in METHODS.values()
            ]
        )
        return
    table(
        [
            {
                "id": m.id,
                "optimizer": m.optimizer,
                "momentum": m.momentum if m.optimizer == "sgd" else None,
                "weight decay": m.weight_decay,
                "freezes": m.freeze,
                "learning rates": " ".join(f"{rate:g}" for rate in m.learning_rates),
            }
            for m in METHODS.values()
        ]
    )


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
                    "presence": presence,
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
                "files": presence,
            }
            for d, presence in found
        ],
        right=("classes", "epochs"),
    )


def _presence(root: Path, name: str) -> str:
    dataset = DATASETS[name]
    if dataset.load is None:
        return "plans only"
    if not dataset.folder:
        return "built in"
    return "missing: " + dataset.remedy if dataset.missing(root) else "present"


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


COMMANDS: list[click.Command] = [data, models, methods]
