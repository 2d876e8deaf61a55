"""The tables as data: the paper's fourteen, its Figure 1b, and those that a sweep file declares.

Rows, columns, splits, baseline, bold blocks, deltas, intervals and averages are fields here;
`reports.tables` fills them with numbers. Layouts follow the paper's tables, titles its words.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from db.errors import ReportError

NEAR_BEST = 0.2
"""Percentage points: what counts as equal to the best of a block."""
AVERAGE = "avg"
"""The column, or the row's model, that is a mean of others."""
PRIOR = "best_prior_result"
"""The row of Table 3 whose numbers are other authors'."""

PAPER_MODELS: Mapping[str, str] = {
    "clip_vit_b16": "CLIP ViT-B/16",
    "clip_vit_l14": "CLIP ViT-L/14",
    "vit_b16_in21k": "Sup ViT-B/16",
    "dino_vit_b16": "DINO ViT-B/16",
    "convnext_b_in22k": "ConvNext-Base",
    "bit_r50_in21k": "BiT ResNet-50",
    "bit_r101_in21k": "BiT ResNet-101",
    "clip_vit_h14": "OpenCLIP ViT-H/14",
    "bit_r50_sgd": "BiT ResNet-50 (SGD)",
    "bit_r50_adamw": "BiT ResNet-50 (AdamW)",
    "bit_r50_patchify_sgd": "BiT ResNet-50 patchify (SGD)",
    "bit_r50_patchify_adamw": "BiT ResNet-50 patchify (AdamW)",
}
"""Models by id, in the paper's order, as its tables print them."""

PAPER_DATASETS: Mapping[str, str] = {
    "living17": "Living-17",
    "waterbirds": "Waterbirds",
    "domainnet": "DomainNet",
    "fmow": "FMoW",
    "camelyon17": "Camelyon17",
    "cifar10": "CIFAR-10",
}
"""Datasets by id, in the paper's order."""

PAPER_METHODS: Mapping[str, str] = {
    "sgd": "SGD",
    "adamw": "AdamW",
    "sgd_freeze_embed": "SGD (freeze-embed)",
    "sgd_freeze_embed_no_momentum": "SGD (freeze-embed, no momentum)",
    "adamw_freeze_embed": "AdamW (freeze-embed)",
    "gradual_unfreezing": "Gradual unfreezing",
    "sgd_freeze_embed_not_layernorm": "SGD (freeze-embed, not layer-norm)",
    "sgd_freeze_stem": "SGD (freeze-stem)",
    "sgd_low_lr_embed": "SGD (5x lower LR on embedding)",
    "linear_probe": "Linear probing",
    "lamb": "LAMB",
    "lars": "LARS",
    "lars_as_published": "LARS (as published)",
    "sgd_no_momentum": "SGD (no momentum)",
    "sgd_weight_decay": "SGD (weight decay)",
    "lp_ft_sgd": "LP-FT (SGD)",
    "lp_ft_adamw": "LP-FT (AdamW)",
    "lp_ft_sgd_freeze_embed": "LP-FT (SGD, freeze-embed)",
    "adam_spd": "Adam-SPD",
    "adamw_l2_sp": "AdamW (L2-SP)",
    PRIOR: "Best prior result",
}
"""Methods by id: those of Table 1, then Table 7's ablations, as the tables print them."""

PRIOR_RESULTS: Mapping[str, float] = {
    "living17": 87.6,
    "waterbirds": 89.3,
    "domainnet": 87.2,
    "fmow": 47.6,
    "camelyon17": 93.3,
}
"""OOD accuracies in percent, from other authors, as the paper's Table 3 cites them."""

Layout = Literal["datasets", "models", "summary", "sota"]
"""What the columns are.

`datasets`: rows of models and methods, a column a dataset and their average. `models`: rows of
methods, a column a model, for one dataset. `summary`: rows of methods, each averaged over the
models and datasets that all of them have. `sota`: the best of our cells against prior results.
"""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows among which the best is bold: every model with every method."""

    models: tuple[str, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A table that can be asked for. An empty tuple stands for whatever the runs have."""

    name: str
    title: str
    number: int | None = None
    """The paper's; its published figures are what a comparison compares with."""
    layout: Layout = "datasets"
    splits: tuple[str, ...] = ("ood",)
    """Each dataset, and the average, has a column for each."""
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    """A summary's: methods whose common cells are averaged over; others join that have them all."""
    blocks: tuple[Block, ...] = ()
    """Rows that are not one block a model, each with all `methods`."""
    baseline: str | None = "sgd"
    """The method of the same model that deltas are against; None: no deltas."""
    intervals: bool = True
    """Whether 90% intervals over seeds are printed, and decide what is bold."""
    bold: bool = True
    within: float = NEAR_BEST
    """Percentage points from the best that are bold too, where no interval decides."""
    average: bool = True
    note: str = ""
    kind: str = "finetune"
    """Of the runs it reads."""
    command: str = ""
    """What makes its runs."""
    lacks: str = ""
    """What of that this version of orch has not."""

    @property
    def exact(self) -> bool:
        """Whether its rows are fixed, not those that the runs have."""
        return bool(self.models or self.blocks)

    @property
    def heading(self) -> str:
        """The title, with the paper's number where the table has the paper's rows."""
        return f"Table {self.published}: {self.title}" if self.published else self.title

    @property
    def published(self) -> int | None:
        """The paper's number, where the table has exactly the paper's rows."""
        return self.number if self.exact else None


SPLIT_TITLES: Mapping[str, str] = {"id": "ID", "ood": "OOD", "id_test": "ID test"}
FIVE = tuple(name for name in PAPER_DATASETS if name != "cifar10")
SEVEN = tuple(PAPER_MODELS)[:7]
MAIN = ("sgd", "adamw", "sgd_freeze_embed", "sgd_freeze_embed_no_momentum")
ADAMW_FREEZE = ("sgd", "adamw", "sgd_freeze_embed", "adamw_freeze_embed")
ABLATIONS = (
    *MAIN, "gradual_unfreezing", "sgd_freeze_embed_not_layernorm", "sgd_low_lr_embed",
    "linear_probe", "lamb", "lars", "sgd_no_momentum", "sgd_weight_decay", "lp_ft_sgd",
    "lp_ft_adamw", "lp_ft_sgd_freeze_embed",
)  # fmt: skip
PRETRAINED = ("bit_r50_sgd", "bit_r50_adamw", "bit_r50_patchify_sgd", "bit_r50_patchify_adamw")
LABELLED = ("vit_b16_in21k", "convnext_b_in22k", "bit_r50_in21k", "bit_r101_in21k")
"""Pretrained with the labels of a superset of ImageNet, of which Living-17 is a part."""

WITH_ID_TEST = ("fmow", "cifar10")
"""Datasets with a test set in distribution that chose nothing; their miniatures have one, too."""

GRID = "orch launch sweeps/full_grid.yaml"
NO_FILE = "a sweep file"

_OOD = Declared(
    name="ood", number=1, title="Out-of-distribution accuracy (%)", splits=("ood",), command=GRID
)
_ID = Declared(
    name="id",
    number=2,
    title="In-distribution accuracy (%)",
    splits=("id",),
    command=GRID,
)


def _as_published(table: Declared, **changes: object) -> Declared:
    """The paper's rows of a table; its averages and 0.2 rule, as only Table 5 has intervals."""
    values = {"models": SEVEN, "datasets": FIVE, "methods": MAIN, "intervals": False, **changes}
    return replace(table, **values)  # type: ignore[arg-type]


def _both(
    number: int, name: str, title: str, *, command: str, lacks: str = "", **rows: object
) -> tuple[Declared, Declared]:
    """A table of the appendix for OOD, and its twin for ID with the next number."""
    made = tuple(
        _as_published(
            table,
            name=f"{name}-{table.name}",
            number=number + place,
            title=f"{title}: {table.title[0].lower()}{table.title[1:]}",
            command=command,
            lacks=lacks,
            **rows,
        )
        for place, table in enumerate((_OOD, replace(_ID, note="")))
    )
    return made[0], made[1]


NUMBERED: Mapping[int, Declared] = {
    table.number: table
    for table in (
        _as_published(_OOD),
        _as_published(_ID),
        Declared(
            name="sota",
            number=3,
            title="Best prior result and best result here, out of distribution (%)",
            layout="sota",
            models=SEVEN,
            datasets=FIVE,
            methods=MAIN[:3],
            baseline=None,
            intervals=False,
            average=False,
            note=(
                "Prior results are those that the paper cites. As in the paper, the best of our "
                "cells is picked by the OOD accuracy that is shown, so it is optimistic; SGD, "
                "AdamW and SGD (freeze-embed) compete, on Living-17, a part of ImageNet, without "
                "the models that were pretrained with its labels."
            ),
            command=GRID,
        ),
        Declared(
            name="memory",
            number=4,
            title="Peak GPU memory of a training step (GB)",
            layout="models",
            splits=("memory_gb",),
            models=("clip_vit_b16", "clip_vit_l14", "clip_vit_h14"),
            methods=("adamw", "sgd", "sgd_freeze_embed", "sgd_freeze_embed_no_momentum"),
            baseline=None,
            kind="memory",
            command="orch launch sweeps/memory.yaml",
            lacks=f"{NO_FILE} and a kind of run",
        ),
        _as_published(
            _OOD,
            name="clip",
            number=5,
            title="CLIP ViT-B/16 with 90% intervals over seeds (%)",
            splits=("id", "ood"),
            models=("clip_vit_b16",),
            methods=(*MAIN, "lamb", "lars"),
            baseline=None,
            intervals=True,
            command="orch launch sweeps/clip_ablations.yaml",
        ),
        Declared(
            name="cifar10",
            number=6,
            title="CIFAR-10 test accuracy (%)",
            layout="models",
            splits=("id_test",),
            models=SEVEN[:2],
            datasets=("cifar10",),
            methods=MAIN[:3],
            baseline=None,
            intervals=False,
            note="5,000 of the training images chose the epoch and the learning rate.",
            command="orch launch sweeps/cifar10.yaml",
        ),
        *_both(
            7,
            "ablations",
            "Ablations on CLIP ViT-B/16",
            models=SEVEN[:1],
            methods=ABLATIONS,
            baseline=None,
            command="orch launch sweeps/clip_ablations.yaml",
        ),
        *_both(
            9,
            "convnext",
            "Freezing the stem of ConvNext-Base",
            models=("convnext_b_in22k",),
            methods=(*MAIN[:3], "sgd_freeze_stem"),
            command="orch launch sweeps/convnext_stem.yaml",
        ),
        *_both(11, "adamw-freeze", "AdamW with freeze-embed", methods=ADAMW_FREEZE, command=GRID),
        *_both(
            13,
            "pretraining",
            "BiT ResNet-50 by the optimizer that pretrained it",
            models=PRETRAINED,
            methods=MAIN[:3],
            command="orch launch sweeps/pretraining.yaml",
        ),
    )
    if table.number is not None
}
"""The paper's tables with exactly its rows, columns and bold blocks."""

TABLES: Mapping[str, Declared] = {
    **{table.name: table for table in NUMBERED.values()},
    "ood": _OOD,
    "id": _ID,
    "id-test": Declared(
        name="id-test",
        title="Accuracy on the separate in-distribution test (%)",
        splits=("id_test",),
        note="Only datasets that have such a split are shown.",
        command=GRID,
    ),
    "summary": Declared(
        name="summary",
        title="Figure 1b: average accuracy (%)",
        layout="summary",
        splits=("id", "ood"),
        over=(*MAIN, "adamw_freeze_embed"),
        command=GRID,
    ),
}
"""What can be asked for by name; `ood` and `id` show whatever the runs have."""


def find(asked: str, own: Iterable[Declared] = ()) -> Declared:
    """The table of a name, or with the paper's number, or among a sweep's `own`.

    Raises `ReportError` with the nearest name and all there are.
    """
    if asked.isdecimal() and int(asked) in NUMBERED:
        return NUMBERED[int(asked)]
    names = {**TABLES, **{table.name: table for table in own}}
    if asked in names:
        return names[asked]
    close = difflib.get_close_matches(asked, names, n=1, cutoff=0.5)
    nearest = f'; did you mean "{close[0]}"?' if close else "."
    raise ReportError(
        f'there is no table "{asked}"{nearest} There are, by name: {", ".join(names)}; '
        f"by the paper's number: 1 to {max(NUMBERED)}."
    )
