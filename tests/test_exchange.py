"""Results out of a store and into another one: nothing is lost, nothing is invented."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import PostgresServer, a_history, a_run
from db.errors import SpecError, StoreError
from db.exporting import LongRow, columns, long_rows
from db.importing import Imported, bring
from db.reading import Reader
from db.records import Artifact, EpochRecord, Metric, Provenance, Run, StoredRun
from db.store import Store
from orchestrator.exchange import files, rows, runs
from orchestrator.exchange.fields import COLUMNS
from reports.study import Study

ENGINES = ("sqlite", "postgresql")
HEAD = ",".join(COLUMNS)


def drained(work: Any) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def export(store: Reader, path: Path, *, times: bool = False) -> Path:
    """All of a store in a file, Parquet where it is called so."""
    style: files.Style = "parquet" if path.suffix == ".parquet" else "csv"
    files.write(long_rows(store, times=times), columns(times=times), style, path)
    return path


def taken(store: Store, *paths: Path) -> Imported:
    """Import files."""
    known = {info.name for info in store.sweeps()}

    def stored(name: str) -> Sequence[StoredRun]:
        return store.runs(name) if name in known else ()

    done = drained(bring(store, *runs.resolve(drained(rows.read(paths)), stored)))
    assert isinstance(done, Imported)
    return done


def written(path: Path, *lines: str, head: str = HEAD) -> Path:
    """A result file of these lines."""
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def line(**changes: object) -> str:
    """A row of the ten columns."""
    plain = ("paper", "tiny_vit", "digits", "sgd", 0.1, 0, 1, "id", "accuracy", 0.5)
    values: dict[str, object] = dict(zip(COLUMNS, plain, strict=True))
    return ",".join(str(value) for value in (values | changes).values())


def cell(run: int = 0, **changes: object) -> list[str]:
    """A run of one epoch with an `id` and an `ood` row."""
    shared = {"lr": 0.1 * (run + 1)} | changes
    return [
        line(**shared, value=0.5 + run / 10_000),
        line(**shared, split="ood", value=0.4 + run / 10_000),
    ]


# A round trip


class Fresh:
    """New, empty stores, made fast."""

    def __init__(self, folder: Path, postgres: PostgresServer | None) -> None:
        self._folder, self._postgres = folder, postgres
        self._numbers = itertools.count()
        if postgres is None:
            Store.open(str(folder / "empty.db"), create=True).engine.dispose()

    def __call__(self) -> Store:
        if self._postgres is not None:
            return Store.open(self._postgres.fresh())
        path = self._folder / f"{next(self._numbers)}.db"
        shutil.copy(self._folder / "empty.db", path)
        return Store.open(str(path))


@pytest.fixture(scope="module", params=ENGINES)
def fresh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Store]:
    """Empty stores on each engine."""
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    return Fresh(tmp_path_factory.mktemp("fresh"), server)


fractions = st.floats(0, 1)
names = st.sampled_from(["tiny_vit", "clip_vit_b16", "née-ViT", "a b,c"])


@st.composite
def stored_runs(draw: st.DrawFn) -> list[tuple[Run, str, list[EpochRecord]]]:
    """Runs with what became of each, and its epochs so far."""
    found = []
    for seed in range(draw(st.integers(1, 4))):
        run = a_run(
            model=draw(names),
            method=draw(st.sampled_from(["sgd", "adamw"])),
            learning_rate=draw(st.floats(1e-9, 10.0)),
            seed=seed,
            epochs=draw(st.integers(1, 3)),
            hyperparameters=draw(
                st.sampled_from([(), (("lambda", 0.1),), (("b", 2.0), ("a", 1.0))])
            ),
        )
        state = draw(
            st.sampled_from(
                ["done", "done", "diverged", "failed", "pending", "running", "cancelled", "voided"]
            )
        )
        whole = state in ("done", "voided")
        last = run.epochs if whole else draw(st.integers(0, run.epochs - 1))
        history = [
            EpochRecord(
                epoch,
                draw(st.none() | st.floats(0, 1e3)),
                draw(st.none() | fractions),
                draw(fractions),
                tuple(
                    Metric(split, group, "accuracy", draw(fractions), *draw(_counts))
                    for split, group in draw(_measured)
                ),
                draw(st.floats(0, 100)),
                draw(st.floats(0, 100)),
            )
            for epoch in range(last + 1)
        ]
        found.append((run, state, history))
    return found


_counts = st.sampled_from([(None, None), (3, 4), (None, 100), (0, 1)])
_measured = st.lists(
    st.sampled_from([("id", ""), ("ood", ""), ("ood", "land"), ("id_test", ""), ("é", "0,1")]),
    unique=True,
    min_size=1,
)


def fill(store: Store, made: Sequence[tuple[Run, str, list[EpochRecord]]]) -> None:
    """A store with these runs in one sweep, every other one in a second sweep too."""
    of_first = {run.id: (run, state, history) for run, state, history in made}
    listed = [run for run, _, _ in of_first.values()]
    store.register(
        "first", 'name: first\n# ünïcode, and a "quote"\n', listed, {run.id for run in listed[:2]}
    )
    store.register("second", "name: second", listed[::-2], {run.id for run in listed})
    owner = store.enlist()
    for run, state, history in of_first.values():
        if state == "pending":
            continue
        key = store.find_run(run.id).key
        claim = store.claim(key, owner)
        assert claim is not None
        store.start(claim, history[:1], Provenance(data_fingerprint="d", weights_sha256="w"), None)
        for record in history[1:]:
            store.epoch(claim, record)
        match state:
            case "done" | "voided":
                left = [Artifact("best", f"{run.id}/best.pt", "ab" * 32, 7)]
                store.finish(claim, history, left)
            case "diverged":
                store.diverge(claim, history, "the loss is nan")
            case "failed":
                store.fail(claim, "OSError: no such file", "Traceback …")
            case "cancelled":
                store.cancel([key])
        if state == "voided":
            store.void(key, "wrong labels")


def told(store: Store) -> dict[str, Any]:
    """What a store knows of its runs, but for attempts; a run in training counts as pending."""
    known = {}
    for info in store.sweeps():
        for place, s in enumerate(store.runs(info.name)):
            state = "pending" if s.state == "running" else s.state
            inputs = (s.data_fingerprint, s.weights_sha256, s.void_reason, s.requested, s.extended)
            known[info.name, place] = (s.run, state, *inputs, store.history(s.key))
    return known


@settings(
    deadline=None,
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(made=stored_runs(), ending=st.sampled_from(["csv", "parquet"]))
def test_a_round_trip_loses_nothing(
    fresh: Callable[[], Store], tmp_path: Path, made: Any, ending: str
) -> None:
    source, target = fresh(), fresh()
    fill(source, made)
    source.extend("first", [dataclasses.replace(made[0][0], learning_rate=11.0)])
    for times in (False, True):
        export(source, tmp_path / f"source-{times}.{ending}", times=times)

    source.retire(1)  # what it had in training is pending, as it is where nobody trains it

    taken(target, tmp_path / f"source-True.{ending}")

    for times in (False, True):
        again = export(target, tmp_path / f"target-{times}.{ending}", times=times)
        assert again.read_bytes() == (tmp_path / f"source-{times}.{ending}").read_bytes()
    assert told(target) == told(source)
    for sweep in ("first", "second"):
        for split in ("id", "ood"):
            _same_cells(Study(source, sweep), Study(target, sweep), split)
    assert target.artifacts().keys() == source.artifacts().keys()
    unchanged = taken(target, tmp_path / f"source-False.{ending}")
    assert not unchanged.new + unchanged.changed + unchanged.sweeps
    assert told(target) == told(source)
    source.engine.dispose()
    target.engine.dispose()


def _same_cells(source: Study, target: Study, split: str) -> None:
    try:
        expected = source.cells(split)
    except Exception as error:  # two variants in a cell: the same refusal
        with pytest.raises(type(error), match="variants"):
            target.cells(split)
    else:
        assert target.cells(split) == expected


def test_what_nobody_trains_is_not_finished_by_a_trip(store: Store, tmp_path: Path) -> None:
    source = Store.open(str(tmp_path / "source.db"), create=True)
    half, lost = a_run(), a_run(seed=1)
    fill(source, [(half, "running", a_history(half, 2)), (lost, "diverged", a_history(lost, 1))])

    taken(store, export(source, tmp_path / "half.csv"))

    by_id = {s.id: s for s in store.runs()}
    assert (by_id[half.id].state, by_id[lost.id].state) == ("pending", "diverged")
    assert len(store.history(by_id[half.id].key)) == 3
    assert all(
        cell.n == 1 and cell.expected == 2 for cell in Study(store, "first").cells("id").values()
    )
    claim = store.claim(by_id[half.id].key, store.enlist())
    assert claim is not None, "it can be trained here, from the start"
    store.start(claim, (), Provenance(data_fingerprint="d", weights_sha256="w"), None)
    store.finish(claim, a_history(half, value=0.7))
    assert store.history(claim.run_key) == tuple(a_history(half, value=0.7))


def test_what_was_trained_further_goes_on_and_an_old_export_takes_nothing_back(
    store: Store, tmp_path: Path
) -> None:
    source = Store.open(str(tmp_path / "source.db"), create=True)
    run = a_run()
    fill(source, [(run, "running", a_history(run, 1))])
    early = export(source, tmp_path / "early.csv")
    taken(store, early)
    (stored,) = source.runs("first")
    source.retire(1)
    claim = source.claim(stored.key, source.enlist())
    assert claim is not None
    source.finish(claim, a_history(run))
    late = export(source, tmp_path / "late.csv")

    assert taken(store, late).changed == [run.id]
    assert (store.find_run(run.id).state, len(store.history(1))) == ("done", 4)
    assert taken(store, early).same == 1
    assert store.find_run(run.id).state == "done"
    assert export(store, tmp_path / "again.csv").read_bytes() == late.read_bytes()


def test_a_run_in_training_is_left_to_its_launch(store: Store, tmp_path: Path) -> None:
    source = Store.open(str(tmp_path / "source.db"), create=True)
    run = a_run()
    fill(source, [(run, "done", a_history(run))])
    fill(store, [(run, "running", a_history(run, 1))])

    with pytest.raises(StoreError, match="being trained just now"):
        taken(store, export(source, tmp_path / "done.csv"))

    assert store.find_run(run.id).state == "running"
    assert len(store.history(1)) == 2


def test_other_numbers_of_a_trained_run_are_refused_until_it_is_voided(
    store: Store, tmp_path: Path
) -> None:
    source = Store.open(str(tmp_path / "source.db"), create=True)
    run, other = a_run(), a_run(seed=1)
    fill(source, [(other, "done", a_history(other)), (run, "done", a_history(run, value=0.6))])
    fill(store, [(run, "done", a_history(run))])
    before = told(store)
    path = export(source, tmp_path / "other.csv")

    with pytest.raises(StoreError) as refusal:
        taken(store, path)
    message = str(refusal.value)
    assert f"other.csv, line 10: run {run.id[:8]}" in message
    assert "id accuracy 0.5 after epoch 0 in the store, and 0.6 here" in message
    assert f"orch runs void {run.id[:8]}" in message
    assert told(store) == before, "of the other run nothing either"

    store.void(store.find_run(run.id).key, "wrong")
    assert {*taken(store, path).new} == {other.id}
    assert store.history(store.find_run(run.id).key) == tuple(a_history(run, value=0.6))


def test_voided_numbers_do_not_come_back(store: Store, tmp_path: Path) -> None:
    run = a_run()
    fill(store, [(run, "done", a_history(run))])
    path = export(store, tmp_path / "before.csv")
    store.void(store.find_run(run.id).key, "wrong labels")

    assert taken(store, path).voided == [run.id]
    assert (store.find_run(run.id).state, store.history(1)) == ("voided", ())


def test_a_run_that_was_voided_elsewhere_stands_here(store: Store, tmp_path: Path) -> None:
    source = Store.open(str(tmp_path / "source.db"), create=True)
    run = a_run()
    fill(source, [(run, "voided", a_history(run))])
    fill(store, [(run, "done", a_history(run))])

    assert taken(store, export(source, tmp_path / "voided.csv")).stands == [run.id]
    assert len(store.history(1)) == 4


def test_an_import_that_is_cut_short_leaves_nothing(store: Store, tmp_path: Path) -> None:
    lines = [row for i in range(1200) for row in cell(i)]
    parsed = drained(rows.read([written(tmp_path / "many.csv", *lines)]))
    work = bring(store, *runs.resolve(parsed, lambda name: ()))
    assert [next(work) for _ in range(3)] == [(0, 1200), (500, 1200), (1000, 1200)]

    work.close()

    assert (store.runs(), store.sweeps()) == ([], [])
    assert len(taken(store, tmp_path / "many.csv").new) == 1200


# Ten columns


def test_numbers_from_elsewhere_are_a_variant_of_their_own(store: Store, tmp_path: Path) -> None:
    trained = a_run(model="tiny_vit", dataset="digits")
    fill(store, [(trained, "done", a_history(trained))])
    path = written(tmp_path / "f.csv", *cell(), *cell(sweep="other"), *cell(1, method="adamw"))

    done = taken(store, path)

    assert len(done.new) == 3, "two sweeps are two runs"
    first, _, adamw = (store.find_run(run_id) for run_id in sorted(done.new, key=done.new.index))
    assert first.run.source == "import:paper"
    assert first.run.variant not in (trained.variant, a_run(source="import:other").variant)
    assert (first.run.epochs, first.run.batch_size, first.run.schedule) == (
        1,
        32,
        "cosine_per_step",
    )
    weight_decay = {s.run.method: s.run.weight_decay for s in store.runs("paper")}
    assert weight_decay == {"sgd": 0.0, "adamw": 0.01}
    assert {s.state for s in store.runs("paper")} == {"done"}
    assert {info.name: info.imported for info in store.sweeps()} == {
        "first": False, "second": False, "paper": True, "other": True,
    }  # fmt: skip
    assert Study(store, "paper").cells("ood")["tiny_vit", "digits", "sgd"].value == 40.0
    assert adamw.id != first.id


def test_importing_again_changes_nothing_and_more_joins(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", *cell(), *cell(1))
    first = taken(store, path)
    exported = export(store, tmp_path / "once.csv").read_bytes()

    again = taken(store, path)
    assert (again.new, again.changed, again.sweeps, again.same) == ([], [], [], 2)
    assert export(store, tmp_path / "twice.csv").read_bytes() == exported

    extra = written(tmp_path / "more.csv", line(split="id_test", value=0.45), *cell(2))
    more = taken(store, extra)
    assert (len(more.new), more.changed) == (1, [first.new[0]])
    assert [m.split for m in store.history(1)[0].metrics] == ["id", "id_test", "ood"]
    assert [s.run.learning_rate for s in store.runs("paper")] == [0.1, 0.2, pytest.approx(0.3)]


def test_epochs_are_the_highest_of_the_cell(store: Store, tmp_path: Path) -> None:
    """A row a run, at the epoch that was best: one cell all the same."""
    lines = [
        line(lr=0.1, epoch=7),
        line(lr=0.2, epoch=12, value=0.6),
        line(method="adamw", epoch=3),
    ]
    taken(store, written(tmp_path / "f.csv", *lines))
    assert [s.run.epochs for s in store.runs("paper")] == [12, 12, 3]
    assert Study(store, "paper").cells("id")["tiny_vit", "digits", "sgd"].learning_rate == 0.2

    taken(store, written(tmp_path / "later.csv", line(lr=0.3, epoch=12)))
    assert [s.run.epochs for s in store.runs("paper")] == [12, 12, 3, 12]
    with pytest.raises(SpecError, match=r"runs of 12 epochs.* and of 13 here"):
        taken(store, written(tmp_path / "longer.csv", line(lr=0.4, epoch=13)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": 0.75}, r"line 2: run \w+ \(tiny_vit digits sgd lr=0.1 s0\) has id accuracy 0.5 "
                          "after epoch 1 in the store, and 0.75 here; give these another name"),
        ({"epoch": 2, "value": 0.9}, "sweep \"paper\" of the store, and of 2 here"),
    ],
)  # fmt: skip
def test_changed_numbers_are_refused_as_a_whole(
    store: Store, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    taken(store, written(tmp_path / "f.csv", *cell()))
    before = told(store)

    with pytest.raises((StoreError, SpecError), match=says):
        taken(store, written(tmp_path / "g.csv", line(**changes), *cell(1)))

    assert told(store) == before


@settings(
    deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_neither_the_order_of_rows_nor_their_files_matter(
    fresh: Callable[[], Store], tmp_path: Path, data: st.DataObject
) -> None:
    whole = [*cell(), *cell(1), *cell(1, epoch=2, seed=1), *cell(sweep="b"), line(split="x")]
    shuffled = data.draw(st.permutations(whole))
    cut = data.draw(st.integers(0, len(whole)))
    one, other = fresh(), fresh()
    taken(one, written(tmp_path / "whole.csv", *whole))
    first = written(tmp_path / "first.csv", *shuffled[:cut])
    taken(other, first, written(tmp_path / "second.csv", *shuffled[cut:]))

    def numbers(store: Store) -> set[tuple[object, ...]]:
        at = LongRow._fields.index("record")
        return {(*row[:at], *row[at + 1 :]) for row in long_rows(store)}

    assert numbers(other) == numbers(one)
    assert len(numbers(one)) == len(whole)
    one.engine.dispose()
    other.engine.dispose()


def test_a_corrected_file_follows_a_void(store: Store, tmp_path: Path) -> None:
    (run_id,) = taken(store, written(tmp_path / "f.csv", *cell())).new
    store.void(store.find_run(run_id).key, "a typo")
    assert taken(store, tmp_path / "f.csv").voided == [run_id]

    corrected = written(tmp_path / "g.csv", line(value=0.75), line(split="ood", value=0.7))
    assert taken(store, corrected).changed == [run_id]
    assert store.find_run(run_id).state == "done"
    assert [m.value for m in store.history(1)[0].metrics] == [0.75, 0.7]
    assert Study(store, "paper").cells("ood")["tiny_vit", "digits", "sgd"].value == 70.0


def test_numbers_from_elsewhere_join_no_launched_sweep(store: Store, tmp_path: Path) -> None:
    run = a_run()
    fill(store, [(run, "done", a_history(run))])
    before = told(store)
    with pytest.raises(StoreError, match='line 2: "first" is a sweep of a sweep file'):
        taken(store, written(tmp_path / "f.csv", *cell(sweep="first")))
    assert told(store) == before

    taken(store, written(tmp_path / "g.csv", *cell(sweep="paper")))
    source = Store.open(str(tmp_path / "source.db"), create=True)
    source.register("paper", "name: paper", [run], {run.id})
    with pytest.raises(StoreError, match='"paper" in the store holds imported numbers'):
        taken(store, export(source, tmp_path / "paper.csv"))


def test_the_paper_protocol_is_that_of_a_sweep_file(store: Store, tmp_path: Path) -> None:
    """What an imported run says of itself is what a sweep of the defaults would."""
    from orchestrator import sweep as sweeps

    text = (
        "name: s\nmodels: [clip_vit_b16]\ndatasets: [living17]\nmethods: [adamw]\n"
        "learning_rates: [1e-5]\n"
    )
    asked = sweeps.loads(text, "s").requested[0]
    lines = [line(model="clip_vit_b16", dataset="living17", method="adamw", lr=1e-5, epoch=20)]
    taken(store, written(tmp_path / "f.csv", *lines))
    (stored,) = store.runs("paper")
    told_of = dataclasses.replace(stored.run, source="")
    differ = {
        name
        for name in asked.content().keys() | told_of.content().keys()
        if getattr(asked, name) != getattr(told_of, name)
    }
    assert differ <= {"model_version", "dataset_version", "method_version", "kind_version"}


def test_hyperparameters_and_groups_are_read(store: Store, tmp_path: Path) -> None:
    head = f"{HEAD},hyperparameters,group,n,correct"
    lines = [
        line() + ',"{""lambda"": 1}",,64,32',
        line(value=0.25) + ',"{""lambda"": 1}",land,8,2',
        line() + ',"{""lambda"": 0.1}",,,',
    ]
    taken(store, written(tmp_path / "f.csv", *lines, head=head))
    assert [s.run.hyperparameters for s in store.runs()] == [(("lambda", 1.0),), (("lambda", 0.1),)]
    assert store.history(1)[0].metrics == (
        Metric("id", "", "accuracy", 0.5, 32, 64),
        Metric("id", "land", "accuracy", 0.25, 2, 8),
    )


# What spreadsheets and data frames write


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(".", "¤").replace(",", ";").replace("¤", ","),
        lambda text: (
            text.replace("\n", ",,,\n").replace("value,,,", "value,,,") + ",,,,,,,,,,,,\n\n"
        ),
        lambda text: text.replace("sweep,", "Sweep ,").replace(",0,1,", ", 0.0 ,1.0,"),
        lambda text: "\n".join(",".join(reversed(row.split(","))) for row in text.splitlines()),
    ],
    ids=["bom", "crlf", "cr", "tabs", "semicolons", "empty cells", "blanks", "reversed"],
)
def test_what_spreadsheets_write_is_the_same(
    store: Store, tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    plain = written(tmp_path / "plain.csv", *cell(), *cell(1)).read_text()
    (tmp_path / "spoilt.csv").write_bytes(spoil(plain).encode())
    taken(store, tmp_path / "plain.csv")

    assert taken(store, tmp_path / "spoilt.csv").same == 2


def test_a_data_frame_as_parquet(store: Store, tmp_path: Path) -> None:
    import pandas as pd

    table = [row.split(",") for row in (*cell(), *cell(1))]
    frame = pd.DataFrame(table, columns=[*COLUMNS]).astype(
        {"lr": float, "seed": float, "epoch": "int64", "value": "float64", "split": "category"}
    )
    frame["n"] = [100.0, None, None, None]
    frame["group"] = None
    frame.to_parquet(tmp_path / "frame.parquet")

    assert len(taken(store, tmp_path / "frame.parquet").new) == 2
    assert [m.n for m in store.history(1)[0].metrics] == [100, None]
    assert taken(store, written(tmp_path / "f.csv", *cell(), *cell(1))).same == 2


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", line() + ",x,y", head=HEAD + ",who,comment")
    assert drained(rows.read([path])).notes == [f"{path}: columns that are not read: who, comment."]


# Rows that are wrong


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": 76.5}, "value 76.5 is not a fraction in [0, 1]; is it percent? Divide by 100."),
        ({"value": -0.1}, "value -0.1 is not a fraction in [0, 1]."),
        ({"value": "nan"}, "value nan is not a number that counts."),
        ({"value": "inf"}, "value inf is not a number that counts."),
        ({"value": ""}, "value is empty."),
        ({"value": "high"}, 'value "high" is not a number.'),
        ({"value": "1_0"}, 'value "1_0" is not a number.'),
        ({"value": '"0,5"'}, 'value "0,5" is not a number; decimals have a point.'),
        ({"epoch": -1}, "epoch -1 is negative."),
        ({"epoch": 1.5}, "epoch 1.5 is not a whole number."),
        ({"epoch": "last"}, 'epoch "last" is not a whole number.'),
        ({"epoch": ""}, "epoch is empty."),
        ({"epoch": 3e9}, "epoch 3000000000 is larger than 2147483647."),
        ({"seed": -1}, "seed -1 is negative."),
        ({"lr": "fast"}, 'lr "fast" is not a number.'),
        ({"lr": -0.1}, "lr -0.1 is negative."),
        ({"model": ""}, "model is empty."),
        ({"split": " "}, "split is empty."),
        ({"metric": ""}, "metric is empty."),
        ({"sweep": "a b"}, 'sweep "a b" is no name: letters, digits, . _ - only.'),
        ({"method": "s\0gd"}, "has characters that cannot be printed."),
        ({"value": "0.5,0.6"}, "it has 11 fields, and the header 10."),
        ({"epoch": 0, "seed": 5}, "its run has no epoch but 0, which is before training"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    path = written(tmp_path / "f.csv", *cell(), line(**changes), *cell(1))
    with pytest.raises(SpecError) as refusal:
        drained(rows.read([path]))
    first, *rest = str(refusal.value).splitlines()
    assert first.startswith(f"{path}, line 4: ")
    assert says in first
    assert rest == ["Nothing was imported."]


def test_every_bad_row_is_named_up_to_ten(tmp_path: Path) -> None:
    lines = [*cell(), *(line(epoch=-n) for n in range(1, 30))]
    with pytest.raises(SpecError) as refusal:
        drained(rows.read([written(tmp_path / "f.csv", *lines)]))
    said = str(refusal.value).splitlines()
    assert [row.partition(" is")[0][-2:] for row in said[:10]] == [
        f"-{n}"[-2:] for n in range(1, 11)
    ]
    assert said[10:] == ["There may be more.", "Nothing was imported."]


def test_a_number_that_is_told_twice(tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", *cell(), *cell(1), line(lr="1e-1", value=0.5))
    with pytest.raises(SpecError, match=r"line 6: id accuracy .* is in .*f.csv, line 2 already"):
        drained(rows.read([path]))
    other = written(tmp_path / "g.csv", line(lr="0.10", value=0.5))
    with pytest.raises(SpecError, match=r"g.csv, line 2: id accuracy .* is in .*f.csv, line 2"):
        drained(rows.read([written(tmp_path / "f.csv", *cell()), other]))


def test_a_split_has_one_headline(tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", *cell(), line(metric="f1", value=0.9))
    with pytest.raises(SpecError, match=r"line 4: id of this run is accuracy in .*line 2, and f1"):
        drained(rows.read([path]))


def test_what_is_no_result_file_is_said(tmp_path: Path) -> None:
    def refused(content: bytes, says: str) -> None:
        path = tmp_path / "f.csv"
        path.write_bytes(content)
        with pytest.raises(SpecError, match=says):
            drained(rows.read([path]))

    refused(b"", 'line 1: there is no column "sweep"')
    refused(HEAD.replace("lr", "learning_rate").encode(), 'no column "lr"')
    refused(HEAD.replace("value", "vaule").encode(), r'no column "value" \(is it "vaule"\?\)')
    refused(f"{HEAD},lr\n".encode(), 'the column "lr" is there twice')
    refused(f"{HEAD}\n".encode("utf-16"), "neither Parquet nor UTF-8 text")
    refused(f'{HEAD}\n"open\n'.encode(), "line 2: not readable as CSV")
    refused(b"PAR1 and then nothing", "not a whole Parquet file")


def test_rows_of_parquet_are_counted(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame([row.split(",") for row in cell()], columns=[*COLUMNS])
    frame.loc[1, "value"] = None
    frame.to_parquet(tmp_path / "f.parquet")
    with pytest.raises(SpecError, match=r"f.parquet, row 2: value is empty"):
        drained(rows.read([tmp_path / "f.parquet"]))


def test_what_cannot_be_selected_is_noted(tmp_path: Path) -> None:
    lines = [line(split="ood"), *cell(1), *(line(seed=s, split="test") for s in range(1, 9))]
    notes = drained(rows.read([written(tmp_path / "f.csv", *lines)])).notes
    assert "line 2: a run without an `id` row after an epoch cannot be selected" in notes[0]
    assert "(it has: ood)" in notes[0]
    assert notes[-1] == "… and 4 more runs that cannot be selected."
    assert len(notes) == 6


# Exported files that were edited


def exported_lines(tmp_path: Path, run: Run) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a done run's export."""
    import csv

    source = Store.open(str(tmp_path / "source.db"), create=True)
    fill(source, [(run, "done", a_history(run))])
    with export(source, tmp_path / "source.csv").open(newline="") as file:
        header, *found = csv.reader(file)
    return header, [row for row in found if row[0] == "first"]


def edited(path: Path, header: Sequence[str], found: Sequence[Sequence[str]]) -> Path:
    """A CSV file of them."""
    with path.open("w", newline="") as file:
        files.write_csv([tuple(row) for row in found], header, file)
    return path


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda at, rows: rows[1:], "has no row with its record"),
        (lambda at, rows: rows[:-2], "rows of some of its epochs 0 to 3 are missing"),
        (lambda at, rows: [_with(r, at["lr"], "0.2") for r in rows], "not of the run that its"),
        (lambda at, rows: [_with(r, at["run_id"], "abc") for r in rows], "not of the run that its"),
        (lambda at, rows: [_with(r, at["variant"], "") for r in rows], "not of the run that its"),
        (lambda at, rows: [_with(r, at["state"], "fine") for r in rows], 'state "fine" is none of'),
        (lambda at, rows: [_with(r, at["run_id"], "") for r in rows], "there is no run_id"),
        (lambda at, rows: [rows[0], _with(rows[1], at["state"], "failed")], "told of otherwise"),
        (lambda at, rows: [_with(rows[0], at["record"], "{"), *rows[1:]], "record is not JSON"),
        (
            lambda at, rows: [_with(rows[0], at["record"], "{}"), *rows[1:]],
            "none that this version",
        ),
        (lambda at, rows: [rows[0], _with(rows[1], at["train_loss"], "9"), *rows[2:]], "differs"),
    ],
)
def test_an_edited_export_is_not_taken_for_the_run(
    tmp_path: Path, edit: Callable[[dict[str, int], list[list[str]]], list[list[str]]], says: str
) -> None:
    header, found = exported_lines(tmp_path, a_run())
    at = {name: i for i, name in enumerate(header)}
    with pytest.raises(SpecError, match=says):
        drained(rows.read([edited(tmp_path / "edited.csv", header, edit(at, found))]))


def _with(row: Sequence[str], place: int, value: str) -> list[str]:
    return [*row[:place], value, *row[place + 1 :]]


def test_an_export_of_ten_columns_is_numbers_from_elsewhere(store: Store, tmp_path: Path) -> None:
    header, found = exported_lines(tmp_path, a_run())
    taken(store, edited(tmp_path / "ten.csv", header[:10], [row[:10] for row in found]))
    (stored,) = store.runs("first")
    assert stored.run.source == "import:first"
    assert len(store.history(stored.key)) == 4


def test_a_record_says_all_that_its_columns_do_not(tmp_path: Path) -> None:
    header, found = exported_lines(tmp_path, a_run())
    record = json.loads(found[0][header.index("record")])
    assert record.keys() == {"content", "sweep", "data_fingerprint", "weights_sha256", "artifacts"}
    assert record["content"] == json.loads(json.dumps(a_run().content()))
    assert [row[header.index("record")] for row in found[1:]] == [""] * (len(found) - 1)
    assert tuple(header[:10]) == COLUMNS
    assert header[10:15] == ["group", "n", "hyperparameters", "variant", "run_id"]


def test_two_sweeps_that_list_a_run_tell_of_it_alike(tmp_path: Path) -> None:
    import csv

    source = Store.open(str(tmp_path / "source.db"), create=True)
    run = a_run()
    fill(source, [(run, "done", a_history(run))])
    with export(source, tmp_path / "source.csv").open(newline="") as file:
        header, *found = csv.reader(file)
    found[-1][header.index("value")] = "0.25"
    parsed = drained(rows.read([edited(tmp_path / "edited.csv", header, found)]))
    with pytest.raises(SpecError, match="is told of otherwise in"):
        runs.resolve(parsed, lambda name: ())
