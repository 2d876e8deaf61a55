"""Growing a sweep: rates beyond an edge, and what a larger file adds; nothing else is trained."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Orch, a_history, a_run
from db.records import Provenance, Run, State, StoredRun
from db.store import Store
from orchestrator import extend
from orchestrator import sweep as sweeps
from orchestrator.cli import main
from orchestrator.extend import next_rates, with_extensions
from orchestrator.spec import Resources
from orchestrator.sweep import Planned

SGD = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
Score = Callable[[Run], "float | State"]


# The next rate


@pytest.mark.parametrize(
    ("rates", "edge", "found"),
    [
        (SGD, "high", (3e-2, 1e-1, 3e-1)),
        (SGD, "low", (1e-5, 3e-6, 1e-6)),
        (SGD[1:], "low", (3e-5, 1e-5, 3e-6)),
        (SGD[:-1], "high", (1e-2, 3e-2, 1e-1)),
        ((3e-7, 1e-6, 3e-6), "low", (1e-7, 3e-8, 1e-8)),
        ((1e-3, 1e-2, 1e-1), "high", (1.0, 10.0, 100.0)),
        ((1.0, 2.0, 4.0), "low", (0.5, 0.25, 0.125)),
        ((1e-3, 3e-3), "high", (9e-3, 27e-3, 81e-3)),
        ((1e-3, 3e-3), "low", (3.33333e-4, 1.11111e-4, 3.7037e-5)),
        ((1e-2, 1e-3), "high", (1e-1, 1.0, 10.0)),
    ],
)
def test_the_next_rate_goes_on_as_the_list_does(
    rates: tuple[float, ...], edge: str, found: tuple[float, ...]
) -> None:
    for steps in (1, 2, 3):
        assert next_rates(rates, edge, steps) == found[:steps]


def test_rates_end_where_numbers_do() -> None:
    assert next_rates((1e306, 1e307), "high", 5) == (1e308,)
    assert next_rates((1e-306, 1e-305), "low", 5) == (1e-307,)
    close = math.nextafter(1.0, 2)
    assert next_rates((1.0, close), "high", 1)[0] > close, "rounding must not turn it back"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-60, 60), min_size=2, max_size=7, unique=True),
    st.sampled_from(["low", "high"]),
    st.integers(1, 4),
)
def test_rates_go_outwards_and_several_steps_are_one_after_the_other(
    powers: list[int], edge: str, steps: int
) -> None:
    rates = [1.3**power for power in powers]

    found = next_rates(rates, edge, steps)

    outwards = (max(rates), *found) if edge == "high" else (min(rates), *found)
    for inner, outer in itertools.pairwise(outwards):
        assert (outer > inner) if edge == "high" else (outer < inner)
    for step in range(steps):
        assert next_rates([*rates, *found[:step]], edge, 1) == found[step : step + 1]
    # One spacing is the other's mirror image.
    mirrored = next_rates([1 / rate for rate in rates], "low" if edge == "high" else "high", steps)
    assert [1 / rate for rate in mirrored] == pytest.approx(found, rel=1e-4)


# Which cells grow


def train(store: Store, name: str, score: Score) -> None:
    """Give every open run of a sweep a result: its best `id` value, or the state it ends in."""
    owner = store.enlist()
    for stored in store.runs(name):
        result = score(stored.run)
        if stored.state != "pending" or result == "pending":
            continue
        claim = store.claim(stored.key, owner)
        assert claim is not None
        store.start(claim, (), Provenance(data_fingerprint="d", weights_sha256=""), None)
        if isinstance(result, float):
            store.finish(claim, a_history(stored.run, value=result))
        elif result == "diverged":
            store.diverge(claim, a_history(stored.run, epochs=1, value=0.1), "loss is nan")
        else:
            store.fail(claim, "it broke", "")
    store.retire(owner)


def registered(store: Store, runs: Sequence[Run], name: str = "s") -> None:
    """A sweep that asks for `runs`."""
    store.register(name, f"name: {name}\n", runs, {run.id for run in runs})


def grid(rates: Sequence[float] = (0.01, 0.03, 0.1), **changes: object) -> list[Run]:
    """One cell, two seeds."""
    return [a_run(learning_rate=r, seed=s, **changes) for r in rates for s in (0, 1)]


def peak(at: float) -> Score:
    """The nearer a rate, the better."""
    return lambda run: 0.9 - 0.1 * abs(math.log10(run.learning_rate / at))


def invoke(tmp_path: Path, *words: object) -> Result:
    return CliRunner().invoke(main, ["--store", str(tmp_path / "orch.db"), *map(str, words)])


def grown(tmp_path: Path, *words: object, check: int = 0) -> dict[str, Any]:
    """What `orch extend --edges s --json` says."""
    result = invoke(tmp_path, "extend", "--edges", "s", "--json", *words)
    assert result.exit_code == check, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def added(store: Store, name: str = "s") -> list[Run]:
    """The runs that were added to a sweep."""
    return [stored.run for stored in store.runs(name) if stored.extended]


@pytest.mark.parametrize(("best", "edge", "rate"), [(1.0, "high", 0.3), (1e-4, "low", 0.003)])
def test_a_cell_at_its_edge_gets_the_next_rate_with_all_its_seeds(
    store: Store, tmp_path: Path, best: float, edge: str, rate: float
) -> None:
    runs = grid()
    registered(store, runs)
    train(store, "s", peak(best))

    (cell,) = grown(tmp_path)["cells"]

    chosen = 0.1 if edge == "high" else 0.01
    assert (cell["chosen"], cell["edge"], cell["rates"]) == (chosen, edge, [rate])
    assert added(store) == [dataclasses.replace(r, learning_rate=rate) for r in runs[:2]]
    assert [r.id for r in added(store)] == cell["runs"]
    assert {s.state for s in store.runs("s") if s.extended} == {"pending"}


def test_only_cells_at_an_edge_grow(store: Store, tmp_path: Path) -> None:
    inside, low = grid(), grid(method="adamw")
    failed, pending = grid(method="sgd_freeze_embed"), grid(dataset="digits")
    registered(store, [*inside, *low, *failed, *pending])
    last = {failed[-1].id: "failed", pending[0].id: "pending"}
    middle = {run.id for run in inside}

    def score(run: Run) -> float | State:
        return last.get(run.id) or (peak(0.03) if run.id in middle else peak(1e-4))(run)  # type: ignore[return-value]

    train(store, "s", score)
    result = invoke(tmp_path, "extend", "--edges", "s")

    assert result.exit_code == 0, result.output
    assert {(r.method, r.dataset, r.learning_rate) for r in added(store)} == {
        ("adamw", "toy", 0.003)
    }
    lines = result.output.splitlines()
    assert lines == [
        "toy toy adamw: best rate 0.01 is the lowest tried; adding 0.003 (2 runs)",
        "toy toy sgd_freeze_embed: 1 of 6 runs is failed; left as it is",
        "toy digits sgd: 1 of 6 runs is pending; left as it is",
        "s: added 2 runs to 1 cell. Train them with: orch resume s",
    ]


def test_a_dry_run_adds_nothing(store: Store, tmp_path: Path) -> None:
    registered(store, grid())
    train(store, "s", peak(1.0))

    shown = grown(tmp_path, "--dry-run")
    said = invoke(tmp_path, "extend", "--edges", "s", "--dry-run").output

    assert shown["added"] == 0
    assert shown["cells"][0]["rates"] == [0.3]
    assert "would add 2 runs to 1 cell" in said
    assert "orch resume" not in said
    assert not added(store)


def test_an_edge_that_moves_is_followed_until_it_stops(store: Store, tmp_path: Path) -> None:
    registered(store, grid())
    for rates in ([0.3], [1.0], []):
        train(store, "s", peak(0.3))
        found = grown(tmp_path)
        assert [rate for cell in found["cells"] for rate in cell["rates"]] == rates
        assert grown(tmp_path)["added"] == 0, "the new runs are not done yet"
        if rates:
            assert (
                "is pending" in grown(tmp_path)["cells"][0]["waits"]
                or "are pending" in (grown(tmp_path)["cells"][0]["waits"])
            )
    assert invoke(tmp_path, "extend", "--edges", "s").output == (
        "s: no complete cell has its best rate at an edge; nothing to add.\n"
    )


def test_several_steps_at_once(store: Store, tmp_path: Path) -> None:
    registered(store, grid())
    train(store, "s", peak(1e-6))

    assert grown(tmp_path, "--steps", 3)["cells"][0]["rates"] == [0.003, 0.001, 0.0003]
    assert len(added(store)) == 6


def test_one_rate_has_no_edge(store: Store, tmp_path: Path) -> None:
    registered(store, grid((0.1,)))
    train(store, "s", peak(1.0))

    assert grown(tmp_path)["cells"] == []


def test_a_diverged_highest_rate_is_no_reason_to_go_higher(store: Store, tmp_path: Path) -> None:
    """Neither where a lower one is best, nor where its epochs before that are."""
    registered(store, grid())
    train(store, "s", lambda run: "diverged" if run.learning_rate == 0.1 else peak(1.0)(run))
    assert grown(tmp_path)["cells"] == []

    registered(store, [*grid(), *grid(method="adamw")])
    train(store, "s", lambda run: "diverged" if run.learning_rate == 0.1 else 0.01)
    (cell,) = grown(tmp_path)["cells"]
    assert (cell["method"], cell["chosen"], cell["rates"]) == ("adamw", 0.1, [])
    assert "diverged at its highest rate" in cell["waits"]
    assert not added(store)


def test_new_runs_are_like_those_of_the_edge(store: Store, tmp_path: Path) -> None:
    """Hyperparameters and seeds are the edge rate's; everything else is the cell's."""
    axis = [(("lambda", 1.0),), (("lambda", 10.0),)]
    changes = {"epochs": 2, "precision": "bf16", "images_per_split": 7, "weight_decay": 0.3}
    runs = [
        a_run(learning_rate=rate, seed=seed, hyperparameters=pair, **changes)
        for rate, seeds in ((0.1, (0,)), (0.2, (0, 5)))
        for seed in seeds
        for pair in axis
    ]
    registered(store, runs)
    train(store, "s", peak(9.0))

    assert grown(tmp_path)["added"] == 4
    like = [dataclasses.replace(r, learning_rate=0.4) for r in runs if r.learning_rate == 0.2]
    assert {r.id for r in added(store)} == {r.id for r in like}


def test_two_variants_of_a_cell_grow_each_by_itself(store: Store, tmp_path: Path) -> None:
    short, long = grid(epochs=2), grid(epochs=4)
    registered(store, [*short, *long])
    train(store, "s", lambda run: peak(1.0 if run.epochs == 2 else 0.03)(run))

    assert grown(tmp_path)["added"] == 2
    assert {run.epochs for run in added(store)} == {2}


def test_runs_that_others_need_are_no_cells(store: Store, tmp_path: Path) -> None:
    first = a_run(kind="pretrain", dataset="shapes")
    runs = grid(weights=f"run:{first.id}")
    store.register("s", "name: s\n", [first, *runs], {run.id for run in runs})
    train(store, "s", peak(1.0))
    train(store, "s", peak(1.0))

    assert grown(tmp_path)["added"] == 2
    assert {run.needs for run in added(store)} == {(first.id,)}


def test_what_cannot_be_extended_is_said(store: Store, tmp_path: Path) -> None:
    registered(store, grid())
    for words, parts in (
        (("extend", "s"), ("orch extend --edges SWEEP",)),
        (("extend", "--edges", "t"), ('no sweep "t"', "it has: s")),
        (("extend", "--edges", tmp_path / "none.yaml"), ("none.yaml does not exist",)),
        (("extend", "--edges", "s", "--steps", "0"), ("--steps",)),
    ):
        result = invoke(tmp_path, *words)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        for part in parts:
            assert part in result.output
    missing = CliRunner().invoke(
        main, ["--store", str(tmp_path / "no.db"), "extend", "--edges", "s"]
    )
    assert missing.exit_code == 2
    assert "does not exist" in missing.output


# What added runs occupy


def stored_runs(runs: Sequence[Run], *, extended: bool) -> list[StoredRun]:
    return [
        StoredRun(run, key, "pending", 0, None, extended=extended) for key, run in enumerate(runs)
    ]


def test_added_runs_are_trained_like_their_cell() -> None:
    big = Resources(gpus=0.5, cpus=3)
    ours, others = grid(), grid(method="adamw")
    planned = [Planned(run, big, "best") for run in ours]
    planned += [Planned(run, Resources()) for run in others]
    new = dataclasses.replace(ours[0], learning_rate=9.0)
    gone = [
        dataclasses.replace(ours[0], learning_rate=9.0, epochs=8),  # of another variant
        dataclasses.replace(ours[0], learning_rate=9.0, dataset="digits"),
    ]
    stored = stored_runs([*ours, *others], extended=False)
    stored += stored_runs([new, ours[1], *gone], extended=True)

    assert with_extensions(planned, stored) == [*planned, Planned(new, big, "best")]
    assert with_extensions(planned, stored_runs(ours, extended=False)) == planned


def test_each_variant_of_a_cell_is_in_a_list_of_its_own() -> None:
    runs = stored_runs([*grid(), *grid(epochs=9), *grid(dataset="digits")], extended=False)
    skipped = [dataclasses.replace(runs[0], requested=False)]
    pretraining = stored_runs([a_run(kind="pretrain")], extended=False)

    found = extend.partitions([*runs, *skipped, *pretraining])

    assert [[s.run for s in part] for part in found] == [
        [*grid(), *grid(dataset="digits")],
        grid(epochs=9),
    ]


# Growing by the file

FILE = {
    "name": "s",
    "models": "[toy]",
    "datasets": "[toy]",
    "methods": "[sgd]",
    "weights": "random",
    "learning_rates": "[0.01, 0.03, 0.1]",
    "seeds": "[0, 1]",
}


def written(path: Path, **fields: str) -> Path:
    path.write_text("".join(f"{k}: {v}\n" for k, v in {**FILE, **fields}.items()))
    return path


def would_train(tmp_path: Path, path: Path, *words: str) -> set[str]:
    """The ids that `orch launch --dry-run` lists."""
    result = invoke(tmp_path, "launch", path, "--dry-run", *words)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("would train ")]
    return {line.split()[2] for line in lines}


@pytest.mark.parametrize(
    ("fields", "new"),
    [
        ({"learning_rates": "[0.003, 0.01, 0.03, 0.1, 0.3]"}, 4),
        ({"methods": "[sgd, adamw]"}, 6),
        ({"seeds": "[0, 1, 2]"}, 3),
        ({"models": "[toy_nan, toy]"}, 6),
        ({"resources": "{default: {cpus: 1}, toy: {cpus: 2}}", "keep": "best"}, 0),
        ({"seeds": "[1]"}, 0),
    ],
)
def test_a_larger_file_trains_only_what_is_new(
    store: Store, tmp_path: Path, fields: dict[str, str], new: int
) -> None:
    path = written(tmp_path / "s.yaml")
    before = sweeps.load(path)
    store.register("s", before.text, before.requested, {run.id for run in before.requested})
    train(store, "s", peak(0.03))
    assert would_train(tmp_path, path) == set()

    after = sweeps.load(written(path, **fields))

    done = {run.id for run in before.requested}
    assert would_train(tmp_path, path) == {run.id for run in after.requested} - done
    assert len(would_train(tmp_path, path)) == new


def test_added_runs_survive_a_launch_of_the_same_file(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "s.yaml", resources="{cpus: 2}")
    sweep = sweeps.load(path)
    asked = {run.id for run in sweep.requested}
    store.register("s", sweep.text, sweep.requested, asked)
    train(store, "s", peak(1.0))
    assert invoke(tmp_path, "extend", "--edges", path).exit_code == 0
    new = added(store)
    assert [run.learning_rate for run in new] == [0.3, 0.3]

    store.register("s", sweep.text, sweep.requested, asked)

    assert added(store) == new
    assert would_train(tmp_path, path) == {run.id for run in new}
    assert would_train(tmp_path, path, "--where", "learning_rate=0.1") == set()
    shown = invoke(tmp_path, "plan", path).output
    assert "s: 8 runs in 1 cell (6 done, 2 pending)" in shown
    (planned,) = json.loads(invoke(tmp_path, "plan", path, "--json").output)["by_cell"]
    assert (planned["runs"], planned["learning_rates"]) == (8, [0.01, 0.03, 0.1, 0.3])
    # The file that asks for them itself has them no more as additions.
    larger = sweeps.load(written(path, learning_rates="[0.01, 0.03, 0.1, 0.3]"))
    store.register("s", larger.text, larger.requested, {run.id for run in larger.requested})
    assert not added(store)
    assert len(store.runs("s")) == 8
    assert would_train(tmp_path, path) == {run.id for run in new}
    # Another sweep of the same runs was not extended.
    text = path.read_text().replace("name: s", "name: t").replace(", 0.3]", "]")
    (tmp_path / "t.yaml").write_text(text)
    assert would_train(tmp_path, tmp_path / "t.yaml") == set()


@pytest.mark.slow
def test_from_launch_to_a_moved_edge(orch: Orch, tmp_path: Path) -> None:
    """Real runs, at rates too low to change a prediction: all are as good, and the lowest wins."""
    path = written(tmp_path / "s.yaml", learning_rates="[1e-9, 3e-9, 1e-8]", seeds="[0]")
    orch("launch", path)

    def report() -> dict[str, str]:
        text = orch("report", "--sweep", "s", "--table", "id", "--format", "csv").stdout
        (cell,) = [r for r in csv.DictReader(io.StringIO(text)) if r["dataset"] == "toy"]
        return cell

    before = report()
    assert (before["learning_rate"], before["edge"], before["n"]) == ("1e-09", "low", "3")
    said = orch("extend", "--edges", "s", "--steps", "2").stdout
    assert "best rate 1e-09 is the lowest tried; adding 3e-10, 1e-10 (2 runs)" in said
    assert "added 2 runs to 1 cell. Train them with: orch resume s" in said
    assert "s: 5 runs in 1 cell (3 done, 2 pending)" in orch("plan", path).stdout

    resumed = orch("resume", "s").stdout

    assert "This launch: 2 done" in resumed
    after = report()
    assert (after["learning_rate"], after["edge"], after["n"]) == ("1e-10", "low", "5")
    assert after["expected"] == "5"
    stored = Store.open(str(tmp_path / "orch.db")).runs("s")
    assert {s.run.learning_rate for s in stored if s.extended} == {3e-10, 1e-10}
    assert [(s.state, s.attempts) for s in stored] == [("done", 1)] * 5
    assert "Nothing is left to train" in orch("launch", path).stdout
