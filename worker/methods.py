"""The methods: optimizer, what is frozen and when, learning rates, start. One entry a method.

Sources: PROTOCOL section 3; paper section 4 and Tables 1, 5, 7 and 9. `docs/methods.md` tells what
each does and how a user's own joins them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from db.errors import SpecError
from worker.catalog import Catalog, nearest
from worker.kinds import NO_RATE
from worker.models import Frozen, Model
from worker.schedule import SCHEDULES

# The paper's lists, section 4: six rates a family; of LAMB and LARS the authors' eight.
LEARNING_RATES: dict[str, tuple[float, ...]] = {
    "sgd": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "adamw": (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4),
    "lamb": (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    "lars": (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
}
FEWER_RATES: dict[str, tuple[str, ...]] = {
    "lamb": ("fmow", "camelyon17"),
    "lars": ("fmow", "camelyon17"),
}
"""Families that leave out their two highest rates on some datasets; the AdamW list is left."""

STATES = {"sgd": 0, "adamw": 2, "lamb": 2, "lars": 0, "adam_spd": 2}
"""Values that an optimizer keeps for each parameter, momentum aside."""


L2_SP = "worker.optim:l2_sp"
"""The penalty that a sweep's `l2_sp` chooses the form of."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A number beside the learning rate that is chosen by ID validation."""

    name: str
    """As a sweep file's `hyperparameters:` calls it."""
    default: float
    least: float = 0.0
    """No smaller value is taken."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How to train, as data: code is named by `module:function` and loaded by the worker."""

    id: str
    title: str
    """As the paper's tables print it."""
    kind: Literal["finetune", "linear_probe"] = "finetune"
    """The kind of its runs."""
    family: str = "sgd"
    """Names its learning rates: the default list, and the entry of a sweep file's lists."""
    rates: tuple[float, ...] = ()
    """A default list of its own; empty: its family's."""
    optimizer: str = "sgd"
    """`sgd`, `adamw`, `lamb`, `lars`, `adam_spd`, or `module:function`: (parameter groups, Run,
    Method, Anchors) -> torch's Optimizer."""
    momentum: float = 0.9
    """SGD's and LARS's."""
    weight_decay: float = 0.0
    freeze: Frozen = "nothing"
    """The part of the model that never moves."""
    trains: str | None = None
    """`module:function`, (Model, Module, Run, epoch from 1) -> names of the parameters that move in
    that epoch, where they differ from epoch to epoch; None: all that `freeze` leaves."""
    needs_blocks: bool = False
    """Goes block by block: refused for models that declare none."""
    multipliers: Mapping[Frozen, float] = field(default_factory=dict, hash=False)
    """Parts of the model whose learning rate is this many times the others'."""
    schedule: str | None = None
    """A schedule of its own, whatever the sweep says: a name of `worker.schedule`, or
    `module:function`, (Run, step, steps an epoch) -> rate; None: the sweep's."""
    penalty: str | None = None
    """`module:function`, (Model, Module, Anchors, Run) -> scalar that is added to the mean loss."""
    anchored: bool = False
    """Its optimizer or penalty looks at the weights that training started from."""
    hyperparameters: tuple[Tuned, ...] = ()
    starts_from: Literal["pretrained", "probe"] = "pretrained"
    """`probe`: the head is that of the linear probe of the same seed."""
    rate_factor: float = 1.0
    """Times each rate of a list that is not the method's own: what is trained with, and stored."""
    version: int = 1

    def __post_init__(self) -> None:
        """Refuse what no run could be made of, before a sweep is planned with it."""
        for field_, known in _NAMED.items():
            given = getattr(self, field_)
            for name in [given] if isinstance(given, str) else given or ():
                code = field_ in _CODE and ":" in name
                if name not in known and not code:
                    words = [*known, "module:function"] if field_ in _CODE else known
                    raise SpecError(
                        f'method "{self.id}": unknown {field_} "{name}"; {nearest(name, words)}'
                    )
        if not self.rates and self.family not in LEARNING_RATES:
            raise SpecError(
                f'method "{self.id}": family "{self.family}" has no learning rates; give the '
                f"method `rates`, or a family of {', '.join(LEARNING_RATES)}."
            )

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The default list, but for `rate_factor`; some datasets take fewer."""
        return self.rates or LEARNING_RATES[self.family]

    def learning_rates_on(self, dataset: str) -> tuple[float, ...]:
        """What `learning_rates: default` stands for on a dataset, or on its miniature."""
        fewer = dataset.removeprefix("mini_") in FEWER_RATES.get(self.family, ())
        return self.learning_rates[:-2] if fewer and not self.rates else self.learning_rates

    @property
    def states(self) -> int:
        """Values that the optimizer keeps for each parameter that moves; of unknown ones, 2."""
        return STATES.get(self.optimizer, 2) or int(self.momentum > 0)

    @property
    def references(self) -> tuple[str, ...]:
        """The code that it names, as `module:function` strings."""
        named = (self.optimizer, self.trains, self.schedule, self.penalty)
        return tuple(one for one in named if one is not None and ":" in one)

    def refuses(self, model: Model) -> str | None:
        """Why the method does not apply to a model; None where it does."""
        try:
            for part in (self.freeze, *self.multipliers):
                model.frozen_by(part)
        except SpecError as error:
            return str(error)
        if self.needs_blocks and not model.blocks:
            return (
                f'{self.id} goes block by block and model "{model.id}" has no transformer blocks; '
                "choose another method for it."
            )
        return None


_NAMED: dict[str, tuple[str, ...]] = {
    "kind": ("finetune", "linear_probe"),
    "optimizer": tuple(STATES),
    "freeze": get_args(Frozen),
    "multipliers": get_args(Frozen),
    "schedule": tuple(SCHEDULES),
    "starts_from": ("pretrained", "probe"),
    "trains": (),
    "penalty": (),
}
"""What a field may say, or each key of it."""
_CODE = ("optimizer", "schedule", "trains", "penalty")
"""Fields that may name a function, too."""

METHODS: Catalog[Method] = Catalog(
    "method",
    [
        Method(id="sgd", title="SGD"),
        Method(id="adamw", title="AdamW", family="adamw", optimizer="adamw", weight_decay=0.01),
        Method(id="sgd_freeze_embed", title="SGD (freeze-embed)", freeze="embedding"),
        Method(
            id="sgd_freeze_embed_no_momentum",
            title="SGD (freeze-embed, no momentum)",
            momentum=0.0,
            freeze="embedding",
        ),
        Method(
            id="adamw_freeze_embed",
            title="AdamW (freeze-embed)",
            family="adamw",
            optimizer="adamw",
            weight_decay=0.01,
            freeze="embedding",
        ),
        # Tables 5 and 7: what else was tried on CLIP ViT-B/16.
        Method(id="sgd_no_momentum", title="SGD (no momentum)", momentum=0.0),
        Method(id="sgd_weight_decay", title="SGD (weight decay)", weight_decay=0.01),
        Method(
            id="sgd_freeze_embed_not_layernorm",
            title="SGD (freeze-embed, not layer-norm)",
            freeze="embedding_without_norm",
        ),
        Method(
            id="sgd_low_lr_embed",
            title="SGD (5x lower LR on embedding)",
            multipliers={"embedding": 1 / 5},
        ),
        Method(
            id="gradual_unfreezing",
            title="Gradual unfreezing",
            family="adamw",  # SGD with momentum, but the AdamW list
            freeze="embedding",
            trains="worker.schedule:unfrozen",
            needs_blocks=True,
            schedule="gradual_unfreezing",
        ),
        Method(id="lamb", title="LAMB", family="lamb", optimizer="lamb"),
        Method(id="lars", title="LARS", family="lars", optimizer="lars"),
        # The authors' LARS adapts only what has weight decay, which nothing has: it is SGD.
        Method(id="lars_as_published", title="LARS (as published)", family="lars"),
        # Table 9: ConvNeXt.
        Method(id="sgd_freeze_stem", title="SGD (freeze-stem)", freeze="stem"),
        # Towards the pretrained weights (*Rethinking Weight Decay for Robust Fine-Tuning*).
        Method(
            id="adam_spd",
            title="Adam-SPD",
            family="adamw",
            optimizer="adam_spd",
            anchored=True,
            hyperparameters=(Tuned(name="lambda", default=1.0),),
        ),
        Method(
            id="adamw_l2_sp",
            title="AdamW (L2-SP)",
            family="adamw",
            optimizer="adamw",
            weight_decay=0.01,
            penalty=L2_SP,
            anchored=True,
            hyperparameters=(Tuned(name="lambda", default=0.01),),
        ),
        # Table 7: the head alone, and fine-tuning that starts from it.
        Method(
            id="linear_probe",
            title="Linear probing",
            kind="linear_probe",
            family="linear_probe",
            rates=(NO_RATE,),
            momentum=0.0,
        ),
        Method(id="lp_ft_sgd", title="LP-FT (SGD)", starts_from="probe", rate_factor=0.1),
        Method(
            id="lp_ft_adamw",
            title="LP-FT (AdamW)",
            family="adamw",
            optimizer="adamw",
            weight_decay=0.01,
            starts_from="probe",
            rate_factor=0.1,
        ),
        Method(
            id="lp_ft_sgd_freeze_embed",
            title="LP-FT (SGD, freeze-embed)",
            freeze="embedding",
            starts_from="probe",
            rate_factor=0.1,
        ),
    ],
)
