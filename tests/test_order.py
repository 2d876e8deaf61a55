"""The order of a launch: what others need, no worker idle at the end, rows complete early."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import ROOT, a_run
from db.records import Run
from orchestrator import order, sweep
from orchestrator.estimate import Estimate, Setting
from orchestrator.order import Row, lower_bound, makespan, ordered, row_ends, row_of

GRID = sweep.load(ROOT / "sweeps" / "full_grid.yaml").requested


def made(
    lengths: Sequence[float], rows: Sequence[int], needs: Sequence[int | None] = ()
) -> tuple[list[Run], Estimate]:
    """Runs of known length, each in a row, some of which need an earlier one."""
    runs: list[Run] = []
    for number, (row, need) in enumerate(itertools.zip_longest(rows, needs)):
        weights = "random" if need is None or not runs else f"run:{runs[need % len(runs)].id}"
        runs.append(a_run(method=f"m{row}", dataset=f"d{number}", weights=weights))
    return runs, Estimate({Setting.of(r): s for r, s in zip(runs, lengths, strict=True)})


@st.composite
def problems(draw: st.DrawFn, *, chains: bool) -> tuple[list[Run], Estimate, int]:
    """Runs, what they take, and a number of workers."""
    count = draw(st.integers(1, 40))
    lengths = st.lists(st.floats(0.01, 100), min_size=count, max_size=count)
    rows = st.lists(st.integers(0, 4), min_size=count, max_size=count)
    need = st.none() | st.integers(0, 40)
    needs = draw(st.lists(need, max_size=count)) if chains else []
    return *made(draw(lengths), draw(rows), needs), draw(st.integers(1, 70))


def plain(runs: list[Run], estimate: Estimate) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Seconds of each run, and what each needs."""
    return {r.id: estimate.seconds(r) for r in runs}, {r.id: list(r.needs) for r in runs}


@settings(max_examples=200, deadline=None)
@given(problems(chains=True))
def test_an_order_holds_every_run_once_after_what_it_needs(
    problem: tuple[list[Run], Estimate, int],
) -> None:
    runs, estimate, workers = problem

    found = ordered(runs, estimate, workers)

    assert sorted(found) == sorted(run.id for run in runs)
    places = {run_id: place for place, run_id in enumerate(found)}
    needed = {need for run in runs for need in run.needs}
    for run in runs:
        assert all(places[need] < places[run.id] for need in run.needs)
    assert {*found[: len(needed)]} == needed, "what others need goes first"
    assert ordered(list(runs), estimate, workers) == found


@settings(max_examples=200, deadline=None)
@given(problems(chains=True))
def test_a_simulated_launch_never_idles_and_breaks_no_need(
    problem: tuple[list[Run], Estimate, int],
) -> None:
    runs, estimate, workers = problem
    seconds, needs = plain(runs, estimate)

    end, ends = makespan(ordered(runs, estimate), seconds, workers, needs)

    begins = {run_id: ends[run_id] - seconds[run_id] for run_id in ends}
    assert end == pytest.approx(max(ends.values()))
    assert end >= lower_bound(seconds, workers, needs) * (1 - 1e-9)
    for run in runs:
        assert all(begins[run.id] >= ends[need] - 1e-6 for need in run.needs)
        busy = sum(begins[r.id] <= begins[run.id] + 1e-9 < ends[r.id] - 1e-9 for r in runs)
        assert busy <= workers
    # Somebody trains from the beginning to the end.
    marks = sorted([*begins.values(), *ends.values()])
    for early, late in itertools.pairwise(marks):
        middle = (early + late) / 2
        assert late - early < 1e-6 or any(begins[r] < middle < ends[r] for r in ends)


@settings(max_examples=300, deadline=None)
@given(problems(chains=False))
@example((*made([1.0] * 9 + [9.0], [0] * 10), 10))
def test_no_order_of_independent_runs_is_far_from_the_bound(
    problem: tuple[list[Run], Estimate, int],
) -> None:
    """Graham's bound for any list; and for ours, the slack that is allowed, or the last resort."""
    runs, estimate, workers = problem
    seconds, needs = plain(runs, estimate)
    bound = lower_bound(seconds, workers, needs)

    for tuned in (workers, order.WORKERS):
        end, _ = makespan(ordered(runs, estimate, tuned), seconds, workers, needs)
        assert end <= (2 - 1 / workers) * bound * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(problems(chains=False))
def test_short_runs_cost_no_more_than_the_slack(problem: tuple[list[Run], Estimate, int]) -> None:
    """Where no run is longer than the slack, rows stand one after the other, the shortest first."""
    runs, estimate, workers = problem
    seconds, needs = plain(runs, estimate)
    bound = lower_bound(seconds, workers, needs)
    if max(seconds.values()) > order.SLACK * bound:
        workers = max(1, int(order.SLACK * math.fsum(seconds.values()) / max(seconds.values())))
        bound = lower_bound(seconds, workers, needs)
    if max(seconds.values()) > order.SLACK * bound:
        return

    found = ordered(runs, estimate, workers)

    end, _ = makespan(found, seconds, workers, needs)
    assert end <= (1 + order.SLACK) * bound * (1 + 1e-9)
    by_id = {run.id: run for run in runs}
    rows = [row for row, _ in itertools.groupby(row_of(by_id[run_id]) for run_id in found)]
    assert len(rows) == len(set(rows)), "each row in one piece"
    totals = [math.fsum(seconds[r.id] for r in runs if row_of(r) == row) for row in rows]
    assert totals == sorted(totals)


def test_the_longest_run_of_a_row_goes_first() -> None:
    runs, estimate = made([1.0, 3.0, 2.0], [0, 0, 0])

    assert ordered(runs, estimate, 1) == [runs[1].id, runs[2].id, runs[0].id]


def test_equal_runs_and_rows_keep_the_sweeps_order() -> None:
    runs, estimate = made([1.0] * 6, [1, 0, 1, 0, 1, 0])

    assert ordered(runs, estimate, 1) == [runs[i].id for i in (0, 2, 4, 1, 3, 5)]


def test_what_is_left_of_a_row_comes_first_unless_it_would_cost_the_end() -> None:
    """Row 0 lacks one run of five. Two workers: the long run of row 1 must not be last."""
    runs, estimate = made([1.0] * 6, [0, 1, 1, 1, 1, 1])
    assert ordered(runs, estimate, 2)[0] == runs[0].id

    runs, estimate = made([1.0, 5.0, 1.0, 1.0, 1.0, 1.0], [0, 1, 1, 1, 1, 1])
    found = ordered(runs, estimate, 2)
    assert found[:2] == [runs[1].id, runs[0].id]
    assert makespan(found, plain(runs, estimate)[0], 2, {})[0] == 5.0


def test_the_longer_chain_is_begun_first() -> None:
    runs, estimate = made([1.0, 1.0, 2.0, 50.0], [0, 1, 2, 3], [None, None, 0, 1])

    assert ordered(runs, estimate, 2)[:2] == [runs[1].id, runs[0].id]


def test_what_is_needed_and_not_among_the_runs_is_done() -> None:
    runs, estimate = made([1.0, 2.0], [0, 0], [None, 0])
    _, needs = plain(runs, estimate)

    assert ordered(runs[1:], estimate) == [runs[1].id]
    assert makespan([runs[1].id], {runs[1].id: 2.0}, 3, needs)[0] == 2.0


def test_nothing_is_ordered_at_once() -> None:
    assert ordered([], Estimate()) == []
    assert makespan([], {}, 4, {}) == (0.0, {})


# The paper's grid


def figures(found: list[str], workers: int) -> tuple[float, float]:
    """(makespan, mean end of the rows) over the lower bound."""
    seconds, needs = plain(GRID, Estimate())
    end, ends = makespan(found, seconds, workers, needs)
    bound = lower_bound(seconds, workers, needs)
    rows = row_ends(GRID, ends)
    assert len(rows) == 35
    return end / bound, statistics.mean(rows.values()) / bound


def row_by_row() -> list[str]:
    """The shortest row first, no thought for the end: what nothing beats on one worker."""
    seconds, _ = plain(GRID, Estimate())
    totals: dict[Row, float] = {}
    for run in GRID:
        totals[row_of(run)] = totals.get(row_of(run), 0) + seconds[run.id]
    return [run.id for run in sorted(GRID, key=lambda run: (totals[row_of(run)], row_of(run)))]


@pytest.mark.parametrize("workers", [1, 8])
def test_the_grid_on_few_workers_goes_row_by_row(workers: int) -> None:
    best, file = figures(row_by_row(), workers), figures([run.id for run in GRID], workers)

    known = figures(ordered(GRID, Estimate(), workers), workers)
    assert known[0] <= 1.02
    assert known[1] <= 1.03 * best[1]
    for_many = figures(ordered(GRID, Estimate()), workers)
    assert for_many[0] <= 1.02
    assert for_many[1] <= 1.4 * best[1]
    assert for_many[1] <= 0.6 * file[1]


def test_the_grid_on_64_workers_ends_near_the_bound() -> None:
    found, rows = figures(ordered(GRID, Estimate()), 64), figures(row_by_row(), 64)

    assert found[0] <= 1.04
    assert rows[0] >= 1.1, "rows alone would cost the end"
    assert found[1] <= 1.25 * rows[1]
    assert found[1] <= 0.6 * figures([run.id for run in GRID], 64)[1]


def test_the_grid_in_any_order_of_the_file_is_as_good() -> None:
    shuffled = list(GRID)
    random.Random(3).shuffle(shuffled)

    end, rows = figures(ordered(shuffled, Estimate()), 64)

    assert end <= 1.06
    assert rows <= 0.45


def test_ordering_is_fast() -> None:
    """10,000 runs take 0.07 s here, 100,000 half a second; the limits leave room for others."""
    content = [run.content() for run in GRID]
    many = [Run.from_content({**c, "seed": seed}) for seed in range(96) for c in content]
    for run in many:
        assert run.id
    for count, limit in ((10_000, 0.2), (100_000, 3.0)):
        took = []
        for _ in range(3):
            began = time.perf_counter()
            ordered(many[:count], Estimate())
            took.append(time.perf_counter() - began)
        assert min(took) < limit
