"""`orch status`: every trouble with its state, cause and advice, on one screen; paused families."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from conftest import a_history, a_run
from db.records import Attempt, Cause, Run, State, StoredRun
from db.store import Store
from orchestrator.advice import (
    ANY,
    TROUBLED,
    advice,
    cause_of,
    family_of,
    gist,
    paused_families,
    spoken,
)
from orchestrator.cli import main
from orchestrator.standing import Standing, of

SCREEN = 50
"""Lines."""
FAULTS = [cause for cause in get_args(Cause) if cause != "diverged"]


def stored(
    run: Run,
    state: State = "failed",
    cause: Cause | None = "bug",
    error: str | None = "E: boom",
    **o,
) -> StoredRun:  # type: ignore[no-untyped-def]
    return StoredRun(run, hash(run.id), state, 1, error, cause=cause, **o)


def standing(runs: list[StoredRun], **others: object) -> Standing:
    return Standing("s", runs, {}, None, **others)  # type: ignore[arg-type]


def grid(state: State = "pending", count: int = 1000) -> list[StoredRun]:
    return [stored(a_run(seed=seed), state, None, None) for seed in range(count)]


# Advice


@pytest.mark.parametrize("cause", FAULTS)
def test_a_failure_says_what_to_do(cause: Cause) -> None:
    one = stored(a_run(), "failed", cause)
    assert advice(one).endswith(f"; then: orch runs retry {one.id[:8]}")
    assert advice(one, alike=2).endswith(f"; then: orch runs retry --cause {cause}")
    assert "{" not in advice(one)


def test_the_advice_names_what_matters() -> None:
    run = a_run()

    def said(cause: Cause) -> str:
        return advice(stored(run, "failed", cause))

    assert f"orch runs show {run.id[:8]}" in said("bug")
    assert "resources.gpus" in said("out_of_memory")
    assert "orch data check toy" in said("bad_data")
    assert "dmesg" in said("process_death")
    assert "--max-concurrent" in said("process_death")
    assert "in each of 1 attempt:" in said("process_death")
    assert "--runs" in said("disk_full")
    assert len({said(cause) for cause in FAULTS}) == len(FAULTS)


def test_a_result_and_the_operators_hand_are_no_errors() -> None:
    run = a_run()
    assert "a result, not an error" in advice(stored(run, "diverged", "diverged"))
    assert f"retry {run.id[:8]}" in advice(stored(run, "cancelled", None))
    voided = stored(run, "voided", None, void_reason="wrong data")
    assert "wrong data" in advice(voided)
    for state in ("pending", "running", "done"):
        assert advice(stored(run, state, None)) == ""


def test_a_failure_from_before_causes_were_kept_is_a_bug() -> None:
    assert cause_of(stored(a_run(), "failed", None)) == "bug"
    assert cause_of(stored(a_run(), "diverged", None)) == "diverged"
    assert cause_of(stored(a_run(), "cancelled", None)) is None
    assert "traceback" in advice(stored(a_run(), "failed", None))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("IndexError: index 12 is out of bounds", "IndexError: index 7 is out of bounds"),
        ("E: at 0x7f3a9c", "E: at 0x55e0d1"),
        ("E: run 3f2a91c04bd81e77 of 12", "E: run 0123456789abcdef of 7"),
        ("E: 1.5e-3 s\nmore of one", "E: 2.25e+10 s\nand of the other"),
    ],
)
def test_errors_are_alike_where_only_numbers_differ(one: str, other: str) -> None:
    assert gist(one) == gist(other)


def test_errors_differ_where_words_do() -> None:
    assert gist("KeyError: 'head'") != gist("KeyError: 'stem'")
    assert gist("E: defaced") == "E: defaced", "a word of hexadecimal letters is a word"
    assert gist(None) == gist("") == ""


# Families


def failures(*cells: tuple[str, str], error: str = "E: boom") -> list[StoredRun]:
    return [
        stored(a_run(model=model, method=method, seed=seed), error=error)
        for seed, (model, method) in enumerate(cells)
    ]


def test_three_failures_alike_pause_one_method_of_one_model() -> None:
    assert paused_families(failures(*[("vit", "sgd")] * 2)) == {}
    assert paused_families(failures(*[("vit", "sgd")] * 3)) == {("vit", "sgd"): "E: boom"}


def test_three_methods_pause_the_model_and_three_models_the_method() -> None:
    model = failures(("vit", "sgd"), ("vit", "adamw"), ("vit", "lamb"))
    assert paused_families(model) == {("vit", ANY): "E: boom"}
    method = failures(("vit", "sgd"), ("bit", "sgd"), ("clip", "sgd"))
    assert paused_families(method) == {(ANY, "sgd"): "E: boom"}
    wider = failures(*[("vit", "sgd")] * 3, ("vit", "adamw"), ("vit", "lamb"))
    assert paused_families(wider) == {("vit", ANY): "E: boom"}, "the narrower one is within"
    narrow = failures(*[("vit", "sgd")] * 3, ("vit", "adamw"), ("bit", "sgd"))
    assert paused_families(narrow) == {("vit", "sgd"): "E: boom"}, "no wider than it must be"


def test_failures_that_are_not_alike_pause_nothing() -> None:
    cell = ("vit", "sgd")
    runs = [
        *failures(cell, error="KeyError: 'a'"),
        *failures(cell, error="KeyError: 'b'"),
        *failures(cell, error="KeyError: 'c'"),
    ]
    assert paused_families(runs) == {}
    for cause in FAULTS:
        same = [stored(a_run(seed=seed), "failed", cause) for seed in range(5)]
        assert bool(paused_families(same)) == (cause == "bug")


def test_families_are_spoken_of() -> None:
    assert spoken(("vit", "sgd")) == "vit with sgd"
    assert spoken(("vit", ANY)) == "every method of vit"
    assert spoken((ANY, "sgd")) == "every model with sgd"


@st.composite
def outcomes(draw: Callable) -> list[StoredRun]:  # type: ignore[type-arg, type-arg]
    names = st.tuples(
        st.sampled_from(["m1", "m2", "m3", "m4"]),
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from(["E: boom 1", "E: boom 2", "E: other", "E: third"]),
        st.sampled_from(["failed", "failed", "pending", "done", "diverged"]),
    )
    return [
        stored(a_run(model=m, method=t, seed=seed), state, "bug", error)
        for seed, (m, t, error, state) in enumerate(draw(st.lists(names, max_size=25)))
    ]


def held(runs: list[StoredRun], of: list[StoredRun]) -> set[str]:
    paused = paused_families(runs)
    return {r.id for r in of if family_of(r.run, paused)}


@given(outcomes(), st.randoms(use_true_random=False))
def test_pausing_does_not_depend_on_the_order(runs: list[StoredRun], drawn: object) -> None:
    mixed = list(runs)
    drawn.shuffle(mixed)  # type: ignore[attr-defined]
    assert paused_families(mixed).keys() == paused_families(runs).keys()


@given(outcomes(), outcomes())
def test_another_failure_never_frees_a_family(runs: list[StoredRun], more: list[StoredRun]) -> None:
    assert held(runs, runs) <= held(runs + more, runs)


@given(outcomes())
def test_a_pause_has_its_failures(runs: list[StoredRun]) -> None:
    """Each paused family holds three failures alike, and none lies within another."""
    paused = paused_families(runs)
    for family, error in paused.items():
        inside = [
            r
            for r in runs
            if r.state == "failed"
            and gist(r.error) == gist(error)
            and family_of(r.run, {family: error})
        ]
        assert len(inside) >= 3
        if family[0] == ANY:
            assert len({r.run.model for r in inside}) >= 3
        elif family[1] == ANY:
            assert len({r.run.method for r in inside}) >= 3
        else:
            assert (family[0], ANY) not in paused
            assert (ANY, family[1]) not in paused


# The screen


def test_every_state_is_counted() -> None:
    states = get_args(State)
    one_each = [stored(a_run(seed=n), state, None) for n, state in enumerate(states)]
    found = standing(one_each)
    assert found.counts() == dict.fromkeys(found.counts(), 1)
    assert found.counts().keys() == set(states)
    assert "5/7 runs" in found.lines()[0], "all but pending and running are final"


def test_each_trouble_has_its_state_cause_error_and_advice() -> None:
    runs = [
        stored(a_run(seed=0), "failed", "out_of_memory", "OutOfMemoryError: 8 GiB"),
        stored(a_run(seed=1), "diverged", "diverged", "the loss is not finite at epoch 2, step 9"),
        stored(a_run(seed=2), "failed", "process_death", "killed"),
        stored(a_run(seed=3), "failed", "bug", "RuntimeError: boom"),
        stored(a_run(seed=4), "cancelled", None, None),
        stored(a_run(seed=5), "voided", None, None, void_reason="the wrong labels"),
        *grid("done", 6)[-1:],
    ]
    text = "\n".join(standing(runs).lines())
    for run in runs[:-1]:
        assert f"{run.state:<9}{run.id[:8]} {run.run}" in text
        assert advice(run) in text
    assert "[out_of_memory]: OutOfMemoryError: 8 GiB" in text
    assert "the wrong labels" in text
    told = standing(runs).as_json()["troubled"]
    assert {t["id"] for t in told} == {r.id for r in runs[:-1]}
    assert all(t["advice"] for t in told)
    assert [t["cause"] for t in told if t["state"] == "failed"] == [
        "out_of_memory", "process_death", "bug"
    ]  # fmt: skip


def test_forty_failures_alike_are_one_line() -> None:
    runs = [
        stored(a_run(seed=n), "failed", "bug", f"IndexError: index {n}\nmore") for n in range(40)
    ]
    lines = [line for line in standing(runs).lines() if line.startswith("  failed")]
    assert len(lines) == 1
    ids = ", ".join(r.id[:8] for r in runs[:3])
    assert f"40 runs ({ids} and 37 more) [bug]: IndexError: index 0" in lines[0]


def test_a_thousand_runs_are_one_screen() -> None:
    words = [f"Error{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400)]
    runs = [
        stored(a_run(seed=n, model=f"m{n}"), "failed", "bug", f"{word}: boom\n" + "x" * 10_000)
        for n, word in enumerate(words)
    ]
    runs += [stored(a_run(seed=n), "running", None, None) for n in range(400, 500)]
    runs += [stored(a_run(seed=n), "voided", None, None) for n in range(500, 600)]
    runs += [
        stored(a_run(seed=n, model=f"x{n % 20}"), "failed", "bug", "ZeroDivisionError: boom")
        for n in range(600, 700)
    ]
    runs += [
        stored(a_run(seed=n, model=f"x{n % 20}"), "pending", None, None) for n in range(700, 1000)
    ]
    lines = standing(runs).lines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) < 400
    assert any("more runs: orch runs list --state running" in line for line in lines)
    assert any("orch status --json" in line for line in lines)


def test_a_paused_family_is_told_while_something_of_it_waits() -> None:
    runs = failures(*[("vit", "sgd")] * 3)
    assert not any("paused" in line for line in standing(runs).lines())
    runs += [stored(a_run(model="vit", seed=n), "pending", None, None) for n in (7, 8)]
    runs += [stored(a_run(model="bit", seed=9), "pending", None, None)]
    (line,) = [line for line in standing(runs).lines() if "paused" in line]
    assert "vit with sgd: 2 runs" in line
    assert "E: boom" in line
    assert "orch runs retry --cause bug" in line
    assert standing(runs).as_json()["paused"] == [
        {"model": "vit", "method": "sgd", "error": "E: boom", "waiting": 2}
    ]


def test_runs_that_can_never_start_are_counted() -> None:
    for state in TROUBLED:
        need = stored(a_run(seed=1), state, None)
        waiting = stored(a_run(weights=f"run:{need.id}"), "pending", None, None)
        lines = standing([need, waiting]).lines()
        assert "  1 run cannot start: what they need is not done" in lines


def an_attempt(**changes: object) -> Attempt:
    values: dict[str, object] = dict.fromkeys(Attempt.__dataclass_fields__)
    return Attempt(**{**values, "number": 1, **changes})  # type: ignore[arg-type]


def test_a_running_run_says_where_it_is_and_whether_its_launch_lives() -> None:
    run = stored(a_run(), "running", None, None)
    attempt = an_attempt(host="node7", node="node7", device="NVIDIA H200")
    here = standing([run], attempts={run.key: attempt})
    (line,) = [line for line in here.lines() if "running  " in line]
    assert line.endswith(": epoch 0/3 on node7, NVIDIA H200")
    lost = standing([run], attempts={run.key: attempt}, silent={run.key: 180.0})
    assert any(
        "has not been heard of for 3 min 0 s; the next launch takes it over" in line
        for line in lost.lines()
    )
    assert lost.as_json()["running"][0]["silent_seconds"] == 180.0


def test_status_over_a_real_store(store: Store, tmp_path: Path) -> None:
    runs = [a_run(seed=seed) for seed in range(5)]
    store.register("s", "", runs, {run.id for run in runs})
    owner = store.enlist()
    keys = [one.key for one in store.runs("s")]
    claims = [store.claim(key, owner) for key in keys[:4]]
    assert all(claims)
    done, diverged, failed, _ = claims
    store.finish(done, a_history(runs[0]))  # type: ignore[arg-type]
    store.diverge(diverged, a_history(runs[1], 1), "the loss is not finite")  # type: ignore[arg-type]
    store.fail(failed, "RuntimeError: boom", "Traceback: boom")  # type: ignore[arg-type]

    shown = CliRunner().invoke(main, ["--store", str(tmp_path / "orch.db"), "status", "--json"])
    (found,) = json.loads(shown.stdout)
    assert found["states"] == {"done": 1, "running": 1, "pending": 1, "diverged": 1, "failed": 1}
    assert {t["cause"] for t in found["troubled"]} == {"diverged", "bug"}
    assert found["failed"] == [t for t in found["troubled"] if t["state"] == "failed"]
    assert [r["id"] for r in found["running"]] == [runs[3].id]
    text = CliRunner().invoke(main, ["--store", str(tmp_path / "orch.db"), "status"]).stdout
    assert "RuntimeError: boom" in text
    assert f"orch runs retry {runs[2].id[:8]}" in text


def test_a_launch_that_is_not_heard_of_any_more_is_told(store: Store) -> None:
    runs = [a_run(seed=seed) for seed in range(2)]
    store.register("s", "", runs, {run.id for run in runs})
    quiet, alive = store.enlist(ttl=-1.0), store.enlist(ttl=60.0)
    first, second = (one.key for one in store.runs("s"))
    assert store.claim(first, quiet)
    assert store.claim(second, alive)
    lines = of(store, "s").lines()
    told = [n for n, line in enumerate(lines) if "has not been heard of for" in line]
    assert len(told) == 1
    assert runs[0].id[:8] in lines[told[0] - 1]
