"""The six miniatures: read by the code that reads the real ones, the same bytes for the same seed.

What only Waterbirds has is in test_mini_waterbirds.py.
"""

import csv
import functools
import hashlib
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from conftest import ROOT
from orchestrator.cli import main
from worker.data.mini import BENCHMARKS, MARKER, contact_sheet, count_images
from worker.data.mini.domainnet import class_names
from worker.data.mini.figures import PLACES, THINGS, template
from worker.data.mini.living17 import subclasses
from worker.data.wilds_sets import open_wilds

COUNTS: dict[str, int] = {"train": 96, "val": 48, "test": 80}

FOLDERS = {
    "living17": "imagenet",
    "waterbirds": "waterbirds_v1.0",
    "domainnet": "domainnet",
    "fmow": "fmow_v1.1",
    "camelyon17": "camelyon17_v1.0",
    "cifar10": "cifar-10-batches-py",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with all six, small; tests must leave it unchanged."""
    root = tmp_path_factory.mktemp("data")
    for make in BENCHMARKS.values():
        make(root, **COUNTS)
    return root


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- what all have in common ---------------------------------------------------------------------


def test_the_names_are_those_of_the_real_ones(root: Path) -> None:
    assert list(BENCHMARKS) == list(FOLDERS)
    assert {path.name for path in root.iterdir()} == set(FOLDERS.values())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_seed_decides_every_byte(name: str, root: Path, tmp_path: Path) -> None:
    folder = root / FOLDERS[name]
    again = BENCHMARKS[name](tmp_path / "again", **COUNTS)
    other = BENCHMARKS[name](tmp_path / "other", **COUNTS, seed=1)

    assert digests(again) == digests(folder)
    assert set(digests(other).values()).isdisjoint(
        digest
        for path, digest in digests(folder).items()
        if Path(path).suffix.lower() in (".jpg", ".jpeg", ".png")
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_the_marker_says_how_it_was_made(name: str, root: Path) -> None:
    marker = json.loads((root / FOLDERS[name] / MARKER).read_text())

    expected = {"benchmark": name, "seed": 0, "size": 32, **COUNTS}
    assert expected.items() <= marker.items()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_matching_one_is_left_alone(name: str, root: Path) -> None:
    folder = root / FOLDERS[name]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    assert BENCHMARKS[name](root, **COUNTS) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("name", FOLDERS)
def test_real_data_is_never_touched(name: str, tmp_path: Path) -> None:
    folder = tmp_path / FOLDERS[name]
    folder.mkdir()
    (folder / "real").write_text("real")

    with pytest.raises(FileExistsError, match="may be real data"):
        BENCHMARKS[name](tmp_path, **COUNTS)
    assert [path.name for path in tmp_path.rglob("*")] == [folder.name, "real"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_full_disk_leaves_the_older_one_or_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"train": 4, "val": 2, "test": 2}
    older = digests(BENCHMARKS[name](tmp_path / "older", **few))
    writes = Counter[str]()

    def failing(write: Any) -> Any:
        @functools.wraps(write)
        def third_fails(*args: Any, **options: Any) -> Any:
            writes["all"] += 1
            if writes["all"] == 3:
                raise OSError("disk full")
            return write(*args, **options)

        return third_fails

    if name == "cifar10":
        monkeypatch.setattr(pickle._Pickler, "dump", failing(pickle._Pickler.dump))
    else:
        monkeypatch.setattr(Image.Image, "save", failing(Image.Image.save))
    for place in ("new", "older"):
        writes.clear()
        with pytest.raises(OSError, match="disk full"):
            BENCHMARKS[name](tmp_path / place, **few, seed=3)

    assert list((tmp_path / "new").iterdir()) == []
    assert digests(tmp_path / "older" / FOLDERS[name]) == older
    assert [path.name for path in (tmp_path / "older").iterdir()] == [FOLDERS[name]]


@pytest.mark.parametrize("name", FOLDERS)
def test_one_image_a_split_is_enough(name: str, tmp_path: Path) -> None:
    folder = BENCHMARKS[name](tmp_path, train=1, val=1, test=1, size=64)

    assert count_images(folder) >= 3
    assert contact_sheet(folder).width > 200


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("living17", {(64, 64), (80, 64)}),
        ("waterbirds", {(64, 64), (80, 64)}),
        ("domainnet", {(64, 64), (80, 64)}),
        ("fmow", {(64, 64)}),
        ("camelyon17", {(64, 64)}),
    ],
)
def test_larger_photographs_are_not_all_square(
    name: str, sizes: set[tuple[int, int]], tmp_path: Path
) -> None:
    folder = BENCHMARKS[name](tmp_path, train=8, val=4, test=4, size=64)

    found = Counter()
    for path in folder.rglob("*"):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            with Image.open(path) as image:
                found[image.size] += 1
    assert set(found) == sizes


def test_sizes_that_a_format_fixes_are_kept(tmp_path: Path) -> None:
    few = {"train": 2, "val": 1, "test": 1, "size": 128}
    for name, size in (("camelyon17", 96), ("cifar10", 32)):
        folder = BENCHMARKS[name](tmp_path, **few)
        assert json.loads((folder / MARKER).read_text())["size"] == size


# --- Living-17 -----------------------------------------------------------------------------------


def living17(root: Path, part: str, domain: str) -> Counter[int]:
    """Images of each superclass over the source or target subclasses of one part."""
    found = Counter[int]()
    for row in subclasses():
        if row["domain"] == domain:
            images = list((root / "imagenet" / part / row["wnid"]).glob("*.JPEG"))
            found[int(row["superclass_index"])] += len(images)
    return found


def test_living17_has_the_breeds_of_imagenet(root: Path) -> None:
    classes = subclasses()
    assert len({row["wnid"] for row in classes}) == 68
    domains = ["source", "source", "target", "target"]
    assert [row["domain"] for row in classes] == domains * 17
    for part in ("train", "val"):
        folders = {path.name for path in (root / "imagenet" / part).iterdir()}
        assert folders == {row["wnid"] for row in classes}


def test_living17_splits_count_as_asked(root: Path) -> None:
    train, val = living17(root, "train", "source"), living17(root, "val", "source")
    test, unused = living17(root, "val", "target"), living17(root, "train", "target")

    assert (train.total(), val.total(), test.total()) == (96, 48, 80)
    assert unused.total() == 6  # as in ImageNet's train: a reader must leave them out
    for split in (train, val, test):
        assert len(split) == 17
        assert max(split.values()) - min(split.values()) <= 2


# --- Waterbirds, FMoW, Camelyon17: through wilds -------------------------------------------------


def sizes(dataset: Any) -> dict[str, int]:
    return {split: int((dataset.split_array == n).sum()) for split, n in dataset.split_dict.items()}


def test_fmow_splits_count_as_asked(root: Path) -> None:
    dataset = open_wilds("fmow", root)
    africa = dataset._metadata_map["region"].index("Africa")
    in_africa = dataset.metadata_array[:, 0].numpy() == africa

    assert dataset.n_classes == 62
    assert sizes(dataset) == {"train": 96, "id_val": 48, "id_test": 24, "val": 24, "test": 120}
    test = dataset.split_array == dataset.split_dict["test"]
    train = dataset.split_array == dataset.split_dict["train"]
    assert (test & in_africa).sum() == 80
    assert (train & in_africa).sum() == 3
    assert (dataset.split_array == -1).sum() == 6  # rows of train from after 2012
    years = dataset.metadata_array[:, 1].numpy() + 2002
    assert years[train].max() <= 2012
    assert years[test].min() >= 2016


def test_fmow_numbers_pictures_by_row(root: Path) -> None:
    dataset = open_wilds("fmow", root)
    rows = table(root / "fmow_v1.1" / "rgb_metadata.csv")

    images = {path.name for path in (root / "fmow_v1.1" / "images").iterdir()}
    shown = [row for row, line in enumerate(rows) if line["split"] != "seq"]
    assert images == {f"rgb_img_{row}.png" for row in shown}
    assert len(rows) - len(shown) == 6
    assert shown != list(range(len(shown)))  # a reader that counts without them is wrong
    assert np.asarray(dataset.get_input(len(dataset) - 1)).shape == (32, 32, 3)
    assert [rows[row]["category"] for row in shown] == [
        tuple(PLACES)[label] for label in dataset.y_array
    ]


def test_fmow_categories_are_those_of_wilds(root: Path) -> None:
    dataset = open_wilds("fmow", root)

    assert dataset.category_to_idx == {name: label for label, name in enumerate(PLACES)}
    assert set(dataset._metadata_map["region"]) <= {
        *("Africa", "Americas", "Asia", "Europe", "Oceania", "Other")
    }


def test_fmow_times_come_in_two_spellings(root: Path) -> None:
    rows = table(root / "fmow_v1.1" / "rgb_metadata.csv")

    # As in the real file, which pandas reads only when told that both are ISO 8601.
    assert {len(row["timestamp"]) for row in rows} == {20, 24}


def test_camelyon17_splits_by_hospital(root: Path) -> None:
    dataset = open_wilds("camelyon17", root)
    hospital = dataset.metadata_array[:, 0].numpy()

    assert sizes(dataset) == {"train": 96, "id_val": 48, "test": 80, "val": 40}
    for split, wanted in {"train": {0, 3, 4}, "id_val": {0, 3, 4}, "test": {2}, "val": {1}}.items():
        members = dataset.split_array == dataset.split_dict[split]
        assert set(hospital[members]) == wanted
        assert dataset.y_array[members].float().mean() == 0.5
    slides = dataset.metadata_array[:, 1].numpy()
    np.testing.assert_array_equal(slides // 10, hospital)
    images = {np.asarray(dataset.get_input(row)).tobytes() for row in range(len(dataset))}
    assert len(images) == 264
    head = (root / "camelyon17_v1.0" / "metadata.csv").read_text().splitlines()[0]
    assert head == ",patient,node,x_coord,y_coord,tumor,slide,center,split"


# --- DomainNet -----------------------------------------------------------------------------------


def test_domainnet_lists_every_image_once(root: Path) -> None:
    folder = root / "domainnet"
    names, counts, listed = class_names(), {}, []
    for path in sorted((folder / "SENTRY_splits").iterdir()):
        lines = path.read_text().splitlines()
        counts[path.name.removesuffix("_mini.txt")] = len(lines)
        for line in lines:
            image, label = line.split(" ")
            domain, name, _ = image.split("/")
            assert path.name.startswith(domain)
            assert names[int(label)] == name
            listed.append(image)

    assert counts == {
        **{"sketch_train": 96, "sketch_test": 48, "real_train": 10, "real_test": 80},
        **{"painting_train": 10, "painting_test": 40, "clipart_train": 10, "clipart_test": 40},
    }
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")]
    assert sorted(found) == sorted(listed)


def test_domainnet_sketches_have_no_colour(root: Path) -> None:
    def colour(domain: str) -> float:
        images = [
            np.asarray(Image.open(path)) for path in (root / "domainnet" / domain).rglob("*.jpg")
        ]
        return float(np.ptp(np.stack(images).astype(float), axis=-1).mean())

    assert colour("sketch") < 4
    assert min(colour(domain) for domain in ("real", "painting", "clipart")) > 20


# --- CIFAR-10 ------------------------------------------------------------------------------------


def test_cifar10_is_torchvisions(root: Path) -> None:
    from torchvision.datasets import CIFAR10

    class Miniature(CIFAR10):
        """The real class, without the real files' checksums."""

        train_list: ClassVar[list[list[str]]] = [[name, None] for name, _ in CIFAR10.train_list]
        test_list: ClassVar[list[list[str]]] = [[name, None] for name, _ in CIFAR10.test_list]
        meta: ClassVar[dict[str, Any]] = {**CIFAR10.meta, "md5": None}

    train, test = Miniature(root, train=True), Miniature(root, train=False)

    assert (len(train), len(test)) == (96 + 48, 80)
    assert train.classes == [
        *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    ]
    assert set(Counter(test.targets).values()) == {8}
    image, label = train[0]
    assert image.size == (32, 32)
    assert type(label) is int


def test_cifar10_batches_read_as_the_originals(root: Path) -> None:
    """Python 2 wrote them: the encoding decides whether strings are str or bytes."""
    raw = (root / "cifar-10-batches-py" / "data_batch_1").read_bytes()
    as_str, as_bytes = pickle.loads(raw, encoding="latin1"), pickle.loads(raw, encoding="bytes")

    assert set(as_str) == {"batch_label", "labels", "data", "filenames"}
    assert set(as_bytes) == {name.encode() for name in as_str}
    assert as_str["data"].dtype == np.uint8
    assert as_str["data"].shape == (len(as_str["labels"]), 3072)
    np.testing.assert_array_equal(as_str["data"], as_bytes[b"data"])


# --- drawings and sheets -------------------------------------------------------------------------


@pytest.mark.parametrize("drawings", [THINGS, PLACES], ids=["things", "places"])
def test_every_drawing_differs_from_the_others(drawings: dict[str, Any]) -> None:
    seen = {}
    for name, figure in drawings.items():
        layers = template(figure.parts, 48)
        inside = layers.distances.min(axis=0) < 0
        assert 0.05 < inside.mean() < 0.8, name
        whole = np.zeros_like(inside, dtype=int)
        for role, distance in zip(layers.roles, layers.distances, strict=True):
            whole[distance < 0] = ord(role)
        for other, picture in seen.items():
            assert (picture != whole).mean() > 0.04, (name, other)
        seen[name] = whole


@pytest.mark.parametrize("name", FOLDERS)
def test_a_sheet_shows_what_is_on_disk(name: str, root: Path) -> None:
    sheet = np.asarray(contact_sheet(root / FOLDERS[name]))

    assert sheet.shape[0] > 200
    assert 0.1 < (sheet < 250).any(axis=-1).mean() < 0.9


def test_a_sheet_is_of_a_benchmark(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no benchmark's folder"):
        contact_sheet(tmp_path)


def test_make_mini_makes_those_that_are_named(tmp_path: Path) -> None:
    options = ["--train", "4", "--val", "2", "--test", "2", "--contact-sheet", str(tmp_path / "s")]
    command = ["--data", str(tmp_path / "data"), "data", "make-mini", "cifar10", "waterbirds"]
    found = CliRunner().invoke(main, [*command, *options])

    assert found.exit_code == 0, found.output
    assert "mini_waterbirds: 8 images in" in found.output
    assert {path.name for path in (tmp_path / "data" / "mini").iterdir()} == {
        "cifar-10-batches-py",
        "waterbirds_v1.0",
    }
    for name in ("cifar10", "waterbirds"):
        with Image.open(tmp_path / "s" / f"{name}.png") as sheet:
            assert sheet.width > 200


def test_the_class_lists_are_in_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert '"worker.data" = ["*.csv"]' in text
    assert '"worker.data.mini" = ["*.txt"]' in text
