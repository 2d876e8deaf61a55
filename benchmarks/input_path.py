"""What the cache saves of the input's cost, beside PIL, torchvision's transforms and a DataLoader.

    python benchmarks/input_path.py [--quick] [--workers 2] [--only waterbirds,fmow]

Both sides give the same floats, batches of 16 of a shuffled epoch. `plain` is what a user writes: a
Dataset that opens a file and applies torchvision's transforms, and a DataLoader with persistent
workers. `cache` is `worker.data.cache` through `worker.data.prefetch` with as many threads. A
worker or thread has one torch thread. Figures are images per second of processor time, of all
processes and threads together, of whole epochs with everything started; the files are in memory on
both sides. Building the cache is not in them: it stands beside them in images per second of time.

The images are generated: structure of all sizes and noise, in the sizes and encodings of the real
datasets, so that the files are about as large as the real ones (the mean is printed).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as tv

HERE = Path(__file__).parent
SCRATCH = HERE.parent / "build"
"""On a disk, as real runs are, and ignored by git."""
BATCH = 16
BICUBIC = tv.InterpolationMode.BICUBIC


@dataclass(frozen=True)
class Kind:
    """What a dataset's images look like on disk."""

    sizes: tuple[tuple[int, int], ...]
    """Widths and heights that take turns."""
    encoding: dict[str, Any]
    noise: float
    """Standard deviation of the noise on each pixel: it decides the size of the files."""


JPEG95 = {"format": "JPEG", "quality": 95}
JPEG90 = {"format": "JPEG", "quality": 90}
PNG = {"format": "PNG"}
KINDS = {
    "living17": Kind(((500, 375), (500, 333), (375, 500), (500, 400)), JPEG95, 10),
    "waterbirds": Kind(((500, 375), (500, 333), (334, 500), (500, 400)), JPEG95, 8),
    "domainnet": Kind(((800, 600), (600, 600), (640, 720), (600, 800)), JPEG90, 8),
    "fmow": Kind(((224, 224),), PNG, 8),
    "camelyon17": Kind(((96, 96),), PNG, 14),
    "cifar10": Kind(((32, 32),), PNG, 8),
}


def plain_transform(dataset: str, train: bool) -> Callable[[Image.Image], torch.Tensor]:
    """PROTOCOL section 2's transforms as torchvision users write them."""
    flip = [tv.RandomHorizontalFlip()] if train else []
    steps: dict[str, list[Any]] = {
        "living17": [tv.RandomResizedCrop(224), *flip]
        if train
        else [tv.Resize(256), tv.CenterCrop(224)],
        "waterbirds": [tv.Resize(224, BICUBIC), tv.CenterCrop(224)],
        "domainnet": [tv.Resize((256, 256), BICUBIC), tv.RandomCrop(224), *flip]
        if train
        else [tv.Resize((224, 224), BICUBIC)],
        "fmow": flip,
        "camelyon17": [tv.Resize((224, 224)), *flip],
        "cifar10": [tv.Resize(224, BICUBIC), *flip],
    }
    return tv.Compose([*steps[dataset], tv.ToTensor()])


class Files(Dataset[torch.Tensor]):
    """What a user of torchvision writes."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def texture(side: int) -> np.ndarray:
    """Structure of all sizes, as in photographs: the finer, the fainter."""
    chance = np.random.default_rng(0)
    found = np.zeros((side, side, 3), np.float32)
    cells = 4
    while cells <= side // 2:
        coarse = chance.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        planes = [
            np.asarray(
                Image.fromarray(coarse[..., c]).resize((side, side), Image.Resampling.BICUBIC)
            )
            for c in range(3)
        ]
        found += np.stack(planes, axis=-1) * (40 * 8 / cells) ** 0.8
        cells *= 2
    return found


def generate(folder: Path, kind: Kind, count: int, base: np.ndarray) -> list[Path]:
    """Image files: cut from the texture anywhere, with noise of their own."""
    chance = np.random.default_rng(1)
    folder.mkdir()
    files = []
    for number in range(count):
        width, height = kind.sizes[number % len(kind.sizes)]
        top, left = chance.integers(0, np.array(base.shape[:2]) - (height, width))
        image = base[top : top + height, left : left + width] + 128
        image = image + chance.normal(0, kind.noise, image.shape)
        file = folder / f"{number:05d}.{kind.encoding['format'].lower()}"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, **kind.encoding)
        files.append(file)
    return files


def processor_seconds(processes: Iterable[int]) -> float:
    """Of this process, all its threads, and of others."""
    total = time.process_time()
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


class Plain:
    """Epochs by a DataLoader."""

    def __init__(self, files: list[Path], dataset: str, train: bool, workers: int) -> None:
        self.loader = DataLoader(
            Files(files, plain_transform(dataset, train)),
            batch_size=BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=True,
        )

    def epoch(self) -> Iterator[torch.Tensor]:
        return iter(self.loader)

    def processes(self) -> list[int]:
        iterator: Any = self.loader._iterator
        return [worker.pid for worker in iterator._workers] if iterator else []


class Cached:
    """Epochs by the cache."""

    def __init__(self, images: Any, workers: int) -> None:
        self.images, self.workers, self.number = images, workers, 0

    def epoch(self) -> Iterator[torch.Tensor]:
        from worker.data.prefetch import prefetch

        self.number += 1
        chance = torch.Generator().manual_seed(self.number)
        order = torch.randperm(len(self.images), generator=chance).split(BATCH)
        return prefetch(self.images.epoch(chance), order, self.workers)

    def processes(self) -> list[int]:
        return []


def rate(side: Plain | Cached, count: int, epochs: int) -> float:
    """Images per second of processor time over whole epochs."""
    before = processor_seconds(side.processes())
    for _ in range(epochs):
        assert sum(len(batch) for batch in side.epoch()) == count
    return count * epochs / (processor_seconds(side.processes()) - before)


@dataclass
class Line:
    """One row of the table."""

    name: str
    plain: float
    cache: float
    ratio: float
    first: float


def measure(
    dataset: str, folder: Path, base: np.ndarray, count: int, rounds: int, workers: int
) -> tuple[str, list[Line]]:
    """A dataset's line about its files and cache, and its lines of the table."""
    from worker.data import DATASETS
    from worker.data.cache import build, entries
    from worker.data.cached import cached
    from worker.data.pool import Part, files_pool

    root = folder / dataset
    files = generate(root, KINDS[dataset], count, base)
    size = statistics.mean(file.stat().st_size for file in files)
    entry = DATASETS[dataset]
    assert entry.train_transform is not None
    assert entry.test_transform is not None
    about, lines = f"{dataset}: {count} files of {size / 1e3:.0f} kB", []
    known = {e.path for e in entries(folder / "cache")}
    for train, transform in ((True, entry.train_transform), (False, entry.test_transform)):
        if not train and transform == entry.train_transform:
            continue
        pool = files_pool(dataset, root, [file.name for file in files], "benchmark")
        began = time.perf_counter()
        built = list(build(pool, transform, folder / "cache", workers))
        seconds = time.perf_counter() - began
        zeros = torch.zeros(count, dtype=torch.int64)
        images = cached(Part(pool, torch.arange(count), zeros, zeros), transform, folder / "cache")
        if built:
            made = next(e for e in entries(folder / "cache") if e.path not in known)
            known.add(made.path)
            about += f"; {made.what} of {made.bytes / count / 1e3:.0f} kB an image, built at "
            about += f"{count / seconds:.0f} images/s"
        plain, ours = Plain(files, dataset, train, workers), Cached(images, workers)
        first = rate(ours, count, 1)
        rate(plain, count, 1)
        # About as long a measurement on either side.
        found = [
            (rate(plain, count, 1), rate(ours, count, 1 if dataset == "living17" else 6))
            for _ in range(rounds)
        ]
        lines.append(
            Line(
                f"{dataset} {'train' if train else 'test'}",
                statistics.median(one for one, _ in found),
                statistics.median(other for _, other in found),
                statistics.median(other / one for one, other in found),
                first,
            )
        )
        del plain
    return about, lines


def main() -> None:
    """Print the table; ratios are medians of each round's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few images, two rounds")
    parser.add_argument("--workers", type=int, default=2, help="DataLoader workers, and threads")
    parser.add_argument("--only", default=",".join(KINDS), help="datasets, by commas")
    options = parser.parse_args()
    count, rounds = (96, 2) if options.quick else (512, 5)
    torch.set_num_threads(1)
    base = texture(2048)
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        print(
            f"batches of {BATCH}; {options.workers} workers or threads, one torch thread each; "
            f"{count} images, {rounds} rounds"
        )
        lines = []
        for dataset in options.only.split(","):
            about, some = measure(dataset, Path(folder), base, count, rounds, options.workers)
            print(about, flush=True)
            lines += some
    print(f"\n{'images per CPU-second':24}{'plain':>8}{'cache':>8}{'ratio':>8}{'first epoch':>13}")
    for line in lines:
        print(
            f"{line.name:24}{line.plain:8.0f}{line.cache:8.0f}{line.ratio:8.1f}{line.first:13.0f}"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
