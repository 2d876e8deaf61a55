"""What the numbers of a cell were measured with, by the runs' attempts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from db.records import Run, RunBrief
from reports.explain import words
from reports.explain.records import RunAudit, Shared

FIELDS = ("host", "device", "precision", "threads", "micro_batch")
"""Of an attempt."""


def provenance(
    runs: Iterable[RunAudit], stored: Mapping[str, tuple[RunBrief, Run]]
) -> dict[str, Shared]:
    """What the stored numbers were measured with; a run that changed machines has several."""
    found: dict[str, dict[str, list[str]]] = {}

    def note(what: str, value: object, run_id: str) -> None:
        ids = found.setdefault(what, {}).setdefault(str(value), [])
        if run_id not in ids:
            ids.append(run_id)

    for run in runs:
        for one in run.attempts:
            if one.contributes:
                note("commit", words.commit(one), run.id)
                for what in FIELDS:
                    if (value := getattr(one, what)) is not None:
                        note(what, value, run.id)
        brief, content = stored[run.id]
        if brief.data_fingerprint:
            note("data", brief.data_fingerprint, run.id)
        if brief.weights_sha256 is not None:
            note("weights", brief.weights_sha256 or "random", run.id)
        if content.probe:
            note("head", content.probe, run.id)
    return _frozen(found)


def versions(runs: Iterable[RunAudit]) -> dict[str, Shared]:
    """The same for packages, Python and processors."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for one in run.attempts:
            for name, version in one.versions.items() if one.contributes else ():
                ids = found.setdefault(name, {}).setdefault(version, [])
                if run.id not in ids:
                    ids.append(run.id)
    return _frozen(found)


def _frozen(found: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Shared]:
    return {
        what: {value: tuple(ids) for value, ids in values.items()} for what, values in found.items()
    }
