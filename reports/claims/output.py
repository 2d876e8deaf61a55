"""Judged claims as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from reports.claims.declared import MARGIN, Claim, Part
from reports.claims.judging import MINIMUM, Judged
from reports.declared import PAPER_METHODS
from reports.statistics import LEVEL, RESAMPLES

FORMATS = ("text", "markdown", "csv", "json")
LONG = (
    "id", "section", "sentence", "source", "statistic", "region", "effect", "low", "high",
    "published", "found", "expected", "verdict", "rehearsal", "missing", "notes", "command",
    "lacks",
)  # fmt: skip
COLOURS = {
    "supported": "32",
    "as in the paper": "32",
    "contradicted": "31",
    "unlike the paper": "31",
    "inconclusive": "33",
    "not enough runs": "90",
}
BAR = 33
"""Characters of an interval's drawing."""
SPAN = 12.0
"""Points at each end of it; what lies beyond is drawn at the end."""
INDENT = 2
WIDTH = 100
"""Characters of a line of prose."""
WHOLE = 130
"""Characters of a line with an interval drawn."""


def render(judged: Sequence[Judged], style: str, *, colour: bool = False) -> str:
    """Claims in one of `FORMATS`; with `colour`, text has terminal escapes.

    In a terminal too narrow for them the intervals are not drawn.
    """
    if style == "text":
        narrow = colour and shutil.get_terminal_size().columns < WHOLE
        return text(judged, colour=colour, drawn=not narrow)
    if style == "markdown":
        return markdown(judged)
    return as_csv(judged) if style == "csv" else as_json(judged)


def statistic(claim: Claim) -> str:
    """What the effect is the mean of, in words and signs."""
    if claim.prior:
        return "ours − best prior result, OOD"
    sides: dict[tuple[int, str], list[Part]] = {}
    for part in claim.parts:
        sides.setdefault((part.side, part.split), []).append(part)
    alone = len(sides) == 1
    terms = []
    for number, ((side, split), parts) in enumerate(sides.items()):
        flip = -1 if number else 1  # the second difference is taken away from the first
        inner = _sum(parts, flip)
        where = f"{split.upper()}" + (f", {_side(claim, side)}" if len(claim.families) > 1 else "")
        terms.append(f"{inner}, {where}" if alone else f"({inner}, {where})")
    return " − ".join(terms)


def _sum(parts: Iterable[Part], flip: int) -> str:
    text = ""
    for part in parts:
        weight = part.weight * flip
        size = "½ " if abs(weight) == 0.5 else ""
        sign = ("" if not text else " + ") if weight > 0 else " − "
        text += f"{sign}{size}{PAPER_METHODS[part.method]}"
    return text


def _side(claim: Claim, side: int) -> str:
    if claim.swap:
        had, has = claim.swap
        named = (had if side == 0 else has or f"without {had.strip('_')}").strip("_")
        return named.replace("adamw", "AdamW").replace("sgd", "SGD")
    return {"modern": "modern", "bit": "BiT", "any": "all"}[claim.families[side]]


def region(claim: Claim) -> str:
    """Where the claim expects the effect, in points."""
    low, high = _signed(claim.low, 0), _signed(claim.high, 0)
    if claim.low == -claim.high:
        return f"within ±{claim.high:g}"
    return f"> {low}" if math.isinf(claim.high) else f"< {high}"


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "−") if value or digits else "0"


def heading(judged: Sequence[Judged]) -> str:
    """What the verdicts are about."""
    if not any(one.rehearsal for one in judged):
        return "The paper's claims, on its own models and data as far as this store has them."
    return (
        "NOT A TEST OF THE PAPER. A rehearsal of its claims on whatever models and data this store "
        "has."
    )


def summary(judged: Sequence[Judged]) -> str:
    """How many claims have which verdict."""
    counts = Counter[str](one.verdict for one in judged)
    found = ", ".join(f"{counts[word]} {word}" for word in COLOURS if counts[word])
    return f"Of {len(judged)} claims: {found}."


def legend(judged: Sequence[Judged]) -> Iterator[str]:
    """How the verdicts come about."""
    if any(one.effect is not None for one in judged):
        yield (
            f"Effects in percentage points, the mean over cells, with a {LEVEL}% bootstrap "
            f"interval over cells and seeds ({RESAMPLES:,} resamples, percentiles)."
        )
        yield (
            "The verdict says where the interval lies: inside of what the claim expects (┊ its "
            "ends), outside of it, or across an end: inconclusive."
        )
    yield (
        f"A verdict needs every cell, and {MINIMUM} at least; `--partial` judges by the cells "
        f"there are. Alike: within {MARGIN:g} points, half of the paper's own gap."
    )
    if not any(one.found or one.rehearsal for one in judged):
        yield "`orch claims --rehearse` takes the same contrasts of what models and data there are."


def commands(judged: Sequence[Judged]) -> Iterator[tuple[str, str]]:
    """What makes the runs that are missing, each with the claims that wait for it."""
    waiting: dict[str, list[str]] = {}
    for one in judged:
        if one.verdict == "not enough runs" and not one.rehearsal:
            lacks = (
                f" (not in this version, which lacks {one.claim.lacks})" if one.claim.lacks else ""
            )
            waiting.setdefault(one.claim.command + lacks, []).append(one.claim.id)
    for command, ids in waiting.items():
        yield command, ", ".join(ids)


def text(judged: Sequence[Judged], *, colour: bool = False, drawn: bool = True) -> str:
    """Two lines a claim: verdict and sentence, then effect, interval and its drawing."""

    def paint(value: str, code: str) -> str:
        return f"\x1b[{code}m{value}\x1b[0m" if colour and value.strip() else value

    lines = [paint(heading(judged), "1;33" if any(j.rehearsal for j in judged) else "1")]
    width = INDENT + max((len(one.claim.id) for one in judged), default=0) + 2
    for section, group in groupby(judged, key=lambda one: one.claim.section):
        lines += ["", paint(section, "1"), ""]
        for one in group:
            verdict = paint(one.verdict.ljust(width), COLOURS[one.verdict])
            lines.append(f"{verdict}{one.claim.sentence} {paint(f'({one.claim.source})', '2')}")
            name = paint(" " * INDENT + one.claim.id.ljust(width - INDENT), "2")
            lines.append((name + _numbers(one, drawn)).rstrip())
            lines += [" " * width + paint(note, "33") for note in one.notes]
    lines += ["", summary(judged), ""]
    for line in legend(judged):
        lines += textwrap.wrap(line, WIDTH)
    missing = [*commands(judged)]
    if missing:
        lines += ["", "What makes the runs that are missing:"]
    for command, ids in missing:
        lines += [
            f"  {command}",
            *textwrap.wrap(
                ids,
                WIDTH - 6,
                initial_indent=" " * 6,
                subsequent_indent=" " * 6,
                break_on_hyphens=False,  # they are names
            ),
        ]
    return "\n".join(lines) + "\n"


def _numbers(one: Judged, drawn: bool) -> str:
    """Effect, interval, its drawing, what was expected, the paper's effect, cells."""
    claim = one.claim
    if not one.expected:
        return f"    —  paper: {claim.printed}"
    effect = "—" if one.effect is None else _signed(one.effect)
    interval = ""
    if one.low is not None and one.high is not None:
        interval = f"[{_signed(one.low)}, {_signed(one.high)}]"
    theirs = "" if claim.published is None else _signed(claim.published)
    return (
        f"{effect:>5} {interval:<15} {_drawn(one) if drawn else ''}  expects {region(claim):<9}  "
        f"paper {theirs:>4}  {one.found}/{one.expected} cells"
    )


def _drawn(one: Judged) -> str:
    """The interval on a line from −12 to +12 points, with `┊` at the ends of what is expected."""
    if one.effect is None:
        return " " * BAR
    line = [" "] * BAR

    def place(value: float) -> int:
        clipped = max(-SPAN, min(SPAN, value))
        return round((clipped + SPAN) / (2 * SPAN) * (BAR - 1))

    if one.low is not None and one.high is not None:
        first, last = place(one.low), place(one.high)
        line[first : last + 1] = ["─"] * (last + 1 - first)
        line[first], line[last] = "├", "┤"
    for end in (one.claim.low, one.claim.high):
        if math.isfinite(end):
            line[place(end)] = {" ": "┊", "─": "┼"}.get(line[place(end)], line[place(end)])
    line[place(one.effect)] = "●"
    return "".join(line)


def markdown(judged: Sequence[Judged]) -> str:
    """One table, with the legend as a list."""
    lines = [f"**{heading(judged)}**", ""]
    lines.append(f"| verdict | claim | effect | {LEVEL}% interval | paper | cells | source |")
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    for one in judged:
        claim = one.claim
        effect = "—" if one.effect is None else _signed(one.effect)
        interval = "—"
        if one.low is not None and one.high is not None:
            interval = f"{_signed(one.low)} … {_signed(one.high)}"
        cells = f"{one.found}/{one.expected}" if one.expected else "—"
        theirs = claim.printed if claim.published is None else _signed(claim.published)
        notes = "".join(f"; {note}" for note in one.notes)
        lines.append(
            f"| {one.verdict} | {claim.section}: {claim.sentence} (`{claim.id}`{notes}) | {effect} "
            f"| {interval} | {theirs} | {cells} | {claim.source} |"
        )
    lines += ["", summary(judged), "", *(f"- {line}" for line in legend(judged))]
    lines += [f"- Missing for {ids}: `{command}`" for command, ids in commands(judged)]
    return "\n".join(lines) + "\n"


def _long(one: Judged) -> dict[str, object]:
    claim = one.claim
    values = (
        claim.id, claim.section, claim.sentence, claim.source,
        statistic(claim) if claim.units() else "", region(claim) if claim.units() else "",
        one.effect, one.low, one.high, claim.published, one.found, one.expected, one.verdict,
        one.rehearsal, one.missing, one.notes, claim.command, claim.lacks,
    )  # fmt: skip
    return dict(zip(LONG, values, strict=True))


def as_json(judged: Sequence[Judged]) -> str:
    """A list of claims; effects in percentage points, unrounded."""
    rows = [_long(one) for one in judged]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def as_csv(judged: Sequence[Judged]) -> str:
    """The same, one row a claim; lists are joined by semicolons."""
    out = io.StringIO()
    writer = csv.DictWriter(out, LONG, lineterminator="\n")
    writer.writeheader()
    for one in judged:
        row = _long(one) | {"rehearsal": "yes" if one.rehearsal else "no"}
        row |= {"missing": "; ".join(one.missing), "notes": "; ".join(one.notes)}
        writer.writerow(row)
    return out.getvalue()
