"""The two data sets, read from their files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from db.errors import MissingInputs
from worker.data import DATASETS, images
from worker.data.digits import load as load_digits
from worker.data.images import Images
from worker.data.mini import make_waterbirds
from worker.data.waterbirds import GROUPS, load_mini

COUNTS = {"train": 80, "val": 40, "test": 48}


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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    make_waterbirds(data / "mini", **COUNTS)
    return data


def test_waterbirds_through_wilds(root: Path) -> None:
    data = load_mini(root)
    assert [len(data.train), len(data.splits["id"]), len(data.splits["ood"])] == [80, 40, 48]
    assert data.groups == GROUPS
    for split in (data.train, *data.splits.values()):
        assert torch.equal(split.groups // 2, split.labels), "a group is a bird and a place"
        assert split.batch(torch.arange(2)).shape == (2, 3, 32, 32)
    counts = data.train_group_counts()
    assert counts.sum() == 80
    own = counts[0] + counts[3]
    assert own / 80 == pytest.approx(0.95, abs=0.03), "birds on their own ground"
    assert torch.bincount(data.splits["ood"].groups).tolist() == [12] * 4, "the test is balanced"


def test_groups_are_what_wilds_calls_them(root: Path) -> None:
    from worker.data.waterbirds import open_wilds

    dataset = open_wilds("waterbirds", root / "mini")
    names = [dataset._eval_grouper.group_str(group) for group in range(4)]
    for ours, theirs in zip(GROUPS, names, strict=True):
        bird, place = ours.split("_on_")
        assert f"{bird}bird" in theirs
        assert f"background = {'' if place == 'water' else ' '}{place}" in theirs


def test_the_fingerprint_is_of_content_not_of_place(root: Path, tmp_path: Path) -> None:
    first = load_mini(root).fingerprint
    shutil.copytree(root / "mini", tmp_path / "mini")
    assert load_mini(tmp_path).fingerprint == first
    one = next((tmp_path / "mini" / "waterbirds_v1.0").rglob("*.jpg"))
    one.write_bytes(one.read_bytes() + b"\0")
    assert load_mini(tmp_path).fingerprint != first


def test_a_missing_file_is_named_with_the_remedy(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInputs, match=r"RELEASE_v1\.0\.txt is missing.*make-mini"):
        images.load("mini_waterbirds", tmp_path)
    shutil.copytree(root / "mini", tmp_path / "mini")
    one = next((tmp_path / "mini" / "waterbirds_v1.0").rglob("*.jpg"))
    one.write_bytes(one.read_bytes()[:100])
    with pytest.raises(MissingInputs, match=f"{one.name}: not a readable image"):
        load_mini(tmp_path)
    one.unlink()
    with pytest.raises(MissingInputs, match=one.name):
        load_mini(tmp_path)


def test_each_dataset_says_how_to_get_it(tmp_path: Path) -> None:
    for dataset in DATASETS.values():
        if dataset.load and dataset.folder:
            assert dataset.missing(tmp_path)
            assert dataset.remedy
