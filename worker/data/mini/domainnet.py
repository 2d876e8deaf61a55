"""A miniature DomainNet: forty things as sketches, photographs, paintings and clip art.

The lists are those of the SENTRY splits (Prabhu et al. 2021): training on sketches, tested on
photographs.
"""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from worker.data.mini.drawing import CLIPART, PAINTING, PHOTO, SKETCH, Coats, coats, paint, stream
from worker.data.mini.figures import THINGS
from worker.data.mini.folder import QUALITY, balanced, described, generate, generator
from worker.data.shapes import Images, Ints

FORMAT_VERSION = 1

DOMAINNET_FOLDER = "domainnet"

CLASSES = Path(__file__).parent.parent / "domainnet40.csv"
"""label, class_name of the forty classes of the SENTRY splits."""

STYLES = {"sketch": SKETCH, "real": PHOTO, "painting": PAINTING, "clipart": CLIPART}
"""How each domain is drawn."""


def make_domainnet(
    root: Path,
    seed: int = 0,
    train: int = 512,
    val: int = 256,
    test: int = 512,
    size: int = 32,
) -> Path:
    """Write a miniature DomainNet under `root` and return its folder.

    `train` and `val` count the sketches to train on and to select by (the lists `sketch_train` and
    `sketch_test`), `test` the photographs to test on (`real_test`). The paintings and the clip art
    to test on are half as many each, and the other domains' training lists, which nothing here
    trains on, an eighth of `test`.

    Complete or not at all, like every miniature: see `generate`.
    """
    return generate(
        root / DOMAINNET_FOLDER,
        described("domainnet", FORMAT_VERSION, seed, train, val, test, size),
        lambda folder: _write(folder, seed, train, val, test, size),
    )


def class_names() -> list[str]:
    """Names of the forty classes, by label."""
    with CLASSES.open(newline="", encoding="utf-8") as file:
        return [row["class_name"] for row in csv.DictReader(file)]


def _write(folder: Path, seed: int, train: int, val: int, test: int, size: int) -> None:
    """Write the four domains and their lists."""
    rng = generator("domainnet", seed)
    names = class_names()
    figures = [THINGS[name] for name in names]
    counts = {
        "sketch": (train, val),
        "real": (max(1, test // 8), test),
        "painting": (max(1, test // 8), max(1, test // 2)),
        "clipart": (max(1, test // 8), max(1, test // 2)),
    }
    lists = folder / "SENTRY_splits"
    lists.mkdir()
    for number, (domain, style) in enumerate(STYLES.items()):
        for name in names:
            (folder / domain / name).mkdir(parents=True)
        written = 0
        for part, count in zip(("train", "test"), counts[domain], strict=True):
            labels = balanced(count, len(names), rng)
            coat = coats(labels, figures, rng)

            def draw(
                rows: Ints,
                height: int,
                width: int,
                labels: Ints = labels,
                style: str = style,
                coat: Coats = coat,
            ) -> Images:
                return paint(labels[rows], figures, style, coat.take(rows), rng, height, width)

            lines = []
            for label, image in zip(labels, stream(count, size, draw, True), strict=True):
                written += 1
                path = f"{domain}/{names[label]}/{domain}_{number:03d}_{written:06d}.jpg"
                Image.fromarray(image).save(folder / path, quality=QUALITY)
                lines.append(f"{path} {label}\n")
            (lists / f"{domain}_{part}_mini.txt").write_text("".join(lines), encoding="utf-8")
