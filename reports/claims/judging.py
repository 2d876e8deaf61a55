"""What a store says of a claim: effect, bootstrap interval, verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from reports import statistics
from reports.claims.declared import CLAIMS, Claim, Family, Sides, Unit, contrasts
from reports.declared import FIVE
from reports.likeness import Likeness
from reports.select import Cell, Key
from reports.statistics import Contrast
from reports.study import Study

MINIMUM = 5
"""Cells below which there is no verdict: that all of five have one sign comes by chance once in 32
times, of four once in 16, which is more often than an interval's end may be wrong."""

Verdict = Literal[
    "supported", "contradicted", "as in the paper", "unlike the paper", "inconclusive",
    "not enough runs",
]  # fmt: skip
"""The third and fourth are a rehearsal's words for the first two."""


@dataclass(frozen=True)
class Judged:
    """A claim with what the store says of it; effects are in percentage points."""

    claim: Claim
    verdict: Verdict
    effect: float | None
    """Mean over the cells that were found; None without one."""
    low: float | None
    high: float | None
    """Ends of the 90% interval; None for fewer than two cells."""
    found: int
    """Cells (a model, or the models that are compared, with a dataset) whose numbers count."""
    expected: int
    missing: tuple[str, ...] = ()
    """The others."""
    notes: tuple[str, ...] = ()
    """What a reader must know of the numbers behind it."""
    rehearsal: bool = False
    """Evaluated on whatever models and data there are: no test of the paper."""


def judge(
    study: Study, claims: Iterable[Claim] = CLAIMS, *, rehearse: bool = False
) -> list[Judged]:
    """Each claim on the numbers of a study.

    Only the paper's models count, with pretrained weights, on real data. With `rehearse` the same
    contrasts are taken of whatever models and datasets the study has; claims that have no
    counterpart there are left out. Raises `ReportError` where a cell has runs of two variants.
    """
    evidence = _Evidence(study, anything=rehearse)
    if not rehearse:
        return [_judged(claim, claim.units(), evidence) for claim in claims]
    units = [(claim, _rehearsed(claim, study)) for claim in claims]
    return [_judged(claim, of, evidence) for claim, of in units if of]


class _Evidence:
    """Which cells of a study count, and their values."""

    def __init__(self, study: Study, *, anything: bool) -> None:
        self.study = study
        self.anything = anything
        self._likeness = Likeness(study)

    def cell(self, key: Key, split: str) -> Cell | None:
        """The cell, where it was asked for."""
        return self.study.cells(split).get(key)

    def barred(self, key: Key) -> str:
        """Why a cell's numbers do not count, whatever they are; empty where they may."""
        if self.anything:
            return ""
        return self._likeness.miniature(key) or self._likeness.weights(key)

    def counts(self, cell: Cell) -> bool:
        """Whether a cell has a value that no missing run could change."""
        return cell.value is not None and (self.study.partial or not cell.partial)

    def imported(self, key: Key) -> bool:
        """Whether a cell's numbers were not measured here."""
        return self._likeness.imported(key)


def _judged(claim: Claim, units: Sequence[Unit], evidence: _Evidence) -> Judged:
    found: list[Contrast] = []
    missing: list[str] = []
    notes = _Notes(evidence)
    for unit in units:
        contrast = _contrast(unit, evidence, notes)
        if contrast is None:
            missing.append(unit.name)
        else:
            found.append(contrast)
    effect = statistics.mean(found) if found else None
    interval = statistics.bootstrap(found, claim.id) if len(found) > 1 else None
    low, high = interval or (None, None)
    return Judged(
        claim,
        _verdict(claim, interval, len(found), len(units), evidence),
        effect,
        low,
        high,
        found=len(found),
        expected=len(units),
        missing=tuple(missing),
        notes=notes.lines(),
        rehearsal=evidence.anything,
    )


def _contrast(unit: Unit, evidence: _Evidence, notes: _Notes) -> Contrast | None:
    """A unit's numbers, where all of them count; what keeps one from counting is noted."""
    terms: list[tuple[float, tuple[float, ...]]] = []
    for weight, key, split in unit.terms:
        cell = evidence.cell(key, split)
        if cell is not None and notes.count(cell):
            terms.append((weight, cell.values))
    return Contrast(tuple(terms), unit.shift) if len(terms) == len(unit.terms) else None


class _Notes:
    """What is told of the cells behind a claim, each counted once."""

    def __init__(self, evidence: _Evidence) -> None:
        self._evidence = evidence
        self._unfinished: set[Key] = set()
        self._barred: dict[str, set[Key]] = {}
        self._imported: set[Key] = set()
        self._diverged: set[Key] = set()

    def count(self, cell: Cell) -> bool:
        """Whether a cell counts; if not, or with a reservation, it is noted."""
        key = (cell.model, cell.dataset, cell.method)
        if reason := self._evidence.barred(key):
            self._barred.setdefault(reason, set()).add(key)
            return False
        if cell.partial:
            self._unfinished.add(key)
        if not self._evidence.counts(cell):
            return False
        if self._evidence.imported(key):
            self._imported.add(key)
        if cell.diverged:
            self._diverged.add(key)
        return True

    def lines(self) -> tuple[str, ...]:
        """One sentence a note, without its full stop."""
        study = self._evidence.study
        left = [(len(keys), why) for why, keys in sorted(self._barred.items())]
        if self._unfinished and not study.partial:
            left.append((len(self._unfinished), "runs missing"))
        lines = ["left out: " + "; ".join(f"{n} with {why}" for n, why in left)] if left else []
        if self._unfinished and study.partial:
            lines.append(f"{_numbers(self._unfinished)} with runs missing")
        if self._imported:
            lines.append(f"{_numbers(self._imported)} imported, not measured here")
        if self._diverged:
            lines.append(f"{_numbers(self._diverged)} of a run that diverged, up to there")
        if study.rule != "id_val":
            lines.append(f"rates and epochs chosen by {study.rule}, not by the protocol")
        return tuple(lines)


def _numbers(keys: set[Key]) -> str:
    return f"{len(keys)} number" + ("" if len(keys) == 1 else "s")


def _verdict(
    claim: Claim,
    interval: tuple[float, float] | None,
    found: int,
    expected: int,
    evidence: _Evidence,
) -> Verdict:
    """The place of the interval: inside of the claim's region, outside of it, or across an end.

    Without every cell that the claim is about there is none, unless the study is `partial`.
    """
    whole = found == expected or evidence.study.partial
    if interval is None or found < MINIMUM or not whole:
        return "not enough runs"
    return place(claim, *interval, rehearsal=evidence.anything)


def place(claim: Claim, low: float, high: float, *, rehearsal: bool = False) -> Verdict:
    """The verdict of an interval."""
    if claim.low < low and high < claim.high:
        return "as in the paper" if rehearsal else "supported"
    if high <= claim.low or low >= claim.high:
        return "unlike the paper" if rehearsal else "contradicted"
    return "inconclusive"


def _rehearsed(claim: Claim, study: Study) -> tuple[Unit, ...]:
    """The claim's contrasts on the study's own models and datasets, where their runs are."""
    models = sorted({key[0] for key in study.members})
    names = {key[1] for key in study.members}
    datasets = (*(d for d in FIVE if d in names), *sorted(names - {*FIVE}))
    units = contrasts(claim.parts, _stand_ins(claim, models), datasets)
    return tuple(u for u in units if u.terms and all(key in study.members for _, key, _ in u.terms))


def _stand_ins(claim: Claim, models: Sequence[str]) -> tuple[Sides, ...]:
    """Groups of the models that there are, in the form of the claim's own."""
    if not claim.families:
        return ()
    if claim.swap:
        old, new = claim.swap
        pairs = ((model, model.replace(old, new)) for model in models if old in model)
        return tuple(((one,), (other,)) for one, other in pairs if other in models)
    sides = tuple(
        tuple(model for model in models if family in ("any", family_of(model)))
        for family in claim.families
    )
    if len(sides) == 1:
        return tuple(((model,),) for model in sides[0])
    return (sides,) if all(sides) else ()


def family_of(model: str) -> Family:
    """Which of the paper's two kinds of model an id stands for: ResNets are called `bit`."""
    return "bit" if "bit" in model.split("_") else "modern"
