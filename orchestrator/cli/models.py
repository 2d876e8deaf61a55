"""`orch models`: what a sweep can fine-tune, whether its weights are here, and getting them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from db.errors import MissingInputs, OrchError
from orchestrator.cli import Settings
from orchestrator.cli.named import runs_named
from orchestrator.cli.show import format_option, plural, print_json, table
from worker.models import MODELS, Model
from worker.models.locate import find, remedy

CLASSES = 2
"""Of the head that `check` builds a model with: any number will do."""


@click.group()
def models() -> None:
    """The models that a sweep can name."""


@models.command("list")
@format_option
@click.pass_obj
def models_list(settings: Settings, style: str, as_json: bool) -> None:
    """List the models, their size, the share that freeze-embed freezes, and who has weights here.

    \b
    Example: orch models list --format json
    """
    if as_json or style == "json":
        print_json([_described(m, settings.weights) for m in MODELS.values()])
        return
    table(
        [
            {
                "id": m.id,
                "model": m.title,
                "parameters": f"{m.parameters:,}",
                "embedding": f"{m.embedding_parameters:,}",
                "share": f"{100 * m.embedding_share:.3f}%",
                "weights": _source(m),
                "here": "" if m.recipe else "yes" if find(m, settings.weights) else "no",
            }
            for m in MODELS.values()
        ],
        right=("parameters", "embedding", "share"),
    )


def _source(model: Model) -> str:
    if model.recipe:
        return "pretrained by orch"
    return "published" if model.published and model.published.hub else "yours, in --weights"


def _described(model: Model, weights: Path | None) -> dict[str, Any]:
    published = model.published
    path = None if model.recipe else find(model, weights)
    return {
        "id": model.id,
        "title": model.title,
        "family": model.family,
        "parameters": model.parameters,
        "embedding_parameters": model.embedding_parameters,
        "embedding": list(model.embedding),
        "image_size": model.image_size,
        "weights": _source(model),
        "library": published and published.library,
        "architecture": published and published.name,
        "tag": published and published.tag,
        "hub": published and published.hub,
        "file": published.files[0] if published and published.hub else None,
        "here": None if model.recipe else path is not None,
        "path": path and str(path),
        "trainable": bool(model.build or model.published),
        "version": model.version,
    }


@models.command("fetch")
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.pass_obj
def models_fetch(settings: Settings, names: tuple[str, ...]) -> None:
    """Download published weights, of all models or of those named; runs themselves never do.

    They go into the folder of --weights where that is given, else into the cache where timm and
    open_clip look themselves (HF_HOME). What is there already stays.

    \b
    Examples:
      orch models fetch clip_vit_b16 bit_r50_in21k
      orch --weights /shared/weights models fetch
    """
    from worker.models.fetch import fetch, present

    wanted = [MODELS.find(name) for name in names] or [
        m for m in MODELS.values() if m.published and m.published.hub
    ]
    for model in wanted:
        said, path = "already at", present(model, settings.weights)
        if path is None:
            assert model.published is not None
            click.echo(f"{model.id}: downloading {model.published.hub} …")
            said, path = "now at", fetch(model, settings.weights)
        click.echo(f"{model.id}: {said} {path} ({_size(path.stat().st_size)})")


@models.command("check")
@click.argument("names", nargs=-1, metavar="[MODEL|SWEEP.yaml]...")
@click.option(
    "--quick", is_flag=True, help="Only look for the files; neither build a model nor read weights."
)
@format_option
@click.pass_obj
def models_check(
    settings: Settings, names: tuple[str, ...], quick: bool, style: str, as_json: bool
) -> None:
    """Find weights, build the models and load them for real: all models, some, or a sweep's.

    A model is `ok`, `missing` or `damaged`; `builds` where a sweep starts it from random weights or
    orch pretrains it. Exits with 2 where one is damaged, or one that is named, or that a named
    sweep needs, is missing.

    \b
    Examples:
      orch models check sweeps/full_grid.yaml
      orch models check clip_vit_b16 --format json
    """
    wanted = _wanted(names)
    rows = [_checked(MODELS[name], needed, settings, quick) for name, needed in wanted.items()]
    if as_json or style == "json":
        print_json(rows)
    else:
        table(
            [
                {
                    "id": row["id"],
                    "state": row["state"],
                    "size": row["bytes"] and _size(row["bytes"]),
                    "sha256": (row["sha256"] or "")[:12],
                    "where": row["path"] or "",
                }
                for row in rows
            ],
            right=("size",),
        )
        for row in rows:
            if row["problem"]:
                click.echo(f"\n{row['id']}: {row['problem']}")
    bad = [r["id"] for r in rows if r["state"] == "damaged" or (names and r["state"] == "missing")]
    if bad:
        raise MissingInputs(
            f"{plural(len(bad), 'model')} of {len(rows)} cannot be used: {', '.join(bad)}."
        )


def _wanted(names: Iterable[str]) -> dict[str, bool]:
    """The models asked for, and of each, whether its published weights are needed."""
    given, runs = runs_named(names or MODELS)
    wanted = {name: MODELS.find(name).recipe is None for name in given}
    for run in runs:
        wanted[run.model] = wanted.get(run.model, False) or run.weights == "pretrained"
    return wanted


def _checked(model: Model, needed: bool, settings: Settings, quick: bool) -> dict[str, Any]:
    """One row of `check`."""
    path = find(model, settings.weights) if needed else None
    row: dict[str, Any] = {
        "id": model.id,
        "state": "found" if path else "builds",
        "path": path and str(path),
        "bytes": path and path.stat().st_size,
        "sha256": None,
        "problem": None,
    }
    if needed and path is None:
        return row | {"state": "missing", "problem": f"get its weights with: {remedy(model)}"}
    if quick:
        return row
    from worker.models.weights import new_model, read

    try:
        built = new_model(model, CLASSES)
        if path is None:
            return row
        return row | {"state": "ok", "sha256": read(built, model, path)}
    except OrchError as error:
        return row | {"state": "damaged", "problem": str(error)}


def _size(count: int) -> str:
    """Decimal megabytes, as the hub counts."""
    return f"{count / 1e6:,.1f} MB"


COMMANDS: list[click.Command] = [models]
