"""How figures look: for a column of a printed page, for the colour-blind, and in grey.

Series differ in colour (Okabe and Ito's palette), marker and line at once. No text is smaller than
7 points at the figure's own size, which is at most 6.75 inches wide, the text of a two-column page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

INK = "#1a1a1a"
MUTED = "#5f5f5f"
FAINT = "#dcdcdc"
PAPER = "#ffffff"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
SMALL, NORMAL, LARGE = 7.0, 7.5, 9.0
"""Sizes of text in points."""
WIDEST = 6.75
"""Inches."""

_RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture everywhere
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "svg.fonttype": "path",
    "svg.hashsalt": "orch",
}


@contextmanager
def styled(**changes: object) -> Iterator[None]:
    """Our settings over matplotlib's own defaults, whatever the user's matplotlibrc says."""
    defaults: Any = mpl.rcParamsDefault  # its type wants every key spelled
    settings = {**defaults, **_RC, **changes}
    del settings["backend"]
    with mpl.rc_context(settings):
        yield


@dataclass(frozen=True)
class Series:
    """How one kind of number is drawn, everywhere the same."""

    label: str
    colour: str
    marker: str
    line: Literal["-", "--"]
    filled: bool = True

    @property
    def face(self) -> str:
        """The inside of its markers."""
        return self.colour if self.filled else PAPER


ID = Series("ID", PALETTE[0], "s", "--", filled=False)
OOD = Series("OOD", PALETTE[1], "o", "-")
LOSS = Series("training loss", MUTED, "", "-")


def by_place(place: int) -> tuple[str, str]:
    """Colour and marker of the method at `place`: 66 that differ."""
    return PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]


def spell_rate(rate: float) -> str:
    """A learning rate as the sweep files have it: `3e-5`, `1e-2`, `0`."""
    if rate <= 0 or not math.isfinite(rate):
        return f"{rate:g}"
    digits, _, power = f"{rate:.2e}".partition("e")
    return f"{float(digits):g}e{int(power)}"


def rate_axis(axes: Axes, rates: Sequence[float], *, labels: int = 3) -> None:
    """A log axis over `rates`, with a tick at each and `labels` of them spelled."""
    tried = sorted(set(rates))
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(tried[0] / 1.9, tried[-1] * 1.9)
    axes.xaxis.set_major_locator(FixedLocator(tried))
    spelled = _spread(tried, labels)
    axes.xaxis.set_major_formatter(
        FixedFormatter([spell_rate(rate) if rate in spelled else "" for rate in tried])
    )


def _spread(rates: Sequence[float], wanted: int) -> set[float]:
    """At most `wanted` of the rates, first and last among them, evenly spread."""
    last = len(rates) - 1
    if last < wanted:
        return set(rates)
    return {rates[round(place * last / (wanted - 1))] for place in range(wanted)}


ROUND = (1, 2, 5, 10)
"""What ticks are multiples of."""


class PercentLocator(MaxNLocator):
    """Ticks at round percentages, none below 0 or above 100."""

    def __init__(self, most: int) -> None:
        super().__init__(most, steps=ROUND)

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """See matplotlib."""
        return [tick for tick in super().tick_values(vmin, vmax) if -1e-6 <= tick <= 100 + 1e-6]


def percent_limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits that hold all values in percent with a margin, at least 3 points apart."""
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), (3.0 - (high - low)) / 2)
    return low - margin, min(high + margin, max(high, 100) + 0.08 * (high - low + 2 * margin))


def new_figure(width: float, height: float) -> Figure:
    """An empty page, sizes in inches."""
    return Figure(figsize=(width, height), facecolor=PAPER)
