"""An audit's sentences: why a run does not count, how the choice was made, what to mind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from reports.explain.records import (
    AttemptAudit,
    Audit,
    ChoiceAudit,
    RateAudit,
    RunAudit,
    VariantAudit,
)
from reports.select import SCORED_BY

SPLITS = {"id": "ID", "ood": "OOD"}
RULES: Mapping[str, str] = {
    "id_val": "best epoch by ID",
    "last": "last epoch",
    "ood-oracle": "oracle: best epoch by OOD",
    "id_test": "best epoch by id_test",
}
"""As short as a table's column wants them."""
_EPOCHS: Mapping[str, str] = {
    "id_val": "its best epoch by in-distribution validation (the first of equals, and never the "
    "evaluation before training)",
    "last": "its last epoch (`last`, in place of the best by in-distribution validation)",
    "ood-oracle": "its best epoch by OOD itself: an oracle, which no honest choice can be",
    "id_test": "its best epoch by the split id_test, in place of the validation images",
}
ID_LENGTH = 8


def split_name(split: str) -> str:
    """As sentences and columns call a split."""
    return SPLITS.get(split, split)


def scored_by(rule: str) -> str:
    """The split that a rule looks at, as it is called."""
    known: Mapping[str, str] = {str(name): split for name, split in SCORED_BY.items()}
    return split_name(known[rule])


def spelled(value: object) -> str:
    """As `--where` reads it: lists as `a+b`."""
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def first_line(error: str | None) -> str | None:
    """Of an error, which may be long."""
    return error and error.strip().partition("\n")[0]


def plural(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def rate_name(rate: float, hyperparameters: Mapping[str, float]) -> str:
    """`0.001`, or `0.001 (lambda 0.1)`."""
    return f"{rate:g}" + (f" ({tuned(hyperparameters)})" if hyperparameters else "")


def tuned(hyperparameters: Mapping[str, float]) -> str:
    """`lambda 0.1`."""
    return ", ".join(f"{name} {value:g}" for name, value in hyperparameters.items())


def commit(one: AttemptAudit) -> str:
    """A commit with the state of its working tree."""
    if not one.git_commit:
        return "unknown"
    return one.git_commit + (" with local changes" if one.git_dirty else "")


def run_name(run: RunAudit) -> str:
    """`3f2a91c0 (rate 0.001, seed 0)`."""
    rate = rate_name(run.learning_rate, run.hyperparameters)
    return f"{run.id[:ID_LENGTH]} (rate {rate}, seed {run.seed})"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# Runs that do not count


def reason(run: RunAudit) -> str:
    """Why a run has no score; empty where it has one."""
    if run.score is not None:
        return ""
    last = run.attempts[-1] if run.attempts else None
    match run.state:
        case "pending":
            done = f" ({run.epochs_stored} of {run.epochs} epochs are)" if run.epochs_stored else ""
            return f"not trained yet{done}"
        case "running":
            return f"in training: {run.epochs_stored} of {plural(run.epochs, 'epoch')}"
        case "failed":
            cause = f" ({last.cause})" if last and last.cause else ""
            return f"failed{cause}: {(last and last.error) or 'no error was kept'}"
        case "cancelled":
            return "cancelled by hand"
        case "voided":
            return f"voided: {run.voids[-1].reason if run.voids else 'no reason was kept'}"
        case "diverged":
            return "diverged before it had a value to choose by"
    return "has no value of the split that the choice looks at"


def incomplete(lacks: str) -> str:
    """Why a run with a score does not count."""
    return f"has a score, but its rate is incomplete: {lacks}"


def lacks(runs: Iterable[RunAudit]) -> str:
    """`seed 1 failed, seeds 2 and 3 are pending`: the runs of a rate that have no score."""
    by_state: dict[str, list[str]] = {}
    for run in runs:
        by_state.setdefault(run.state, []).append(str(run.seed))
    return ", ".join(
        f"seed{'s' if len(seeds) > 1 else ''} {listed(seeds)} {_became(state, len(seeds))}"
        for state, seeds in by_state.items()
    )


def _became(state: str, count: int) -> str:
    are = "are" if count > 1 else "is"
    match state:
        case "failed":
            return "failed"
        case "diverged":
            return "diverged without a value"
        case "done":
            return "ha" + ("ve" if count > 1 else "s") + " no value"
        case "running":
            return f"{are} in training"
    return f"{are} {state}"


# The choice


def why(audit: Audit) -> Iterator[str]:
    """The choice and what is to be minded about it, the weightiest first."""
    rule = audit.rule
    if audit.choice is None:
        yield f"There is no number yet: {audit.numbers[0].reason}."
    else:
        yield from _chosen(audit, audit.choice)
    what = "" if rule == "ood-oracle" else "; every other split is read at those epochs"
    yield (
        f"Each run stands for {_EPOCHS[rule]}; the rate with the best mean of {scored_by(rule)} "
        f"over its seeds is chosen, the smallest of equals{what}."
    )
    if audit.choice is not None:
        yield from _flaws(audit, audit.choice)
    if audit.n < audit.expected:
        left = audit.expected - audit.n
        yield (
            f"{left} of {plural(audit.expected, 'run')} "
            f"{'has' if left == 1 else 'have'} no result, so that the choice may still change."
        )
    if audit.miniature:
        yield (
            "The data is a miniature, generated in the layout of the real dataset: never compare "
            "the number with the paper's."
        )
    elsewhere = [run for run in audit.runs if run.score is not None and not run.attempts]
    if elsewhere:
        some = f"{len(elsewhere)} of {len(audit.runs)} runs were"
        which = some if len(elsewhere) < len(audit.runs) else "The numbers were"
        sources = sorted({run.source for run in elsewhere if run.source})
        origin = f" ({listed(sources)})" if sources else ""
        yield (
            f"{which} imported{origin}, not measured here: on which machine, and with which "
            "versions, is not known."
        )


def _chosen(audit: Audit, choice: ChoiceAudit) -> Iterator[str]:
    name = scored_by(audit.rule)
    rate = rate_name(choice.learning_rate, choice.hyperparameters)
    text = f"Rate {rate} was chosen: its {name} is {choice.score:.2f}"
    text += f", the mean of {audit.seeds} seeds" if audit.seeds > 1 else ""
    if choice.runner_up is None:
        others = audit.rates_expected - 1
        without = f"none of the {others} others is complete" if others > 1 else "the other is not"
        tail = f"{without}: it had no rival" if others else "no other rate was tried"
        yield f"{text}; {tail}."
    elif choice.tied:
        same = listed([rate_name(r.learning_rate, r.hyperparameters) for r in choice.tied])
        yield f"{text}, the same as that of {same}; of equals the smallest rate is taken."
    else:
        second = choice.runner_up
        second_rate = rate_name(second.learning_rate, second.hyperparameters)
        yield (
            f"{text}, {_points(choice.margin or 0.0)} above the next best, rate {second_rate} "
            f"({second.score:.2f})."
        )


def _points(margin: float) -> str:
    """`0.25 points`, with as many digits as tell it from nothing."""
    shown = f"{margin:.2f}"
    return (f"{margin:.1g}" if float(shown) == 0 else shown) + " points"


def _flaws(audit: Audit, choice: ChoiceAudit) -> Iterator[str]:
    if audit.rule == "ood-oracle":
        yield "OOD chose the epochs and the rate: an upper bound, not a result."
    if choice.edge:
        place = {"low": "lowest", "high": "highest"}[choice.edge]
        beyond = f"{choice.learning_rate:g} is the {place} rate tried: a better one may lie beyond."
        yield beyond + (f" To try it: `{choice.remedy}`." if choice.remedy else _no_remedy(audit))
    diverged = [run for run in audit.runs if run.chosen and run.state == "diverged"]
    if diverged:
        yield (
            f"{listed([run_name(run) for run in diverged])} diverged: the epochs before its loss "
            "stopped being finite count, and no later one."
        )
    chosen = next(rate for rate in audit.rates if rate.chosen)
    if chosen.seeds < chosen.seeds_expected:
        yield (
            f"The chosen rate has {chosen.seeds} of {plural(chosen.seeds_expected, 'seed')} "
            f"(--partial lets it compete): {chosen.lacks}."
        )
    if audit.seeds == 1:
        yield "One seed: there is no interval, and differences of a few points may be noise."
    if audit.rule != "ood-oracle":
        yield (
            f"The {scored_by(audit.rule)} number is optimistic: the same images chose the epoch "
            "and the rate."
        )


def _no_remedy(audit: Audit) -> str:
    """Why `orch extend --edges` would leave the cell as it is."""
    if audit.launched is None or any(run.source for run in audit.runs):
        return " Imported runs have no sweep file to extend."
    if audit.rule != "id_val" or audit.partial:
        return (
            " `orch extend --edges` goes by ID validation and complete rates, not by this choice."
        )
    if any(audit.launched not in run.sweeps for run in audit.runs):
        return " No sweep asks for all of these runs: --sweep chooses one to extend."
    if any(run.state not in ("done", "diverged", "cancelled") for run in audit.runs):
        return " `orch extend --edges` adds one when the runs that are left have results."
    return " `orch extend --edges` adds none above a rate that diverged."


def mixed(variants: Sequence[VariantAudit]) -> tuple[str, ...]:
    """What is to be said of a cell with several variants."""
    names = listed([f"`{name}`" for name in variants[0].differs])
    return (
        f"The cell has runs of {len(variants)} variants, which differ in {names}: one number "
        "cannot stand for them, and a table refuses.",
        "Choose one with the option that stands beside it, here and in `orch report`.",
    )


# What happened on the way


def events(runs: Iterable[RunAudit], identity: Mapping[str, Any]) -> Iterator[str]:
    """Resumes, failures, repetitions that differed, memory that ran out, voids: run by run."""
    for run in runs:
        for text in _events(run, identity):
            yield f"{run_name(run)}: {text}."


def _events(run: RunAudit, identity: Mapping[str, Any]) -> Iterator[str]:
    if run.extended:
        yield "added by `orch extend`"
    for void in run.voids if run.state != "voided" else run.voids[:-1]:
        anew = "; what counts was trained anew" if run.score is not None else ""
        yield f"voided on {_day(void.voided)} ({void.reason}){anew}"
    gone = max((void.attempt for void in run.voids), default=0)
    for one in run.attempts:
        if one.number > gone:
            yield from _attempt_events(one, run.state, identity["micro_batch"])


_ENDINGS = {
    "died": "died",
    "lost": "was lost with its launch",
    "paused": "was told to stop, and saved its state",
    "cancelled": "was cancelled by hand",
}


def _attempt_events(one: AttemptAudit, state: str, micro_batch: int) -> Iterator[str]:
    """What an attempt came through; the ending that made the run's state is told elsewhere."""
    name = f"attempt {one.number}"
    if one.resumed_from is not None or one.resumed_step:
        steps = f" and {plural(one.resumed_step, 'step')}" if one.resumed_step else ""
        yield f"{name} went on after epoch {one.resumed_from or 0}{steps}"
    if one.micro_batch and one.micro_batch < micro_batch:
        yield (
            f"memory ran out in {name}: {one.micro_batch} images a forward pass in place of "
            f"{micro_batch}, which is equal up to rounding"
        )
    if one.outcome and one.outcome != state:
        cause = f" ({one.cause})" if one.cause else ""
        error = f": {one.error}" if one.error else ""
        ending = _ENDINGS.get(one.outcome, one.outcome)
        yield f"{name} {ending}{cause}{error}".rstrip(".")
    if one.irreproducible:
        yield (
            f"{name} was irreproducible: a later one measured other numbers, which took the place "
            "of its own"
        )


def _day(seconds: float) -> str:
    """A date, in the reader's time zone."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def rate_of(one: RateAudit | RunAudit | ChoiceAudit) -> str:
    """As columns print it."""
    return rate_name(one.learning_rate, one.hyperparameters)
