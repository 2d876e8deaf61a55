"""What the values of a row may be, and where in it they stand.

Ten columns are what anybody can write: a sweep, a run's model, dataset, method, rate and seed, and
one number of one split after one epoch. The others are what `orch export` adds (`db.exporting`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from db.records import canonical_json
from orchestrator.exchange.told import UNTOLD, BadRow, Key

COLUMNS = (
    "sweep", "model", "dataset", "method", "lr", "seed", "epoch", "split", "metric", "value",
)  # fmt: skip
"""What every file has, in any order."""
OF_RUN = ("hyperparameters", "variant", "run_id", "state")
OF_EPOCH = ("train_loss", "train_accuracy", "epoch_lr", "seconds", "images_per_second")
KNOWN = (*COLUMNS, *OF_RUN, *OF_EPOCH, "group", "n", "correct", "record")
LARGEST = 2**31 - 1
LARGEST_SEED = 2**32 - 1


class Fields:
    """Where a file's columns are; one that it lacks is read from a blank behind the last."""

    def __init__(self, header: Sequence[str], decimal_comma: bool) -> None:
        self._width = len(header)
        self._comma = decimal_comma
        at = {name: header.index(name) if name in header else self._width for name in KNOWN}
        self._at = at
        self.head = itemgetter(*(at[name] for name in (*COLUMNS[:6], *OF_RUN)))
        self.series = itemgetter(at["split"], at["group"], at["metric"])
        self.trained = itemgetter(*(at[name] for name in OF_EPOCH))
        self.trains = any(name in header for name in OF_EPOCH)
        self.epoch, self.split, self.value = at["epoch"], at["split"], at["value"]
        self.n, self.correct, self.record = at["n"], at["correct"], at["record"]

    def fitted(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """A row as wide as the header, and a blank; None for an empty one."""
        if len(values) != self._width:
            if not any(values):
                return None
            if len(values) < self._width or any(values[self._width :]):
                raise BadRow(f"it has {len(values)} fields, and the header {self._width}")
            values = values[: self._width]
        return (*values, "") if any(values) else None

    def text(self, row: Sequence[Any], name: str, default: str | None = None) -> str:
        """A word; raises `BadRow` where it is empty and there is no default."""
        raw = row[self._at[name]]
        if blank(raw):
            if default is None:
                raise BadRow(f"{name} is empty")
            return default
        text = str(raw).strip()
        if not text.isprintable():
            raise BadRow(f"{name} {text!r} has characters that cannot be printed")
        return text

    def key(self, row: Sequence[Any]) -> Key:
        """What tells a run from others of its sweep."""
        model, dataset, method = (self.text(row, name) for name in ("model", "dataset", "method"))
        rate = self.number(row[self._at["lr"]], "lr")
        if rate < 0:
            raise BadRow(f"lr {rate:g} is negative")
        seed = whole(row[self._at["seed"]], "seed", LARGEST_SEED)
        return model, dataset, method, rate, seed, self._hyperparameters(row)

    def _hyperparameters(self, row: Sequence[Any]) -> str:
        text = self.text(row, "hyperparameters", "{}")
        try:
            return canonical_json(
                {name: _finite(value) for name, value in json.loads(text).items()}
            )
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            example = '{"lambda": 0.1}'
            raise BadRow(f"hyperparameters {text} are no JSON such as {example}") from error

    def number(self, raw: Any, name: str, *, finite: bool = True) -> float:
        """A float; raises `BadRow` for what is none."""
        if blank(raw) and not isinstance(raw, float):
            raise BadRow(f"{name} is empty")
        text = str(raw).strip()
        if self._comma:
            text = text.replace(",", ".")
        try:
            value = float(text if "_" not in text else "no number")
        except ValueError as error:
            point = "; decimals have a point" if re.fullmatch(r"-?\d*,\d+", text) else ""
            raise BadRow(f'{name} "{text}" is not a number{point}') from error
        if math.isnan(value) or (finite and math.isinf(value)):
            raise BadRow(f"{name} {text} is not a number that counts")
        return value

    def count(self, raw: Any, name: str) -> int:
        """A number of images, `UNTOLD` where it is blank."""
        return UNTOLD if blank(raw) else whole(raw, name, LARGEST)


def blank(raw: Any) -> bool:
    """Empty, or the NaN that stands for it in data frames."""
    return raw is None or raw == "" or raw != raw or (isinstance(raw, str) and not raw.strip())


def _finite(value: Any) -> float:
    if isinstance(value, (bool, str)) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def whole(raw: Any, name: str, largest: int) -> int:
    """A whole number, which a spreadsheet may have written as `3.0`."""
    if blank(raw):
        raise BadRow(f"{name} is empty")
    try:
        value = float(raw)
        count = int(raw) if isinstance(raw, int) else int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRow(f'{name} "{raw}" is not a whole number') from error
    if count != value or isinstance(raw, bool):
        raise BadRow(f"{name} {raw} is not a whole number")
    if count < 0:
        raise BadRow(f"{name} {count} is negative")
    if count > largest:
        raise BadRow(f"{name} {count} is larger than {largest}")
    return count
