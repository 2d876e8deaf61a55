"""The plain, frozen records that every room shares: runs, what their epochs measured, attempts.

A `Run` is everything that decides a training's numbers and nothing else. Its id is a hash of that
content, so two sweeps that need the same training share it, and a changed setting is another run.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

State = Literal["pending", "running", "done", "diverged", "failed", "cancelled", "voided"]
RESULTS: tuple[State, ...] = ("done", "diverged")
"""States whose numbers count in tables."""
FINAL_STATES: tuple[State, ...] = (*RESULTS, "failed", "cancelled", "voided")
"""States that no launch changes by itself; `orch runs retry` makes the last three pending again."""

Cause = Literal[
    "diverged", "bug", "out_of_memory", "bad_data", "environment", "process_death", "disk_full"
]
"""Why an attempt ended without being done.

`environment`: the machine lacks what the run asks for. `process_death`: killed, preempted, or its
node was lost.
"""

# Fields that joined `Run` after the first release, each with the value that means "as before".
# They are left out of the hash while they hold it, so that ids of stored runs never change.
ADDED_LATER: Mapping[str, object] = {
    "images_per_split": None,
    "source": "",
    "sup_vit_normalization": "own",
    "waterbirds_selection": "validation",
    "resize": "short",
    "low_lr_proj": "trained",
    "l2_sp": "paper",
    "method_code": "",
    "head": "new",
}

# What a cell of a table is chosen over (PROTOCOL: learning rate, tuned hyperparameters, seeds).
# Every other identity field is part of the cell's variant.
CHOSEN_OVER = ("learning_rate", "hyperparameters", "seed")
CELL = ("model", "dataset", "method")
_NOT_VARIANT = frozenset((*CELL, *CHOSEN_OVER))


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: object) -> str:
    """The one spelling of a value: sorted keys, no spaces, shortest exact floats."""
    return _ENCODER.encode(value)


def digest(value: object, length: int = 16) -> str:
    """`length` hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return _digest(canonical_json(value), length)


def _digest(text: str, length: int = 16) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@functools.lru_cache(maxsize=4096, typed=True)  # typed: 1 and 1.0 are spelled differently
def _variant(names: tuple[str, ...], *values: object) -> str:
    return digest(dict(zip(names, values, strict=True)), 8)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training to do.

    `weights` says where training starts: `random`, `pretrained` (the library's own weights of the
    model) or `run:<id>` (the artifact of a `pretrain` run, which must be done first).
    """

    kind: str
    model: str
    dataset: str
    method: str
    learning_rate: float
    seed: int
    epochs: int
    batch_size: int
    micro_batch: int
    """Images a forward pass; a batch's gradient is the exact mean over its micro-batches."""
    weight_decay: float
    schedule: str
    """`cosine_per_step` (the paper) or `cosine_per_epoch` (the authors' code)."""
    clip_norm: float | None
    """Largest gradient norm, or None for no clipping (fine-tuning never clips)."""
    weights: str
    precision: str
    threads: int
    """CPU threads of one run: another count sums in another order, so it is part of identity."""
    evaluate: tuple[str, ...]
    """Splits evaluated before training and after every epoch, in this order."""
    evaluate_on_improvement: tuple[str, ...] = ()
    """Splits evaluated only when the selection score improves, and after the last epoch."""
    hyperparameters: tuple[tuple[str, float], ...] = ()
    images_per_split: int | None = None
    """At most so many images of training and of each split: to try things out."""
    source: str = ""
    """Where numbers come from that orch did not measure, such as `import:paper`; else empty.

    Part of the variant, so that imported numbers and trained ones never meet in a cell.
    """
    # Where the paper and its authors' code differ (PROTOCOL section 6); each field has its neutral
    # value in runs that it makes no difference to.
    sup_vit_normalization: str = "own"
    """The weights' `own` mean and std, or `imagenet`'s (the authors' code)."""
    waterbirds_selection: str = "validation"
    """Images that epochs and rates are chosen on: `validation`, or `test` (the authors' code)."""
    resize: str = "short"
    """Of Living-17's test images and Waterbirds': the `short` side, or both (`square`)."""
    low_lr_proj: str = "trained"
    """CLIP's projection beside an embedding at a lower rate; `fixed` in the authors' code."""
    l2_sp: str = "paper"
    """The form of the penalty: `paper` or `authors`."""
    method_code: str = ""
    """A hash of the code of a method that a plugin declares; empty: the project's own."""
    head: str = "new"
    """Where the classification head starts: `new`, or `probe:<id>/<variant>`, the head that a run
    of kind `linear_probe` left, which must be done first. Of the two, the variant alone is part of
    this run's: probes of other seeds have other ids.
    """
    kind_version: int = 1
    model_version: int = 1
    dataset_version: int = 1
    method_version: int = 1

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits, a hash of the resolved content."""
        return _digest(self.spelled)

    @cached_property
    def variant(self) -> str:
        """8 digits that tell apart runs which must never share a cell of a table."""
        own = self.__dict__  # of 100,000 runs the id and variant are asked: looked up, not called
        names = tuple(
            name
            for name in self.__dataclass_fields__
            if name not in _NOT_VARIANT
            and (name not in ADDED_LATER or own[name] != ADDED_LATER[name])
        )
        values = [own[name] for name in names]
        if "head" in names:
            values[names.index("head")] = self.head.partition("/")[2]
        return _variant(names, *values)

    @cached_property
    def spelled(self) -> str:
        """The content as canonical JSON, which is what the id is a hash of."""
        return canonical_json(self.content())

    @property
    def spelled_hyperparameters(self) -> str:
        """The tuned values as canonical JSON, `{}` where nothing is tuned."""
        return canonical_json(dict(self.hyperparameters)) if self.hyperparameters else "{}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the runs that must be done before this one can start."""
        return tuple(need for need in (self.pretraining, self.probe) if need is not None)

    @property
    def pretraining(self) -> str | None:
        """The id of the `pretrain` run whose weights the run starts from, where there is one."""
        return self.weights[4:] if self.weights.startswith("run:") else None

    @property
    def probe(self) -> str | None:
        """The id of the linear probe whose head the run starts from; None: a new head."""
        probe = self.head.removeprefix("probe:").partition("/")[0]
        return None if self.head == "new" else probe

    def content(self) -> dict[str, Any]:
        """The identity as plain JSON values, without later fields at their neutral value."""
        own = self.__dict__
        values = {name: own[name] for name in self.__dataclass_fields__}
        for name, neutral in ADDED_LATER.items():
            if values[name] == neutral:
                del values[name]
        return values

    @classmethod
    def from_content(cls, content: Mapping[str, Any], **known: str) -> Run:
        """The inverse of `content`, from JSON (where tuples are lists).

        `known` are the `id` and `variant`, where they need not be computed again.
        """
        values = dict(content)
        values["evaluate"] = tuple(values["evaluate"])
        values["evaluate_on_improvement"] = tuple(values["evaluate_on_improvement"])
        values["hyperparameters"] = tuple((k, v) for k, v in values["hyperparameters"])
        run = cls(**values)
        run.__dict__.update(known)
        return run

    def __str__(self) -> str:
        rate = "" if self.kind == "linear_probe" else f" lr={self.learning_rate:g}"
        return f"{self.model} {self.dataset} {self.method}{rate} s{self.seed}"


@dataclass(frozen=True)
class Metric:
    """One number of one split. `group` is empty for the split's headline metric.

    `value` is a fraction in [0, 1]; `correct` of `n` images where the value is a plain share.
    """

    split: str
    group: str
    metric: str
    value: float
    correct: int | None
    n: int | None


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch measured; epoch 0 is the evaluation before training, never selectable."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    learning_rate: float
    """At the epoch's end."""
    metrics: tuple[Metric, ...]
    seconds: float = 0.0
    images_per_second: float = 0.0

    def measured(self) -> tuple[object, ...]:
        """Everything but the clock: what a repetition on the same machine must repeat exactly."""
        metrics = tuple(
            sorted((m.split, m.group, m.metric, m.value, m.correct, m.n) for m in self.metrics)
        )
        return (self.epoch, self.train_loss, self.train_accuracy, self.learning_rate, metrics)

    def not_finite(self) -> str:
        """The first number that is NaN or infinite, in words; empty where all are finite.

        No store keeps such a record: engines differ in what NaN is, and it would win a selection.
        """
        named: dict[str, float | None] = {
            f"{m.metric} of the split {' '.join((m.split, m.group)).strip()}": m.value
            for m in self.metrics
        }
        named |= {"training loss": self.train_loss, "training accuracy": self.train_accuracy}
        for name, value in named.items():
            if value is not None and not math.isfinite(value):
                return f"the {name} of epoch {self.epoch} is {value}"
        return ""

    def headline(self, split: str) -> float | None:
        """The value of a split's headline metric, None where it was not evaluated."""
        return next((m.value for m in self.metrics if m.split == split and not m.group), None)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EpochRecord:
        """The inverse of `dataclasses.asdict`, from JSON."""
        return cls(**{**values, "metrics": tuple(Metric(**m) for m in values["metrics"])})


HEAD_NAME = "head.safetensors"
"""The artifact of a linear probe that runs start from, and its file in the probe's folder."""
KEPT_NAMES = ("best", "last")
"""Artifacts that a sweep asked a run to keep (`keep:`); other runs start from none of them."""


@dataclass(frozen=True)
class Artifact:
    """A file that a run leaves for others; `path` is relative to the runs folder."""

    name: str
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Provenance:
    """Where an attempt runs and on what: recorded, never part of identity."""

    host: str = ""
    device: str = ""
    data_fingerprint: str = ""
    weights_sha256: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    node: str = ""
    """Of the Ray cluster, where there is one: several may be on one host."""
    threads: int | None = None
    precision: str = ""
    micro_batch: int | None = None
    """Images a forward pass really took: less than the run's after memory ran out."""


@dataclass(frozen=True)
class Claim:
    """The right to train a run, until another attempt claims it with a higher fence."""

    run: Run
    run_key: int
    fence: int
    data_fingerprint: str | None = None
    """Of the first attempt; another one is refused."""
    weights_sha256: str | None = None
    head_sha256: str | None = None
    """Of the head that the run's linear probe left; another one is refused."""


@dataclass(frozen=True)
class StoredRun:
    """A run as the store has it."""

    run: Run
    key: int
    state: State
    attempts: int
    error: str | None
    """Of the last attempt."""
    requested: bool = True
    """False for what other runs need (pretraining)."""
    data_fingerprint: str | None = None
    """Of the data that its first attempt trained on."""
    weights_sha256: str | None = None
    """Of the weights that training starts from; empty: random ones."""
    cause: Cause | None = None
    """Of the last attempt's end, where it was not done."""
    void_reason: str | None = None
    """Why the run's numbers count no more, of a voided one."""
    extended: bool = False
    """Added to the sweep by `orch extend`, not by its file."""

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.id

    @property
    def brief(self) -> RunBrief:
        """What selection needs of it."""
        run = self.run
        return RunBrief(
            self.key, run.id, run.kind, run.model, run.dataset, run.method, run.learning_rate,
            run.spelled_hyperparameters, run.seed, run.variant, run.epochs, self.state,
            self.data_fingerprint, self.weights_sha256,
        )  # fmt: skip


class RunBrief(NamedTuple):
    """What choosing and tabulating need of a run: the columns of the store, no more.

    A hundred thousand of them are read in a fraction of the time that as many `StoredRun` take.
    """

    key: int
    id: str
    kind: str
    model: str
    dataset: str
    method: str
    learning_rate: float
    hyperparameters: str
    """As canonical JSON, `{}` where nothing is tuned."""
    seed: int
    variant: str
    epochs: int
    state: State
    data_fingerprint: str | None
    weights_sha256: str | None
    last: bool = False
    """Whether the sweep has the last epoch stand for it, not the best."""

    @property
    def cell(self) -> tuple[str, str, str]:
        """Model, dataset, method."""
        return self.model, self.dataset, self.method


@dataclass(frozen=True)
class Attempt:
    """One execution of a run, times in seconds since 1970."""

    number: int
    host: str | None
    pid: int
    device: str | None
    git_commit: str | None
    git_dirty: bool | None
    versions: Mapping[str, str]
    claimed: float
    started: float | None
    ended: float | None
    resumed_from: int | None
    outcome: str | None
    irreproducible: bool
    error: str | None
    traceback: str | None
    peak_memory: int | None
    cause: Cause | None = None
    node: str | None = None
    threads: int | None = None
    precision: str | None = None
    micro_batch: int | None = None
    """Images a forward pass really took."""
    resumed_step: int | None = None
    """Steps of the epoch after `resumed_from` that the checkpoint already had."""
    data_fingerprint: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True)
class Void:
    """Numbers that were taken out of every table, with why; `history` is what they were."""

    voided: float
    reason: str
    state: State
    """What the run was before."""
    attempt: int
    """The number of its last attempt then."""
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class SweepInfo:
    """A sweep as it was launched last, or imported."""

    name: str
    yaml: str
    """Empty where its numbers were imported: then there is no file, and nothing to train."""
    created: float

    @property
    def imported(self) -> bool:
        """Whether it came without a sweep file."""
        return not self.yaml
