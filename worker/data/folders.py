"""Living-17 and DomainNet: image files in folders named by class. Source: PROTOCOL section 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from db.errors import MissingInputs
from worker.data import DOMAINNET_TESTS, Dataset, read_table
from worker.data.pool import Part, Pool, Source, files_pool

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
SPLITS_FOLDER = "SENTRY_splits"


def living17(entry: Dataset, data: Path) -> Source:
    """Training images of the source classes; validation images of source and target classes.

    A label is the superclass: four ImageNet classes each, two of them source and two target
    (`living17.csv`). Raises `MissingInputs` for a class folder that is missing or empty.
    """
    root = data / entry.folder
    rows = read_table("living17.csv")

    def listed(part: str, domain: str) -> Iterator[tuple[str, int]]:
        for row in sorted((r for r in rows if r["domain"] == domain), key=lambda r: r["wnid"]):
            folder = f"{part}/{row['wnid']}"
            for name in _images_in(root, folder):
                yield f"{folder}/{name}", int(row["superclass_index"])

    train = [*listed("train", "source")]
    source, target = [*listed("val", "source")], [*listed("val", "target")]
    if not train or not source or not target:
        raise MissingInputs(f"{root} holds no images of Living-17's classes; get {entry.remedy}.")
    pool = files_pool(f"{entry.id}-train", root, (name for name, _ in train), str(root))
    tests = files_pool(f"{entry.id}-test", root, (n for n, _ in (*source, *target)), str(root))
    return Source(
        train=_ungrouped(pool, range(len(train)), [label for _, label in train]),
        splits={
            "id": _ungrouped(tests, range(len(source)), [label for _, label in source]),
            "ood": _ungrouped(
                tests, range(len(source), len(tests)), [label for _, label in target]
            ),
        },
        groups=("",),
        miniature=entry.is_miniature(data),
    )


def _images_in(root: Path, folder: str) -> list[str]:
    """The image files of a class folder, sorted, since a folder's own order differs by disk."""
    try:
        names = [path.name for path in (root / folder).iterdir()]
    except FileNotFoundError as error:
        raise MissingInputs(f"{root / folder} is missing; fetch the dataset again.") from error
    found = sorted(n for n in names if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith("."))
    if not found:
        raise MissingInputs(f"{root / folder} holds no images; unpack the dataset again.")
    return found


def _ungrouped(pool: Pool, rows: range, labels: list[int]) -> Part:
    return Part(
        pool=pool,
        rows=torch.arange(rows.start, rows.stop),
        labels=torch.tensor(labels, dtype=torch.int64),
        groups=torch.zeros(len(labels), dtype=torch.int64),
    )


def domainnet(entry: Dataset, data: Path) -> Source:
    """Sketches to train on and to select by; photographs, paintings and clip art to be tested by.

    The split lists hold lines `domain/class/file label`. Raises `MissingInputs` naming file and
    line where a label is not the class's (`domainnet40.csv`) or an image is missing.
    """
    root = data / entry.folder
    classes = {row["class_name"]: int(row["label"]) for row in read_table("domainnet40.csv")}

    train = _listed(root / SPLITS_FOLDER / "sketch_train_mini.txt", classes)
    tests = {
        split: _listed(root / SPLITS_FOLDER / f"{domain}_test_mini.txt", classes)
        for split, domain in DOMAINNET_TESTS.items()
    }
    pool = files_pool(f"{entry.id}-train", root, (name for name, _ in train), SPLITS_FOLDER)
    names = [name for listed in tests.values() for name, _ in listed]
    held_out = files_pool(f"{entry.id}-test", root, names, SPLITS_FOLDER)
    splits, first = {}, 0
    for split, listed in tests.items():
        rows = range(first, first + len(listed))
        splits[split] = _ungrouped(held_out, rows, [label for _, label in listed])
        first += len(listed)
    return Source(
        train=_ungrouped(pool, range(len(train)), [label for _, label in train]),
        splits=splits,
        groups=("",),
        miniature=entry.is_miniature(data),
    )


def _listed(path: Path, classes: dict[str, int]) -> list[tuple[str, int]]:
    """A split list's images with their labels."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingInputs(f"{path} cannot be read ({error}); fetch it again.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        parts = name.split("/")
        if len(parts) != 3 or not label.isdigit():
            raise MissingInputs(
                f"{path}, line {number}: {line!r} is not `domain/class/file label`; "
                "fetch the list again."
            )
        if classes.get(parts[1]) != int(label):
            wanted = classes.get(parts[1], "no class of the 40")
            raise MissingInputs(
                f"{path}, line {number}: label {label} for class {parts[1]!r}, which is {wanted}; "
                "fetch the list again."
            )
        found.append((name, int(label)))
    if not found:
        raise MissingInputs(f"{path} is empty; fetch it again.")
    return found
