"""Kill a launch's driver, workers or raylet at random moments, and compare with one left alone.

    python tests/kills.py --kills 100                     # SQLite
    python tests/kills.py --kills 100 --store postgres    # a real server of its own
    python tests/kills.py --kills 20 --sweep sweeps/demo.yaml --longest 40

Whole sweeps are trained again and again under kills until that many have hit; each must end with
the rows, metrics and final weights of an uninterrupted one. `seed` repeats the drawn moments.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TOYS = HERE / "toys.py"
TARGETS = ("driver", "worker", "raylet")
TOY_SWEEP = """
name: kill
models: [toy_long, toy_slow, toy]
datasets: [toy]
methods: [sgd, adamw]
weights: random
epochs: 8
learning_rates: [0.01, 0.1]
keep: last
"""


def command(folder: Path, store: str, *words: str, plugin: bool = True) -> list[str]:
    """The real command, its files in `folder`."""
    shared = ["--store", store, "--data", str(folder.parent / "data")]
    if plugin:
        shared += ["--plugin", str(TOYS)]
    return [sys.executable, "-u", "-m", "orchestrator", *shared, *words]


@dataclass
class Kills:
    """What hit."""

    hit: Counter[str] = field(default_factory=Counter)
    launches: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.hit.total()


def launch(folder: Path, store: str, sweep: Path) -> None:
    """A launch that nobody disturbs."""
    done = subprocess.run(
        command(folder, store, "launch", str(sweep)), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def launch_under_kills(
    folder: Path,
    store: str,
    sweep: Path,
    wanted: Sequence[str],
    drawn: random.Random,
    longest: float,
) -> Kills:
    """Launch until the sweep is complete, killing the `wanted` targets one after the other.

    Each falls up to `longest` seconds after training is seen to go on. What is still wanted when
    the sweep completes is left.
    """
    kills, waiting = Kills(), list(wanted)
    environment = {**os.environ, "ORCH_CHECKPOINT_EVERY": "0.3"}
    with (folder / "launches.log").open("a") as log:
        while True:
            kills.launches += 1
            with subprocess.Popen(
                command(folder, store, "launch", str(sweep), "--retry-failed"), cwd=folder,
                stdout=log, stderr=log, start_new_session=True, env=environment,
            ) as driver:  # fmt: skip
                while waiting and _wait_for_training(driver, folder):
                    time.sleep(drawn.uniform(0, longest))
                    if driver.poll() is None and _kill(driver, waiting[0]):
                        kills.hit[waiting.pop(0)] += 1
                code = driver.wait()
            if code == 0:
                return kills
            # A run whose worker was killed three times without getting further counts as failed.
            told = (folder / "launches.log").read_text()
            assert code == -signal.SIGKILL or (code == 1 and "(3 times)" in told), told
            assert kills.launches < 3 * (len(wanted) + 1), told


def _wait_for_training(driver: subprocess.Popen[bytes], folder: Path) -> bool:
    """Until some run has another epoch; False where the launch is over first."""
    before = _epochs(folder)
    while driver.poll() is None:
        if _epochs(folder) > before:
            return True
        time.sleep(0.05)
    return False


def _epochs(folder: Path) -> int:
    logs = folder.glob("runs/*/attempt-*.log")
    return sum(path.read_bytes().count(b" epoch ") for path in logs)


def _kill(driver: subprocess.Popen[bytes], target: str) -> bool:
    """SIGKILL; False where there is no such process at the moment."""
    if target == "driver":
        driver.kill()
        driver.wait()
        return True
    pids = [pid for pid, name in below(driver.pid) if is_target(name, target)]
    for pid in sorted(pids)[-1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def is_target(name: str, target: str) -> bool:
    """Whether a process of that command line is a raylet, or a worker that trains."""
    if target == "raylet":
        return name.split("\0")[0].endswith("/raylet")
    return name.startswith("ray::") and "ImplicitFunc" in name


def below(ancestor: int) -> Iterator[tuple[int, str]]:
    """The processes that `ancestor` started, directly or not, with their command lines."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                parents[int(folder.name)] = int(fields[1])
    for pid in parents:
        above = pid
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor and pid != ancestor:
            with contextlib.suppress(OSError):
                yield pid, Path(f"/proc/{pid}/cmdline").read_text()


def everything(folder: Path, store: str) -> dict[str, Any]:
    """Every row of epochs and metrics but the clock, final weights by checksum, and the report."""
    from db.reading import Reader

    reader = Reader.open(store)
    left = reader.artifacts()
    rows = {
        stored.id: (
            stored.state,
            [record.measured() for record in reader.history(stored.key)],
            sorted((a["name"], a["sha256"]) for a in left.get(stored.id, [])),
        )
        for stored in reader.runs()
    }
    report = subprocess.run(
        command(folder, store, "report", "--table", "ood", "--table", "id", "--format", "csv"),
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {"rows": rows, "report": report.stdout}


def check_attempts(store: str) -> Counter[str]:
    """No attempt starts before where an earlier one had a checkpoint; returns what they came to."""
    from db.reading import Reader

    reader, outcomes = Reader.open(store), Counter[str]()
    for stored in reader.runs():
        attempts = reader.attempts(stored.key)
        assert attempts[-1].outcome == "done", stored
        assert not any(a.irreproducible for a in attempts), stored
        reached = (0, 0)
        for attempt in attempts:
            outcomes[attempt.outcome or "open"] += 1
            if attempt.started is None:
                continue
            start = (attempt.resumed_from or 0, attempt.resumed_step or 0)
            assert start >= reached, f"{stored.run} started again before {reached}"
            reached = start
            outcomes["resumed"] += start > (0, 0)
            outcomes["resumed inside an epoch"] += start[1] > 0
    return outcomes


def left_over(folder: Path) -> list[str]:
    """Checkpoints and unfinished files that finished runs should not have left."""
    patterns = ("checkpoint-*.pt", ".partial-*", "candidate-*")
    return sorted(p.name for pattern in patterns for p in folder.glob(f"runs/*/{pattern}"))


def compare(
    whole: Path, cut: Path, stores: tuple[str, str], sweep: Path, wanted: Sequence[str],
    drawn: random.Random, longest: float,
) -> tuple[Kills, Counter[str]]:  # fmt: skip
    """Train under kills in `cut` and hold it against `whole`, which is complete."""
    kills = launch_under_kills(cut, stores[1], sweep, wanted, drawn, longest)
    one, other = everything(whole, stores[0]), everything(cut, stores[1])
    assert one["rows"] == other["rows"]
    assert one["report"] == other["report"]
    assert left_over(cut) == []
    return kills, check_attempts(stores[1])


def main() -> None:
    """The long form, by command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--sweep", type=Path, help="by default a sweep of toy models")
    parser.add_argument("--longest", type=float, default=4.0, help="seconds before a kill")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    drawn = random.Random(options.seed)
    print(f"seed {options.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        sweep = options.sweep.resolve() if options.sweep else root / "kill.yaml"
        if options.sweep is None:
            sweep.write_text(TOY_SWEEP)
        server = _server(stack) if options.store == "postgres" else None
        whole = root / "whole"
        whole.mkdir()
        if options.sweep:
            make = command(whole, str(whole / "orch.db"), "data", "make-mini")
            subprocess.run(make, check=True)
        launch(whole, str(whole / "orch.db"), sweep)
        total, sweeps, outcomes, began = Counter[str](), 0, Counter[str](), time.monotonic()
        while total.total() < options.kills:
            sweeps += 1
            cut = root / f"cut-{sweeps}"
            cut.mkdir()
            store = server.empty() if server else str(cut / "orch.db")
            left = min(options.kills - total.total(), 40)
            wanted = [drawn.choice(TARGETS) for _ in range(left)]
            stores = (str(whole / "orch.db"), store)
            kills, came = compare(whole, cut, stores, sweep, wanted, drawn, options.longest)
            total, outcomes = total + kills.hit, outcomes + came
            print(
                f"sweep {sweeps}: {kills.total} kills in {kills.launches} launches; "
                f"in all {total.total()}: {dict(total)}, {time.monotonic() - began:.0f} s; "
                f"attempts {dict(outcomes)}; identical",
                flush=True,
            )
    print(f"{total.total()} kills {dict(total)} over {sweeps} whole sweeps: all identical")


def _server(stack: contextlib.ExitStack) -> Any:
    from conftest import PostgresServer

    server = PostgresServer()
    stack.callback(server.remove)
    return server


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    main()
