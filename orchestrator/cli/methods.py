"""`orch methods`: how a sweep can train."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli.show import format_option, print_json, table
from worker.data import DATASETS
from worker.methods import METHODS, Method
from worker.models import MODELS

WITH_MOMENTUM = ("sgd", "lars")


@click.group()
def methods() -> None:
    """The methods that a sweep can name."""


@methods.command("list")
@format_option
def methods_list(style: str, as_json: bool) -> None:
    """List the methods: optimizer, what is frozen, default learning rates, tuned numbers.

    JSON has more of each: which models it applies to, its rates by dataset where those differ.

    \b
    Examples:
      orch methods list
      orch --plugin my_method.py methods list --format json
    """
    if as_json or style == "json":
        print_json([_as_json(method) for method in METHODS.values()])
        return
    table([_row(method) for method in METHODS.values()])


def _as_json(method: Method) -> dict[str, Any]:
    rates = {d: method.learning_rates_on(d) for d in DATASETS}
    return {
        "id": method.id,
        "title": method.title,
        "kind": method.kind,
        "family": method.family,
        "optimizer": method.optimizer,
        "momentum": method.momentum if method.optimizer in WITH_MOMENTUM else None,
        "weight_decay": method.weight_decay,
        "freeze": method.freeze,
        "trains": method.trains,
        "multipliers": dict(method.multipliers),
        "schedule": method.schedule,
        "penalty": method.penalty,
        "hyperparameters": {tuned.name: tuned.default for tuned in method.hyperparameters},
        "starts_from": method.starts_from,
        "rate_factor": method.rate_factor,
        "learning_rates": list(method.learning_rates),
        "learning_rates_on": {
            d: list(own) for d, own in rates.items() if own != method.learning_rates
        },
        "models": [model.id for model in MODELS.values() if method.refuses(model) is None],
        "version": method.version,
        "code": METHODS.code_of(method.id),
    }


def _row(method: Method) -> dict[str, object]:
    factor = method.rate_factor
    own = {
        "freezes": "" if method.freeze == "nothing" else method.freeze,
        "thaws": "block by block" if method.needs_blocks else method.trains,
        "starts": "from a linear probe" if method.starts_from == "probe" else "",
        "rates": " ".join(f"{part} ×{times:g}" for part, times in method.multipliers.items()),
        "all rates": "" if factor == 1 else f"×{factor:g}",
        "penalty": method.penalty,
    }
    probe = method.kind == "linear_probe"
    return {
        "id": method.id,
        "optimizer": "" if probe else method.optimizer,
        "momentum": method.momentum if method.optimizer in WITH_MOMENTUM and not probe else None,
        "weight decay": None if probe else method.weight_decay,
        "besides": "; ".join(f"{name} {text}" for name, text in own.items() if text),
        "learning rates": "" if probe else " ".join(f"{r:g}" for r in method.learning_rates),
        "tuned": " ".join(f"{t.name}={t.default:g}" for t in method.hyperparameters),
    }


COMMANDS: list[click.Command] = [methods]
