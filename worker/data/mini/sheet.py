"""A page of samples of a benchmark, read back from its files: to see classes and shifts at once.

Rows are splits, domains, hospitals or regions, columns are classes or groups. Only the layout of
PROTOCOL section 2 is used, so the real benchmarks' folders give sheets as well.
"""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worker.data.mini.camelyon17 import CAMELYON17_FOLDER
from worker.data.mini.cifar10 import BATCHES, CIFAR10_FOLDER
from worker.data.mini.domainnet import DOMAINNET_FOLDER, STYLES, class_names
from worker.data.mini.fmow import CATEGORIES, FMOW_FOLDER
from worker.data.mini.living17 import LIVING17_FOLDER, subclasses
from worker.data.mini.waterbirds import WATERBIRDS_FOLDER

Picture = Callable[[], Image.Image]
"""Opens one image: a sheet opens only those that it shows."""

Row = tuple[str, Sequence["Picture | None"]]
"""A title and the cells."""


@dataclass(frozen=True)
class Block:
    """A table of pictures; a cell without one stays empty."""

    columns: Sequence[str]
    rows: Sequence[Row]


_MARGIN, _GAP, _ROW_TITLE, _COLUMN_TITLE = 12, 4, 150, 34
_ACROSS = 17
"""Columns a line; wider blocks go on below."""


def contact_sheet(folder: Path, cell: int = 72) -> Image.Image:
    """A labelled sheet of the benchmark in `folder`, whose name says which one it is.

    `cell` is the height of a picture on the sheet, in pixels. Raises `ValueError` for a folder that
    no benchmark has, `OSError` for files that cannot be read.
    """
    if folder.name not in _SHEETS:
        raise ValueError(f"{folder}: no benchmark's folder has that name")
    title, read = _SHEETS[folder.name]
    blocks = [part for block in read(folder) for part in _wrapped(block)]
    across = max(len(block.columns) for block in blocks)
    width = 2 * _MARGIN + _ROW_TITLE + across * (cell + _GAP)
    height = 2 * _MARGIN + 26 + sum(_height(block, cell) for block in blocks)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, "black", _font(16))
    top = _MARGIN + 26
    for block in blocks:
        _paste(sheet, pen, block, top, cell)
        top += _height(block, cell)
    return sheet


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _height(block: Block, cell: int) -> int:
    return _COLUMN_TITLE + len(block.rows) * (cell + _GAP) + 10


def _wrapped(block: Block) -> Iterable[Block]:
    """The block in parts of at most `_ACROSS` columns, of about the same width."""
    parts = -(-len(block.columns) // _ACROSS)
    step = -(-len(block.columns) // parts)
    for start in range(0, len(block.columns), step):
        part = slice(start, start + step)
        yield Block(block.columns[part], [(name, cells[part]) for name, cells in block.rows])


def _paste(sheet: Image.Image, pen: ImageDraw.ImageDraw, block: Block, top: int, cell: int) -> None:
    """Draw one block with its titles."""
    font = _font(11)
    left = _MARGIN + _ROW_TITLE
    for column, name in enumerate(block.columns):
        lines = _fitted(name, pen, cell, font)
        pen.multiline_text((left + column * (cell + _GAP), top), lines, "black", font, spacing=1)
    for row, (name, cells) in enumerate(block.rows):
        y = top + _COLUMN_TITLE + row * (cell + _GAP)
        lines = _fitted(name, pen, _ROW_TITLE - 8, font)
        pen.multiline_text((_MARGIN, y + cell // 2 - 14), lines, "black", font, spacing=1)
        for column, picture in enumerate(cells):
            if picture is not None:
                sheet.paste(_scaled(picture(), cell), (left + column * (cell + _GAP), y))


def _fitted(text: str, pen: ImageDraw.ImageDraw, width: int, font: Any) -> str:
    """The text in at most two lines of `width` pixels, cut where it is longer."""
    lines = [""]
    for word in text.replace("_", " ").split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and pen.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    shown = []
    for line in lines[:2]:
        while pen.textlength(line, font) > width:
            line = line[:-1]
        shown.append(line)
    return "\n".join(shown)


def _scaled(image: Image.Image, cell: int) -> Image.Image:
    """The whole image in a square cell; small ones keep their pixels visible."""
    scale = cell / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, how)


def _file(path: Path) -> Picture:
    def picture() -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    return picture


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _first(cells: Iterable[Picture], count: int) -> list[Picture | None]:
    """`count` cells, the last ones empty where there are fewer pictures."""
    found: list[Picture | None] = list(islice(cells, count))
    return found + [None] * (count - len(found))


# --- what each benchmark's sheet shows -----------------------------------------------------------


def _living17(folder: Path) -> list[Block]:
    classes = subclasses()
    rows: list[Row] = []
    names = ("source, first subclass", "source, second", "target, first", "target, second")
    for which, name in enumerate(names):
        for part in ("train", "val") if which < 2 else ("val",):
            cells: list[Picture | None] = []
            for row in classes[which::4]:
                found = sorted((folder / part / row["wnid"]).glob("*.JPEG"))
                cells += _first(map(_file, found), 1)
            use = "train" if part == "train" else "ID" if which < 2 else "OOD"
            rows.append((f"{use}: {name}", cells))
    columns = [row["superclass_name"].split(",")[0] for row in classes[::4]]
    return [Block(columns, rows)]


def _waterbirds(folder: Path) -> list[Block]:
    table = _table(folder / "metadata.csv")
    rows = []
    each = 4
    for split, name in enumerate(("train", "val: ID", "test: OOD")):
        members = [row for row in table if row["split"] == str(split)]
        cells: list[Picture | None] = []
        for label, place in (("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")):
            group = [r for r in members if (r["y"], r["place"]) == (label, place)]
            cells += _first((_file(folder / row["img_filename"]) for row in group), each)
        counts = [sum((r["y"] == r["place"]) is own for r in members) for own in (True, False)]
        rows.append((f"{name}; {counts[0]} on their own ground, {counts[1]} not", cells))
    groups = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
    return [Block([group for group in groups for _ in range(each)], rows)]


def _domainnet(folder: Path) -> list[Block]:
    names = class_names()
    wanted = [("sketch", "train", "train"), ("sketch", "test", "ID"), ("real", "test", "OOD")]
    wanted += [(domain, "test", "OOD") for domain in list(STYLES)[2:]]
    rows: list[Row] = []
    for domain, part, use in wanted:
        lines = (folder / "SENTRY_splits" / f"{domain}_{part}_mini.txt").read_text().splitlines()
        first: dict[int, Path] = {}
        for line in lines:
            path, label = line.rsplit(" ", 1)
            first.setdefault(int(label), folder / path)
        cells = [_file(first[label]) if label in first else None for label in range(len(names))]
        rows.append((f"{use}: {domain} {part}", cells))
    return [Block(names, rows)]


def _fmow(folder: Path) -> list[Block]:
    table = _table(folder / "rgb_metadata.csv")
    mapping = _table(folder / "country_code_mapping.csv")
    region_of = {row["alpha-3"]: row["region"] for row in mapping}
    shown = [
        (row, region_of.get(line["country_code"], "Other"), line)
        for row, line in enumerate(table)
        if line["split"] != "seq"
    ]

    def picture(row: int) -> Picture:
        return _file(folder / "images" / f"rgb_img_{row}.png")

    periods = [
        ("before 2013", "0000", "2013"),
        ("2013-2015", "2013", "2016"),
        ("from 2016", "2016", "9"),
    ]
    regions: list[Row] = []
    for region in dict.fromkeys(name for _, name, _ in shown):
        cells: list[Picture | None] = []
        for _, first, last in periods:
            members = [
                r for r, name, line in shown if name == region and first <= line["timestamp"] < last
            ]
            cells += _first(map(picture, members), 5)
        regions.append((region, cells))
    columns = [name for name, _, _ in periods for _ in range(5)]

    rows: list[Row] = []
    for title, split, first, last, africa in (
        ("train: not Africa", "train", "0000", "2013", False),
        ("ID: id_val", "val", "0000", "2013", None),
        ("OOD: test, Africa", "test", "2016", "9", True),
    ):
        found: dict[str, Picture] = {}
        for row, region, line in shown:
            right = line["split"] == split and first <= line["timestamp"] < last
            if right and africa in (None, region == "Africa"):
                found.setdefault(line["category"], picture(row))
        rows.append((title, [found.get(name) for name in CATEGORIES]))
    return [Block(columns, regions), Block(CATEGORIES, rows)]


def _camelyon17(folder: Path) -> list[Block]:
    table = _table(folder / "metadata.csv")
    use = {"1": "OOD val", "2": "OOD test"}
    rows: list[Row] = []
    for center in sorted({row["center"] for row in table}):
        cells: list[Picture | None] = []
        for tumour in ("0", "1"):
            rows_of = [r for r in table if (r["center"], r["tumor"]) == (center, tumour)]
            stems = ((f"patient_{r['patient']}_node_{r['node']}", r) for r in rows_of)
            paths = (
                folder / "patches" / stem / f"patch_{stem}_x_{r['x_coord']}_y_{r['y_coord']}.png"
                for stem, r in stems
            )
            cells += _first(map(_file, paths), 8)
        rows.append((f"hospital {center}: {use.get(center, 'train and ID')}", cells))
    return [Block(["normal"] * 8 + ["tumour"] * 8, rows)]


def _cifar10(folder: Path) -> list[Block]:
    def unpickled(name: str) -> dict[bytes, Any]:
        loaded: dict[bytes, Any] = pickle.loads((folder / name).read_bytes(), encoding="bytes")
        return loaded

    def picture(pixels: Any) -> Picture:
        return lambda: Image.fromarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0))

    names = [name.decode() for name in unpickled("batches.meta")[b"label_names"]]
    rows: list[Row] = []
    for part in [f"data_batch_{number + 1}" for number in range(BATCHES)] + ["test_batch"]:
        batch = unpickled(part)
        labels = np.array(batch[b"labels"])
        cells: list[Picture | None] = []
        for label in range(len(names)):
            cells += _first(map(picture, batch[b"data"][labels == label]), 1)
        rows.append((part, cells))
    return [Block(names, rows)]


_SHEETS: Mapping[str, tuple[str, Callable[[Path], list[Block]]]] = {
    LIVING17_FOLDER: ("Living-17: new breeds of the same animals", _living17),
    WATERBIRDS_FOLDER: ("Waterbirds: birds away from their own ground", _waterbirds),
    DOMAINNET_FOLDER: ("DomainNet: trained on sketches, tested on photographs", _domainnet),
    FMOW_FOLDER: ("FMoW: later years, and Africa, rare in training", _fmow),
    CAMELYON17_FOLDER: ("Camelyon17: a hospital with another stain", _camelyon17),
    CIFAR10_FOLDER: ("CIFAR-10: no shift", _cifar10),
}
