"""The datasets: where their files are, their splits and metrics. One entry a dataset.

Sources: PROTOCOL section 2; paper section 4. Declarations only: the code that reads the images is
named by `source` or `load` and imported when a run needs it.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from worker.catalog import Catalog

MINI_SIDE = 32
"""Side in pixels of the images that the tiny models train on."""
MARKER = "MINIATURE.json"
"""File in a generated folder that says by which parameters it was made; no real one has it."""
MINIATURE = "miniature-"
"""How the fingerprint of generated data begins, which stands in for a real dataset's."""
DOMAINNET_TESTS = {"id": "sketch", "ood": "real", "painting": "painting", "clipart": "clipart"}
"""The domain whose test list is each split."""

Aggregate = Literal["accuracy", "weighted_accuracy", "worst_group_accuracy"]


@dataclass(frozen=True)
class Split:
    """A set of images that is evaluated, and the metric that speaks for it.

    Names are roles: `id` selects epochs and learning rates, `ood` is what the tables show.
    `weighted_accuracy` averages the groups' accuracies with their frequencies in the training set.
    """

    name: str
    metric: Aggregate
    source: str
    """What it is called in the dataset's own files."""
    auxiliary: bool = False
    """No table needs it: evaluated when the selection score improves, and at the end."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How an image becomes a model's input: PROTOCOL section 2's table of transforms, as data.

    In this order: resize, crop, flip, floats in [0, 1]. Everything up to the crop's or flip's
    chance is the same in every epoch, so its outcome can be kept.
    """

    resize: Literal["none", "short", "square"] = "none"
    """`short`: the short side becomes `size`, as torchvision's Resize(size); `square`: both."""
    size: int = 0
    """Pixels of the resize."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Of the resize and of a `resized` crop."""
    crop: Literal["none", "center", "random", "resized"] = "none"
    """`random`: torchvision's RandomCrop; `resized`: RandomResizedCrop with its defaults."""
    crop_size: int = 0
    """Side of the crop in pixels."""
    flip: bool = False
    """Mirror left and right with probability one half."""
    keep: Literal["resized", "original"] = "resized"
    """What a cache holds of an image: itself after the resize (and a center crop), or as decoded,
    where the resize comes after the chance, or enlarges with torch giving Pillow's bits (bilinear,
    as Camelyon17's; CIFAR-10's is bicubic, so that it is kept enlarged)."""
    side: int
    """Side in pixels of what comes out: the model's input is (3, side, side)."""

    @property
    def random(self) -> bool:
        """Whether an epoch's images differ from the last one's."""
        return self.flip or self.crop in ("random", "resized")


def _squared(transform: Transform | None) -> Transform | None:
    if transform is None or (transform.resize, transform.crop) != ("short", "center"):
        return transform
    return dataclasses.replace(transform, resize="square")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One distribution-shift dataset, or the upstream task that tiny models are pretrained on."""

    id: str
    title: str
    classes: int
    epochs: int
    """Fine-tuning epochs where a sweep names none."""
    splits: tuple[Split, ...]
    folder: str = ""
    """Under the data root; empty where a dependency ships or code generates the images."""
    requires: tuple[str, ...] = ()
    """Files and folders under `folder` without which nothing can be read."""
    remedy: str = ""
    """How to get the files: a command or a place."""
    fetch: str | None = None
    """`module:function`, (Dataset, data root) -> None: downloads it by its library's own means."""
    source: str | None = None
    """`module:function`, (Dataset, data root) -> worker.data.pool.Source: images in files."""
    train_transform: Transform | None = None
    test_transform: Transform | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    """How many images `train` and each split hold, where that is known for certain."""
    load: str | None = None
    """`module:function`, data root -> worker.data.images.Loaded: images that no file holds."""
    loads: int | None = None
    """Pixels of the side of what `load` gives."""
    authors_selection: str | None = None
    """`module:function`, Loaded -> Loaded: the splits as the authors' code has them, where that
    selects on other images."""
    upstream: bool = False
    """For `pretrain` runs only."""
    version: int = 1

    @property
    def resizes(self) -> bool:
        """Whether it makes a difference if the short side is resized, or both."""
        return self.squared() != self

    def squared(self) -> Dataset:
        """The same with both sides resized where the short one is, before the center is cut out."""
        train, test = map(_squared, (self.train_transform, self.test_transform))
        return dataclasses.replace(self, train_transform=train, test_transform=test)

    @property
    def side(self) -> int | None:
        """Pixels of the square images that a model gets; None where nobody says."""
        return self.train_transform.side if self.train_transform else self.loads

    def missing(self, data: Path) -> list[Path]:
        """What is not under the data root."""
        folder = data / self.folder
        return [folder / name for name in self.requires if not (folder / name).exists()]

    def is_miniature(self, data: Path) -> bool:
        """Whether what is under the data root was made by `orch data make-mini`."""
        return (data / self.folder / MARKER).is_file()

    def absence(self, data: Path) -> str | None:
        """What is missing and how to get it, as a sentence; None where all is there."""
        missing = self.missing(data)
        if not missing:
            return None
        are = f"and {len(missing) - 1} more are" if len(missing) > 1 else "is"
        return f"{missing[0]} {are} not there; get it: {self.remedy}"

    def split_names(self, *, auxiliary: bool) -> tuple[str, ...]:
        """The auxiliary splits, or those that every epoch evaluates."""
        return tuple(s.name for s in self.splits if s.auxiliary == auxiliary)


def _accuracies(**sources: str) -> tuple[Split, ...]:
    return tuple(Split(name, "accuracy", source) for name, source in sources.items())


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of a class list beside this file."""
    with Path(__file__).with_name(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def living17_folders() -> tuple[str, ...]:
    """Living-17's folders under `imagenet/`: of train the source classes, of val all."""
    rows = read_table("living17.csv")
    train = [f"train/{row['wnid']}" for row in rows if row["domain"] == "source"]
    return (*train, *(f"val/{row['wnid']}" for row in rows))


# The transforms of PROTOCOL section 2; the second set is the same at the tiny models' 32 pixels.
_LIVING17 = (
    Transform(crop="resized", crop_size=224, flip=True, keep="original", side=224),
    Transform(resize="short", size=256, crop="center", crop_size=224, side=224),
)
_WATERBIRDS = Transform(
    resize="short", size=224, interpolation="bicubic", crop="center", crop_size=224, side=224
)
_DOMAINNET = (
    Transform(
        resize="square",
        size=256,
        interpolation="bicubic",
        crop="random",
        crop_size=224,
        flip=True,
        side=224,
    ),
    Transform(resize="square", size=224, interpolation="bicubic", side=224),
)
_FMOW = (Transform(flip=True, side=224), Transform(side=224))
_CAMELYON17 = (
    Transform(resize="square", size=224, flip=True, keep="original", side=224),
    Transform(resize="square", size=224, keep="original", side=224),
)
_CIFAR10 = (
    Transform(resize="short", size=224, interpolation="bicubic", flip=True, side=224),
    Transform(resize="short", size=224, interpolation="bicubic", side=224),
)


def _smaller(transform: Transform, side: int = MINI_SIDE) -> Transform:
    """The same for smaller images: every length shrinks alike."""
    scale = side / transform.side
    return dataclasses.replace(
        transform,
        # Miniatures come in any size, also those of layouts whose real images need no resize.
        resize="square"
        if transform.resize == "none" and not transform.crop_size
        else transform.resize,
        size=round((transform.size or transform.side) * scale),
        crop_size=round(transform.crop_size * scale),
        keep="original" if transform.crop == "resized" else "resized",
        side=side,
    )


_IMAGENET = "ImageNet 2012 (ILSVRC), its validation images sorted into folders by wnid"

_REAL = (
    Dataset(
        id="living17",
        title="Living-17",
        classes=17,
        epochs=20,
        splits=_accuracies(id="source val", ood="target val"),
        folder="imagenet",
        requires=living17_folders(),
        remedy=_IMAGENET,
        source="worker.data.folders:living17",
        train_transform=_LIVING17[0],
        test_transform=_LIVING17[1],
        images={"train": 44_200, "id": 1_700, "ood": 1_700},
    ),
    Dataset(
        id="waterbirds",
        title="Waterbirds",
        classes=2,
        epochs=20,
        splits=(
            Split("id", "weighted_accuracy", "val"),
            Split("ood", "worst_group_accuracy", "test"),
        ),
        folder="waterbirds_v1.0",
        requires=("RELEASE_v1.0.txt", "metadata.csv"),
        remedy="orch data fetch waterbirds",
        fetch="worker.data.wilds_sets:fetch",
        source="worker.data.wilds_sets:waterbirds",
        authors_selection="worker.data.authors:waterbirds",
        train_transform=_WATERBIRDS,
        test_transform=_WATERBIRDS,
        images={"train": 4_795, "id": 1_199, "ood": 5_794},
    ),
    Dataset(
        id="domainnet",
        title="DomainNet",
        classes=40,
        epochs=50,
        splits=(
            *_accuracies(id="sketch test", ood="real test"),
            Split("painting", "accuracy", "painting test", auxiliary=True),
            Split("clipart", "accuracy", "clipart test", auxiliary=True),
        ),
        folder="domainnet",
        requires=(
            "SENTRY_splits/sketch_train_mini.txt",
            *(f"SENTRY_splits/{d}_test_mini.txt" for d in DOMAINNET_TESTS.values()),
            *DOMAINNET_TESTS.values(),
        ),
        remedy=(
            "DomainNet's cleaned sketch, real, painting and clipart archives, and the `mini` split "
            "lists of the SENTRY repository as SENTRY_splits/"
        ),
        source="worker.data.folders:domainnet",
        train_transform=_DOMAINNET[0],
        test_transform=_DOMAINNET[1],
        images={"train": 5_537, "id": 2_399, "ood": 6_943, "painting": 2_909, "clipart": 1_616},
    ),
    Dataset(
        id="fmow",
        title="FMoW",
        classes=62,
        epochs=5,
        splits=(
            *_accuracies(id="id_val", ood="test, region Africa"),
            Split("id_test", "accuracy", "id_test", auxiliary=True),
            Split("ood_val", "accuracy", "val", auxiliary=True),
            Split("ood_test", "accuracy", "test", auxiliary=True),
        ),
        folder="fmow_v1.1",
        requires=("RELEASE_v1.1.txt", "rgb_metadata.csv", "country_code_mapping.csv", "images"),
        remedy="orch data fetch fmow",
        fetch="worker.data.wilds_sets:fetch",
        source="worker.data.wilds_sets:fmow",
        train_transform=_FMOW[0],
        test_transform=_FMOW[1],
        images={
            "train": 76_863,
            "id": 11_483,
            "ood": 2_593,
            "id_test": 11_327,
            "ood_val": 19_915,
            "ood_test": 22_108,
        },
    ),
    Dataset(
        id="camelyon17",
        title="Camelyon17",
        classes=2,
        epochs=3,
        splits=(
            *_accuracies(id="id_val", ood="test"),
            Split("ood_val", "accuracy", "val", auxiliary=True),
        ),
        folder="camelyon17_v1.0",
        requires=("RELEASE_v1.0.txt", "metadata.csv", "patches"),
        remedy="orch data fetch camelyon17",
        fetch="worker.data.wilds_sets:fetch",
        source="worker.data.wilds_sets:camelyon17",
        train_transform=_CAMELYON17[0],
        test_transform=_CAMELYON17[1],
        images={"train": 302_436, "id": 33_560, "ood": 85_054, "ood_val": 34_904},
    ),
    Dataset(
        id="cifar10",
        title="CIFAR-10",
        classes=10,
        epochs=20,
        splits=(
            Split("id", "accuracy", "5,000 held-out images of train"),
            Split("id_test", "accuracy", "test"),
        ),
        folder="cifar-10-batches-py",
        requires=(*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"),
        remedy="orch data fetch cifar10",
        fetch="worker.data.cifar:fetch",
        source="worker.data.cifar:cifar10",
        train_transform=_CIFAR10[0],
        test_transform=_CIFAR10[1],
        images={"train": 45_000, "id": 5_000, "id_test": 10_000},
    ),
)


def _miniature(real: Dataset) -> Dataset:
    """The same layout and splits, generated, as small images for the tiny models."""
    assert real.train_transform is not None
    assert real.test_transform is not None
    return dataclasses.replace(
        real,
        id=f"mini_{real.id}",
        title=f"Mini {real.title}",
        epochs=3,
        folder=f"mini/{real.folder}",
        remedy="orch data make-mini",
        fetch=None,
        train_transform=_smaller(real.train_transform),
        test_transform=_smaller(real.test_transform),
        images={},
    )


DATASETS: Catalog[Dataset] = Catalog(
    "dataset",
    [
        *_REAL,
        Dataset(
            id="digits",
            title="Digits",
            classes=10,
            epochs=2,
            splits=_accuracies(id="every 4th row of the first writers", ood="the other writers"),
            load="worker.data.digits:load",
            loads=16,
        ),
        *map(_miniature, _REAL),
        Dataset(
            id="shapes",
            title="Shapes (upstream)",
            classes=24,
            epochs=3,
            splits=_accuracies(id="held-out images"),
            load="worker.data.upstream:load",
            loads=MINI_SIDE,
            upstream=True,
        ),
    ],
)
