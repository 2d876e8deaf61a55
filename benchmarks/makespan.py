"""How long the paper's grid takes on 1, 8 and 64 workers, by the order of its runs, simulated.

    python benchmarks/makespan.py

A worker that is free takes the next run. Lengths are the arithmetic of each run
(`orchestrator/estimate.py`); columns are in units of the lower bound, which no order beats: the
work shared evenly, or the longest run. `makespan` is the end of the last run, `rows` the mean end
of the 35 rows (a model with a method over all datasets): early is good. `noisy` is the makespan
where lengths differ from their estimates by 20% (log-normal, mean of 5 draws).
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from db.records import Run
from orchestrator import sweep
from orchestrator.estimate import Estimate
from orchestrator.order import Row, lower_bound, makespan, ordered, row_ends, row_of

GRID = Path(__file__).parent.parent / "sweeps" / "full_grid.yaml"
WORKERS = (1, 8, 64)
NOISE = 0.2
DRAWS = 5
COPIES = 96
"""Of the grid, with other seeds: 100,800 runs."""


def orders(runs: list[Run], seconds: dict[str, float], workers: int) -> dict[str, list[str]]:
    """The orders to compare, by name."""
    shuffled = [run.id for run in runs]
    random.Random(0).shuffle(shuffled)
    rows: dict[Row, float] = {}
    for run in runs:
        rows[row_of(run)] = rows.get(row_of(run), 0.0) + seconds[run.id]
    by_row = sorted(runs, key=lambda run: (rows[row_of(run)], *row_of(run), -seconds[run.id]))
    return {
        "file": [run.id for run in runs],
        "random": shuffled,
        "longest first": [run.id for run in sorted(runs, key=lambda run: -seconds[run.id])],
        "row by row, shortest first": [run.id for run in by_row],
        "ordered": ordered(runs, Estimate()),
        "ordered, workers known": ordered(runs, Estimate(), workers),
    }


def compared(runs: list[Run], workers: int) -> dict[str, tuple[float, float, float]]:
    """(makespan, mean end of rows, noisy makespan) of each order over the lower bound."""
    estimate, drawn = Estimate(), random.Random(1)
    seconds = {run.id: estimate.seconds(run) for run in runs}
    noisy = [
        {run_id: s * drawn.lognormvariate(0, NOISE) for run_id, s in seconds.items()}
        for _ in range(DRAWS)
    ]
    bound = lower_bound(seconds, workers, {})
    found = {}
    for name, order in orders(runs, seconds, workers).items():
        end, ends = makespan(order, seconds, workers, {})
        rows = statistics.mean(row_ends(runs, ends).values())
        off = statistics.mean(
            makespan(order, real, workers, {})[0] / lower_bound(real, workers, {}) for real in noisy
        )
        found[name] = (end / bound, rows / bound, off)
    return found


def main() -> None:
    """Print the table, and what ordering costs."""
    runs = sweep.load(GRID).requested
    for workers in WORKERS:
        print(f"\n{workers} worker{'s' if workers > 1 else ''}", end="\n\n")
        print(f"| {'order':<26} | makespan | rows  | noisy |\n|{'---|' * 4}")
        for name, figures in compared(runs, workers).items():
            print(f"| {name:<26} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    content = [run.content() for run in runs]
    many = [Run.from_content({**c, "seed": s}) for s in range(COPIES) for c in content]
    for count in (len(runs), 10_000, len(many)):
        chosen = many[:count]
        for run in chosen:
            run.id  # noqa: B018  a launch has computed it before
        began = time.perf_counter()
        ordered(chosen, Estimate())
        print(f"\nordering {count:,} runs: {time.perf_counter() - began:.3f} s", end="")
    print()


if __name__ == "__main__":
    main()
