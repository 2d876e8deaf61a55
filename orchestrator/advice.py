"""What became of a run that is not done, and what to do about it; which families wait. Pure.

A family is a model, a method, or both together: where a bug breaks everything that shares them,
training the rest of it would only fail as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from db.records import Cause, Run, State, StoredRun

ALIKE = 3
"""So many failures alike pause a family, and so many methods, or models, make it a wider one."""
ANY = "*"
"""In place of a family's model or method: whichever it is."""

Family = tuple[str, str]
"""(model, method), one of them perhaps `ANY`."""

_VARIES = re.compile(r"0x[0-9a-f]+|\b(?=[a-f]*\d)[0-9a-f]{7,}\b|\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.I)
AGAIN = "orch runs retry"
_ON_BUG = "a bug, not tried again by itself: mend it"
# By cause: what happened, and what to do before another try.
_SENTENCES: dict[Cause, str] = {
    "bug": f"{_ON_BUG} (its traceback: orch runs show {{id}})",
    "out_of_memory": (
        "memory ran out: fewer runs at once (orch launch --max-concurrent N), "
        "or more of a GPU for each (resources.gpus in the sweep file); `precision: bf16` needs "
        "less, and is another run"
    ),
    "bad_data": "its data, or the weights it starts from, will not do: orch data check {dataset}",
    "environment": "the machine lacks what the run asks for: mend that, or launch where it is",
    "process_death": (
        "its process was killed in each of {attempts}: did the machine's memory run out "
        "(dmesg)? Fewer runs at once: orch launch --max-concurrent N"
    ),
    "disk_full": "the disk was full: make space under --runs",
}


def advice(stored: StoredRun, alike: int = 1) -> str:
    """What became of a failed, diverged, cancelled or voided run, and what the user can do.

    `alike` such runs are spoken of at once. Empty for a run in any other state.
    """
    name = stored.id[:8]
    match stored.state:
        case "diverged":
            return "a result, not an error: lower rates of its cell are unaffected"
        case "cancelled":
            return f"taken out by hand; {AGAIN} {name} brings it back"
        case "voided":
            why = stored.void_reason or "no reason given"
            anew = (
                "`orch import` brings others"
                if stored.run.source
                else f"{AGAIN} {name} trains it anew"
            )
            return f"in no table any more ({why}); {anew}"
        case "failed" if not stored.attempts:
            return f"failed where it was trained, and imported as such; then: {AGAIN} {name}"
        case "failed":
            cause = stored.cause or "bug"
            attempts = f"{stored.attempts} attempt" + ("" if stored.attempts == 1 else "s")
            words = {"id": name, "dataset": stored.run.dataset, "attempts": attempts}
            which = f"--cause {cause}" if alike > 1 else name
            return f"{_SENTENCES[cause].format(**words)}; then: {AGAIN} {which}"
    return ""


def cause_of(stored: StoredRun) -> Cause | None:
    """Why a run is not done, as far as that is a fault or a divergence.

    What failed before causes were stored had raised.
    """
    if stored.state == "diverged":
        return "diverged"
    if stored.state == "failed":
        return stored.cause or ("bug" if stored.attempts else None)
    return None


def gist(error: str | None) -> str:
    """An error's first line with its numbers, ids and addresses blanked: equal where alike."""
    first = (error or "").strip().partition("\n")[0]
    return _VARIES.sub("#", first)


def paused_families(runs: Sequence[StoredRun]) -> dict[Family, str]:
    """The families that a bug breaks, each with the first line of one such error.

    Three failures alike pause a model's method; failures alike in three methods of a model pause
    the model, in three models of a method the method. The narrower families within are left out.
    """
    alike: dict[str, list[StoredRun]] = {}
    for stored in runs:
        if stored.state == "failed" and cause_of(stored) == "bug":
            alike.setdefault(gist(stored.error), []).append(stored)
    found: dict[Family, str] = {}
    for failed in alike.values():
        example = (failed[0].error or "").strip().partition("\n")[0]
        for family in _families([(s.run.model, s.run.method) for s in failed]):
            found.setdefault(family, example)
    return {family: error for family, error in found.items() if not _within(family, found)}


def _families(cells: Sequence[Family]) -> Iterable[Family]:
    distinct = set(cells)
    for cell in dict.fromkeys(cells):
        model, method = cell
        if sum(model == other for other, _ in distinct) >= ALIKE:
            yield (model, ANY)
        if sum(method == other for _, other in distinct) >= ALIKE:
            yield (ANY, method)
        if cells.count(cell) >= ALIKE:
            yield cell


def _within(family: Family, families: Mapping[Family, str]) -> bool:
    model, method = family
    return ANY not in family and ((model, ANY) in families or (ANY, method) in families)


def family_of(run: Run, paused: Mapping[Family, str]) -> Family | None:
    """The paused family that a run belongs to; None where it may be trained."""
    for family in ((run.model, run.method), (run.model, ANY), (ANY, run.method)):
        if family in paused:
            return family
    return None


def spoken(family: Family) -> str:
    """A family as people say it."""
    model, method = family
    if ANY not in family:
        return f"{model} with {method}"
    return f"every method of {model}" if method == ANY else f"every model with {method}"


TROUBLED: tuple[State, ...] = ("failed", "diverged", "cancelled", "voided")
"""States that `orch status` gives reasons for, the most urgent first."""
