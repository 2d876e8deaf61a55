"""The models: how each is built, where its weights come from, what its embedding layer is.

Sources: PROTOCOL section 1; paper section 4 and Table 1. One entry a model. Parameter counts are
those of the visual tower with a 10-class head; a test builds every buildable model and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker.catalog import Catalog

ARTIFACT = "weights.safetensors"
"""The file in a `pretrain` run's folder that holds its weights."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a tiny model is pretrained: a run of kind `pretrain` on a generated upstream task."""

    dataset: str
    method: str
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    clip_norm: float


@dataclass(frozen=True, kw_only=True)
class Model:
    """One architecture with its weights."""

    id: str
    title: str
    """As the paper's tables print it."""
    family: Literal["vit", "clip", "convnext", "bit"]
    parameters: int
    embedding_parameters: int
    embedding: tuple[str, ...]
    """Name prefixes of the parameters that freeze-embed freezes."""
    head: tuple[str, ...]
    """Name prefixes of the classification head, which never comes from pretraining."""
    build: str | None = None
    """`module:function` taking the number of classes; None: not in this version."""
    recipe: Recipe | None = None
    """How we pretrain it; None: the weights are published ones."""
    version: int = 1

    @property
    def embedding_share(self) -> float:
        """The fraction of parameters that freeze-embed freezes."""
        return self.embedding_parameters / self.parameters


MODELS: Catalog[Model] = Catalog(
    "model",
    [
        Model(
            id="clip_vit_b16",
            title="CLIP ViT-B/16",
            family="clip",
            parameters=86_197_770,
            embedding_parameters=591_360,
            embedding=("network.conv1.", "network.ln_pre."),
            head=("head.",),
        ),
        Model(
            id="clip_vit_l14",
            title="CLIP ViT-L/14",
            family="clip",
            parameters=303_973_898,
            embedding_parameters=604_160,
            embedding=("network.conv1.", "network.ln_pre."),
            head=("head.",),
        ),
        Model(
            id="vit_b16_in21k",
            title="Sup ViT-B/16",
            family="vit",
            parameters=85_806_346,
            embedding_parameters=590_592,
            embedding=("network.patch_embed.",),
            head=("network.head.",),
        ),
        Model(
            id="dino_vit_b16",
            title="DINO ViT-B/16",
            family="vit",
            parameters=85_806_346,
            embedding_parameters=590_592,
            embedding=("network.patch_embed.",),
            head=("network.head.",),
        ),
        Model(
            id="convnext_b_in22k",
            title="ConvNext-Base",
            family="convnext",
            parameters=87_576_714,
            embedding_parameters=422_016,
            embedding=("network.stem.", "network.stages.0."),
            head=("network.head.fc.",),
        ),
        Model(
            id="bit_r50_in21k",
            title="BiT ResNet-50",
            family="bit",
            parameters=23_520_842,
            embedding_parameters=224_320,
            embedding=("network.stem.", "network.stages.0."),
            head=("network.head.fc.",),
        ),
        Model(
            id="bit_r101_in21k",
            title="BiT ResNet-101",
            family="bit",
            parameters=42_512_970,
            embedding_parameters=224_320,
            embedding=("network.stem.", "network.stages.0."),
            head=("network.head.fc.",),
        ),
        Model(
            id="tiny_vit",
            title="Tiny ViT",
            family="vit",
            parameters=81_226,
            embedding_parameters=12_352,
            embedding=("network.patch_embed.",),
            head=("network.head.",),
            build="worker.models.tiny:vit",
            recipe=Recipe(
                dataset="shapes",
                method="adamw",
                learning_rate=2e-3,
                weight_decay=0.05,
                epochs=3,
                batch_size=64,
                clip_norm=1.0,
            ),
        ),
        Model(
            id="tiny_bit",
            title="Tiny BiT",
            family="bit",
            parameters=27_602,
            embedding_parameters=4_840,
            embedding=("network.stem.", "network.stages.0."),
            head=("network.head.fc.",),
            build="worker.models.tiny:bit",
            recipe=Recipe(
                dataset="shapes",
                method="sgd",
                learning_rate=0.1,
                weight_decay=0.0,
                epochs=2,
                batch_size=64,
                clip_norm=1.0,
            ),
        ),
    ],
)
