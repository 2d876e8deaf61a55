"""How the runs of a cell differ from those behind the published figures.

The published runs are those of the authors' code (PROTOCOL section 6), not of the paper's text.
What is told here is what the store knows; of an imported number it knows little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from db.records import Run
from reports.declared import PRETRAINED
from reports.select import Cell, Key
from reports.study import MINIATURE, Study

EPOCHS = {
    "living17": 20, "waterbirds": 20, "domainnet": 50, "fmow": 5, "camelyon17": 3, "cifar10": 20,
}  # fmt: skip
BATCH = 32
RATES = 6
"""How many learning rates the published runs of a method tried, at least."""
SEEDS = 3
"""… and seeds, where the paper prints an interval."""
NO_SCHEDULE = ("linear_probe", "gradual_unfreezing")
"""Methods whose learning rate follows no cosine."""
LP_FT = "lp_ft_"
"""How the methods begin that start from a linear probe."""


@dataclass(frozen=True)
class Setting:
    """An identity field whose value the published runs shared."""

    name: str
    applies: Callable[[Run], bool]
    published: Callable[[Run], object]


SETTINGS = (
    Setting(
        "schedule",
        lambda run: run.method not in NO_SCHEDULE,
        lambda run: "cosine_per_epoch",
    ),
    Setting("weight_decay", lambda run: "adamw" in run.method, lambda run: 0.0),
    Setting("epochs", lambda run: run.dataset in EPOCHS, lambda run: EPOCHS[run.dataset]),
    Setting("batch_size", lambda run: True, lambda run: BATCH),
    Setting("clip_norm", lambda run: True, lambda run: None),
    Setting("precision", lambda run: True, lambda run: "fp32"),
    Setting("resize", lambda run: run.dataset in ("living17", "waterbirds"), lambda run: "short"),
    Setting(
        "sup_vit_normalization",
        lambda run: run.model == "vit_b16_in21k",
        lambda run: "imagenet",
    ),
    Setting("waterbirds_selection", lambda run: run.dataset == "waterbirds", lambda run: "test"),
    Setting("low_lr_proj", lambda run: run.method == "sgd_low_lr_embed", lambda run: "fixed"),
)


class Likeness:
    """What stands between a study's cells and the published figures; reads the store once."""

    def __init__(self, study: Study) -> None:
        self._study = study

    @cached_property
    def _contents(self) -> Mapping[Key, Run]:
        """One run of each cell: those of a cell differ in nothing that is asked here."""
        first = {key: runs[0].key for key, runs in self._study.members.items()}
        found = self._study.reader.contents([*first.values()])
        return {key: found[run_key] for key, run_key in first.items()}

    @cached_property
    def _weights(self) -> Mapping[str, frozenset[str]]:
        """The checksums of the published weights that each model's runs started from."""
        found: dict[str, set[str]] = {}
        for key, runs in self._study.members.items():
            if self._contents[key].weights == "pretrained":
                found.setdefault(key[0], set()).update(r.weights_sha256 or "" for r in runs)
        return {model: frozenset(sums - {""}) for model, sums in found.items()}

    def imported(self, key: Key) -> bool:
        """Whether a cell's numbers were not measured here."""
        return self._contents[key].source != ""

    def miniature(self, key: Key) -> str:
        """Why a cell is no measurement on the real data; empty where it is one."""
        if any((r.data_fingerprint or "").startswith(MINIATURE) for r in self._study.members[key]):
            return "miniature data, not the real one"
        images = self._contents[key].images_per_split
        return "" if images is None else f"at most {images:,} images of each split"

    def weights(self, key: Key) -> str:
        """How a cell's runs started otherwise than the paper's; empty where they did not."""
        if self.imported(key):
            return ""
        given = self._contents[key].weights
        if given == "random":
            return "random weights, not pretrained ones"
        if given.startswith("run:") and key[0] not in PRETRAINED:
            return f"weights of {given}, not the published ones"
        return ""

    def checksums(self, key: Key) -> str:
        """Whether a model's runs started from several files of weights; empty where not."""
        several = len(self._weights.get(key[0], ())) > 1
        return f"weights of different checksums among the runs of {key[0]}" if several else ""

    def protocol(self, key: Key) -> Iterator[str]:
        """Where a cell's settings are not the published runs'."""
        if self.imported(key):
            return
        run = self._contents[key]
        for one in SETTINGS:
            here, there = getattr(run, one.name), one.published(run)
            if one.applies(run) and here != there:
                yield f"{one.name}: {here} here, {there} in the published runs"
        if run.method == "lars":
            yield "LARS: layer-wise here, equal to SGD with momentum in the published runs"
        if run.method.startswith(LP_FT) and self._divided(key):
            yield "learning rates: divided by 10 here, not in the published runs"

    def _divided(self, key: Key) -> bool:
        """Whether the rates of a cell stay below the undivided list's last one."""
        last = 1e-4 if "adamw" in key[2] else 1e-2
        return max(run.learning_rate for run in self._study.members[key]) < 0.5 * last

    def choice(self, cell: Cell, seeds: int = 1) -> Iterator[str]:
        """What a cell's own choice leaves open, where the published one averages `seeds`."""
        key = (cell.model, cell.dataset, cell.method)
        if cell.edge:
            place = {"low": "lowest", "high": "highest"}[cell.edge]
            yield f"the best rate is the {place} tried; `orch extend --edges` adds the next"
        if not self.imported(key):
            yield from self._tried(cell, seeds)
        if cell.partial:
            yield f"{cell.n} of {cell.expected} runs are finished"
        if cell.diverged:
            yield "a chosen run diverged"
        if cell.rule != "id_val":
            yield f"chosen by {cell.rule} here, by ID validation in the published runs"
        if self.imported(key):
            yield "imported, not measured here"

    def _tried(self, cell: Cell, seeds: int) -> Iterator[str]:
        if cell.seeds < seeds:
            yield f"{cell.seeds} of the paper's {seeds} seeds"
        runs = self._study.members[cell.model, cell.dataset, cell.method]
        rates = len({run.learning_rate for run in runs})
        if rates < RATES and cell.method != "linear_probe":
            yield f"{rates} of the paper's {RATES} learning rates tried"
