"""Normalisation inside the model, so that every data set hands out plain pixels in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """A network behind its own input normalisation.

    Takes images `(N, 3, H, W)` in [0, 1], returns what `network` returns for
    `(images - mean) / std`.

    The constants are buffers that move with the model and stay out of its state dict: they belong
    to the architecture, and a checkpoint must not be able to change them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap `network`; `mean` and `std` hold one value a channel, in units of [0, 1] pixels."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def set_channels(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise by other values from now on."""
        for buffer, values in ((self.mean, mean), (self.std, std)):
            buffer.copy_(torch.tensor(values).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` in [0, 1] to the network's output, `(N, classes)`."""
        output: Tensor = self.network((images - self.mean) / self.std)
        return output
