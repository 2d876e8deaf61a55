"""Durations on the command line: `90`, `45s`, `30min`, `4h`, `1d`, `1h30min`."""

from __future__ import annotations

import re
from typing import Any

import click

_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*")


class Duration(click.ParamType[float]):
    """Seconds, as a float; a number without a unit is seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a duration; anything else is refused with examples."""
        if isinstance(value, (int, float)):
            return float(value)
        text = str(value).strip().lower()
        parts = _PART.findall(text)
        total = sum(float(n) * _SECONDS.get(unit or "s", 0) for n, unit in parts)
        if "".join(n + unit for n, unit in parts) != re.sub(r"\s", "", text) or total <= 0:
            self.fail(
                f"{value!r} is not a duration; give for example 90s, 30min or 4h.", param, ctx
            )
        if any(unit and unit not in _SECONDS for _, unit in parts):
            self.fail(f"{value!r} has an unknown unit; use s, min, h or d.", param, ctx)
        return total


DURATION = Duration()
