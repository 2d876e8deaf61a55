"""`orch models`: what a sweep can fine-tune, and whether its weights are here."""

from __future__ import annotations

import click

from orchestrator.cli.show import format_option, print_json, table
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


COMMANDS: list[click.Command] = [models]
