"""What is shown of an audit: sections of tables, sentences and a plot, whatever the format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from db.records import ADDED_LATER
from reports.entries import Labels
from reports.explain import plot, words
from reports.explain.records import Audit, RateAudit, RunAudit, Shared, VariantAudit

CHOSEN = "→"
SEEDS = 5
"""Whose values are printed one by one."""
LACKS = 40
"""Characters of what a rate lacks, in its line; each run says it again by itself."""
DIGITS = 12
"""Of a checksum, in print; JSON has all."""
STATES = {"diverged": "33", "failed": "31", "cancelled": "90", "voided": "90", "running": "36"}
"""Colours of a terminal, as the other commands have them."""


@dataclass(frozen=True)
class Grid:
    """A table; the last column may be as long as it is."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str]
    """Columns that are aligned to the right."""
    styles: tuple[str, ...]
    """A terminal's code for each row, or none."""


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, in this order; what is empty is left out."""

    title: str
    grid: Grid | None = None
    plot: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    sentences: tuple[str, ...] = ()


def title_of(audit: Audit, labels: Labels) -> str:
    """The cell as tables print it, with the names that commands take."""
    titles = (
        labels.models.get(audit.model, audit.model),
        labels.datasets.get(audit.dataset, audit.dataset),
        labels.methods.get(audit.method, audit.method),
    )
    asked = f"{audit.model} {audit.dataset} {audit.method}"
    named = ", ".join(titles)
    return asked if named == asked.replace(" ", ", ") else f"{named} ({asked})"


def sections_of(audit: Audit, *, colour: bool) -> Iterator[Section]:
    """In the order of reading; the first has no heading. `colour` is for the plot."""
    if audit.variants:
        yield Section("", sentences=audit.why)
        yield Section(
            "Variants", pairs=tuple((one.choose, _variant(one)) for one in audit.variants)
        )
        return
    yield Section("", grid=_numbers(audit))
    yield Section("Why", sentences=audit.why)
    yield _rates(audit, colour=colour)
    yield _runs(audit)
    yield Section("Runs that do not count", sentences=tuple(_without(audit)))
    yield _alternatives(audit)
    yield Section("Measured with", pairs=tuple(_measured(audit)))
    yield Section("What happened on the way", sentences=audit.events)
    told = " (an import tells no settings)" if audit.identity["source"] else ""
    yield Section(f"What every run of the cell shares{told}", pairs=(("", _identity(audit)),))
    yield Section("What differs from the paper's protocol", sentences=tuple(_differences(audit)))
    yield Section(
        "What differs from the runs behind the published figures",
        sentences=tuple(f"{text}." for text in audit.published),
    )


# Numbers, rates, runs


def _numbers(audit: Audit) -> Grid:
    rows, styles = [], []
    for number in audit.numbers:
        what = _each(number.values) or (number.reason if audit.choice else "")
        rows.append((words.split_name(number.split), number.printed, number.metric, what))
        styles.append("1" if number.split == "ood" else "")
    return Grid(("", "printed", "metric", ""), tuple(rows), frozenset(), tuple(styles))


def _each(values: Sequence[float]) -> str:
    """What a number is a mean of; of many seeds, between what they lie."""
    shown = [f"{value:.2f}" for value in values]
    if len(shown) > SEEDS:
        return f"{len(shown)} seeds: {min(values):.2f} to {max(values):.2f}"
    what = "seeds" if len(shown) > 1 else "unrounded"
    return f"{what}: {', '.join(shown)}" if shown else ""


def _shown_splits(audit: Audit) -> tuple[str, ...]:
    """ID and OOD, and what the rule looks at where that is another."""
    return tuple(dict.fromkeys(("ID", "OOD", words.scored_by(audit.rule))))


def _values(values: Mapping[str, float], audit: Audit) -> tuple[str, ...]:
    by_name = {words.split_name(split): value for split, value in values.items()}
    return tuple(
        f"{by_name[name]:.2f}" if name in by_name else "–" for name in _shown_splits(audit)
    )


def _rates(audit: Audit, *, colour: bool) -> Section:
    several = any(rate.seeds_expected > 1 for rate in audit.rates)
    header = ("", "rate", "seeds", *_shown_splits(audit), "")
    grid = Grid(
        header,
        tuple(
            (
                CHOSEN if rate.chosen else "",
                words.rate_of(rate),
                f"{rate.seeds}/{rate.seeds_expected}",
                *_values(rate.values, audit),
                _standing(rate, audit),
            )
            for rate in audit.rates
        ),
        frozenset(header[1:-1]),
        tuple("1" if rate.chosen else "" for rate in audit.rates),
    )
    return Section(
        "Learning rates", grid=grid if several else None, plot=tuple(_plot(audit, colour=colour))
    )


def _standing(rate: RateAudit, audit: Audit) -> str:
    if rate.chosen:
        return "chosen"
    if not rate.competes:
        missing = words.plural(rate.seeds_expected - rate.seeds, "seed")
        return rate.lacks if len(rate.lacks) <= LACKS else f"lacks {missing}"
    return "next best" if audit.choice and rate == audit.choice.runner_up else ""


def _plot(audit: Audit, *, colour: bool) -> Iterator[str]:
    """ID and OOD against the rate, at the chosen hyperparameters where some are tuned."""
    tuned = audit.choice.hyperparameters if audit.choice else None
    rates = [r for r in audit.rates if tuned is None or r.hyperparameters == tuned]
    curves = [
        plot.Curve(
            words.split_name(split),
            *look,
            {
                rate.learning_rate: (rate.values[split], rate.competes)
                for rate in rates
                if split in rate.values
            },
        )
        for split, look in (("id", ("●", "○", "·", "36")), ("ood", ("◆", "◇", "-", "33")))
    ]
    if len({rate.learning_rate for rate in rates if rate.values}) < 2:
        return
    drawn = plot.draw(
        sorted({rate.learning_rate for rate in rates}),
        curves,
        chosen=audit.choice.learning_rate if audit.choice else None,
        colour=colour,
    )
    yield from drawn
    legend = "   ".join(f"{c.marker} {c.name}" for c in curves if c.points)
    hollow = any(not whole for c in curves for _, whole in c.points.values())
    legend += "   hollow: seeds are missing" if hollow else ""
    legend += f"   {plot.BOTH} both" if any(plot.BOTH in line for line in drawn) else ""
    at = f", {words.tuned(tuned)}" if tuned else ""
    yield f"{' ' * plot.GUTTER}{legend}   in %{at}"


def _runs(audit: Audit) -> Section:
    header = ("", "rate", "seed", "state", "epoch", *_shown_splits(audit), "run")
    grid = Grid(
        header,
        tuple(
            (
                CHOSEN if run.chosen else "",
                words.rate_of(run),
                str(run.seed),
                run.state + (", imported" if run.source else ""),
                _epoch(run),
                *_values(run.values, audit),
                run.id[: words.ID_LENGTH],
            )
            for run in audit.runs
        ),
        frozenset(("rate", "seed", "epoch", *_shown_splits(audit))),
        tuple("1" if run.chosen else STATES.get(run.state, "") for run in audit.runs),
    )
    return Section(
        f"Runs: {audit.n} of {audit.expected} have a result; "
        f"{audit.rates_competing} of {words.plural(audit.rates_expected, 'rate')} competed",
        grid=grid,
        sentences=("One run in full: `orch runs show ID`.",),
    )


def _without(audit: Audit) -> Iterator[str]:
    """Why each run that does not count does not, and how it would come to."""
    states = {run.state for run in audit.runs if run.reason}
    for run in audit.runs:
        if run.reason:
            yield f"{words.run_name(run)}: {run.reason}."
    if states & {"failed", "cancelled", "voided"}:
        yield "Failed, cancelled and voided runs are made pending again by `orch runs retry ID`."
    if states & {"failed", "cancelled", "voided", "pending"} and audit.launched:
        yield f"What is pending is trained by `orch resume {audit.launched}`."


def _epoch(run: RunAudit) -> str:
    return f"{'–' if run.best_epoch is None else run.best_epoch}/{run.epochs}"


def _alternatives(audit: Audit) -> Section:
    header = ("rule", "rate", "epoch", *_shown_splits(audit), "OOD differs by")
    rows = []
    if audit.choice:
        own = {n.split: n.value for n in audit.numbers if n.value is not None}
        epochs = _epochs([run.best_epoch for run in audit.runs if run.chosen])
        name = f"{words.RULES[audit.rule]} (this one)"
        rows.append((name, words.rate_of(audit.choice), epochs, *_values(own, audit), ""))
    for other in audit.alternatives:
        if other.learning_rate is not None:
            rate = words.rate_name(other.learning_rate, other.hyperparameters)
            difference = other.differences.get("ood")
            rows.append(
                (
                    words.RULES[other.rule],
                    rate,
                    _epochs(other.epochs),
                    *_values(other.values, audit),
                    "" if difference is None else f"{difference:+.2f}",
                )
            )
    styles = ("1" if audit.choice else "", *[""] * len(rows))
    return Section(
        "What other rules would have given",
        grid=Grid(header, tuple(rows), frozenset(header[1:]), styles) if rows else None,
        sentences=tuple(
            f"{words.RULES[other.rule]}: nothing, since {other.reason}."
            for other in audit.alternatives
            if other.learning_rate is None and rows
        ),
    )


def _epochs(epochs: Iterable[int | None]) -> str:
    """`3`, or from the earliest to the latest over seeds: `2-3`."""
    known = sorted({epoch for epoch in epochs if epoch is not None})
    if not known:
        return "–"
    return str(known[0]) if len(known) == 1 else f"{known[0]}-{known[-1]}"


# Where it was measured, and what


_PROVENANCE = {
    "commit": "orch at commit",
    "host": "machine",
    "device": "device",
    "precision": "precision",
    "threads": "CPU threads",
    "micro_batch": "micro-batch",
}


def _measured(audit: Audit) -> Iterator[tuple[str, str]]:
    for what, title in _PROVENANCE.items():
        if what in audit.provenance:
            yield title, _shared(audit.provenance[what], short=what == "commit")
    packages = dict(audit.versions)
    if processors := packages.pop("cpu", None):
        yield "processor", _shared(processors)
    same = [f"{name} {next(iter(v))}" for name, v in packages.items() if len(v) == 1]
    if same:
        yield "versions", ", ".join(same)
    for name, values in packages.items():
        if len(values) > 1:
            yield f"{name} differs", _shared(values)
    if data := audit.provenance.get("data"):
        kind = "a generated miniature, " if audit.miniature else ""
        yield "data", f"{kind}fingerprint {_shared(data, short=True)}"
    if "weights" in audit.provenance:
        weights = words.spelled(audit.identity["weights"])
        origin = {"random": "random", "pretrained": "the library's own"}.get(
            weights, f"of pretraining run {weights.removeprefix('run:')[: words.ID_LENGTH]}"
        )
        known = {k: v for k, v in audit.provenance["weights"].items() if k != "random"}
        yield "weights", origin + (f", SHA-256 {_shared(known, short=True)}" if known else "")
    if heads := audit.provenance.get("head"):
        yield "head", f"of linear probe {_shared(heads, short=True)}"


def _shared(values: Shared, *, short: bool = False) -> str:
    """`2.15.0`, or `2.14.0 in 3 runs, 2.15.0 in 3f2a91c0`."""

    def shown(value: str) -> str:
        if not short:
            return value
        first, blank, rest = value.partition(" ")
        prefix, dash, digits = first.rpartition("-")
        return f"{prefix}{dash}{digits[:DIGITS]}{blank}{rest}"

    if len(values) == 1:
        return shown(next(iter(values)))
    return ", ".join(f"{shown(value)} in {_ids(ids)}" for value, ids in values.items())


def _ids(ids: Sequence[str]) -> str:
    return ids[0][: words.ID_LENGTH] if len(ids) == 1 else words.plural(len(ids), "run")


def _identity(audit: Audit) -> str:
    """As `--where` takes them, without what is empty or as it was before the field joined."""
    return " ".join(
        f"{name}={words.spelled(value)}"
        for name, value in audit.identity.items()
        if value not in ("", (), None) and ADDED_LATER.get(name, ...) != value
    )


def _differences(audit: Audit) -> Iterator[str]:
    for one in audit.differences:
        note = f" ({one.note})" if one.note else ""
        paper = f"; the paper's: {one.paper}" if one.paper else ""
        yield f"{one.setting}: {one.here}{paper}{note}."


def _variant(one: VariantAudit) -> str:
    values = ", ".join(f"{words.split_name(n.split)} {n.printed}" for n in one.numbers[:2])
    rate = "no rate chosen" if one.learning_rate is None else f"at rate {one.learning_rate:g}"
    fields = ", ".join(f"{name} {value}" for name, value in one.differs.items())
    sweeps = f"; sweep{'s' if len(one.sweeps) > 1 else ''} {words.listed(one.sweeps)}"
    return f"{fields}: {values} {rate}, {one.n} of {words.plural(one.expected, 'run')}" + (
        sweeps if one.sweeps else ""
    )
