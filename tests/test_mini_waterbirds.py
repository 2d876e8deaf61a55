"""The miniature Waterbirds: read by wilds as the real one is, the same bytes for the same seed."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worker.data.mini import MARKER, WATERBIRDS_FOLDER, make_waterbirds

# wilds hands read-only columns of pandas to torch, which warns and copies them.
pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

SMALL: dict[str, Any] = {"train": 80, "val": 24, "test": 40}


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with one small miniature; tests must leave it unchanged."""
    root = tmp_path_factory.mktemp("data")
    make_waterbirds(root, **SMALL)
    return root


@pytest.fixture(scope="module")
def dataset(root: Path) -> Any:
    """The miniature as the wilds package reads it."""
    with pytest.MonkeyPatch.context() as patch:
        # Otherwise the import starts a thread that asks the network for a newer version.
        patch.setitem(sys.modules, "outdated", None)
        import wilds

        return wilds.get_dataset("waterbirds", root_dir=str(root), download=False)


def groups(dataset: Any, split: str) -> np.ndarray:
    """Counts `[place, label]` of one split."""
    subset = dataset.get_subset(split)
    counts = np.zeros((2, 2), dtype=int)
    np.add.at(counts, tuple(subset.metadata_array[:, :2].numpy().T), 1)
    return counts


def test_wilds_finds_the_splits(dataset: Any) -> None:
    assert {split: len(dataset.get_subset(split)) for split in SMALL} == SMALL
    assert dataset.n_classes == 2
    assert dataset.metadata_fields[:2] == ["background", "y"]
    assert dataset.y_array.float().mean() == 0.5


def test_wilds_opens_every_image_once(dataset: Any, root: Path) -> None:
    images = np.stack([np.asarray(dataset.get_input(i)) for i in range(len(dataset))])

    assert images.shape == (144, 32, 32, 3)
    assert len(np.unique(images.reshape(144, -1), axis=0)) == 144
    files = {path.relative_to(root / WATERBIRDS_FOLDER).as_posix() for path in root.rglob("*.jpg")}
    assert files == set(dataset._input_array)


def test_class_folders_agree_with_labels(dataset: Any) -> None:
    folders = [name.split("/")[0] for name in dataset._input_array]

    assert {"001.Mini_Landbird", "002.Mini_Waterbird"} == set(folders)
    assert [int("Water" in name) for name in folders] == dataset.y_array.tolist()


def test_training_is_correlated_and_the_others_balanced(dataset: Any) -> None:
    np.testing.assert_array_equal(groups(dataset, "train"), [[38, 2], [2, 38]])
    np.testing.assert_array_equal(groups(dataset, "val"), [[6, 6], [6, 6]])
    np.testing.assert_array_equal(groups(dataset, "test"), [[10, 10], [10, 10]])


def test_labels_do_not_follow_the_rows(dataset: Any) -> None:
    labels = dataset.get_subset("train").y_array.numpy()

    assert 20 < np.abs(np.diff(labels)).sum() < 60


def test_correlation_is_the_callers(tmp_path: Path) -> None:
    folder = make_waterbirds(tmp_path, **SMALL, correlation=1.0)

    rows = np.genfromtxt(folder / "metadata.csv", delimiter=",", skip_header=1, usecols=(2, 3, 4))
    train = rows[rows[:, 1] == 0]
    np.testing.assert_array_equal(train[:, 0], train[:, 2])
    with pytest.raises(ValueError, match="correlation"):
        make_waterbirds(tmp_path, **SMALL, correlation=1.2)


def test_the_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    again = contents(make_waterbirds(tmp_path / "again", **SMALL))
    other = contents(make_waterbirds(tmp_path / "other", **SMALL, seed=1))

    assert again == contents(root / WATERBIRDS_FOLDER)
    assert other["metadata.csv"] != again["metadata.csv"]


def test_a_matching_miniature_is_left_alone(root: Path) -> None:
    folder = root / WATERBIRDS_FOLDER
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    assert make_waterbirds(root, **SMALL) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_miniature_is_replaced_whole(tmp_path: Path) -> None:
    make_waterbirds(tmp_path, **SMALL)
    smaller = make_waterbirds(tmp_path, train=8, val=4, test=4)

    assert len(list(smaller.rglob("*.jpg"))) == 16
    assert json.loads((smaller / MARKER).read_text())["train"] == 8
    assert [path.name for path in tmp_path.iterdir()] == [WATERBIRDS_FOLDER]


def test_a_damaged_marker_is_replaced(tmp_path: Path) -> None:
    folder = make_waterbirds(tmp_path, train=8, val=4, test=4)
    (folder / MARKER).write_text("{")
    make_waterbirds(tmp_path, train=8, val=4, test=4)

    assert json.loads((folder / MARKER).read_text())["seed"] == 0


def test_real_data_is_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / WATERBIRDS_FOLDER
    folder.mkdir()
    (folder / "metadata.csv").write_text("real")

    with pytest.raises(FileExistsError, match="may be real data"):
        make_waterbirds(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == [WATERBIRDS_FOLDER, "metadata.csv"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)

    with pytest.raises(OSError, match="disk full"):
        make_waterbirds(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []
