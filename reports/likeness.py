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
OF_THE_METHOD = {
    "lars": "LARS is layer-wise; the published runs' equals SGD with momentum",
    "sgd_low_lr_embed": "CLIP's projection is trained; the published runs never update it",
    "lp_ft_sgd": "learning rates are divided by 10; the published runs' are not",
    "lp_ft_adamw": "learning rates are divided by 10; the published runs' are not",
    "lp_ft_sgd_freeze_embed": "learning rates are divided by 10; the published runs' are not",
}
OF_THE_MODEL = {
    "vit_b16_in21k": "normalised as its weights were trained; the published runs by ImageNet's "
    "mean and deviation",
}
OF_THE_DATASET = {
    "waterbirds": "epoch and rate chosen on the validation set; the published runs' on the test "
    "groups",
}


@dataclass(frozen=True)
class Setting:
    """An identity field whose value the published runs shared."""

    name: str
    applies: Callable[[Run], bool]
    published: Callable[[Run], object]


SETTINGS = (
    Setting("schedule", lambda run: run.method not in NO_SCHEDULE, lambda run: "cosine_per_epoch"),
    Setting("weight_decay", lambda run: "adamw" in run.method, lambda run: 0.0),
    Setting("epochs", lambda run: run.dataset in EPOCHS, lambda run: EPOCHS[run.dataset]),
    Setting("batch_size", lambda run: True, lambda run: BATCH),
    Setting("clip_norm", lambda run: True, lambda run: None),
    Setting("precision", lambda run: True, lambda run: "fp32"),
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
        dataset = key[1]
        if any((r.data_fingerprint or "").startswith(MINIATURE) for r in self._study.members[key]):
            return f"runs of {dataset} had miniature data, not the real one"
        images = self._contents[key].images_per_split
        if images is not None:
            return f"at most {images:,} images of each split were used"
        return ""

    def weights(self, key: Key) -> str:
        """How a cell's runs started otherwise than the paper's; empty where they did not."""
        if self.imported(key):
            return ""
        given = self._contents[key].weights
        if given == "random":
            return "random weights; the paper's are pretrained"
        if given.startswith("run:") and key[0] not in PRETRAINED:
            return f"weights of {given}; the paper's are the publishers'"
        if len(self._weights.get(key[0], ())) > 1:
            return f"runs of {key[0]} started from weights of different checksums"
        return ""

    def protocol(self, key: Key) -> tuple[str, ...]:
        """Where a cell's settings are not the published runs'."""
        if self.imported(key):
            return ()
        run = self._contents[key]
        fields = tuple(
            f"{one.name} {getattr(run, one.name)}; the published runs' is {one.published(run)}"
            for one in SETTINGS
            if one.applies(run) and getattr(run, one.name) != one.published(run)
        )
        model, dataset, method = key
        known = (
            OF_THE_METHOD.get(method), OF_THE_MODEL.get(model), OF_THE_DATASET.get(dataset)
        )  # fmt: skip
        return (*fields, *(text for text in known if text))

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
            yield f"chosen by {cell.rule}; the published ones by ID validation"
        if self.imported(key):
            yield "imported, not measured here"

    def _tried(self, cell: Cell, seeds: int) -> Iterator[str]:
        if cell.seeds < seeds:
            yield f"{cell.seeds} of the paper's {seeds} seeds"
        runs = self._study.members[cell.model, cell.dataset, cell.method]
        rates = len({run.learning_rate for run in runs})
        if rates < RATES and cell.method != "linear_probe":
            yield f"{rates} of the paper's {RATES} learning rates tried"
