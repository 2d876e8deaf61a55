"""Digits, and what the catalog of datasets says of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from worker.data import DATASETS
from worker.data.digits import load as load_digits
from worker.data.images import Images


def flat(split: Images) -> tuple[object, object]:
    pixels = split.batch(torch.arange(len(split)))
    return pixels[:, 0, ::2, ::2].flatten(1).numpy(), split.labels.numpy()


def test_digits_shift_from_writers_to_writers() -> None:
    """A linear model gets about 0.97 on writers it knows and loses some on others (PROTOCOL)."""
    data = load_digits(Path("unused"))
    assert [len(data.train), len(data.splits["id"]), len(data.splits["ood"])] == [809, 269, 719]
    linear = LogisticRegression(max_iter=2000).fit(*flat(data.train))
    seen, unseen = (linear.score(*flat(data.splits[s])) for s in ("id", "ood"))
    assert seen == pytest.approx(0.97, abs=0.03)
    assert unseen == pytest.approx(0.93, abs=0.03)
    assert unseen < seen - 0.01


def test_digits_are_pixels_between_black_and_white() -> None:
    batch = load_digits(Path("unused")).train.batch(torch.tensor([5, 0]))
    assert batch.shape == (2, 3, 16, 16)
    assert batch.dtype == torch.float32
    assert (float(batch.min()), float(batch.max())) == (0.0, 1.0)
    assert torch.equal(batch[:, 0], batch[:, 2]), "grey"


def test_each_dataset_says_how_to_get_it(tmp_path: Path) -> None:
    for dataset in DATASETS.values():
        absence = dataset.absence(tmp_path)
        assert (absence is None) == (not dataset.folder)
        if absence:
            assert absence.endswith(f"not there; get it: {dataset.remedy}")
            assert dataset.remedy
