"""Tiny relatives of the big models, for benchmarks that must run on two CPU cores.

Each is timm's own class with small arguments, so parameter names (and with them freezing, gradient
groups and checkpoints) are those of the big model. Inputs are `(N, 3, 32, 32)` in [0, 1]. There is
no BatchNorm and no dropout: train and evaluation mode compute the same, as in the big models.
"""

from functools import partial

import torch
from timm.layers import GroupNormAct, StdConv2d
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from worker.models.normalized import Normalized

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
