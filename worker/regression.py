"""scikit-learn's logistic regression along a path of regularisations, and its solution as a head.

Source: PROTOCOL section 3, `linear_probe`. Computed in float64: the solver's tolerances are meant
for it, and float32 saves a fifth of the time at most.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from worker.head import Floats, Head
from worker.kinds import PATH_STEPS

log = logging.getLogger(__name__)

PATH = tuple(float(c) for c in np.logspace(-7, 2, PATH_STEPS))
"""The inverse regularisations C, the strongest regularisation first."""
ITERATIONS = 200
"""At most so many a fit; one that has not converged by then is taken as it is."""
CHUNK = 8192
"""Rows that are worked on at once, where nothing needs all of them."""

Doubles = NDArray[np.float64]


def chunks(rows: Floats) -> Iterator[slice]:
    """Where each chunk of rows is."""
    for start in range(0, len(rows), CHUNK):
        yield slice(start, min(start + CHUNK, len(rows)))


@dataclass(frozen=True)
class Scale:
    """How features are brought to mean 0 and variance 1: by two numbers for all of them."""

    mean: float
    std: float

    @classmethod
    def of(cls, rows: Floats) -> Scale:
        """That of some features; where all are equal, `std` is 1."""
        mean, std = rows.mean(dtype=np.float64), rows.std(dtype=np.float64)
        return cls(float(mean), float(std) or 1.0)

    def applied(self, rows: Floats) -> Doubles:
        """The features as the regression sees them: the one copy of them that it needs."""
        scaled = np.array(rows, np.float64)
        scaled -= self.mean
        scaled /= self.std
        return scaled


@dataclass(frozen=True)
class Solution:
    """What a fit came to: all that the next one starts from."""

    coefficients: Doubles
    """(1, width) of two classes, else (classes that training has, width)."""
    intercept: Doubles
    present: NDArray[np.int64]
    """The classes that training has, in ascending order."""

    def to_state(self) -> dict[str, Tensor]:
        """As tensors under keys of a checkpoint."""
        return {name: torch.from_numpy(np.array(values)) for name, values in vars(self).items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Solution:
        """The inverse."""
        return cls(**{name: tensor.numpy() for name, tensor in state.items()})

    def head(self, scale: Scale, classes: int) -> Head:
        """The same on raw features, in float32: the scaling is folded into the weights.

        Two classes share one vector w: they get -w/2 and w/2. Classes that training has not get
        zeros; the others' logits sum to zero, so that the largest is none of those.
        """
        coefficients, intercept = self.coefficients, self.intercept
        if len(self.present) == 2:
            coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
            intercept = np.concatenate([-intercept / 2, intercept / 2])
        weight = np.zeros((classes, coefficients.shape[1]))
        bias = np.zeros(classes)
        weight[self.present] = coefficients / scale.std
        bias[self.present] = intercept - coefficients.sum(axis=1) * (scale.mean / scale.std)
        return Head(torch.from_numpy(weight).float(), torch.from_numpy(bias).float())


class Abandoned(Exception):
    """A fit was given up on its way."""


class Regression:
    """Fits with C after C, each from the last one's solution."""

    def __init__(self, rows: Doubles, labels: NDArray[np.int64], warm: Solution | None) -> None:
        """`rows`: (N, width), scaled; `labels`: (N,); `warm`: where the first fit starts."""
        self.rows = rows
        self.labels = labels
        self.abandon = threading.Event()
        """Set: a fit that is under way raises `Abandoned` before its next iteration."""
        self.iterations = 0
        """Of the last fit."""
        self._estimator = LogisticRegression(warm_start=True, max_iter=ITERATIONS)
        self._estimator.set_callbacks(_Asking(self.abandon))
        if warm:
            self._estimator.coef_ = warm.coefficients
            self._estimator.intercept_ = warm.intercept

    def fit(self, c: float) -> Solution:
        """The solution with this C."""
        estimator = self._estimator.set_params(C=c)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(self.rows, self.labels)
        self.iterations = int(estimator.n_iter_.max())
        log.info("C %.3g: %d iterations", c, self.iterations)
        return Solution(estimator.coef_.copy(), estimator.intercept_.copy(), estimator.classes_)


class _Asking:
    """What scikit-learn calls before and after each iteration (`sklearn.callback.FitCallback`)."""

    def __init__(self, abandon: threading.Event) -> None:
        self.abandon = abandon

    def setup(self, estimator: Any, context: Any) -> None:
        """A fit begins."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """A fit is over."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """An iteration begins."""
        if self.abandon.is_set():
            raise Abandoned

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """An iteration is over."""
