"""The fine-tuning methods: optimizer, what is frozen, learning rates. One entry a method.

Sources: PROTOCOL section 3; paper section 4 (Table 1's rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker.catalog import Catalog
from worker.models import Frozen

# The paper's lists, section 4: six rates a family.
LEARNING_RATES: dict[str, tuple[float, ...]] = {
    "sgd": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "adamw": (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4),
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """How to fine-tune. `family` names the learning-rate list and the default of sweep files."""

    id: str
    title: str
    """As the paper's tables print it."""
    family: Literal["sgd", "adamw"]
    optimizer: Literal["sgd", "adamw"]
    momentum: float = 0.9
    """SGD only."""
    weight_decay: float = 0.0
    freeze: Frozen = "nothing"
    version: int = 1

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """What `learning_rates: default` stands for."""
        return LEARNING_RATES[self.family]


METHODS: Catalog[Method] = Catalog(
    "method",
    [
        Method(id="sgd", title="SGD", family="sgd", optimizer="sgd"),
        Method(id="adamw", title="AdamW", family="adamw", optimizer="adamw", weight_decay=0.01),
        Method(
            id="sgd_freeze_embed",
            title="SGD (freeze-embed)",
            family="sgd",
            optimizer="sgd",
            freeze="embedding",
        ),
        Method(
            id="sgd_freeze_embed_no_momentum",
            title="SGD (freeze-embed, no momentum)",
            family="sgd",
            optimizer="sgd",
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
    ],
)
