"""The steps from a decoded image to a model's input, and their plain reference.

Sources: PROTOCOL section 2, the table of transforms; the algorithms are torchvision's. A transform
falls into two parts: what a cache can keep, the same in every epoch, and the rest. An epoch's
chance is drawn for the whole set at once, so that neither the batches it is cut into nor a resume
in its middle can change a pixel.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from db.errors import MissingInputs
from worker.data import Transform
from worker.data.images import Batch, Images
from worker.data.pool import Part

SCALE = (0.08, 1.0)
"""Share of the area in a `resized` crop: torchvision's default."""
RATIO = (3 / 4, 4 / 3)
"""Its width over its height, log-uniform."""
TRIES = 10
"""Boxes drawn before the center is taken."""

# Columns of what is drawn for an image; only a `resized` crop has those from _SCALES on.
_MIRROR, _TOP, _LEFT, _SCALES = 0, 1, 2, 3
_RATIOS = _SCALES + TRIES
_COLUMNS = _RATIOS + TRIES

Boxes = NDArray[np.int64]
"""(N, 4): top, left, height, width."""


@dataclass(frozen=True)
class Steps:
    """A part of a transform; the fields are those of `worker.data.Transform`."""

    resize: Literal["none", "short", "square"] = "none"
    size: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: Literal["none", "center", "random", "resized"] = "none"
    crop_size: int = 0
    flip: bool = False

    @property
    def resizes(self) -> bool:
        """Whether pixels are interpolated."""
        return self.resize != "none" or self.crop == "resized"

    def still(self) -> Steps:
        """Without chance: center crops, and no image is mirrored."""
        if self.crop == "resized":
            short = dataclasses.replace(self, resize="short", size=self.crop_size)
            return dataclasses.replace(short, crop="center", flip=False)
        crop = "center" if self.crop == "random" else self.crop
        return dataclasses.replace(self, crop=crop, flip=False)


def split(transform: Transform) -> tuple[Steps, Steps]:
    """What a cache keeps the outcome of, and what is left to do with it."""
    every = Steps(
        resize=transform.resize,
        size=transform.size if transform.resize != "none" else 0,
        interpolation=transform.interpolation,
        crop=transform.crop,
        crop_size=transform.crop_size if transform.crop != "none" else 0,
        flip=transform.flip,
    )
    if every.resize != "none" and every.crop == "resized":
        raise ValueError("a resized crop follows no other resize")
    if transform.keep == "original":
        return Steps(), every
    resized = Steps(every.resize, every.size)
    if resized.resize != "none":
        resized = dataclasses.replace(resized, interpolation=every.interpolation)
    rest = dataclasses.replace(every, resize="none", size=0)
    if every.crop != "center":
        return resized, rest
    center = dataclasses.replace(resized, crop="center", crop_size=every.crop_size)
    return center, Steps(flip=every.flip)


def apply(
    steps: Steps,
    image: Image.Image,
    box: tuple[int, int, int, int] | None = None,
    mirrored: bool = False,
) -> Image.Image:
    """The steps as torchvision does them on an image; `box` is that of a crop by chance."""
    mode = InterpolationMode(steps.interpolation)
    if steps.resize == "short":
        image = functional.resize(image, [steps.size], mode)
    elif steps.resize == "square":
        image = functional.resize(image, [steps.size, steps.size], mode)
    if steps.crop == "center":
        image = functional.center_crop(image, [steps.crop_size, steps.crop_size])
    elif steps.crop == "random":
        assert box is not None
        image = functional.crop(image, *box)
    elif steps.crop == "resized":
        assert box is not None
        image = functional.resized_crop(image, *box, [steps.crop_size, steps.crop_size], mode)
    return functional.hflip(image) if mirrored else image


def prepare(transform: Transform, image: Image.Image) -> NDArray[np.uint8]:
    """What a cache keeps of an RGB image: (height, width, 3)."""
    return np.asarray(apply(split(transform)[0], image))


def refuse_misfit(transform: Transform, name: str, height: int, width: int) -> None:
    """Raise `MissingInputs` where what is kept of an image cannot become a model's input."""
    _, rest = split(transform)
    side = transform.side
    if rest.resizes or rest.crop == "center":
        return
    if rest.crop == "random":
        if min(height, width) < rest.crop_size:
            raise MissingInputs(
                f"{name}: {width}×{height} pixels, too few to cut {side}×{side} from; "
                "fetch it again."
            )
    elif (height, width) != (side, side):
        raise MissingInputs(
            f"{name}: {width}×{height} pixels instead of {side}×{side}; fetch it again."
        )


def draw(steps: Steps, count: int, chance: torch.Generator) -> NDArray[np.float64]:
    """An epoch's chance for `count` images: (count, columns) uniform in [0, 1)."""
    columns = {"resized": _COLUMNS, "random": _SCALES}.get(steps.crop, _TOP)
    return torch.rand(count, columns, generator=chance, dtype=torch.float64).numpy()


def mirrored(steps: Steps, drawn: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,): which images are mirrored."""
    return (drawn[:, _MIRROR] < 0.5) & steps.flip


def boxes(steps: Steps, sizes: NDArray[np.int64], drawn: NDArray[np.float64]) -> Boxes:
    """The crops that `drawn` stands for; `sizes` is (N, 2), height and width before the steps."""
    height, width = _resized(steps, sizes)
    if steps.crop == "random":
        tall = wide = np.full(len(sizes), steps.crop_size)
    elif steps.crop == "resized":
        return _resized_boxes(height, width, drawn)
    else:
        tall, wide = height, width
        drawn = np.zeros((len(sizes), _SCALES))
    return _placed(height, width, tall, wide, drawn)


def _resized(steps: Steps, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Heights and widths after the resize; the long side is torchvision's int(size·long/short)."""
    height, width = sizes[:, 0], sizes[:, 1]
    if steps.resize == "none":
        return height, width
    if steps.resize == "square":
        return np.full_like(height, steps.size), np.full_like(width, steps.size)
    short, long = np.minimum(height, width), np.maximum(height, width)
    longer = (steps.size * long / short).astype(np.int64)
    upright = width <= height
    return np.where(upright, longer, steps.size), np.where(upright, steps.size, longer)


def _placed(
    height: NDArray[np.int64],
    width: NDArray[np.int64],
    tall: NDArray[np.int64],
    wide: NDArray[np.int64],
    drawn: NDArray[np.float64],
) -> Boxes:
    top = np.floor(drawn[:, _TOP] * (height - tall + 1))
    left = np.floor(drawn[:, _LEFT] * (width - wide + 1))
    return np.stack([top, left, tall, wide], axis=1).astype(np.int64)


def _resized_boxes(
    height: NDArray[np.int64], width: NDArray[np.int64], drawn: NDArray[np.float64]
) -> Boxes:
    """RandomResizedCrop.get_params for many: the first of ten tries that fits, or the center.

    Python's round, which it uses, and rint both take halves to the even number.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    scale = SCALE[0] + (SCALE[1] - SCALE[0]) * drawn[:, _SCALES:_RATIOS]
    ratio = np.exp(low + (high - low) * drawn[:, _RATIOS:_COLUMNS])
    area = scale * (height * width)[:, None]
    wide = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    tall = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (wide > 0) & (wide <= width[:, None]) & (tall > 0) & (tall <= height[:, None])
    first = fits.argmax(axis=1)[:, None]
    found = _placed(
        height,
        width,
        np.take_along_axis(tall, first, axis=1)[:, 0],
        np.take_along_axis(wide, first, axis=1)[:, 0],
        drawn,
    )
    return np.where(fits.any(axis=1)[:, None], found, _central(height, width))


def _central(height: NDArray[np.int64], width: NDArray[np.int64]) -> Boxes:
    narrow, broad = width / height < RATIO[0], width / height > RATIO[1]
    tall = np.where(narrow, np.rint(width / RATIO[0]).astype(np.int64), height)
    wide = np.where(broad, np.rint(height * RATIO[1]).astype(np.int64), width)
    return np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], axis=1)


def plain(part: Part, transform: Transform) -> Images:
    """The images read and transformed one by one, as torchvision's transforms do it: no cache."""
    kept, rest = split(transform)
    pool = part.pool

    def one(
        row: int, steps: Steps, index: int = 0, drawn: NDArray[np.float64] | None = None
    ) -> Tensor:
        image = apply(kept, pool.read(row))
        refuse_misfit(transform, pool.names[row], image.height, image.width)
        if drawn is not None:
            chance = drawn[index : index + 1]
            box = boxes(steps, np.array([[image.height, image.width]]), chance)[0].tolist()
            image = apply(steps, image, box, bool(mirrored(steps, chance)[0]))
        else:
            image = apply(steps, image)
        tensor: Tensor = functional.to_tensor(image)
        return tensor

    def still(indices: Tensor) -> Tensor:
        steps = rest.still()
        return torch.stack([one(row, steps) for row in part.rows[indices].tolist()])

    def augmented(chance: torch.Generator) -> Batch:
        drawn = draw(rest, len(part), chance)

        def batch(indices: Tensor) -> Tensor:
            rows = part.rows[indices].tolist()
            pairs = zip(rows, indices.tolist(), strict=True)
            return torch.stack([one(row, rest, index, drawn) for row, index in pairs])

        return batch

    return Images(part.labels, part.groups, still, augmented if transform.random else None)
