"""Tiny relatives of the big models, for benchmarks that must run on two CPU cores.

Each is timm's or open_clip's own class with small arguments, so parameter names (and with them
freezing, gradient groups and checkpoints) are those of the big model. Inputs are `(N, 3, 32, 32)`
in [0, 1]; other sizes are taken too. There is no BatchNorm and no dropout: train and evaluation
mode compute the same, as in the big models.
"""

from functools import partial
from typing import Any

import torch
from open_clip import transformer  # type: ignore[import-untyped]
from timm.layers import GroupNormAct, StdConv2d
from timm.models.convnext import ConvNeXt
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from worker.models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from worker.models.normalized import Normalized
from worker.models.published import Headed

IMAGE_SIZE = 32
"""Side of the input in pixels."""

_HALF = (0.5, 0.5, 0.5)
"""Mean and std of both families' big pretrained weights (supervised ViT and BiT)."""

_POSITION_STD = 0.3
"""Std of the position embedding at initialisation. timm's 0.02 suits width 768 and long training;
at width 64 a few hundred steps are not enough to grow it, and the model stays blind to position."""


class _ChannelsLast(ResNetV2):
    """A ResNetV2 that computes in the channels-last layout, whatever layout its images have.

    On a CPU it is up to twice as fast at this size (max pooling above all), and one fixed layout
    keeps the bits of a run independent of how a loader stores its images.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images `(N, 3, H, W)` to logits `(N, classes)`."""
        logits: Tensor = super().forward(images.contiguous(memory_format=torch.channels_last))
        return logits


class _AnySide(transformer.VisionTransformer):
    """CLIP's visual transformer that also takes images of other sides than it was built for.

    Position embeddings are resampled as timm's are in `vit` (bicubic, antialiased), by a product
    with a matrix: the backward pass of torch's interpolation is not deterministic on a GPU.
    """

    def _embeds(self, images: Tensor) -> Tensor:
        """Tokens `(N, 1 + patches, width)` of normalised images `(N, 3, H, W)`."""
        patches = self.conv1(images.contiguous())  # one layout: bits depend on it
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        positions = self.positional_embedding
        if patches.shape[-2:] != self.grid_size:
            weights = _resampling(self.grid_size, patches.shape[-2:]).to(positions)
            positions = torch.cat([positions[:1], weights @ positions[1:]])
        embedded: Tensor = self.ln_pre(torch.cat([first, tokens], 1) + positions.to(tokens.dtype))
        return embedded


def _resampling(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """What each cell of the `new` grid takes of each of the `old` one's: (new cells, old cells)."""
    cells = torch.eye(old[0] * old[1]).view(1, -1, *old)
    return functional.interpolate(cells, size=new, mode="bicubic", antialias=True)[0].flatten(1).T


class _Enlarging(ConvNeXt):
    """A ConvNeXt that enlarges images below 32 pixels: it halves their sides five times."""

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images `(N, 3, H, W)` to logits `(N, classes)`."""
        images = images.contiguous()  # one layout: bits depend on it
        if min(images.shape[-2:]) < IMAGE_SIZE:
            images = functional.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")
        logits: Tensor = super().forward(images)
        return logits


def vit(classes: int) -> nn.Module:
    """Build a ViT of width 64, depth 2, patch 8 (16 patches and a class token).

    Relative of `vit_base_patch16_224.augreg_in21k`; embedding layer: `network.patch_embed.`.
    """
    network = VisionTransformer(
        img_size=IMAGE_SIZE,
        patch_size=8,
        embed_dim=64,
        depth=2,
        num_heads=2,
        mlp_ratio=2,
        # Xavier, as the augreg weights were trained from: timm's default std of 0.02 suits width
        # 768 and learned far less here in 600 steps (53% of a 36-class task against 69%, once).
        weight_init="jax",
        dynamic_img_size=True,  # smaller images too: position embeddings are resampled
        num_classes=classes,
    )
    assert network.pos_embed is not None
    nn.init.normal_(network.pos_embed, std=_POSITION_STD)
    assert isinstance(network.head, nn.Linear)
    network.head.reset_parameters()
    return Normalized(network, mean=_HALF, std=_HALF)


def bit(classes: int) -> nn.Module:
    """Build a BiT of two one-block stages, 48 and 128 channels, on maps of side 8 and 4.

    Relative of `resnetv2_50x1_bit.goog_in21k`: weight-standardised convolutions, GroupNorm, fixed
    padding in the stem; embedding layer: `network.stem.` and `network.stages.0.`.
    """
    network = _ChannelsLast(
        layers=[1, 1],  # a third stage costs a quarter of the time and gained nothing
        channels=(48, 128),
        num_classes=classes,
        stem_chs=8,  # most of the arithmetic is here, on 16 x 16 maps
        stem_type="fixed",
        norm_layer=partial(GroupNormAct, num_groups=8),
        conv_layer=partial(StdConv2d, eps=1e-8),  # as timm builds BiT; the class's own is 1e-6
    )
    head = network.head.fc
    assert isinstance(head, nn.Conv2d)
    head.reset_parameters()
    return Normalized(network, mean=_HALF, std=_HALF)


def clip(classes: int) -> nn.Module:
    """Build a visual tower of CLIP of width 64, 3 blocks, patch 8, projected to 32 features.

    Relative of `ViT-B-16-quickgelu`: no bias in the patch embedding, a layer norm behind it,
    QuickGELU, the head after `proj`; embedding layer: `network.conv1.` and `network.ln_pre.`.
    """
    width, layers = 64, 3
    network: Any = _AnySide(
        image_size=IMAGE_SIZE,
        patch_size=8,
        width=width,
        layers=layers,
        heads=2,
        mlp_ratio=2,
        output_dim=32,
        act_layer=transformer.QuickGELU,
    )
    nn.init.normal_(network.positional_embedding, std=_POSITION_STD)
    # As OpenAI's code draws the blocks of its text tower; open_clip leaves them to torch, which
    # learned less upstream (91% against 93% in 1,200 steps, once) and served digits worse.
    for block in network.transformer.resblocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=(2 * layers * width) ** -0.5)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=(2 * layers * width) ** -0.5)
    return Headed(network, CLIP_MEAN, CLIP_STD, network.output_dim, classes)


def convnext(classes: int) -> nn.Module:
    """Build a ConvNeXt of 1, 1, 2 and 1 blocks, 16 to 64 channels, on maps of side 8, 4, 2 and 1.

    Relative of `convnext_base.fb_in22k`; embedding layer: `network.stem.` and `network.stages.0.`.
    """
    network = _Enlarging(
        depths=(1, 1, 2, 1),
        dims=(16, 32, 48, 64),
        # timm's 1e-6 suits long training: it hides the blocks, and their gradients, from the few
        # steps that a tiny model gets.
        ls_init_value=0.1,
        num_classes=classes,
    )
    head = network.head.fc
    assert isinstance(head, nn.Linear)
    head.reset_parameters()
    return Normalized(network, mean=IMAGENET_MEAN, std=IMAGENET_STD)
