"""A model's layers as the figures of gradient norms count them.

Source: PROTOCOL section 1; paper section 3.1, Figures 2-8. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from db.errors import SpecError
from worker.models import Model

if TYPE_CHECKING:
    from torch import nn

_VIT = (
    ("patch_embed", r"network\.patch_embed\."),
    ("pos_embed", r"network\.pos_embed$"),
    ("cls_token", r"network\.cls_token$"),
    (r"block.\1.norm1", r"network\.blocks\.(\d+)\.norm1\."),
    (r"block.\1.attn", r"network\.blocks\.(\d+)\.attn\."),
    (r"block.\1.norm2", r"network\.blocks\.(\d+)\.norm2\."),
    (r"block.\1.mlp", r"network\.blocks\.(\d+)\.mlp\."),
    ("post_norm", r"network\.norm\."),
    ("head", r"network\.head\."),
)
# The same names as a ViT's where the layers are the same.
_CLIP = (
    ("patch_embed", r"network\.conv1\."),
    ("ln_pre", r"network\.ln_pre\."),
    ("pos_embed", r"network\.positional_embedding$"),
    ("cls_token", r"network\.class_embedding$"),
    (r"block.\1.norm1", r"network\.transformer\.resblocks\.(\d+)\.ln_1\."),
    (r"block.\1.attn", r"network\.transformer\.resblocks\.(\d+)\.attn\."),
    (r"block.\1.norm2", r"network\.transformer\.resblocks\.(\d+)\.ln_2\."),
    (r"block.\1.mlp", r"network\.transformer\.resblocks\.(\d+)\.mlp\."),
    ("post_norm", r"network\.ln_post\."),
    ("proj", r"network\.proj$"),
    ("head", r"head\."),
)
_CONVNEXT = (
    ("stem", r"network\.stem\."),
    (r"stage.\1", r"network\.stages\.(\d+)\."),
    ("post_norm", r"network\.head\.norm\."),
    ("head", r"network\.head\.fc\."),
)
_BIT = (
    ("stem", r"network\.stem\."),
    (r"block.\1", r"network\.stages\.(\d+)\."),
    ("head", r"network\.(?:norm|head)\."),  # the final GroupNorm and the classifying convolution
)
# Layer names and the parameters they take, in order; those of a block stay together.
_LAYERS = {"vit": _VIT, "clip": _CLIP, "convnext": _CONVNEXT, "bit": _BIT}


def gradient_layers(entry: Model, model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The layers from input to output, each with the names of its parameters.

    Every parameter is in exactly one. Raises `SpecError` for one that its family has no layer for.
    """
    found: dict[tuple[int, int, int], tuple[str, list[str]]] = {}
    for name, _ in model.named_parameters():
        rank, layer = _layer(entry, name)
        found.setdefault(rank, (layer, []))[1].append(name)
    return {layer: tuple(names) for _, (layer, names) in sorted(found.items())}


def embedding_layers(entry: Model, layers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The layers that make up the embedding layer: one point in the figures, √(G₀² + G₁²)."""
    return tuple(
        layer
        for layer, names in layers.items()
        if all(name.startswith(entry.embedding) for name in names)
    )


def _layer(entry: Model, name: str) -> tuple[tuple[int, int, int], str]:
    """A parameter's layer, and the layer's place: numbered layers repeat as one group."""
    layers = _LAYERS[entry.family]
    numbered = [index for index, (layer, _) in enumerate(layers) if r"\1" in layer]
    for index, (layer, pattern) in enumerate(layers):
        if match := re.match(pattern, name):
            if index in numbered:
                return (numbered[0], int(match[1]), index), match.expand(layer)
            return (index, 0, 0), layer
    raise SpecError(
        f'model "{entry.id}": parameter {name} is in no layer of the family "{entry.family}"; '
        "name its parameters as that family's models do."
    )
