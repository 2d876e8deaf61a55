"""What the engine costs a run, beside plain Ray Tune, in one go.

    python benchmarks/engine_overhead.py
    python benchmarks/engine_overhead.py --scale 1000 3000 10000

Each side does the same: 3 epochs that take no time, a report and a checkpoint of 1 MB an epoch.
`default` is Ray Tune as its tutorials use it; `reuse` is Ray Tune with reused actors and nothing
else; `orch` is the whole path: searcher, store, exactly-once checkpoints (synced), logs. Figures
are seconds a trial in steady state: the time from the first trial's end to the last one's, divided
by the trials between. `--scale` trains so many trivial runs and prints, beside that, how it went in
each tenth of them and what the driver's memory grew by a trial.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRATCH = HERE.parent / "build"
"""On a disk, as real runs are, and ignored by git."""
DEFAULT_TRIALS, REUSE_TRIALS, ORCH_RUNS = 20, 200, 200
ROUNDS = 3


def steady(ends: list[float]) -> float:
    """Seconds a trial between the first end and the last."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def plain_trainable(config: dict[str, Any]) -> None:
    """What a user of Ray Tune writes: train, save, report."""
    import torch
    from ray import tune

    state = torch.zeros(250_000)
    for epoch in range(3):
        with tempfile.TemporaryDirectory() as folder:
            torch.save({"model": state, "epoch": epoch}, Path(folder) / "checkpoint.pt")
            tune.report({"id": 0.5, "epoch": epoch}, checkpoint=tune.Checkpoint(folder))


def plain(trials: int, *, reuse: bool) -> float:
    """Ray Tune by itself."""
    from ray import tune

    ends: list[float] = []

    class Watch(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, **info: Any) -> None:
            ends.append(time.perf_counter())

        def __getstate__(self) -> dict[str, Any]:
            return {}

    with tempfile.TemporaryDirectory() as storage:
        tune.Tuner(
            plain_trainable,
            param_space={"n": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(reuse_actors=reuse),
            run_config=tune.RunConfig(storage_path=storage, callbacks=[Watch()], verbose=0),
        ).fit()
    return steady(ends)


class Silent:
    """An observer that only notes when runs end."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.memory: list[int] = []

    def claimed(self, claim: Any) -> None: ...

    def said(self, claim: Any, event: Any) -> None: ...

    def ended(self, claim: Any, state: Any, error: Any) -> None:
        assert state == "done", error
        self.ends.append(time.perf_counter())
        self.memory.append(resident())

    def line(self, text: str) -> None: ...


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def ours(runs: int, folder: Path) -> Silent:
    """The same through the whole engine, in a Ray of its own."""
    from db.records import Run
    from db.store import Store
    from orchestrator.engine.launch import Options, launch
    from orchestrator.spec import Resources
    from orchestrator.sweep import Planned
    from worker.catalog import load_plugins
    from worker.context import Folders

    plugin = str(HERE / "trivial.py")
    load_plugins([plugin])
    listed = [
        Run(
            kind="trivial", model="none", dataset="none", method="sgd", learning_rate=0.1,
            seed=seed, epochs=3, batch_size=32, micro_batch=16, weight_decay=0.0,
            schedule="cosine_per_step", clip_norm=None, weights="random", precision="fp32",
            threads=1, evaluate=("id", "ood"),
        )
        for seed in range(runs)
    ]  # fmt: skip
    store = Store.open(str(folder / "orch.db"), create=True)
    store.register("overhead", "", listed, {run.id for run in listed})
    watch = Silent()
    options = Options(Folders(data=folder, runs=folder / "runs"), plugins=(plugin,))
    planned = {run.id: Planned(run, Resources()) for run in listed}
    launch(store, store.runs("overhead"), planned, options, watch)
    assert len(watch.ends) == runs
    return watch


def scale(sizes: list[int]) -> None:
    """Seconds a trial and the driver's memory, as the number of runs grows."""
    for runs in sizes:
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            watch = ours(runs, Path(folder))
        tenth = len(watch.ends) // 10
        parts = [steady(watch.ends[i : i + tenth]) for i in range(0, 10 * tenth, tenth)]
        # From the second tenth on: what is allocated once is not a trial's.
        grown = (watch.memory[-1] - watch.memory[tenth]) / (len(watch.memory) - tenth)
        figures = {
            "runs": runs,
            "seconds_a_trial": round(steady(watch.ends), 4),
            "in_each_tenth": [round(part, 4) for part in parts],
            "driver_kB_a_trial": round(grown / 1024, 1),
        }
        print(json.dumps(figures), flush=True)


def main() -> None:
    """Measure the three in turn, several rounds; print medians, and medians of a round's ratios.

    Machines drift: only figures of one round are set against each other.
    """
    from orchestrator.engine.launch import ray_cluster, scratch_folder

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=int, nargs="+", metavar="RUNS")
    SCRATCH.mkdir(exist_ok=True)
    if sizes := parser.parse_args().scale:
        scale(sizes)
        return
    found: dict[str, list[float]] = {"default": [], "reuse": [], "orch": []}
    for _ in range(ROUNDS):
        with scratch_folder() as scratch, ray_cluster(scratch):
            os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "auto"
            found["reuse"].append(plain(REUSE_TRIALS, reuse=True))
            found["default"].append(plain(DEFAULT_TRIALS, reuse=False))
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            found["orch"].append(steady(ours(ORCH_RUNS, Path(folder)).ends))
        print({name: [round(v, 4) for v in values] for name, values in found.items()}, flush=True)
    median = {name: statistics.median(values) for name, values in found.items()}

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))

    print(
        json.dumps(
            {
                "seconds_a_trial": {name: round(value, 4) for name, value in median.items()},
                "default_over_orch": round(ratio("default", "orch"), 1),
                "orch_over_reuse": round(ratio("orch", "reuse"), 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
