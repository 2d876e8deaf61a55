"""The datasets: where their files are, their splits and metrics. One entry a dataset.

Sources: PROTOCOL section 2; paper section 4. Declarations only: the code that reads the images is
named by `load` and imported when a run needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.catalog import Catalog

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
    where the resize comes after the chance or makes the image larger."""
    side: int
    """Side in pixels of what comes out: the model's input is (3, side, side)."""

    @property
    def random(self) -> bool:
        """Whether an epoch's images differ from the last one's."""
        return self.flip or self.crop in ("random", "resized")


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
    files: tuple[str, ...] = ()
    """Files under `folder` without which nothing can be read."""
    remedy: str = ""
    """How to get the files: a command or a place."""
    load: str | None = None
    """`module:function`, data root -> worker.data.images.Loaded; None: not in this version."""
    upstream: bool = False
    """For `pretrain` runs only."""
    version: int = 1

    def missing(self, data: Path) -> list[Path]:
        """The files that are not under the data root."""
        folder = data / self.folder
        return [folder / name for name in self.files if not (folder / name).is_file()]

    def split_names(self, *, auxiliary: bool) -> tuple[str, ...]:
        """The auxiliary splits, or those that every epoch evaluates."""
        return tuple(s.name for s in self.splits if s.auxiliary == auxiliary)


def _accuracies(**sources: str) -> tuple[Split, ...]:
    return tuple(Split(name, "accuracy", source) for name, source in sources.items())


DATASETS: Catalog[Dataset] = Catalog(
    "dataset",
    [
        Dataset(
            id="living17",
            title="Living-17",
            classes=17,
            epochs=20,
            splits=_accuracies(id="source val", ood="target val"),
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
        ),
        Dataset(
            id="digits",
            title="Digits",
            classes=10,
            epochs=2,
            splits=_accuracies(id="every 4th row of the first writers", ood="the other writers"),
            load="worker.data.digits:load",
        ),
        Dataset(
            id="mini_waterbirds",
            title="Mini Waterbirds",
            classes=2,
            epochs=3,
            splits=(
                Split("id", "weighted_accuracy", "val"),
                Split("ood", "worst_group_accuracy", "test"),
            ),
            folder="mini/waterbirds_v1.0",
            files=("RELEASE_v1.0.txt", "metadata.csv"),
            remedy="orch data make-mini",
            load="worker.data.waterbirds:load_mini",
        ),
        Dataset(
            id="shapes",
            title="Shapes (upstream)",
            classes=24,
            epochs=3,
            splits=_accuracies(id="held-out images"),
            load="worker.data.upstream:load",
            upstream=True,
        ),
    ],
)
