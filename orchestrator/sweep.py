"""Sweep files: one YAML file is one question; it expands into runs. Pure: no data, no store.

The order is that of the file's lists, each run after what it needs, the same every time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from db.errors import SpecError
from db.records import Run
from orchestrator import yaml_file
from orchestrator.own_tables import tables_of
from orchestrator.spec import Block, Resources, blocks_of
from orchestrator.where import Where
from reports.declared import Declared
from worker.context import Keep
from worker.data import DATASETS, Dataset
from worker.kinds import KINDS, NO_RATE, PATH_STEPS, PROBE_BATCH
from worker.methods import L2_SP, METHODS, Method
from worker.models import MODELS, Model

PROBE = "linear_probe"
"""The method whose runs LP-FT starts from."""


Cell = tuple[str, str, str]
"""Model, dataset, method."""


@dataclass(frozen=True)
class Planned:
    """A run of a sweep, with what it occupies while it trains."""

    run: Run
    resources: Resources
    keep: Keep = "none"
    """Whose weights it leaves; never part of its identity."""
    requested: bool = True
    """False for what requested runs need."""

    @property
    def leaves_weights(self) -> bool:
        """Whether weights of it stay when it is done."""
        return self.keep != "none" or self.run.kind == "pretrain"


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file: its name, its text, and its runs, each after what it needs."""

    name: str
    text: str
    planned: tuple[Planned, ...]
    tables: tuple[Declared, ...] = ()
    """What its `tables:` declares, for reports; nothing of it decides a run."""
    last: frozenset[Cell] = frozenset()
    """Cells whose runs stand in tables with their last epoch (`select: last`), not their best."""

    @property
    def requested(self) -> list[Run]:
        """The runs that the file asks for."""
        return [p.run for p in self.planned if p.requested]


def load(path: Path) -> Sweep:
    """Read, check and expand a sweep file; raises `SpecError` with every complaint, one a line."""
    return _expand(yaml_file.read(path))


def loads(text: str, name: str) -> Sweep:
    """The same for a text, such as the one that a store kept."""
    return _expand(yaml_file.parse(text, name))


def _expand(file: yaml_file.YamlFile) -> Sweep:
    name, blocks = blocks_of(file)
    tables = tables_of(file, blocks)
    planned: dict[str, Planned] = {}
    selects: dict[Cell, str] = {}
    for index, block in enumerate(blocks):
        for new in _runs(block):
            cell = (new.run.model, new.run.dataset, new.run.method)
            if new.requested and selects.setdefault(cell, block.select) != block.select:
                text = f"an earlier block gives {' '.join(cell)} another select; agree."
                raise SpecError(file.problem(("grids", index, "select"), text))
            old = planned.get(new.run.id)
            if old and old.requested and new.requested:
                for field in ("resources", "keep"):
                    if getattr(old, field) != getattr(new, field):
                        text = f"an earlier block gives {new.run} other {field}; agree."
                        raise SpecError(file.problem(("grids", index, field), text))
            if old is None or (new.requested and not old.requested):
                planned[new.run.id] = new
    last = frozenset(cell for cell, select in selects.items() if select == "last")
    return Sweep(name, file.text, tuple(planned.values()), tables, last)


def _runs(block: Block) -> Iterator[Planned]:
    """A block's runs in the order of its lists, each preceded by what it needs."""
    if block.kind == "pretrain":
        for model in map(MODELS.__getitem__, block.models):
            resources = block.resources_of(model.id)
            for seed in block.seeds:
                yield Planned(pretraining(model, seed, block.threads), resources)
        return
    for model in map(MODELS.__getitem__, block.models):
        resources = block.resources_of(model.id)
        weights: str = block.weights
        if model.recipe and weights == "pretrained":
            needed = pretraining(model, 0, block.threads)
            yield Planned(needed, resources, requested=False)
            weights = f"run:{needed.id}"
        for dataset in map(DATASETS.__getitem__, block.datasets):
            for method in map(METHODS.__getitem__, block.methods):
                axes = block.rates(method, dataset.id), block.tuned(method), block.seeds
                for point in itertools.product(*axes):
                    run = _finetuning(block, model, weights, dataset, method, point)
                    if method.kind == "linear_probe":
                        run = probing(run)
                    elif method.starts_from == "probe":
                        probe = probing(run)
                        yield Planned(probe, resources, requested=False)
                        run = replace(run, head=f"probe:{probe.id}/{probe.variant}")
                    yield Planned(run, resources, block.keep)


def _finetuning(
    block: Block,
    model: Model,
    weights: str,
    dataset: Dataset,
    method: Method,
    point: tuple[float, tuple[tuple[str, float], ...], int],
) -> Run:
    """The run at one point of a cell: learning rate, hyperparameters, seed."""
    rate, tuned, seed = point
    every, improved = _evaluated(block, dataset)
    switches = _switches(block, model, dataset, method)
    decay = block.adamw_weight_decay if method.optimizer == "adamw" else method.weight_decay
    return Run(
        kind="finetune",
        model=model.id,
        dataset=dataset.id,
        method=method.id,
        learning_rate=rate,
        seed=seed,
        epochs=block.epochs or dataset.epochs,
        batch_size=block.batch_size,
        micro_batch=block.micro_batch,
        weight_decay=decay,
        schedule=method.schedule or block.schedule,
        clip_norm=None,
        weights=weights,
        precision=block.precision,
        threads=block.threads,
        evaluate=every,
        evaluate_on_improvement=improved,
        hyperparameters=tuned,
        images_per_split=block.images_per_split,
        method_code=METHODS.code_of(method.id),
        kind_version=KINDS["finetune"].version,
        model_version=model.version,
        dataset_version=dataset.version,
        method_version=method.version,
        **switches,
    )


def _switches(block: Block, model: Model, dataset: Dataset, method: Method) -> dict[str, Any]:
    """What the protocol sets, as far as it makes a difference to a run: others are shared."""
    matters = {
        "sup_vit_normalization": model.authors_imagenet,
        "waterbirds_selection": dataset.authors_selection is not None,
        "resize": dataset.resizes,
        "low_lr_proj": bool(method.multipliers and model.projection),
        "l2_sp": method.penalty == L2_SP,
    }
    return {name: getattr(block, name) for name, does in matters.items() if does}


def _evaluated(block: Block, dataset: Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The splits of every epoch, and those of epochs that improve the selection score."""
    table, others = dataset.split_names(auxiliary=False), dataset.split_names(auxiliary=True)
    if block.evaluate == "table":
        return table, others
    if block.evaluate == "all":
        return table + others, ()
    return tuple(name for name in table + others if name in block.evaluate), ()


def pretraining(model: Model, seed: int, threads: int) -> Run:
    """The run that makes a tiny model's weights, by the model's recipe."""
    recipe = model.recipe
    if recipe is None:
        raise SpecError(f'model "{model.id}" has published weights and is not pretrained here.')
    dataset, method = DATASETS[recipe.dataset], METHODS[recipe.method]
    return Run(
        kind="pretrain",
        model=model.id,
        dataset=dataset.id,
        method=method.id,
        learning_rate=recipe.learning_rate,
        seed=seed,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        micro_batch=recipe.batch_size,
        weight_decay=recipe.weight_decay,
        schedule="cosine_per_step",
        clip_norm=recipe.clip_norm,
        weights="random",
        precision="fp32",
        threads=threads,
        evaluate=dataset.split_names(auxiliary=False),
        kind_version=KINDS["pretrain"].version,
        model_version=model.version,
        dataset_version=dataset.version,
        method_version=method.version,
    )


def probing(run: Run) -> Run:
    """The linear probe that is to `run` what LP-FT starts from: the same model, data and seed.

    What only fine-tuning looks at is the same in all probes, so that they are shared.
    """
    method = METHODS[PROBE]
    return replace(
        run,
        kind="linear_probe",
        method=method.id,
        learning_rate=NO_RATE,
        epochs=PATH_STEPS,
        batch_size=PROBE_BATCH,
        micro_batch=PROBE_BATCH,
        weight_decay=0.0,
        schedule="none",
        evaluate=run.evaluate + run.evaluate_on_improvement,
        evaluate_on_improvement=(),
        hyperparameters=(),
        method_code="",
        low_lr_proj="trained",
        l2_sp="paper",
        head="new",
        kind_version=KINDS["linear_probe"].version,
        method_version=method.version,
    )


def chosen(planned: tuple[Planned, ...], where: Where, limit: int | None) -> list[Planned]:
    """The requested runs that `--where` and `--limit` leave, with what they need, in order."""
    kept = [p for p in planned if p.requested and where.matches(p.run)][:limit]
    wanted = {p.run.id for p in kept} | {need for p in kept for need in p.run.needs}
    return [p for p in planned if p.run.id in wanted]
