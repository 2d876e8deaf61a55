"""What the paper claims, as contrasts of accuracies that a store can be asked for.

Sources: PROTOCOL section 5; the paper's Tables 1-14. A claim says that an effect, the mean of a
contrast over models and datasets, lies in a region; docs/claims.md tells how that is judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from reports import published
from reports.declared import FIVE, NUMBERED, PRETRAINED, PRIOR, SEVEN, Declared
from reports.select import Key

MARGIN = 2.0
"""Points below which a difference counts as none: half of the paper's own gap out of distribution
(AdamW 76.0, SGD 72.0, mean over 35 cells)."""
MODERN = SEVEN[:5]
BIT = SEVEN[5:]
CLIP = SEVEN[:1]
Family = Literal["modern", "bit", "any"]


@dataclass(frozen=True)
class Part:
    """An accuracy in a contrast: its weight, and of which method, split and side it is."""

    weight: float
    method: str
    split: str = "ood"
    side: int = 0
    """Which of the models that are compared: one group of a claim may have two."""


Sides = tuple[tuple[str, ...], ...]
"""The models of each side, whose accuracies are averaged."""
Term = tuple[float, Key, str]
"""Weight, cell, split."""


@dataclass(frozen=True)
class Unit:
    """One of the contrasts whose mean is the effect; the bootstrap draws them again."""

    name: str
    terms: tuple[Term, ...]
    shift: float = 0.0
    """Added: a published number that ours is compared with."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the paper with the effect it speaks of and where that should lie."""

    id: str
    section: str
    sentence: str
    tables: tuple[int, ...] = ()
    """Of the paper, that print the figures; the first one names the command for its runs."""
    parts: tuple[Part, ...] = ()
    groups: tuple[Sides, ...] = ()
    """The contrast is taken of each group, on each dataset."""
    low: float = 0.0
    high: float = math.inf
    """The effect, in points, that the claim expects lies between the two."""
    families: tuple[Family, ...] = ()
    """Of each side: which models stand in for the paper's in a rehearsal; none: no rehearsal."""
    swap: tuple[str, str] | None = None
    """In a rehearsal of two sides: what in the first model's id becomes what in the second's."""
    prior: bool = False
    """Against the best prior results of Table 3, with the models and methods named there."""
    kind: str = "finetune"
    """Of the runs that measure it."""
    printed: str = ""
    """The published effect, where it is not of accuracies."""
    figures: str = ""
    """Where the paper shows it, if not in a table."""

    @property
    def source(self) -> str:
        """Where the paper shows it."""
        numbers = ", ".join(map(str, self.tables))
        plural = "s" if len(self.tables) > 1 else ""
        return self.figures or f"Table{plural} {numbers}"

    @property
    def table(self) -> Declared | None:
        """The declared table that shows the same numbers."""
        return NUMBERED[self.tables[0]] if self.tables else None

    @property
    def command(self) -> str:
        """What makes the runs."""
        return self.table.command if self.table else f"orch launch sweeps/{self.kind}.yaml"

    @property
    def lacks(self) -> str:
        """What `command` needs that this version of orch has not."""
        missing = f"that sweep file and the kind of run `{self.kind}`"
        return self.table.lacks if self.table else missing

    def units(self) -> tuple[Unit, ...]:
        """The contrasts on the paper's models and datasets; none for another kind of run."""
        if self.prior:
            return tuple(_beyond_prior())
        return tuple(contrasts(self.parts, self.groups, FIVE))

    @property
    def published(self) -> float | None:
        """The effect of the figures that the paper prints, in points."""
        units = self.units()
        figures = published.by_place()
        values = [
            math.fsum(w * (figures[*key, split].value or math.nan) for w, key, split in unit.terms)
            + unit.shift
            for unit in units
        ]
        return math.fsum(values) / len(values) if values else None


def contrasts(
    parts: tuple[Part, ...], groups: tuple[Sides, ...], datasets: tuple[str, ...]
) -> Iterator[Unit]:
    """One unit a group and dataset."""
    for sides in groups:
        named = " / ".join("+".join(models) for models in sides)
        for dataset in datasets:
            yield Unit(
                f"{named} {dataset}",
                tuple(
                    (part.weight / len(sides[part.side]), (model, dataset, part.method), part.split)
                    for part in parts
                    for model in sides[part.side]
                ),
            )


def _beyond_prior() -> Iterator[Unit]:
    """Table 3: the paper's best cell of each dataset, less the best prior result."""
    figures = published.table(3)
    prior = {f.dataset: f.value for f in figures if f.method == PRIOR}
    for figure in figures:
        before = prior[figure.dataset]
        if figure.method != PRIOR and before is not None:
            key = (figure.model, figure.dataset, figure.method)
            yield Unit(f"{figure.model} {figure.dataset}", ((1.0, key, "ood"),), -before)


def _each(models: tuple[str, ...]) -> tuple[Sides, ...]:
    return tuple(((model,),) for model in models)


def _less(method: str, other: str, split: str = "ood", side: int = 0) -> tuple[Part, ...]:
    return Part(1.0, method, split, side), Part(-1.0, other, split, side)


def _minus(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(Part(-p.weight, p.method, p.split, p.side) for p in parts)


def _beyond_half(method: str) -> tuple[Part, ...]:
    """How far a method is above the middle between SGD and AdamW."""
    return Part(1.0, method), Part(-0.5, "sgd"), Part(-0.5, "adamw")


FREEZE = "sgd_freeze_embed"
NO_MOMENTUM = "sgd_freeze_embed_no_momentum"
GAP = _less("adamw", "sgd")
OOD, ID = "Out of distribution", "In distribution"
LAYERWISE, ABLATIONS = "LAMB and LARS", "Ablations"
PRETRAINING, OTHERS = "Pretraining", "Memory and gradients"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="adamw-beats-sgd",
        section=OOD,
        sentence="AdamW beats SGD on the modern models (CLIP, ViT, DINO, ConvNeXt).",
        tables=(1,),
        parts=GAP,
        groups=_each(MODERN),
        families=("modern",),
    ),
    Claim(
        id="no-gap-on-bit",
        section=OOD,
        sentence="On BiT ResNets AdamW and SGD are alike.",
        tables=(1,),
        parts=GAP,
        groups=_each(BIT),
        low=-MARGIN,
        high=MARGIN,
        families=("bit",),
    ),
    Claim(
        id="gap-is-modern",
        section=OOD,
        sentence="AdamW's gain over SGD is larger on modern models than on BiT.",
        tables=(1,),
        parts=(*GAP, *_minus(_less("adamw", "sgd", side=1))),
        groups=((MODERN, BIT),),
        families=("modern", "bit"),
    ),
    Claim(
        id="freeze-embed-beats-sgd",
        section=OOD,
        sentence="Freezing the embedding layer improves SGD.",
        tables=(1,),
        parts=_less(FREEZE, "sgd"),
        groups=_each(SEVEN),
        families=("any",),
    ),
    Claim(
        id="freeze-embed-closes-gap",
        section=OOD,
        sentence="SGD (freeze-embed) is as good as AdamW, or better.",
        tables=(1,),
        parts=_less(FREEZE, "adamw"),
        groups=_each(SEVEN),
        low=-MARGIN,
        families=("any",),
    ),
    Claim(
        id="no-momentum-closes-gap",
        section=OOD,
        sentence="Without momentum SGD (freeze-embed) is still as good as AdamW, or better.",
        tables=(1,),
        parts=_less(NO_MOMENTUM, "adamw"),
        groups=_each(SEVEN),
        low=-MARGIN,
        families=("any",),
    ),
    Claim(
        id="adamw-freeze-embed",
        section=OOD,
        sentence="AdamW loses nothing when its embedding layer is frozen.",
        tables=(11,),
        parts=_less("adamw_freeze_embed", "adamw"),
        groups=_each(SEVEN),
        low=-MARGIN,
        families=("any",),
    ),
    Claim(
        id="freeze-embed-is-for-sgd",
        section=OOD,
        sentence="Freezing the embedding layer helps SGD more than AdamW.",
        tables=(11,),
        parts=(*_less(FREEZE, "sgd"), *_minus(_less("adamw_freeze_embed", "adamw"))),
        groups=_each(SEVEN),
        families=("any",),
    ),
    Claim(
        id="state-of-the-art",
        section=OOD,
        sentence="The paper's best cells beat the best results published before them.",
        tables=(3,),
        prior=True,
    ),
    Claim(
        id="id-differs-little",
        section=ID,
        sentence="AdamW and SGD differ little.",
        tables=(2,),
        parts=_less("adamw", "sgd", "id"),
        groups=_each(SEVEN),
        low=-MARGIN,
        high=MARGIN,
        families=("any",),
    ),
    Claim(
        id="id-freeze-embed",
        section=ID,
        sentence="SGD (freeze-embed) and AdamW differ little.",
        tables=(2,),
        parts=_less(FREEZE, "adamw", "id"),
        groups=_each(SEVEN),
        low=-MARGIN,
        high=MARGIN,
        families=("any",),
    ),
    Claim(
        id="gap-is-ood",
        section=ID,
        sentence="AdamW's gain over SGD is larger out of distribution than in distribution.",
        tables=(1, 2),
        parts=(*GAP, *_minus(_less("adamw", "sgd", "id"))),
        groups=_each(SEVEN),
        families=("any",),
    ),
    Claim(
        id="lamb-leaves-gap",
        section=LAYERWISE,
        sentence="LAMB does not close the gap: AdamW beats it out of distribution.",
        tables=(5, 7),
        parts=_less("adamw", "lamb"),
        groups=_each(CLIP),
        families=("modern",),
    ),
    Claim(
        id="lars-leaves-gap",
        section=LAYERWISE,
        sentence="LARS does not close the gap: AdamW beats it out of distribution.",
        tables=(5, 7),
        parts=_less("adamw", "lars"),
        groups=_each(CLIP),
        families=("modern",),
    ),
    Claim(
        id="no-momentum-alone",
        section=ABLATIONS,
        sentence="Leaving momentum out, and freezing nothing, closes less than half of the gap.",
        tables=(7,),
        parts=_beyond_half("sgd_no_momentum"),
        groups=_each(CLIP),
        low=-math.inf,
        high=0.0,
        families=("modern",),
    ),
    Claim(
        id="weight-decay-alone",
        section=ABLATIONS,
        sentence="Weight decay, with nothing frozen, closes less than half of the gap.",
        tables=(7,),
        parts=_beyond_half("sgd_weight_decay"),
        groups=_each(CLIP),
        low=-math.inf,
        high=0.0,
        families=("modern",),
    ),
    Claim(
        id="low-lr-embed",
        section=ABLATIONS,
        sentence="A five times lower rate on the embedding layer closes most of the gap.",
        tables=(7,),
        parts=_beyond_half("sgd_low_lr_embed"),
        groups=_each(CLIP),
        families=("modern",),
    ),
    Claim(
        id="not-layer-norm",
        section=ABLATIONS,
        sentence="Whether the layer norm after the embedding is frozen with it makes little of a "
        "difference.",
        tables=(7,),
        parts=_less("sgd_freeze_embed_not_layernorm", FREEZE),
        groups=_each(CLIP),
        low=-MARGIN,
        high=MARGIN,
        families=("modern",),
    ),
    Claim(
        id="gradual-unfreezing",
        section=ABLATIONS,
        sentence="Gradual unfreezing with SGD closes most of the gap.",
        tables=(7,),
        parts=_beyond_half("gradual_unfreezing"),
        groups=_each(CLIP),
        families=("modern",),
    ),
    Claim(
        id="lp-ft",
        section=ABLATIONS,
        sentence="LP-FT with SGD closes most of the gap.",
        tables=(7,),
        parts=_beyond_half("lp_ft_sgd"),
        groups=_each(CLIP),
        families=("modern",),
    ),
    Claim(
        id="lp-ft-adds",
        section=ABLATIONS,
        sentence="LP-FT improves SGD (freeze-embed) further.",
        tables=(7,),
        parts=_less("lp_ft_sgd_freeze_embed", FREEZE),
        groups=_each(CLIP),
        families=("modern",),
    ),
    Claim(
        id="freeze-stem",
        section=ABLATIONS,
        sentence="On ConvNeXt, freezing the stem alone closes most of the gap.",
        tables=(9,),
        parts=_beyond_half("sgd_freeze_stem"),
        groups=_each(("convnext_b_in22k",)),
        families=("modern",),
    ),
    Claim(
        id="pretraining-decides",
        section=PRETRAINING,
        sentence="AdamW's gain over SGD is larger after pretraining with AdamW than with SGD.",
        tables=(13,),
        parts=(*GAP, *_minus(_less("adamw", "sgd", side=1))),
        groups=tuple(
            ((adamw,), (sgd,)) for sgd, adamw in zip(PRETRAINED[::2], PRETRAINED[1::2], strict=True)
        ),
        families=("any", "any"),
        swap=("_adamw", "_sgd"),
    ),
    Claim(
        id="patchify-does-not",
        section=PRETRAINING,
        sentence="A patchify stem does not make AdamW's gain over SGD larger.",
        tables=(13,),
        parts=(*GAP, *_minus(_less("adamw", "sgd", side=1))),
        groups=tuple(
            ((patchify,), (plain,))
            for plain, patchify in zip(PRETRAINED[:2], PRETRAINED[2:], strict=True)
        ),
        low=-math.inf,
        high=MARGIN,
        families=("any", "any"),
        swap=("_patchify", ""),
    ),
    Claim(
        id="memory-adamw",
        section=OTHERS,
        sentence="AdamW needs more memory than SGD (freeze-embed).",
        tables=(4,),
        kind="memory",
        printed="+16% CLIP B/16, +18% L/14",
    ),
    Claim(
        id="memory-no-momentum",
        section=OTHERS,
        sentence="AdamW needs more memory than SGD (freeze-embed, no momentum).",
        tables=(4,),
        kind="memory",
        printed="+36% CLIP B/16, +48% L/14",
    ),
    Claim(
        id="embedding-gradients",
        section=OTHERS,
        sentence="The embedding layer's gradient is an outlier on ViT and ConvNeXt, not on BiT.",
        kind="grad_norms",
        printed="Figures 2-8",
        figures="Figures 2-8",
    ),
)
