"""What the path of a linear probe costs: seconds and memory at a dataset's size, made-up features.

    python benchmarks/linear_probe.py --rows 302436 --width 512 --classes 2  # Camelyon17, CLIP-B/16

The features are as hard as told: classes whose means lie `--apart` standard deviations apart in a
spectrum that falls off, 5% of the labels wrong. Real ones take more or fewer iterations.
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from worker.regression import PATH, Regression, Scale


def features(path: Path, rows: int, width: int, classes: int, apart: float) -> np.ndarray:
    """Write features (rows, width) to `path`, chunk by chunk; returns their labels."""
    drawn = np.random.default_rng(0)
    basis = drawn.normal(size=(width, width)) * np.arange(1, width + 1) ** -0.5
    means = drawn.normal(size=(classes, width)) * apart
    labels = drawn.integers(0, classes, rows)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
    for start in range(0, rows, 8192):
        some = labels[start : start + 8192]
        noise = drawn.normal(size=(len(some), width))
        file[start : start + 8192] = (means[some] + noise) @ basis.T
    wrong = drawn.random(rows) < 0.05
    labels[wrong] = drawn.integers(0, classes, int(wrong.sum()))
    return labels


def main() -> None:
    """Walk the path and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--apart", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(asked.threads):
        path = Path(folder) / "features.npy"
        labels = features(path, asked.rows, asked.width, asked.classes, asked.apart)
        rows = np.load(path, mmap_mode="r")
        began = time.perf_counter()
        regression = Regression(Scale.of(rows).applied(rows), labels, None)
        prepared = time.perf_counter() - began
        seconds, iterations = [], []
        for c in PATH:
            began = time.perf_counter()
            regression.fit(c)
            seconds.append(time.perf_counter() - began)
            iterations.append(regression.iterations)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{asked.rows:,} × {asked.width}, {asked.classes} classes, {asked.threads} threads: "
        f"{prepared:.1f} s to scale; {sum(seconds):.0f} s for {len(PATH)} fits, the longest "
        f"{max(seconds):.1f} s; {sum(iterations):,} iterations, at most {max(iterations)}; "
        f"{gigabytes:.2f} GB at most, of which the scaled features take "
        f"{8e-9 * asked.rows * asked.width:.2f}"
    )


if __name__ == "__main__":
    main()
