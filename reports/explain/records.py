"""What an audit of a cell holds: plain data, in the order in which it is read.

Values and scores are in percent, unrounded; times in seconds since 1970.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Shared = Mapping[str, tuple[str, ...]]
"""{value: ids of the runs whose numbers were measured with it}: one entry where all agree."""


@dataclass(frozen=True)
class Number:
    """What a table prints of one split."""

    split: str
    metric: str
    value: float | None
    """Mean over seeds; None where no rate could be chosen, or the split was not evaluated."""
    ci90: float | None
    """Half-width of the 90% interval over seeds; None for one seed."""
    shown: str
    """One decimal, or a dash."""
    printed: str
    """The same with its interval and marks, without what compares it with other cells."""
    values: tuple[float, ...]
    """Of each chosen run, in the order of their seeds."""
    reason: str
    """Why there is no value; empty where there is one."""


@dataclass(frozen=True)
class RateAudit:
    """One learning rate (with its hyperparameters): how it competed."""

    learning_rate: float
    hyperparameters: Mapping[str, float]
    seeds: int
    """Runs with a score."""
    seeds_expected: int
    score: float | None
    """What rates compete by: the mean of the runs' scores, of those that there are."""
    values: Mapping[str, float]
    """Each split's mean at the runs' best epochs, where every one of them evaluated it."""
    competes: bool
    chosen: bool
    lacks: str
    """What keeps it from competing, such as `seed 1 failed`; empty where nothing is missing."""


@dataclass(frozen=True)
class ChoiceAudit:
    """The chosen rate, and how it stood against the others."""

    learning_rate: float
    hyperparameters: Mapping[str, float]
    score: float
    runner_up: RateAudit | None
    """None where no other rate competed."""
    margin: float | None
    """By how much its score is above the runner-up's, in points."""
    tied: tuple[RateAudit, ...]
    """The other rates with the same score, of which the smallest was taken."""
    edge: str
    """`low` or `high` where it ends the list of rates."""
    remedy: str
    """The command that tries rates beyond the edge; empty where none can."""


@dataclass(frozen=True)
class AttemptAudit:
    """One execution of a run."""

    number: int
    outcome: str | None
    """None while it goes on."""
    cause: str | None
    error: str | None
    """Its first line."""
    host: str | None
    device: str | None
    git_commit: str | None
    git_dirty: bool | None
    versions: Mapping[str, str]
    threads: int | None
    precision: str | None
    micro_batch: int | None
    """Images a forward pass really took."""
    resumed_from: int | None
    resumed_step: int | None
    irreproducible: bool
    """A later attempt measured other numbers."""
    contributes: bool
    """The run's numbers come from it: the last that began afresh, and those that went on."""


@dataclass(frozen=True)
class VoidAudit:
    """Numbers of a run that were taken out, and why."""

    voided: float
    reason: str
    state: str
    """What the run was before."""
    attempt: int
    """The number of its last attempt then."""
    epochs: int
    """Of training that were taken out."""


@dataclass(frozen=True)
class RunAudit:
    """One run of the cell: what it measured, whether it counts, and if not, why."""

    id: str
    learning_rate: float
    hyperparameters: Mapping[str, float]
    seed: int
    state: str
    source: str
    """Where an imported run came from, such as `import:paper`; empty: trained by `orch`."""
    sweeps: tuple[str, ...]
    extended: bool
    """Added by `orch extend`, not by a sweep's file."""
    epochs: int
    """Asked for."""
    epochs_stored: int
    best_epoch: int | None
    """By the rule; None where there is no score."""
    score: float | None
    """What the run competes with."""
    values: Mapping[str, float]
    """Each split at the best epoch."""
    last_epoch: int | None
    last: Mapping[str, float]
    oracle_epoch: int | None
    """The best by the `ood` split, which no honest choice can see."""
    oracle: Mapping[str, float]
    counts: bool
    """Whether it has a score and its rate competes."""
    chosen: bool
    """Whether the cell's number is a mean over it."""
    reason: str
    """Why it does not count; empty where it does."""
    attempts: tuple[AttemptAudit, ...]
    voids: tuple[VoidAudit, ...]


@dataclass(frozen=True)
class Alternative:
    """What another rule of choice would have given."""

    rule: str
    learning_rate: float | None
    hyperparameters: Mapping[str, float]
    epochs: tuple[int, ...]
    values: Mapping[str, float]
    differences: Mapping[str, float]
    """From the cell's own values, in points."""
    reason: str
    """Why it gives nothing; empty where it does."""


@dataclass(frozen=True)
class Difference:
    """A setting that is not the paper's."""

    setting: str
    here: str
    paper: str
    """Empty where the paper has nothing of the kind."""
    note: str = ""


@dataclass(frozen=True)
class VariantAudit:
    """One of several variants in a cell: what tells it from the others, and how to ask for it."""

    variant: str
    differs: Mapping[str, str]
    sweeps: tuple[str, ...]
    """Sweeps that ask for its runs."""
    choose: str
    """The option that chooses it."""
    runs: tuple[str, ...]
    n: int
    expected: int
    learning_rate: float | None
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Audit:
    """Everything that makes a cell's number."""

    model: str
    dataset: str
    method: str
    sweep: str | None
    """The sweep that was asked for; None: all."""
    sweeps: tuple[str, ...]
    """The sweeps that ask for its runs, the one launched last first."""
    launched: str | None
    """The one of them that would train more, and asks for most of the runs; None: all imported."""
    rule: str
    partial: bool
    """Whether rates that lack seeds compete."""
    miniature: bool
    """Its data was generated in the real one's place."""
    why: tuple[str, ...]
    """The choice and its flaws, in sentences."""
    variants: tuple[VariantAudit, ...] = ()
    """Where there are several, nothing below is filled: one number cannot stand for them."""
    numbers: tuple[Number, ...] = ()
    choice: ChoiceAudit | None = None
    n: int = 0
    """Runs that are final."""
    expected: int = 0
    seeds: int = 0
    """Seeds that the numbers are means over."""
    seeds_expected: int = 0
    rates_competing: int = 0
    rates_expected: int = 0
    rates: tuple[RateAudit, ...] = ()
    runs: tuple[RunAudit, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    provenance: Mapping[str, Shared] = field(default_factory=dict)
    """Of every run that has a score: commit, host, device, threads, precision, data, weights…"""
    versions: Mapping[str, Shared] = field(default_factory=dict)
    """By package."""
    events: tuple[str, ...] = ()
    """What happened on the way, in sentences: resumes, failures, less memory than needed."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """The fields that every run of the cell shares."""
    differences: tuple[Difference, ...] = ()
    """From the paper's protocol."""
    published: tuple[str, ...] = ()
    """From the runs behind the published figures, which are those of the authors' code."""

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return dataclasses.asdict(self)
