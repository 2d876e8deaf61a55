"""Miniature benchmarks in the on-disk layout of the real ones, written deterministically.

Each has the kind of shift of its real one and is read by the same code (PROTOCOL section 2). One
module a benchmark; `figures` and `drawing` hold what they show, `folder` how their folders are
written, `sheet` a page of samples for people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from worker.data import MARKER
from worker.data.mini.camelyon17 import CAMELYON17_FOLDER, make_camelyon17
from worker.data.mini.cifar10 import CIFAR10_FOLDER, make_cifar10
from worker.data.mini.domainnet import DOMAINNET_FOLDER, make_domainnet
from worker.data.mini.fmow import FMOW_FOLDER, make_fmow
from worker.data.mini.folder import count_images
from worker.data.mini.living17 import LIVING17_FOLDER, make_living17
from worker.data.mini.sheet import contact_sheet
from worker.data.mini.waterbirds import WATERBIRDS_FOLDER, make_waterbirds

__all__ = [
    "BENCHMARKS",
    "CAMELYON17_FOLDER",
    "CIFAR10_FOLDER",
    "DOMAINNET_FOLDER",
    "FMOW_FOLDER",
    "LIVING17_FOLDER",
    "MARKER",
    "WATERBIRDS_FOLDER",
    "contact_sheet",
    "count_images",
    "make_camelyon17",
    "make_cifar10",
    "make_domainnet",
    "make_fmow",
    "make_living17",
    "make_waterbirds",
]

BENCHMARKS: Mapping[str, Callable[..., Path]] = {
    "living17": make_living17,
    "waterbirds": make_waterbirds,
    "domainnet": make_domainnet,
    "fmow": make_fmow,
    "camelyon17": make_camelyon17,
    "cifar10": make_cifar10,
}
"""By the dataset's id: (root, seed, train, val, test, size) -> its folder under root."""
