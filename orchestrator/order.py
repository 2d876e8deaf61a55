"""In which order a launch trains its runs, and how long an order takes on so many workers. Pure.

Two wishes pull apart. Whole rows of a table (a model with a method) should be complete early, one
after the other, the shortest first. And no worker should stand idle at the end, waiting for a long
run that was begun last: the longest should be first. Every run therefore has a latest place. On N
workers that take the next run whenever they are free, the run before which the work w lies begins
at w/N at the latest; with its own length that must not reach beyond the end that is aimed at. Runs
stand row by row, but none of them after its latest place. What is left of a row that is partly done
is a short row, and so comes early; it is never at the cost of the end.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from db.records import Run
from orchestrator.estimate import Estimate

WORKERS = 64
"""An order that is good for so many is good for fewer: latest places only come later with them."""
SLACK = 0.05
"""Share of the time on all workers that may be lost at the end, so that rows complete early."""

Row = tuple[str, str]
Needs = Mapping[str, Sequence[str]]
"""Ids of the runs that must be done before a run can start."""


def row_of(run: Run) -> Row:
    """The row of a table that a run belongs to."""
    return run.model, run.method


def ordered(runs: Sequence[Run], estimate: Estimate, workers: int = WORKERS) -> list[str]:
    """The ids of `runs` as they should be taken: what others need, then row by row.

    The same for the same runs in the same order. `workers`: at most so many train at once.
    """
    seconds = {run.id: estimate.seconds(run) for run in runs}
    needs = {run.id: run.needs for run in runs if run.needs}
    first = _needed(seconds, needs)
    rest = [run for run in runs if run.id not in first]
    work = math.fsum(seconds.values())
    end = (1 + SLACK) * lower_bound(seconds, workers, needs)
    return [*first, *_row_by_row(rest, seconds, work, end, workers)]


def _needed(seconds: Mapping[str, float], needs: Needs) -> dict[str, None]:
    """The runs that others need, each after what it needs itself; then the longest chain first."""
    chains = _chains(seconds, needs)
    needed = [run for run, (others, _) in chains.items() if others]
    return dict.fromkeys(sorted(needed, key=lambda run: chains[run], reverse=True))


def _chains(seconds: Mapping[str, float], needs: Needs) -> dict[str, tuple[int, float]]:
    """Of each run: how many wait for one another after it, and the seconds of it with the longest.

    What is needed and not among `seconds` is done.
    """
    chains = {run: (0, own) for run, own in seconds.items()}
    waiting = Counter(need for some in needs.values() for need in some)
    ends = [run for run in needs if not waiting[run]]
    while ends:
        run = ends.pop()
        others, path = chains[run]
        for need in needs.get(run, ()):
            if need in chains:
                known = chains[need]
                chains[need] = max(known[0], others + 1), max(known[1], seconds[need] + path)
            waiting[need] -= 1
            if not waiting[need] and need in needs:
                ends.append(need)
    return chains


def _row_by_row(
    runs: Sequence[Run], seconds: Mapping[str, float], work: float, end: float, workers: int
) -> list[str]:
    """Row by row with latest places, filled from the last place to the first.

    Of the runs that may stand in a place, the one of the row that comes last, the shortest of it,
    takes it; where none may, the shortest of all.
    """
    rows: dict[Row, list[float]] = defaultdict(list)
    for run in runs:
        rows[row_of(run)].append(seconds[run.id])
    totals = {row: math.fsum(lengths) for row, lengths in rows.items()}
    ranks = {row: rank for rank, row in enumerate(sorted(totals, key=totals.__getitem__))}
    shortest_first = sorted(
        (seconds[run.id], -ranks[row_of(run)], -place, run.id) for place, run in enumerate(runs)
    )
    waiting = iter(shortest_first)
    candidate = next(waiting, None)
    free: list[tuple[int, float, int, str]] = []
    backwards: list[str] = []
    left = work  # up to and with the run of this place
    while candidate or free:
        # It begins at (left - its length) / workers at the latest.
        while candidate and (left - candidate[0]) / workers + candidate[0] <= end:
            length, rank, place, run_id = candidate
            heapq.heappush(free, (rank, length, place, run_id))
            candidate = next(waiting, None)
        if free:
            _, length, _, run_id = heapq.heappop(free)
        else:
            assert candidate is not None
            length, _, _, run_id = candidate
            candidate = next(waiting, None)
        backwards.append(run_id)
        left -= length
    return backwards[::-1]


def lower_bound(seconds: Mapping[str, float], workers: int, needs: Needs) -> float:
    """What no order beats: the work shared evenly, or the longest run with what it needs."""
    longest = max((path for _, path in _chains(seconds, needs).values()), default=0.0)
    return max(math.fsum(seconds.values()) / workers, longest)


def makespan(
    order: Sequence[str], seconds: Mapping[str, float], workers: int, needs: Needs
) -> tuple[float, dict[str, float]]:
    """When `workers` are through with `order`, and when each run is done.

    A worker that is free takes the first run in order that waits for nothing, as a launch does.
    """
    places = {run: place for place, run in enumerate(order)}
    open_needs = {run: sum(need in places for need in needs.get(run, ())) for run in order}
    dependents: dict[str, list[str]] = defaultdict(list)
    for run in order:
        for need in needs.get(run, ()):
            dependents[need].append(run)
    ready = [places[run] for run in order if not open_needs[run]]  # ascending: a heap
    training: list[tuple[float, int]] = []
    ends: dict[str, float] = {}
    now = 0.0
    while ready or training:
        while ready and len(training) < workers:
            place = heapq.heappop(ready)
            heapq.heappush(training, (now + seconds[order[place]], place))
        now, place = heapq.heappop(training)
        ends[order[place]] = now
        for run in dependents[order[place]]:
            open_needs[run] -= 1
            if not open_needs[run]:
                heapq.heappush(ready, places[run])
    return now, ends


def row_ends(runs: Iterable[Run], ends: Mapping[str, float]) -> dict[Row, float]:
    """When each row is complete; what is trained for others' sake is in none."""
    rows: dict[Row, float] = defaultdict(float)
    for run in runs:
        if run.kind != "pretrain":
            rows[row_of(run)] = max(rows[row_of(run)], ends[run.id])
    return rows
