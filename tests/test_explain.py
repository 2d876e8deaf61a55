"""`orch explain`: what an audit of a cell says, against the tables and against hand-made stores."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import TOYS, PostgresServer, a_run
from db.reading import ATTEMPTS
from db.records import Cause, Claim, EpochRecord, Metric, Provenance, Run
from db.store import Store
from orchestrator.cli import main
from reports import explain
from reports.explain import Audit, plot, protocol
from reports.explain.records import RunAudit
from reports.render.text import segments
from reports.select import RULES, SCORED_BY, Key
from reports.study import Study
from reports.tables import TABLES, build
from worker.data import DATASETS
from worker.methods import METHODS

CELL: Key = ("toy", "toy", "sgd")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HERE = Provenance(
    host="node1",
    device="cpu",
    data_fingerprint="f" * 64,
    weights_sha256="a" * 64,
    versions={"python": "3.11.7", "torch": "2.15.0", "cpu": "Some Processor"},
    threads=1,
    precision="fp32",
    micro_batch=16,
)


class Lab:
    """A store whose runs are trained by hand: each line of a test is an event of a run's life."""

    def __init__(self, store: Store, url: str) -> None:
        self.store, self.url = store, url
        self.owner = store.enlist()
        self.numbers = itertools.count(2)
        """Examples share the store; `threads` tells their runs apart."""

    def ask(self, *runs: Run, sweep: str = "sweep") -> None:
        """Register a sweep of these runs."""
        self.store.register(sweep, f"name: {sweep}", [*runs], {run.id for run in runs})

    def key(self, run: Run) -> int:
        """The run's key in the store."""
        return self.store.find_run(run.id).key

    def begin(
        self,
        run: Run,
        provenance: Provenance = HERE,
        *,
        history: Sequence[EpochRecord] = (),
        resumed_from: int | None = None,
        step: int = 0,
        commit: str = COMMIT,
        dirty: bool = False,
    ) -> Claim:
        """Claim a run and start it."""
        claim = self.store.claim(self.key(run), self.owner)
        assert claim is not None
        self.store.start(claim, history, provenance, resumed_from, step)
        self._of_commit(claim, commit, dirty)
        return claim

    def _of_commit(self, claim: Claim, commit: str, dirty: bool) -> None:
        with self.store.write() as connection:
            mine = (ATTEMPTS.c.run_key == claim.run_key) & (ATTEMPTS.c.number == claim.fence)
            told = sa.update(ATTEMPTS).where(mine).values(git_commit=commit, git_dirty=dirty)
            connection.execute(told)

    def done(self, run: Run, ids: Sequence[float], oods: Sequence[float], **begun: Any) -> None:
        """Train a run whose epochs measured these."""
        self.store.finish(self.begin(run, **begun), history(run, ids, oods))

    def fail(self, run: Run, error: str, cause: Cause = "bug") -> None:
        """Start a run, which then fails."""
        self.store.fail(self.begin(run), error, f"Traceback …\n{error}", cause)

    def audit(self, key: Key = CELL, sweep: str | None = None, **asked: Any) -> Audit:
        """Explain a cell."""
        return explain.audit(Study(self.store, sweep, **asked), key)

    def orch(self, *words: object) -> Result:
        """`orch explain …` on this store."""
        called = ["--plugin", str(TOYS), "--store", self.url, "explain", *map(str, words)]
        return CliRunner().invoke(main, called)


@pytest.fixture
def lab(store: Store, store_url: str) -> Lab:
    """An empty one."""
    return Lab(store, store_url)


def history(run: Run, ids: Sequence[float], oods: Sequence[float]) -> list[EpochRecord]:
    """Epochs from 1 on with these accuracies in percent; before training both are 1.5."""
    values = zip((1.5, *ids), (1.5, *oods), strict=True)
    return [
        EpochRecord(
            epoch, 1.0, 0.5, run.learning_rate,
            (
                Metric("id", "", "accuracy", one / 100, None, None),
                Metric("ood", "", "accuracy", other / 100, None, None),
            ),
        )
        for epoch, (one, other) in enumerate(values)
    ]  # fmt: skip


def runs_at(rates: Iterable[float], seeds: Iterable[int] = (0,), **changes: object) -> list[Run]:
    """A run for each rate and seed."""
    return [
        a_run(learning_rate=rate, seed=seed, epochs=2, **changes)
        for rate, seed in itertools.product(rates, seeds)
    ]


def text(audit: Audit, **options: Any) -> str:
    """As a pipe gets it, on one line, so that sentences are found wherever they wrap."""
    return " ".join(explain.render(audit, "text", **options).split())


def of(audit: Audit, run: Run) -> RunAudit:
    """One run's part."""
    return next(one for one in audit.runs if one.id == run.id)


# The audit agrees with the tables


STATES = ("done", "done", "done", "diverged", "failed", "pending")


@st.composite
def studies(draw: st.DrawFn) -> list[tuple[float, int, str, list[int], list[int]]]:
    """Runs as (rate, seed, state, ID, OOD); few values, so that ties are common."""
    values = st.lists(st.sampled_from([25, 50, 75]), min_size=2, max_size=2)
    made = []
    for rate in draw(st.lists(st.sampled_from([1e-4, 3e-4, 1e-3]), min_size=1, unique=True)):
        for seed in range(draw(st.integers(1, 2))):
            made.append((rate, seed, draw(st.sampled_from(STATES)), draw(values), draw(values)))
    return made


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(made=studies(), rule=st.sampled_from(RULES), partial=st.booleans())
def test_the_audit_gives_the_tables_number_and_its_own_runs_give_it_again(
    lab: Lab, made: list[Any], rule: Any, partial: bool
) -> None:
    number = next(lab.numbers)
    sweep = f"sweep{number}"
    runs = [a_run(learning_rate=r, seed=s, epochs=2, threads=number) for r, s, *_ in made]
    lab.ask(*runs, sweep=sweep)
    for run, (_, _, state, ids, oods) in zip(runs, made, strict=True):
        if state == "done":
            lab.done(run, ids, oods)
        elif state == "diverged":
            lab.store.diverge(lab.begin(run), history(run, ids[:1], oods[:1]), "nan")
        elif state == "failed":
            lab.fail(run, "ValueError: no")
    study = Study(lab.store, sweep, rule=rule, partial=partial)

    audit = explain.audit(study, CELL)

    for shown in audit.numbers:
        cell = study.cells(shown.split)[CELL]
        assert (shown.value, shown.ci90, shown.values) == (cell.value, cell.ci90, cell.values)
        assert shown.reason == cell.reason
    cell = study.cells("ood")[CELL]
    assert (audit.choice and audit.choice.learning_rate) == cell.learning_rate
    assert tuple(run.id for run in audit.runs if run.chosen) == cell.runs
    assert (audit.n, audit.expected) == (cell.n, cell.expected)
    assert sum(rate.competes for rate in audit.rates) == cell.rates
    _recomputed(audit)
    assert all(bool(run.reason) != run.counts for run in audit.runs)
    if cell.value is not None:
        entry = next(
            e
            for e in build(TABLES["ood"], study).entries
            if e.column == "toy" and e.cell.method == "sgd"
        )
        whole = "".join(piece for piece, _ in segments(entry)).replace("*", "")
        assert whole == audit.numbers[0].printed


def _recomputed(audit: Audit) -> None:
    """The choice is made again, from nothing but the runs that the audit lists."""
    split = SCORED_BY[audit.rule]  # type: ignore[index]
    rates: dict[float, list[RunAudit]] = {}
    for run in audit.runs:
        rates.setdefault(run.learning_rate, []).append(run)
    means = {}
    for rate, members in rates.items():
        scores = [run.score for run in members if run.score is not None]
        if scores and (audit.partial or len(scores) == len(members)):
            means[rate] = round(sum(scores) / len(scores), 9)
    if not means:
        assert audit.choice is None
        return
    best = min(means, key=lambda rate: (-means[rate], rate))
    assert audit.choice is not None
    assert audit.choice.learning_rate == best
    assert audit.choice.score == pytest.approx(means[best])
    others = [mean for rate, mean in means.items() if rate != best]
    assert (audit.choice.margin is None) == (not others)
    if others:
        assert audit.choice.margin == pytest.approx(means[best] - max(others))
        assert len(audit.choice.tied) == others.count(means[best])
    values = [run.values["ood"] for run in audit.runs if run.chosen]
    if split in ("id", "ood"):
        assert audit.numbers[0].value == pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize("rule", RULES)
def test_what_other_rules_would_have_given_is_what_they_give(lab: Lab, rule: Any) -> None:
    low, high = runs_at([0.1, 0.3])
    lab.ask(low, high)
    lab.done(low, [60, 50], [20, 40])
    lab.done(high, [55, 52], [70, 10])

    audit = lab.audit(rule=rule)

    assert [one.rule for one in audit.alternatives] == [r for r in RULES if r != rule]
    own = audit.numbers[0].value
    for other in audit.alternatives:
        cell = Study(lab.store, rule=next(r for r in RULES if r == other.rule)).cells("ood")[CELL]
        assert other.values.get("ood") == cell.value
        assert (other.learning_rate, other.epochs) == (cell.learning_rate, cell.epochs)
        if cell.value is not None and own is not None:
            assert other.differences["ood"] == pytest.approx(cell.value - own)
        assert bool(other.reason) == (cell.learning_rate is None)
    if rule == "id_val":
        assert [a.values.get("ood") for a in audit.alternatives] == [10, 70, None]
        assert "oracle: best epoch by OOD 0.3 1 55.00 70.00 +50.00" in text(audit)
        assert "last epoch 0.3 2 52.00 10.00 -10.00" in text(audit)
        assert "best epoch by id_test: nothing, since no finished run has a value" in text(audit)


# Why this rate


def test_the_choice_is_told_with_the_runner_up_and_the_margin(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3, 1.0])
    lab.ask(*runs)
    for run, best in zip(runs, (60.0, 62.25, 61.0), strict=True):
        lab.done(run, [best, 1], [best - 10, 0])

    audit = lab.audit()

    assert audit.choice is not None
    assert audit.choice.runner_up is not None
    assert (audit.choice.learning_rate, audit.choice.runner_up.learning_rate) == (0.3, 1.0)
    assert audit.why[0] == (
        "Rate 0.3 was chosen: its ID is 62.25, 1.25 points above the next best, rate 1 (61.00)."
    )
    assert audit.choice.remedy == ""
    assert "One seed: there is no interval" in text(audit)
    assert "3 of 3 have a result; 3 of 3 rates competed" in text(audit)


def test_ties_go_to_the_smallest_rate_and_say_so(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3, 1.0])
    lab.ask(*runs)
    for run in runs:
        lab.done(run, [50, 50], [40, 30])

    audit = lab.audit()

    assert audit.choice is not None
    assert [rate.learning_rate for rate in audit.choice.tied] == [0.3, 1.0]
    assert "the same as that of 0.3 and 1; of equals the smallest rate is taken" in audit.why[0]
    assert of(audit, runs[0]).best_epoch == 1


def test_a_margin_too_small_for_two_digits_is_not_told_as_nothing(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3])
    lab.ask(*runs)
    lab.done(runs[0], [50.001, 0], [40, 0])
    lab.done(runs[1], [50, 0], [40, 0])

    assert "0.001 points above the next best" in lab.audit().why[0]


def test_seeds_give_a_mean_an_interval_and_a_table_of_rates(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3], seeds=(0, 1, 2))
    lab.ask(*runs)
    for run in runs:
        lab.done(run, [50 + run.seed + run.learning_rate, 2], [40 + run.seed, 0])

    audit = lab.audit()

    assert [n.printed for n in audit.numbers] == ["41.0 ±0.9›", "51.3 ±0.9›"]
    assert (audit.seeds, audit.seeds_expected) == (3, 3)
    assert "51.30, the mean of 3 seeds, 0.20 points above the next best" in audit.why[0]
    assert "seeds: 40.00, 41.00, 42.00" in text(audit)
    assert "0.1 3/3 51.10 41.00 next best → 0.3 3/3 51.30 41.00 chosen" in text(audit)
    assert not any("One seed" in sentence for sentence in audit.why)


def test_a_split_without_a_value_at_the_chosen_epoch_says_so(lab: Lab) -> None:
    run = runs_at([0.1])[0]
    lab.ask(run)
    lab.done(run, [60, 50], [40, 30])
    lab.store.measured_later(lab.key(run), 2, [Metric("real", "", "accuracy", 0.2, 2, 10)])

    audit = lab.audit()

    assert [n.split for n in audit.numbers] == ["ood", "id", "real"]
    assert audit.numbers[2].value is None
    assert "real — the split real has no value at a chosen epoch" in text(audit)
    assert lab.audit(rule="last").numbers[2].value == 20


def test_many_seeds_are_told_by_their_range(lab: Lab) -> None:
    runs = runs_at([0.1], seeds=range(7))
    lab.ask(*runs)
    for run in runs:
        lab.done(run, [60 + run.seed, 0], [40 - run.seed, 0])

    assert "7 seeds: 34.00 to 40.00" in text(lab.audit())


@pytest.mark.parametrize(("best", "place"), [(0, "lowest"), (2, "highest")])
def test_an_edge_rate_comes_with_the_command_that_goes_beyond(
    lab: Lab, best: int, place: str
) -> None:
    runs = runs_at([0.1, 0.3, 1.0])
    lab.ask(*runs)
    for number, run in enumerate(runs):
        lab.done(run, [60 if number == best else 50, 0], [40, 0])

    audit = lab.audit()

    assert audit.choice is not None
    assert audit.choice.remedy == "orch extend --edges sweep && orch resume sweep"
    assert f"is the {place} rate tried: a better one may lie beyond" in text(audit)
    assert "To try it: `orch extend --edges sweep && orch resume sweep`." in text(audit)
    command = next(x for x in explain.render(audit, "text").splitlines() if "orch extend" in x)
    assert command.strip() == "`orch extend --edges sweep && orch resume sweep`."


def test_an_edge_is_not_extended_while_runs_are_left_nor_above_divergence(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3])
    lab.ask(*runs)
    lab.done(runs[0], [60, 0], [40, 0])

    waiting = lab.audit()
    assert waiting.choice is not None
    assert (waiting.choice.edge, waiting.choice.remedy) == ("low", "")
    assert "adds one when the runs that are left have results" in text(waiting)

    lab.store.diverge(lab.begin(runs[1]), history(runs[1], [70], [50]), "nan")
    diverged = lab.audit()
    assert diverged.choice is not None
    assert (diverged.choice.edge, diverged.choice.remedy) == ("high", "")
    assert "adds none above a rate that diverged" in text(diverged)
    assert f"{runs[1].id[:8]} (rate 0.3, seed 0) diverged: the epochs before" in text(diverged)


def test_an_edge_of_several_sweeps_together_is_no_sweeps_edge(lab: Lab) -> None:
    low, middle, high = runs_at([0.1, 0.3, 1.0])
    lab.ask(low, middle, sweep="lower")
    lab.ask(middle, high, sweep="higher")
    for run in (low, middle, high):
        lab.done(run, [60 + run.learning_rate, 0], [40, 0])

    together, alone = lab.audit(), lab.audit(sweep="higher")

    assert together.choice is not None
    assert (together.choice.edge, together.choice.remedy) == ("high", "")
    assert "No sweep asks for all of these runs: --sweep chooses one to extend." in text(together)
    assert alone.choice is not None
    assert alone.choice.remedy == "orch extend --edges higher && orch resume higher"


@pytest.mark.parametrize("asked", [{"rule": "last"}, {"rule": "ood-oracle"}, {"partial": True}])
def test_an_edge_by_another_choice_is_not_what_extend_goes_by(
    lab: Lab, asked: Mapping[str, Any]
) -> None:
    runs = runs_at([0.1, 0.3])
    lab.ask(*runs)
    for run in runs:
        lab.done(run, [60, 60], [40, 40])

    audit = lab.audit(**asked)

    assert audit.choice is not None
    assert (audit.choice.edge, audit.choice.remedy) == ("low", "")
    assert "goes by ID validation and complete rates, not by this choice" in text(audit)


def test_tuned_hyperparameters_are_chosen_with_the_rate(lab: Lab) -> None:
    runs = [
        a_run(learning_rate=rate, epochs=2, hyperparameters=(("lambda", value),))
        for rate in (0.1, 0.3)
        for value in (0.1, 1.0, 10.0)
    ]
    lab.ask(*runs)
    for run, value in zip(runs, (50, 60, 55, 53, 54, 52), strict=True):
        lab.done(run, [value, 0], [value - 20, 0])

    audit = lab.audit()

    assert audit.choice is not None
    assert audit.choice.hyperparameters == {"lambda": 1.0}
    assert audit.why[0].startswith("Rate 0.1 (lambda 1) was chosen: its ID is 60.00, 5.00 points")
    assert "in %, lambda 1" in text(audit)


# Why a run does not count


def test_every_run_that_does_not_count_says_why(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3, 1.0], seeds=(0, 1, 2))
    lab.ask(*runs)
    for run in runs[:3]:
        lab.done(run, [50, 60], [40, 30])
    lab.done(runs[3], [70, 80], [40, 30])
    lab.fail(runs[4], "RuntimeError: CUDA out of memory\nmore", "out_of_memory")
    lab.begin(runs[5], history=history(runs[5], [1], [2]))
    lab.done(runs[6], [90, 95], [40, 30])
    lab.store.void(lab.key(runs[6]), "wrong labels")
    lab.store.cancel([lab.key(runs[7])])
    lab.store.diverge(lab.begin(runs[8]), [], "the loss is nan")

    audit = lab.audit()

    assert [run.reason for run in audit.runs] == [
        "", "", "",
        "has a score, but its rate is incomplete: seed 1 failed, seed 2 is in training",
        "failed (out_of_memory): RuntimeError: CUDA out of memory",
        "in training: 1 of 2 epochs",
        "voided: wrong labels",
        "cancelled by hand",
        "diverged before it had a value to choose by",
    ]  # fmt: skip
    assert [run.counts for run in audit.runs] == [True] * 3 + [False] * 6
    assert [rate.lacks for rate in audit.rates] == [
        "",
        "seed 1 failed, seed 2 is in training",
        "seed 0 is voided, seed 1 is cancelled, seed 2 diverged without a value",
    ]
    assert "none of the 2 others is complete: it had no rival" in audit.why[0]
    assert "4 of 9 runs have no result, so that the choice may still change" in text(audit)
    assert (audit.rates_competing, audit.rates_expected) == (1, 3)
    for run in audit.runs[3:]:
        assert f"{run.id[:8]} (rate {run.learning_rate:g}, seed {run.seed}): {run.reason}." in text(
            audit
        )


def test_with_partial_a_rate_that_lacks_seeds_may_be_chosen_and_is_told(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3], seeds=(0, 1))
    lab.ask(*runs)
    for run in runs[:3]:
        lab.done(run, [50 + 10 * run.learning_rate, 0], [40, 0])

    assert lab.audit().choice.learning_rate == 0.1  # type: ignore[union-attr]
    audit = lab.audit(partial=True)

    assert audit.choice is not None
    assert audit.choice.learning_rate == 0.3
    assert "The chosen rate has 1 of 2 seeds (--partial lets it compete): seed 1 is pending" in (
        text(audit)
    )
    assert audit.numbers[0].printed.startswith("40.0")


def test_a_cell_without_a_result_has_no_number_and_says_so(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3])
    lab.ask(*runs)
    lab.fail(runs[0], "ValueError: broken")

    audit = lab.audit()

    assert audit.choice is None
    assert [n.printed for n in audit.numbers] == ["— (0/2)"] * 2
    assert audit.why[0] == "There is no number yet: no run is finished (1 failed, 1 pending)."
    assert "failed (bug): ValueError: broken." in text(audit)
    assert "What other rules" not in text(audit)


def test_an_oracle_is_called_one(lab: Lab) -> None:
    run = runs_at([0.1])[0]
    lab.ask(run)
    lab.done(run, [50, 60], [40, 30])

    audit = lab.audit(rule="ood-oracle")

    assert audit.numbers[0].value == 40
    assert "OOD chose the epochs and the rate: an upper bound, not a result" in text(audit)
    assert "best epoch by OOD itself: an oracle" in text(audit)
    assert "oracle: best epoch by OOD (this one)" in text(audit)
    assert "ID number is optimistic" not in text(audit)


# What happened on the way, and where


def test_attempts_resumes_memory_and_repetitions_are_told(lab: Lab) -> None:
    run = runs_at([0.1])[0]
    lab.ask(run)
    whole = history(run, [50, 60], [40, 30])
    lab.store.release(lab.begin(run, history=whole[:2]), "died", "killed", "process_death")
    there = dataclasses.replace(HERE, host="node2", micro_batch=8)
    resumed = lab.begin(run, there, history=whole[:2], resumed_from=1, step=7)
    lab.store.finish(resumed, whole)

    audit = lab.audit()

    assert list(audit.provenance["host"]) == ["node1", "node2"]
    assert list(audit.provenance["micro_batch"]) == ["16", "8"]
    name = f"{run.id[:8]} (rate 0.1, seed 0)"
    assert audit.events == (
        f"{name}: attempt 1 died (process_death): killed.",
        f"{name}: attempt 2 went on after epoch 1 and 7 steps.",
        f"{name}: memory ran out in attempt 2: 8 images a forward pass in place of 16, which is "
        "equal up to rounding.",
    )


def test_an_attempt_that_began_afresh_is_where_the_numbers_come_from(lab: Lab) -> None:
    """And the one before it, whose numbers another repetition did not give, is told."""
    run = runs_at([0.1])[0]
    lab.ask(run)
    wrong, right = history(run, [50, 60], [40, 30]), history(run, [51, 61], [41, 31])
    lab.store.release(lab.begin(run, history=wrong[:2], commit="b" * 40), "lost")
    lab.done(run, [51, 61], [41, 31], history=right[:1])

    audit = lab.audit()

    assert [one.contributes for one in of(audit, run).attempts] == [False, True]
    assert list(audit.provenance["commit"]) == [COMMIT]
    assert "attempt 1 was lost with its launch" in text(audit)
    assert "attempt 1 was irreproducible: a later one measured other numbers" in text(audit)


def test_runs_that_were_voided_and_trained_anew_say_so(lab: Lab) -> None:
    run = runs_at([0.1])[0]
    lab.ask(run)
    lab.done(run, [90, 95], [40, 30])
    lab.store.void(lab.key(run), "wrong labels")
    lab.store.retry([lab.key(run)])
    before = lab.audit()
    lab.done(run, [50, 60], [40, 30])
    after = lab.audit()

    assert of(before, run).reason == "not trained yet"
    assert [e.partition("voided on ")[2][17:] for e in before.events] == ["(wrong labels)."]
    assert after.numbers[0].value == 30
    assert [(v.state, v.epochs) for v in of(after, run).voids] == [("done", 2)]
    assert after.events[0].endswith("(wrong labels); what counts was trained anew.")


def test_what_differs_between_the_runs_is_named_by_run(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3, 1.0])
    lab.ask(*runs)
    newer = dataclasses.replace(HERE, versions={**HERE.versions, "torch": "2.16.0"})
    lab.done(runs[0], [50, 60], [40, 30], provenance=newer, commit="b" * 40, dirty=True)
    for run in runs[1:]:
        lab.done(run, [50, 60], [40, 30])

    audit = lab.audit()

    assert audit.versions["torch"] == {
        "2.16.0": (runs[0].id,),
        "2.15.0": (runs[1].id, runs[2].id),
    }
    shown = text(audit)
    assert f"torch differs 2.16.0 in {runs[0].id[:8]}, 2.15.0 in 2 runs" in shown
    assert f"bbbbbbbbbbbb with local changes in {runs[0].id[:8]}, 0123456789ab in 2 runs" in shown
    assert "versions python 3.11.7" in shown
    assert "machine node1" in shown
    assert "processor Some Processor" in shown
    assert "data fingerprint ffffffffffff" in shown
    assert "weights random, SHA-256 aaaaaaaaaaaa" in shown


def test_miniature_data_is_said_plainly(lab: Lab) -> None:
    run = runs_at([0.1])[0]
    lab.ask(run)
    lab.done(
        run, [50, 60], [40, 30],
        provenance=dataclasses.replace(HERE, data_fingerprint="miniature-" + "f" * 64),
    )  # fmt: skip

    audit = lab.audit()

    assert audit.miniature
    assert "The data is a miniature" in text(audit)
    assert "data a generated miniature, fingerprint miniature-ffffffffffff" in text(audit)


def test_runs_that_extend_added_are_told(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3])
    lab.ask(runs[0])
    lab.store.extend("sweep", [runs[1]])

    audit = lab.audit()

    assert [run.extended for run in audit.runs] == [False, True]
    assert f"{runs[1].id[:8]} (rate 0.3, seed 0): added by `orch extend`." in audit.events


def test_imported_numbers_are_explained_as_imported(lab: Lab) -> None:
    run, other = runs_at([0.1, 0.3], source="import:paper")
    lab.ask(run, other)
    lab.done(run, [50, 60], [40, 30])
    lab.done(other, [50, 40], [40, 30])
    with lab.store.write() as connection:  # an import brings numbers, and no attempt
        connection.exec_driver_sql("DELETE FROM attempts")

    audit = lab.audit()

    assert of(audit, run).source == "import:paper"
    assert "The numbers were imported (import:paper), not measured here" in text(audit)
    assert "done, imported" in text(audit)
    assert [one.setting for one in audit.differences] == ["model", "dataset"]
    assert audit.choice is not None
    assert (audit.choice.edge, audit.choice.remedy) == ("low", "")
    assert "Imported runs have no sweep file to extend." in text(audit)
    assert "What every run of the cell shares (an import tells no settings)" in text(audit)


# The paper's protocol


def test_the_papers_protocol_is_the_catalogs() -> None:
    for name, (rates, decay) in protocol.METHODS.items():
        assert (METHODS[name].learning_rates, METHODS[name].weight_decay) == (rates, decay)
    assert {name: DATASETS[name].epochs for name in protocol.EPOCHS} == protocol.EPOCHS


def _of_the_paper(**changes: object) -> list[Run]:
    of_paper: dict[str, object] = {
        "model": "clip_vit_b16", "dataset": "waterbirds", "method": "adamw", "epochs": 20,
        "weight_decay": 0.01, "weights": "pretrained",
    }  # fmt: skip
    return [a_run(**{**of_paper, "learning_rate": r, **changes}) for r in protocol.ADAMW]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"epochs": 5}, ["epochs: 5; the paper's: 20."]),
        ({"precision": "bf16"}, ["precision: bf16; the paper's: fp32."]),
        ({"weights": "random"}, ["weights: random; the paper's: pretrained."]),
        ({"images_per_split": 64}, ["images_per_split: 64; the paper's: none."]),
        (
            {"schedule": "cosine_per_epoch", "weight_decay": 0.0},
            [
                "weight_decay: 0.0; the paper's: 0.01 (as in the authors' code).",
                "schedule: cosine_per_epoch; the paper's: cosine_per_step (as in the authors' "
                "code).",
            ],
        ),
    ],
)
def test_what_differs_from_the_papers_protocol(
    lab: Lab, changes: Mapping[str, object], expected: list[str]
) -> None:
    lab.ask(*_of_the_paper(**changes))

    shown = text(lab.audit(("clip_vit_b16", "waterbirds", "adamw")))

    heading = "What differs from the paper's protocol - "
    assert (heading in shown) == bool(expected)
    for sentence in expected:
        assert f"- {sentence}" in shown
    assert "What differs from the runs behind the published figures" in shown


# Several variants


def test_variants_are_listed_with_their_numbers_and_how_to_choose(lab: Lab) -> None:
    short, long = runs_at([0.1], batch_size=64)[0], a_run(epochs=3)
    twice = runs_at([0.1], batch_size=128)[0]
    lab.ask(short, long, sweep="both")
    lab.ask(twice, sweep="other")
    lab.done(short, [50, 60], [40, 30])
    lab.done(long, [50, 60, 70], [40, 30, 35])

    audit = lab.audit()

    assert [(v.choose, v.numbers[0].printed, v.n) for v in audit.variants] == [
        ("--where 'epochs=2 batch_size=64'", "30.0", 1),
        ("--where 'epochs=3 batch_size=32'", "35.0", 1),
        ("--sweep other", "— (0/1)", 0),
    ]
    assert audit.choice is None
    assert "which differ in `epochs` and `batch_size`" in audit.why[0]
    shown = text(audit)
    assert "epochs 2, batch_size 64: OOD 30.0, ID 60.0 at rate 0.1, 1 of 1 run; sweep both" in shown

    for variant in audit.variants:
        option, value = variant.choose.split(" ", 1)
        one = lab.orch(*CELL, option, value.strip("'"), "--json")
        assert one.exit_code == 0, one.output
        chosen = json.loads(one.stdout)
        assert chosen["variants"] == []
        assert [run["id"] for run in chosen["runs"]] == list(variant.runs)


def test_a_variant_told_apart_by_an_empty_field_can_be_chosen(lab: Lab) -> None:
    trained, imported = a_run(epochs=3), a_run(epochs=3, source="import:paper")
    lab.ask(trained, imported)

    audit = lab.audit()

    assert [v.choose for v in audit.variants] == [
        "--where 'source!=import:paper'",
        "--where 'source=import:paper'",
    ]
    for variant in audit.variants:
        found = lab.orch(*CELL, "--where", variant.choose.split("'")[1], "--json")
        assert [run["id"] for run in json.loads(found.stdout)["runs"]] == list(variant.runs)


def test_another_cells_variants_are_no_obstacle(lab: Lab) -> None:
    lab.ask(*runs_at([0.1]), a_run(method="adamw", epochs=1), a_run(method="adamw", epochs=2))

    assert lab.audit().variants == ()
    assert lab.orch(*CELL).exit_code == 0


# How it is printed


def enriched(lab: Lab) -> Lab:
    """A cell with something to say in every section, in long words."""
    runs = runs_at([1e-4, 3e-4, 1e-3, 3e-3], seeds=(0, 1, 2))
    lab.ask(*runs, sweep="a_sweep_with_a_rather_long_name_as_users_like_them")
    for run in runs[:9]:
        score = 60 + 3 * runs.index(run) // 3 + run.seed / 7
        lab.done(run, [score - 5, score], [score - 20, score - 30 + run.seed])
    lab.fail(runs[9], "ValueError: " + "a long and detailed complaint " * 8, "bad_data")
    lab.store.diverge(lab.begin(runs[10]), history(runs[10], [70], [50]), "nan")
    return lab


@pytest.fixture
def rich(lab: Lab) -> Lab:
    """That cell on SQLite."""
    return enriched(lab)


def test_postgresql_tells_the_same(rich: Lab, postgres: PostgresServer) -> None:
    url = postgres.fresh()
    there = Lab(Store.open(url, create=True), url)
    try:
        assert enriched(there).audit() == rich.audit()
    finally:
        there.store.engine.dispose()
        postgres.drop(url)


def test_no_line_is_wider_than_a_page(rich: Lab) -> None:
    lines = explain.render(rich.audit(), "text").splitlines()

    assert max(map(len, lines)) <= 100
    assert [line for line in lines if len(line) > 80 and "`orch " not in line] == []


def test_colour_changes_no_letter_and_a_pipe_has_none(rich: Lab) -> None:
    audit = rich.audit()
    plain = explain.render(audit, "text")
    coloured = explain.render(audit, "text", colour=True)

    assert "\x1b" not in plain
    assert coloured != plain
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    assert "\x1b" not in rich.orch(*CELL).stdout


def test_markdown_says_what_text_says(rich: Lab) -> None:
    audit = rich.audit()
    made = explain.render(audit, "markdown")
    flat = text(audit)

    assert made.startswith("# ")
    for sentence in (*audit.why, *audit.events):
        assert f"- {sentence}" in made
        assert sentence in flat
    tables = [line for line in made.splitlines() if line.startswith("|")]
    widths = {line.count("|") for line in tables}
    assert len(tables) > 20
    assert widths == {5, 7, 9}  # numbers; rates and other rules; runs
    assert rich.orch(*CELL, "--format", "markdown").stdout.splitlines()[2:] == made.splitlines()[2:]


SCHEMA = {
    "": {
        "model", "dataset", "method", "sweep", "sweeps", "launched", "rule", "partial",
        "miniature", "why", "variants", "numbers", "choice", "n", "expected", "seeds",
        "seeds_expected",
        "rates_competing", "rates_expected", "rates", "runs", "alternatives", "provenance",
        "versions", "events", "identity", "differences", "published",
    },
    "numbers": {"split", "metric", "value", "ci90", "shown", "printed", "values", "reason"},
    "choice": {
        "learning_rate", "hyperparameters", "score", "runner_up", "margin", "tied", "edge",
        "remedy",
    },
    "rates": {
        "learning_rate", "hyperparameters", "seeds", "seeds_expected", "score", "values",
        "competes", "chosen", "lacks",
    },
    "runs": {
        "id", "learning_rate", "hyperparameters", "seed", "state", "source", "sweeps", "extended",
        "epochs", "epochs_stored", "best_epoch", "score", "values", "last_epoch", "last",
        "oracle_epoch", "oracle", "counts", "chosen", "reason", "attempts", "voids",
    },
    "alternatives": {
        "rule", "learning_rate", "hyperparameters", "epochs", "values", "differences", "reason",
    },
    "differences": {"setting", "here", "paper", "note"},
}  # fmt: skip


def test_the_json_keeps_its_keys(rich: Lab) -> None:
    found = json.loads(rich.orch(*CELL, "--json").stdout)

    assert set(found) == SCHEMA[""]
    for name, keys in SCHEMA.items():
        values = [found] if not name else found[name]
        for value in values if isinstance(values, list) else [values]:
            assert set(value) == keys, name
    assert found == json.loads(json.dumps(rich.audit().as_json()))
    assert found["numbers"][0]["value"] == rich.audit().numbers[0].value


def test_the_command_takes_the_reports_options(lab: Lab) -> None:
    runs = runs_at([0.1, 0.3])
    lab.ask(*runs, sweep="both")
    lab.ask(runs[0], sweep="one")
    for run in runs:
        lab.done(run, [50 + run.learning_rate, 40], [20, 60])

    def told(*words: str) -> Any:
        return json.loads(lab.orch(*CELL, "--json", *words).stdout)

    assert (told()["expected"], told("--sweep", "one")["expected"]) == (2, 1)
    assert told("--where", "learning_rate=0.3")["runs"][0]["id"] == runs[1].id
    assert told("--select", "last")["numbers"][0]["value"] == 60
    assert told("--partial")["partial"] is True
    assert told("--sweep", "one")["runs"][0]["sweeps"] == ["one"]
    assert told()["sweeps"] == ["one", "both"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("tooy", "toy", "sgd"), 'no run here is of the model "tooy"; did you mean "toy"?'),
        (("toy", "digit", "sgd"), 'no run here is of the dataset "digit"; did you mean "digits"?'),
        (("toy", "toy", "agd"), 'no run here is of the method "agd"; did you mean "sgd"?'),
        (("toy", "toy", "adamw"), "no run here is of toy toy adamw; toy on toy has: sgd."),
        (("tiny_vit", "toy", "sgd"), "no run here is of tiny_vit on toy; tiny_vit has runs on: "),
        (("toy", "toy", "lamb"), 'no run here is of the method "lamb"; known: adamw, sgd'),
    ],
)
def test_an_unknown_cell_is_answered_with_the_nearest_name(
    lab: Lab, asked: Key, sentence: str
) -> None:
    lab.ask(*runs_at([0.1]), a_run(model="tiny_vit", dataset="digits", method="adamw"))

    found = lab.orch(*asked)

    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr.startswith(f"orch: {sentence}")
    assert len(found.stderr.splitlines()) == 1


def test_a_store_without_runs_or_with_an_unknown_sweep_is_one_sentence(lab: Lab) -> None:
    lab.store.register("empty", "name: empty", [], set())

    for words in ((), ("--sweep", "empty"), ("--sweep", "nothing")):
        found = lab.orch(*CELL, *words)
        assert found.exit_code == 2
        assert len(found.stderr.splitlines()) == 1


def test_explaining_imports_neither_torch_nor_ray(lab: Lab, tmp_path: Path) -> None:
    lab.ask(*runs_at([0.1]))
    code = (
        "import sys\nfrom orchestrator.cli import main\n"
        f"try: main({['--plugin', str(TOYS), '--store', lab.url, 'explain', *CELL]!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'ray', 'pandas', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The plot


def curve(points: Mapping[float, float], **changes: Any) -> plot.Curve:
    made = {"name": "ID", "marker": "x", "hollow": "o", "line": ".", "colour": "36"}
    return plot.Curve(**{**made, **changes}, points={r: (v, True) for r, v in points.items()})


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]),
        st.floats(0, 100),
        min_size=1,
    )
)
def test_markers_stand_where_their_values_are(points: dict[float, float]) -> None:
    """A higher value never stands lower, a larger rate never further left, and all fits."""
    rates = sorted(points)
    lines = plot.draw(rates, [curve(points)], chosen=rates[0])

    assert max(map(len, lines)) <= plot.WIDTH
    places = {
        (row, column)
        for row, line in enumerate(lines)
        for column, letter in enumerate(line)
        if letter == "x"
    }
    assert len(places) == len(points)
    by_column = sorted(places, key=lambda place: place[1])
    for (row, _), (other, _), low, high in zip(
        by_column, by_column[1:], rates, rates[1:], strict=False
    ):
        assert row >= other if points[low] < points[high] else row <= other
    labels = [
        (row, float(label[1]))
        for row, line in enumerate(lines)
        if (label := re.match(r" *([\d.]+) ┤", line))
    ]
    assert 2 <= len(labels) <= 7
    (top, highest), (bottom, lowest) = labels[0], labels[-1]
    for (row, _), rate in zip(by_column, rates, strict=True):
        assert highest - (row - top) / (bottom - top) * (highest - lowest) == pytest.approx(
            points[rate], abs=0.51 * (highest - lowest) / (bottom - top) + 1e-9
        )


def test_rates_are_spaced_by_their_logarithms() -> None:
    lines = plot.draw([1e-4, 1e-3, 1e-1], [curve({1e-4: 1, 1e-3: 2, 1e-1: 3})])

    ticks = [column for column, letter in enumerate(lines[-2]) if letter == "┴"]
    assert (ticks[2] - ticks[1]) == pytest.approx(2 * (ticks[1] - ticks[0]), abs=1)


def test_a_plot_without_points_is_nothing_and_missing_seeds_are_hollow() -> None:
    assert plot.draw([0.1], [curve({})]) == []
    made = plot.draw([0.1, 0.3], [dataclasses.replace(curve({}), points={0.1: (50.0, False)})])
    assert "o" in "".join(made)
    assert "x" not in "".join(made)


def test_curves_that_meet_are_one_mark() -> None:
    made = plot.draw([0.1], [curve({0.1: 50}), curve({0.1: 50}, marker="y")])

    assert "".join(made).count(plot.BOTH) == 1


def test_crowded_labels_are_left_out_but_never_the_chosen_rates() -> None:
    rates = [1e-4 * (1 + step / 100) for step in range(30)]
    made = plot.draw(rates, [curve(dict.fromkeys(rates, 50.0))], chosen=rates[7])

    assert f"{rates[7]:g}" in made[-2].split()
    assert max(map(len, made)) <= plot.WIDTH
