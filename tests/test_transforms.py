"""The plain path, its chance, and the cache's equality with it, bit for bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import functional

from db.errors import MissingInputs
from worker.data import DATASETS, Transform
from worker.data.cache import build
from worker.data.cached import cached, torch_enlarges_exactly
from worker.data.pool import Part, Pool, read_rgb
from worker.data.transforms import (
    Steps,
    apply,
    boxes,
    draw,
    mirrored,
    plain,
    prepare,
    split,
)

DECLARED: dict[str, Transform] = {}
"""The first name of each transform that a dataset declares."""
for entry in DATASETS.values():
    for name, found in (("train", entry.train_transform), ("test", entry.test_transform)):
        if found is not None and found not in DECLARED.values():
            DECLARED[f"{entry.id}-{name}"] = found
CROPPED = Steps(crop="random", crop_size=16, flip=True)
RESIZED = Steps(crop="resized", crop_size=16, flip=True)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pool_of(images: Sequence[Image.Image], name: str = "some") -> Pool:
    return Pool(
        name=name,
        names=[f"{number}.png" for number in range(len(images))],
        read=lambda row: images[row],
        fingerprint="",
        stamp=str([image.size for image in images]),
    )


def part_of(pool: Pool) -> Part:
    rows = torch.arange(len(pool)).flip(0)
    return Part(pool, rows, rows % 2, torch.zeros_like(rows))


def odd_files(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    """Colour, grey, CMYK, palette and alpha images in turn, as the file readers decode them."""
    decoded = []
    for number, (height, width) in enumerate(sizes):
        image = noise(height, width, number)
        mode = ("RGB", "L", "CMYK", "P", "RGBA")[number % 5]
        file = folder / f"{number}.{'png' if mode in ('P', 'RGBA') else 'jpg'}"
        image.convert(mode).save(file)
        decoded.append(read_rgb(file))
    return decoded


ODD = [(375, 500), (500, 333), (30, 40), (1, 7), (300, 300), (225, 224), (640, 100), (224, 224)]


def sizes_for(transform: Transform, name: str) -> list[tuple[int, int]]:
    if transform.resize == "none" and transform.crop == "none":
        return [(transform.side, transform.side)] * 6
    if "camelyon17" in name:
        return [(96, 96)] * 6
    if "cifar10" in name:
        return [(32, 32)] * 6
    return ODD


@pytest.mark.parametrize("name", DECLARED)
def test_the_cache_gives_every_bit_of_the_plain_path(name: str, tmp_path: Path) -> None:
    transform = DECLARED[name]
    part = part_of(pool_of(odd_files(tmp_path, sizes_for(transform, name))))
    list(build(part.pool, transform, tmp_path / "cache", 2))
    reference, ours = plain(part, transform), cached(part, transform, tmp_path / "cache")
    indices = torch.tensor([4, 0, 1, 5, 1])

    assert torch.equal(ours.batch(indices), reference.batch(indices))
    assert ours.batch(indices).shape == (5, 3, transform.side, transform.side)
    assert ours.batch(indices).is_contiguous()
    assert (ours.augmented is not None) == transform.random
    for seed in range(3):
        one, other = (i.epoch(torch.Generator().manual_seed(seed)) for i in (reference, ours))
        assert torch.equal(one(indices), other(indices))
    assert torch.equal(ours.labels, part.labels)


UNDECLARED = {
    "a late resize and its center": Transform(
        resize="short", size=40, crop="center", crop_size=32, keep="original", side=32
    ),
    "a late bicubic resize": Transform(
        resize="square", size=32, interpolation="bicubic", flip=True, keep="original", side=32
    ),
    "a late resize, cut anywhere": Transform(
        resize="square", size=40, crop="random", crop_size=32, keep="original", side=32
    ),
    "images of differing sizes, cut anywhere": Transform(
        resize="short", size=40, crop="random", crop_size=32, flip=True, side=32
    ),
    "a bicubic crop": Transform(
        interpolation="bicubic", crop="resized", crop_size=32, keep="original", side=32
    ),
    "originals that are only mirrored": Transform(flip=True, keep="original", side=40),
}


@pytest.mark.parametrize("name", UNDECLARED)
def test_so_do_transforms_that_nobody_declares_yet(name: str, tmp_path: Path) -> None:
    transform = UNDECLARED[name]
    sizes = [(40, 40)] * 4 if transform.side == 40 else ODD[:5]
    part = part_of(pool_of([noise(*size) for size in sizes]))
    list(build(part.pool, transform, tmp_path, 1))
    reference, ours = plain(part, transform), cached(part, transform, tmp_path)
    indices = torch.arange(4)
    assert torch.equal(ours.batch(indices), reference.batch(indices))
    for seed in range(3):
        one, other = (i.epoch(torch.Generator().manual_seed(seed)) for i in (reference, ours))
        assert torch.equal(one(indices), other(indices))


def compose(transform: Transform) -> tv.Compose:
    """torchvision's own classes, for a transform without chance."""
    steps: list[object] = []
    mode = tv.InterpolationMode(transform.interpolation)
    if transform.resize != "none":
        size = transform.size if transform.resize == "short" else [transform.size] * 2
        steps.append(tv.Resize(size, mode))
    if transform.crop == "center":
        steps.append(tv.CenterCrop(transform.crop_size))
    return tv.Compose([*steps, tv.ToTensor()])


@pytest.mark.parametrize("name", [name for name, t in DECLARED.items() if not t.random])
def test_without_chance_it_is_torchvisions_classes(name: str) -> None:
    transform = DECLARED[name]
    images = [noise(*size, seed) for seed, size in enumerate(sizes_for(transform, name))]
    ours = plain(part_of(pool_of(images[::-1])), transform).batch(torch.arange(len(images)))
    for image, tensor in zip(images, ours, strict=True):
        assert torch.equal(tensor, compose(transform)(image))


def test_an_augmented_set_is_evaluated_by_its_center() -> None:
    image = noise(60, 90)
    whole = part_of(pool_of([image]))
    cut = Transform(resize="square", size=40, crop="random", crop_size=32, flip=True, side=32)
    resized = Transform(crop="resized", crop_size=32, flip=True, keep="original", side=32)
    steps = tv.Compose([tv.Resize((40, 40)), tv.CenterCrop(32), tv.ToTensor()])
    assert torch.equal(plain(whole, cut).batch(torch.tensor([0]))[0], steps(image))
    steps = tv.Compose([tv.Resize(32), tv.CenterCrop(32), tv.ToTensor()])
    assert torch.equal(plain(whole, resized).batch(torch.tensor([0]))[0], steps(image))


@settings(deadline=None, max_examples=40)
@given(height=st.integers(16, 60), width=st.integers(16, 60), seed=st.integers(0, 99))
def test_drawn_crops_are_torchvisions_functions(height: int, width: int, seed: int) -> None:
    image, size = noise(height, width, seed), np.array([[height, width]])
    for steps in (CROPPED, RESIZED):
        drawn = draw(steps, 1, torch.Generator().manual_seed(seed))
        box, flip = boxes(steps, size, drawn)[0].tolist(), bool(mirrored(steps, drawn)[0])
        made = functional.to_tensor(apply(steps, image, box, flip))
        if steps is CROPPED:
            wanted = functional.crop(image, *box)
        else:
            wanted = functional.resized_crop(image, *box, [16, 16])
        if flip:
            wanted = functional.hflip(wanted)
        assert torch.equal(made, functional.to_tensor(wanted))


@settings(deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    seed=st.integers(0, 2**32),
    n=st.just(9),
)
def test_boxes_lie_within_their_images(height: int, width: int, seed: int, n: int) -> None:
    drawn = draw(RESIZED, n, torch.Generator().manual_seed(seed))
    top, left, tall, wide = boxes(RESIZED, np.array([[height, width]] * n), drawn).T
    assert (np.minimum(top, left) >= 0).all()
    assert (np.minimum(tall, wide) >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of two samples."""
    values = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(s), values, side="right") / len(s) for s in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 120), (90, 700)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    count = 4000
    limit = 1.95 * math.sqrt(2 / count)  # one in a thousand false alarms, were it not seeded
    drawn = draw(RESIZED, count, torch.Generator().manual_seed(1))
    ours = boxes(RESIZED, np.array([[height, width]] * count), drawn)
    image = Image.new("RGB", (width, height))
    torch.manual_seed(1)
    theirs = np.array(
        [tv.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    )
    for column in range(4):
        assert apart(ours[:, column], theirs[:, column]) < limit
    assert apart(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < limit


def test_cuts_and_flips_are_distributed_as_torchvisions() -> None:
    count = 20_000
    drawn = draw(CROPPED, count, torch.Generator().manual_seed(1))
    top, left, tall, wide = boxes(CROPPED, np.array([[18, 24]] * count), drawn).T
    assert set(tall) == set(wide) == {16}
    for place, places in ((top, 3), (left, 9)):
        seen = np.bincount(place, minlength=places)
        assert len(seen) == places
        assert np.abs(seen / count - 1 / places).max() < 0.015
    assert abs(mirrored(CROPPED, drawn).mean() - 0.5) < 0.015


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    order=st.permutations(range(12)),
)
def test_neither_batches_nor_order_change_a_pixel(
    seed: int, cuts: list[int], order: list[int]
) -> None:
    transform = Transform(crop="resized", crop_size=8, flip=True, keep="original", side=8)
    images = plain(part_of(pool_of([noise(20, 30 + n, n) for n in range(12)])), transform)

    def epoch() -> torch.Tensor:
        return images.epoch(torch.Generator().manual_seed(seed))(torch.arange(12))

    batch = images.epoch(torch.Generator().manual_seed(seed))
    for piece in np.split(np.array(order), sorted(cuts)):
        if len(piece):
            assert torch.equal(batch(torch.from_numpy(piece)), epoch()[piece])


def test_another_generator_gives_other_pixels() -> None:
    images = plain(
        part_of(pool_of([noise(40, 40, n) for n in range(8)])), Transform(flip=True, side=40)
    )
    one, other = (images.epoch(torch.Generator().manual_seed(s))(torch.arange(8)) for s in (1, 2))
    assert not torch.equal(one, other)


def test_what_is_kept_ends_where_chance_begins() -> None:
    image = noise(50, 70)
    cut = Transform(resize="square", size=40, crop="random", crop_size=32, flip=True, side=32)
    assert prepare(cut, image).shape == (40, 40, 3)
    assert prepare(dataclasses.replace(cut, crop="center"), image).shape == (32, 32, 3)
    assert np.array_equal(prepare(dataclasses.replace(cut, keep="original"), image), image)


def test_train_and_test_share_what_is_kept_alike() -> None:
    for name in ("waterbirds", "camelyon17", "fmow"):
        entry = DATASETS[name]
        assert entry.train_transform is not None
        assert entry.test_transform is not None
        assert split(entry.train_transform)[0] == split(entry.test_transform)[0]


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    fixed = Transform(flip=True, side=40)
    part = part_of(pool_of([noise(40, 40), noise(40, 41)]))
    with pytest.raises(MissingInputs, match=r"1\.png: 41×40 pixels instead of 40×40"):
        plain(part, fixed).batch(torch.tensor([0]))
    with pytest.raises(MissingInputs, match=r"1\.png: 41×40 pixels instead of 40×40"):
        list(build(part.pool, fixed, tmp_path, 1))
    assert not list(tmp_path.iterdir())
    cut = Transform(crop="random", crop_size=41, side=41)
    with pytest.raises(MissingInputs, match=r"1\.png: 41×40 pixels, too few to cut 41×41"):
        plain(part, cut).batch(torch.tensor([0]))
    list(build(part.pool, Transform(crop="random", crop_size=30, side=30), tmp_path, 1))
    with pytest.raises(MissingInputs, match=r"1\.png: 41×40 pixels instead of 40×40"):
        cached(part, fixed, tmp_path)  # the same cache, another demand


def test_a_resized_crop_after_a_resize_is_refused() -> None:
    with pytest.raises(ValueError, match="no other resize"):
        split(Transform(resize="short", size=40, crop="resized", crop_size=32, side=32))


def test_torch_enlarges_only_some_sizes_exactly() -> None:
    assert not torch_enlarges_exactly(300, 300, 224)
    assert not torch_enlarges_exactly(61, 61, 223)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_where_it_says_exactly_it_is(count: int) -> None:
    if not torch_enlarges_exactly(96, 96, 224):
        pytest.skip("not on this processor")
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        large = torch.nn.functional.interpolate(
            torch.from_numpy(pixels).permute(0, 3, 1, 2), 224, mode="bilinear", antialias=True
        )
        for image, tensor in zip(pixels, large, strict=True):
            wanted = Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR)
            assert np.array_equal(tensor.permute(1, 2, 0).numpy(), wanted)
