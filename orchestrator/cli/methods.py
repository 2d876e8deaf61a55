"""`orch methods`: how a sweep can fine-tune."""

from __future__ import annotations

import click

from orchestrator.cli.show import format_option, print_json, table
from worker.methods import METHODS


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


COMMANDS: list[click.Command] = [methods]
