"""Intervals and agreements, with no more machinery than they need.

A contrast is a sum of weighted means over seeds: `AdamW − SGD` of one model and dataset is one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from db.records import digest

RESAMPLES = 10_000
LEVEL = 90
"""Percent that an interval covers."""


@dataclass(frozen=True)
class Contrast:
    """One unit that the bootstrap draws: a sum over `terms`, in percentage points.

    A term is a weight and the values of its seeds, whose mean counts; `shift` is added.
    """

    terms: tuple[tuple[float, tuple[float, ...]], ...]
    shift: float = 0.0

    @property
    def value(self) -> float:
        """The sum at the means over all seeds."""
        return math.fsum(w * math.fsum(v) / len(v) for w, v in self.terms) + self.shift


def mean(contrasts: Sequence[Contrast]) -> float:
    """The plain mean over units; there must be one."""
    return math.fsum(one.value for one in contrasts) / len(contrasts)


def bootstrap(
    contrasts: Sequence[Contrast], name: str, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 90% percentile interval of the mean: units drawn again, and in each of them its seeds.

    `name` seeds the generator, so the same contrasts in the same order give the same interval. A
    unit without a second seed contributes no noise of its own. At least one unit is needed.
    """
    # The legacy generator: numpy promises that its stream never changes.
    draws = np.random.RandomState(int(digest(name, 8), 16))
    picked = draws.randint(0, len(contrasts), (resamples, len(contrasts)))
    values = np.empty(picked.shape)
    for place, contrast in enumerate(contrasts):
        here = picked == place
        values[here] = _seeds_drawn(contrast, int(here.sum()), draws)
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(values.mean(axis=1), [tail, 100 - tail])
    return float(low), float(high)


def _seeds_drawn(
    contrast: Contrast, count: int, draws: np.random.RandomState
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`count` values of a contrast, each with the seeds of its terms drawn with replacement."""
    total = np.full(count, contrast.shift)
    for weight, seeds in contrast.terms:
        drawn = draws.randint(0, len(seeds), (count, len(seeds)))
        total += weight * np.asarray(seeds)[drawn].mean(axis=1)
    return total


@dataclass(frozen=True)
class Agreement:
    """How two lists of numbers order the same things: pairs of them, ties left out of `pairs`."""

    pairs: int = 0
    """Pairs that the second list orders (it has no tie there)."""
    same: int = 0
    """… of which the first one orders the same way."""
    opposite: int = 0
    """… of which it orders the other way; the rest it ties."""

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.pairs + other.pairs, self.same + other.same, self.opposite + other.opposite
        )

    @property
    def tau(self) -> float | None:
        """Kendall's tau over the pairs that the second list orders; None where it orders none."""
        return (self.same - self.opposite) / self.pairs if self.pairs else None


def agreement(ours: Sequence[float], theirs: Sequence[float]) -> Agreement:
    """How `ours` orders the pairs that `theirs` orders; both in the same order of things."""
    found = Agreement()
    for (a, b), (x, y) in itertools.combinations(zip(ours, theirs, strict=True), 2):
        if b != y:
            product = (a - x) * (b - y)
            found += Agreement(1, int(product > 0), int(product < 0))
    return found
