"""What a sweep file may say: its fields, their checks, and how complaints read.

A file holds one product (models × datasets × methods × learning rates × seeds), or `grids:`, a list
of such blocks whose missing fields come from the file's top level. Everything is checked before
anything is done, and a complaint names file, line, field and remedy.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from db.errors import SpecError
from orchestrator import listed, yaml_file
from orchestrator.listed import At, unique
from worker.catalog import nearest, unresolved
from worker.context import Keep
from worker.data import DATASETS, Dataset
from worker.methods import METHODS, Method
from worker.models import MODELS

PROTOCOLS: dict[str, dict[str, Any]] = {
    "paper": {},
    "authors": {
        "schedule": "cosine_per_epoch",
        "adamw_weight_decay": 0.0,
        "sup_vit_normalization": "imagenet",
        "waterbirds_selection": "test",
        "low_lr_proj": "fixed",
        "l2_sp": "authors",
        "lp_ft_rate_factor": 1.0,
    },
}
"""What each preset sets, other than the fields' own defaults, which are the paper's."""
PRETRAIN_FIELDS = {"kind", "models", "seeds", "threads", "resources"}
TOP_FIELDS = ("name", "grids", "tables")
"""What stands at the top of a file alone."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
DEFAULT = "default"
"""Among resources by model: those of the models that are not named."""
FOR_ALL, PER_MODEL = "for all", "per model"
"""The two forms of `resources`; no field or model can be called so."""


def _not_empty(value: Any) -> Any:
    if value == {}:
        raise ValueError("is empty; give `cpus`, `gpus`, or leave it out")
    return value


def _resources_form(value: Any) -> str:
    """One for all models, or one a model: told by what the keys name."""
    pairs = value.items() if isinstance(value, dict) else ()
    by_model = any(key == DEFAULT or key in MODELS or isinstance(v, dict) for key, v in pairs)
    return PER_MODEL if by_model else FOR_ALL


def _per_model(value: dict[str, Any]) -> dict[str, Any]:
    for name, given in value.items():
        if name in Resources.model_fields:
            raise At(f"stands among models; write `{DEFAULT}: {{{name}: {given}}}`", name)
        if name != DEFAULT and name not in MODELS:
            raise At(f'unknown model "{name}"; {nearest(name, [DEFAULT, *MODELS])}', name)
        if given == {}:
            raise At("is empty; give `cpus`, `gpus`, or leave it out", name)
    return value


def _evaluate(value: Any) -> Any:
    if value in ("table", "all"):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError("must be `table`, `all`, or a list of splits such as [id, ood]")
    if "id" not in value:
        raise ValueError('leaves out "id", the split that selects; add it')
    return tuple(unique(value))


Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What every random generator takes."""
ModelId = Annotated[str, AfterValidator(listed.known(MODELS))]
DatasetId = Annotated[str, AfterValidator(listed.known(DATASETS))]
MethodId = Annotated[str, AfterValidator(listed.known(METHODS))]
Rates = tuple[float, ...]


class Strict(BaseModel):
    """What a sweep file says: no unknown field, no conversion, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Resources(Strict):
    """What one run occupies while it trains; never part of its identity."""

    cpus: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """May be a fraction, so that several runs share one."""

    @field_validator("gpus")
    @classmethod
    def _at_most_one(cls, gpus: float) -> float:
        if gpus > 1:
            raise ValueError("a run trains on one GPU at most; give 1 or a fraction")
        return gpus


ByModel = Annotated[dict[str, Resources], BeforeValidator(_per_model)]


class Block(Strict):
    """One product of models, datasets, methods, learning rates and seeds."""

    kind: Literal["finetune", "pretrain"] = "finetune"
    models: Annotated[list[ModelId], Field(min_length=1), AfterValidator(unique)]
    datasets: Annotated[list[DatasetId], AfterValidator(unique)] = []
    methods: Annotated[list[MethodId], AfterValidator(unique)] = []
    learning_rates: Annotated[Any, BeforeValidator(listed.learning_rates)] = "default"
    """`default` (the method's own list), a list, or {method or family: list}."""
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(unique)] = [0]
    epochs: Positive | None = None
    """None: the dataset's own number (paper, appendix A)."""
    batch_size: Positive = 32
    micro_batch: Positive = 16
    """Images a forward pass; the authors' code uses half a batch."""
    hyperparameters: Annotated[Any, BeforeValidator(listed.hyperparameters)] = {}
    """Values to try of methods' own numbers, {method: {name: list}}; else each one's default."""
    protocol: Literal["paper", "authors"] = "paper"
    """A preset of the next seven fields, each of which may be set by itself: see `PROTOCOLS`."""
    schedule: Literal["cosine_per_step", "cosine_per_epoch"] = "cosine_per_step"
    adamw_weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    sup_vit_normalization: Literal["own", "imagenet"] = "own"
    """Mean and std of Sup ViT's images: its weights' own 0.5, or ImageNet's."""
    waterbirds_selection: Literal["validation", "test"] = "validation"
    """`test`: test groups, weighted as in training, choose; the worst is of them and validation."""
    low_lr_proj: Literal["trained", "fixed"] = "trained"
    """Whether CLIP's projection moves where the embedding has a lower rate."""
    l2_sp: Literal["paper", "authors"] = "paper"
    """λ/2 over the pretrained tensors; or λ over all, the head too."""
    lp_ft_rate_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Times the rates of methods that start from a probe; None: the method's own, 0.1."""
    resize: Literal["short", "square"] = "short"
    """Living-17's test images and Waterbirds': short side, then the center; or both sides."""
    weights: Literal["pretrained", "random"] = "pretrained"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """bf16: autocast in forward passes; tf32 needs a GPU."""
    threads: Positive = 1
    evaluate: Annotated[Any, BeforeValidator(_evaluate)] = "table"
    images_per_split: Positive | None = None
    """At most so many images of training and of each split: to try things out."""
    keep: Keep = "none"
    """Weights that a finished run leaves: the selected epoch's, the last one's, or none."""
    select: Literal["best", "last"] = "best"
    """The epoch that stands for a run in tables: the best by ID validation, or its last one."""
    resources: Annotated[
        Annotated[Resources, Tag(FOR_ALL)] | Annotated[ByModel, Tag(PER_MODEL)],
        Discriminator(_resources_form),
        BeforeValidator(_not_empty),
    ] = Resources()
    """One for all runs, or {model: resources}; what a model leaves out comes from `default`."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("kind") == "pretrain":
            return values
        return {**PROTOCOLS.get(str(values.get("protocol")), {}), **values}

    @model_validator(mode="after")
    def _whole(self) -> Block:
        if self.micro_batch > self.batch_size:
            raise At(
                f"micro_batch ({self.micro_batch}) is larger than batch_size ({self.batch_size}); "
                "set it to at most batch_size",
                "micro_batch" if "micro_batch" in self.model_fields_set else "batch_size",
            )
        if self.kind == "pretrain":
            self._check_pretrain()
            return self
        self._check_precision()
        for field in ("datasets", "methods"):
            if not getattr(self, field):
                raise At("is missing or empty; name at least one", field)
        for dataset in map(DATASETS.__getitem__, self.datasets):
            if dataset.upstream:
                raise At(
                    f'"{dataset.id}" is for pretraining; name another',
                    "datasets",
                    self.datasets.index(dataset.id),
                )
            self._check_splits(dataset)
            self._check_size(dataset)
        self._check_methods()
        self._check_select()
        for method in map(METHODS.__getitem__, self.methods):
            self.rates(method, self.datasets[0])
        return self

    def _check_precision(self) -> None:
        lacking = [model for model in self.models if not self.resources_of(model).gpus]
        if self.precision == "tf32" and lacking:
            whose = (
                "" if isinstance(self.resources, Resources) else f', and "{lacking[0]}" has none'
            )
            raise At(
                f"tf32 needs a GPU{whose}; set `resources: {{gpus: 1}}`, or use fp32", "precision"
            )

    def _check_size(self, dataset: Dataset) -> None:
        """A model built for one size of image cannot train on another."""
        for model in map(MODELS.__getitem__, self.models):
            if model.published and dataset.side and model.image_size != dataset.side:
                raise At(
                    f"{model.id} takes images of {model.image_size} pixels and {dataset.id} gives "
                    f"{dataset.side}; leave one of them out",
                    "datasets",
                    self.datasets.index(dataset.id),
                )

    def _check_methods(self) -> None:
        for index, method in enumerate(map(METHODS.__getitem__, self.methods)):
            for wrong in filter(None, map(unresolved, method.references)):
                raise At(f"{method.id} names {wrong}; mend its plugin", "methods", index)
            for model in map(MODELS.__getitem__, self.models):
                if (reason := method.refuses(model)) is not None:
                    raise At(reason, "methods", index)

    def _check_select(self) -> None:
        if self.select == "last" and any(METHODS[m].kind != "finetune" for m in self.methods):
            raise At(
                "the epochs of a linear probe are regularisations, of which the best by ID "
                "validation counts; put it into a block of its own",
                "select",
            )

    def _check_pretrain(self) -> None:
        for field in sorted(self.model_fields_set - PRETRAIN_FIELDS):
            raise At(
                "a pretrain block takes only models and seeds, threads and resources: the model's "
                "recipe decides the rest; leave it out",
                field,
            )
        for model in self.models:
            if MODELS[model].recipe is None:
                raise At(
                    f'"{model}" has published weights; leave it out',
                    "models",
                    self.models.index(model),
                )

    def _check_splits(self, dataset: Dataset) -> None:
        if isinstance(self.evaluate, tuple):
            names = [split.name for split in dataset.splits]
            for split in self.evaluate:
                if split not in names:
                    raise At(
                        f'{dataset.id} has no split "{split}"; {nearest(split, names)}',
                        "evaluate",
                        self.evaluate.index(split),
                    )

    def resources_of(self, model: str) -> Resources:
        """What a run of `model` occupies: its own fields, then `default`'s."""
        if isinstance(self.resources, Resources):
            return self.resources
        given: dict[str, float] = {}
        for name in (DEFAULT, model):
            if (own := self.resources.get(name)) is not None:
                given |= {field: getattr(own, field) for field in own.model_fields_set}
        return Resources(**given)

    def rates(self, method: Method, dataset: str) -> Rates:
        """The learning rates of a method: its own entry, its family's, the list or its default.

        The method's factor is in them, but for a list that is meant for it alone.
        """
        given = self.learning_rates
        if method.kind == "linear_probe":
            return method.rates
        if isinstance(given, dict) and method.id in given:
            return tuple(given[method.id])
        if given == "default":
            if method.rates:
                return method.rates
            return self._scaled(method, method.learning_rates_on(dataset))
        if not isinstance(given, dict):
            return self._scaled(method, given)
        if method.family in given:
            return self._scaled(method, given[method.family])
        raise At(
            f'has no list for "{method.id}"; add one, or one for its family "{method.family}"',
            "learning_rates",
        )

    def _scaled(self, method: Method, rates: Rates) -> Rates:
        factor = method.rate_factor
        if method.starts_from == "probe" and self.lp_ft_rate_factor is not None:
            factor = self.lp_ft_rate_factor
        # Six digits: 3e-5 × 0.1 is the 3e-6 that a file would say.
        return tuple(rate if factor == 1 else float(f"{rate * factor:.6g}") for rate in rates)

    def tuned(self, method: Method) -> Iterator[tuple[tuple[str, float], ...]]:
        """Every combination of the method's hyperparameters, one empty one where it has none."""
        given = self.hyperparameters.get(method.id, {})
        return itertools.product(
            *(
                [(tuned.name, value) for value in given.get(tuned.name, (tuned.default,))]
                for tuned in method.hyperparameters
            )
        )


def blocks_of(file: yaml_file.YamlFile) -> tuple[str, list[Block]]:
    """A file's name and its checked blocks; raises `SpecError` with every complaint, one a line."""
    values = file.values
    if not isinstance(values, dict):
        found = "empty" if values is None else f"a {type(values).__name__}"
        raise SpecError(f"{file.name} is {found}; a sweep file is `field: value` lines.")
    top = dict(values)
    problems: list[str] = []
    name = top.pop("name", None)
    top.pop("tables", None)  # about numbers, not about runs: see `own_tables`
    if not isinstance(name, str) or not is_name(name):
        text = "is missing; add `name: my_sweep`" if name is None else "letters, digits, . _ - only"
        problems.append(file.problem(("name",), f"{text}."))
    grids: Any = top.pop("grids", [{}])
    prefixes: list[tuple[Any, ...]] = []
    if "grids" not in values:
        prefixes = [()]
    elif not _is_blocks(grids):
        problems.append(file.problem(("grids",), "must be a list of blocks, each `field: value`."))
        grids = []
    else:
        prefixes = [("grids", index) for index in range(len(grids))]
    blocks = []
    for prefix, block in zip(prefixes, grids, strict=True):
        try:
            blocks.append(Block.model_validate({**top, **block}))
        except ValidationError as error:
            problems += _explain(file, error, prefix, top.keys() - block.keys())
    if not problems:
        for field in STRANGERS:
            inherited = [field not in block for block in grids]
            problems += _strangers(file, field, blocks, prefixes, inherited)
    if problems:
        raise SpecError("\n".join(dict.fromkeys(problems)))
    return str(name), blocks


def _strangers(
    file: yaml_file.YamlFile,
    field: str,
    blocks: Sequence[Block],
    prefixes: Sequence[tuple[Any, ...]],
    inherited: Sequence[bool],
) -> Iterator[str]:
    """Models or methods that `field` names and no block it is for has."""
    whose, named_by = STRANGERS[field]
    above = {
        name
        for block, given in zip(blocks, inherited, strict=True)
        if given
        for name in getattr(block, whose)
    }
    for block, prefix, from_above in zip(blocks, prefixes, inherited, strict=True):
        known = above if from_above else set(getattr(block, whose))
        for name in named_by(block):
            if name not in known:
                place = (*(() if from_above else prefix), field, name)
                names = ", ".join(sorted(known))
                yield file.problem(place, f"is not one of `{whose}` ({names}); leave it out")


def _with_resources(block: Block) -> list[str]:
    named = () if isinstance(block.resources, Resources) else block.resources
    return [model for model in named if model != DEFAULT]


def _with_hyperparameters(block: Block) -> list[str]:
    return [*block.hyperparameters]


STRANGERS: dict[str, tuple[str, Callable[[Block], list[str]]]] = {
    "resources": ("models", _with_resources),
    "hyperparameters": ("methods", _with_hyperparameters),
}
"""Fields with an entry by name, and the list that the names must be in."""


def _is_blocks(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def is_name(text: str) -> bool:
    """Whether a sweep or a table can be called so."""
    return re.fullmatch(NAME, text) is not None


def _explain(
    file: yaml_file.YamlFile, error: ValidationError, prefix: tuple[Any, ...], above: set[Any]
) -> Iterator[str]:
    """Pydantic's findings as sentences where the field stands: in its block, or above it."""
    for found in error.errors():
        raised = found.get("ctx", {}).get("error")
        location = (*found["loc"], *(raised.location if isinstance(raised, At) else ()))
        location = tuple(part for part in location if part not in (FOR_ALL, PER_MODEL))
        inside = () if location and location[0] in above else prefix
        yield file.problem((*inside, *location), sentence(found))


_WANTED = {
    "list_type": "must be a list, such as [{0}]",
    "string_type": "must be a word, not {0!r}",
    "int_type": "must be a whole number, not {0!r}",
    "int_from_float": "must be a whole number, not {0!r}",
    "float_type": "must be a number, not {0!r}",
    "finite_number": "must be a finite number, not {0!r}",
    "model_type": "must be `field: value` pairs, not {0!r}",
    "dict_type": "must be `field: value` pairs, not {0!r}",
    "too_short": "is empty; give at least one",
    "missing": "is missing; add it",
}


def sentence(found: ErrorDetails, fields: Iterable[str] | None = None) -> str:
    """One of pydantic's findings, with its remedy; `fields`: of another model than `Block`."""
    kind, given, details = found["type"], found["input"], found.get("ctx", {})
    if kind == "extra_forbidden" and fields is None and found["loc"][-1] in TOP_FIELDS:
        return "belongs at the top of the file; move it there"
    if given is None and kind.endswith("_type"):
        return "is empty; give a value, or leave the line out"
    if kind == "extra_forbidden":
        if fields is None:
            inside = "resources" in found["loc"]
            fields = Resources.model_fields if inside else (*Block.model_fields, *TOP_FIELDS)
        return f"unknown field; {nearest(str(found['loc'][-1]), fields)}"
    if kind in _WANTED:
        return _WANTED[kind].format(given)
    if kind == "value_error":
        return str(details["error"])
    if kind in ("greater_than", "greater_than_equal"):
        least = details.get("gt", details.get("ge"))
        word = "more than" if "gt" in details else "at least"
        return f"{given!r} is too small; give {word} {least}"
    if kind == "less_than_equal":
        return f"{given!r} is too large; give at most {details['le']}"
    if kind == "literal_error":
        return f"{given!r} is not one of {details['expected']}; choose one"
    return f"{found['msg']}; got {given!r}"
