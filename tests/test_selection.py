"""Which run and epoch stand for a cell: the SQL against a plain reference, then rule by rule."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reference
from conftest import PostgresServer
from db.errors import ReportError
from db.reading import METRICS, Reader
from db.records import CELL, CHOSEN_OVER, EpochRecord, Metric, Run, State
from db.store import Store
from orchestrator.cli import main
from reports import select
from reports.select import RULES, Cell, Key, Rule
from reports.study import Study
from shelf import RUN, Made, Measured, Shelf

ENGINES = ("sqlite", "postgresql")


def _with(run: Run, **changes: Any) -> Run:
    return dataclasses.replace(run, **changes)


@pytest.fixture(scope="module")
def sqlite_shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A store on disk for all examples of this file."""
    return Shelf(str(tmp_path_factory.mktemp("selection") / "orch.db"))


@pytest.fixture(scope="module")
def postgres_shelf(postgres: PostgresServer) -> Iterator[Shelf]:
    """The same on a server."""
    shelf = Shelf(postgres.fresh())
    yield shelf
    shelf.store.engine.dispose()


@pytest.fixture(scope="module", params=ENGINES)
def shelf(request: pytest.FixtureRequest) -> Shelf:
    """Each of them."""
    name = {"sqlite": "sqlite_shelf", "postgresql": "postgres_shelf"}[request.param]
    found = request.getfixturevalue(name)
    assert isinstance(found, Shelf)
    return found


RANDOM = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


def compare(found: Mapping[Key, Cell], wanted: Mapping[Any, Mapping[str, object]]) -> None:
    """Every cell, field by field; one without a value says why."""
    assert found.keys() == wanted.keys()
    for key, cell in found.items():
        assert (cell.model, cell.dataset, cell.method) == key
        assert {name: getattr(cell, name) for name in wanted[key]} == wanted[key]
        assert bool(cell.reason) == (cell.value is None)


SPLITS = ("ood", "id", "id_test")


@pytest.mark.parametrize("rule", RULES)
@settings(RANDOM, max_examples=20)
@given(study=reference.studies(), partial=st.booleans())
def test_selection_is_the_protocols(
    shelf: Shelf, rule: Rule, study: list[Made], partial: bool
) -> None:
    name, stored = shelf.fill(study)
    asked = shelf.study(name, rule, partial=partial)

    for split, wanted in reference.cells(stored, SPLITS, rule, partial=partial).items():
        compare(asked.cells(split), wanted)


def choice(cells: Mapping[Key, Cell]) -> dict[Key, object]:
    """What was chosen, without the values that are shown for it."""
    return {
        key: (cell.runs, cell.epochs, cell.score, cell.edge, cell.n, cell.rates)
        for key, cell in cells.items()
    }


@settings(RANDOM, max_examples=15)
@given(study=reference.studies())
def test_nothing_but_id_chooses(shelf: Shelf, study: list[Made]) -> None:
    name, _ = shelf.fill(study)
    rules: tuple[Rule, ...] = ("id_val", "last")
    before = {rule: choice(shelf.study(name, rule).cells("ood")) for rule in rules}
    keys = [brief.key for brief in shelf.store.briefs(name)]
    others = (METRICS.c.split != "id") | (METRICS.c.group != "")
    with shelf.store.write() as connection:
        connection.execute(sa.delete(METRICS).where(METRICS.c.run_key.in_(keys), others))

    for rule, chosen in before.items():
        cells = shelf.study(name, rule).cells("ood")
        assert choice(cells) == chosen
        assert all(cell.value is None and cell.reason for cell in cells.values())


@pytest.mark.parametrize(
    ("rule", "split"),
    [("id_val", "id"), ("last", "id"), ("ood-oracle", "ood"), ("id_test", "id_test")],
)
@pytest.mark.parametrize("partial", [False, True])
def test_a_choice_is_asked_of_one_split_alone(
    shelf: Shelf, rule: Rule, split: str, partial: bool
) -> None:
    asked: list[Any] = []

    def note(_: object, __: object, statement: str, values: Any, *___: object) -> None:
        if statement != "BEGIN":
            asked.append(values)
            assert statement.count("FROM metrics") + statement.count("JOIN metrics") == 1
            assert statement.count("metrics.split") == 1

    statement = select.selection([], rule, partial=partial)
    sa.event.listen(shelf.store.engine, "before_cursor_execute", note)
    try:
        with shelf.store.read() as connection:
            connection.execute(statement)
    finally:
        sa.event.remove(shelf.store.engine, "before_cursor_execute", note)

    (values,) = asked
    bound = values.values() if isinstance(values, dict) else values
    assert {"id", "ood", "id_test"} & {v for v in bound if isinstance(v, str)} == {split}


# The rules one by one


def test_the_first_of_equal_epochs_and_never_the_one_before_training(shelf: Shelf) -> None:
    made = Made(_with(RUN, epochs=3), "done", (60, 32, 48, 48), (1, 2, 3, 4))

    (cell,) = shelf.cells(shelf.put([made])[0]).values()

    assert cell.value == 100 * 3 / 64
    assert (cell.n, cell.expected, cell.edge, cell.ci90) == (1, 1, "", None)


def rates(shelf: Shelf, scores: dict[float, int | None]) -> Cell:
    """The cell of one run a rate, with these `id` scores; None for a run that is pending."""
    made = [
        Made(
            _with(RUN, learning_rate=rate),
            "pending" if score is None else "done",
            (0, 0, score or 0),
            (0, 0, 7),
        )
        for rate, score in scores.items()
    ]
    (cell,) = shelf.cells(shelf.put(made)[0]).values()
    return cell


@pytest.mark.parametrize(
    ("scores", "rate", "edge"),
    [
        ({1e-4: 10, 1e-3: 20, 1e-2: 10}, 1e-3, ""),
        ({1e-4: 20, 1e-3: 20, 1e-2: 20}, 1e-4, "low"),
        ({1e-2: 20, 1e-3: 20, 1e-4: 10}, 1e-3, ""),
        ({1e-4: 10, 1e-3: 20, 1e-2: 30}, 1e-2, "high"),
        ({1e-4: 10, 1e-3: 20, 1e-2: None}, 1e-3, ""),
        ({1e-4: None, 1e-3: None}, None, ""),
        ({1e-3: 5}, 1e-3, ""),
    ],
)
def test_the_best_rate_and_whether_it_ends_the_list(
    shelf: Shelf, scores: dict[float, int | None], rate: float | None, edge: str
) -> None:
    cell = rates(shelf, scores)

    assert (cell.learning_rate, cell.edge) == (rate, edge)
    assert cell.partial == (None in scores.values())


def test_equal_counts_are_a_tie_though_their_sums_differ_in_the_last_bit(shelf: Shelf) -> None:
    scores = {1e-4: (400, 402, 416), 1e-3: (406, 406, 406)}  # of 449 images; both make 1,218
    lower, upper = (sum(k / 449 for k in counts) / 3 for counts in scores.values())
    assert lower < upper
    name, stored = shelf.put(
        [
            Made(_with(RUN, epochs=1, learning_rate=rate, seed=seed), "pending", (), ())
            for rate, counts in scores.items()
            for seed in range(len(counts))
        ]
    )
    for run in shelf.store.runs(name):
        claim = shelf.store.claim(run.key, shelf.owner)
        assert claim is not None
        count = scores[run.run.learning_rate][run.run.seed]
        metric = Metric("id", "", "accuracy", count / 449, count, 449)
        shelf.store.finish(
            claim, [EpochRecord(epoch, 1.0, 0.5, 0.0, (metric,)) for epoch in (0, 1)]
        )

    (cell,) = shelf.cells(name, "id").values()

    assert (cell.learning_rate, cell.edge) == (1e-4, "low")
    assert len(stored) == cell.n == 6


def test_a_rate_that_lacks_a_seed_is_not_chosen(shelf: Shelf) -> None:
    low, high = 1e-4, 1e-3
    made = [
        Made(_with(RUN, learning_rate=low, seed=0), "done", (0, 1, 1), (0, 8, 8)),
        Made(_with(RUN, learning_rate=low, seed=1), "done", (0, 1, 1), (0, 16, 8)),
        Made(_with(RUN, learning_rate=high, seed=0), "done", (0, 64, 64), (0, 64, 64)),
        Made(_with(RUN, learning_rate=high, seed=1), "failed", (0, 64), (0, 64)),
    ]

    (cell,) = shelf.cells(shelf.put(made)[0]).values()

    assert (cell.learning_rate, cell.n, cell.expected) == (low, 3, 4)
    assert cell.value == 100 * 12 / 64
    assert cell.ci90 == pytest.approx(1.645 * (12.5 / math.sqrt(2)) / math.sqrt(2))


def test_a_diverged_run_competes_with_the_epochs_before(shelf: Shelf) -> None:
    made = [
        Made(_with(RUN, learning_rate=1e-4), "done", (0, 10, 20), (0, 5, 6)),
        Made(_with(RUN, learning_rate=1e-3), "diverged", (0, 30), (0, 9)),
        Made(_with(RUN, learning_rate=1e-2), "diverged", (64,), (64,)),
    ]

    (cell,) = shelf.cells(shelf.put(made)[0]).values()

    assert (cell.learning_rate, cell.diverged, cell.n, cell.partial) == (1e-3, True, 3, False)
    assert cell.value == 100 * 9 / 64


def test_a_diverged_run_that_is_not_chosen_is_not_flagged(shelf: Shelf) -> None:
    made = [
        Made(_with(RUN, learning_rate=1e-4), "done", (0, 10, 20), (0, 5, 6)),
        Made(_with(RUN, learning_rate=1e-3), "diverged", (0, 20), (0, 9)),
    ]

    (cell,) = shelf.cells(shelf.put(made)[0]).values()

    assert (cell.learning_rate, cell.diverged) == (1e-4, False)


LOW, HIGH = (("lambda", 0.1),), (("lambda", 1.0),)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({(1e-4, LOW): 10, (1e-4, HIGH): 30, (1e-3, LOW): 20, (1e-3, HIGH): 20}, (1e-4, 1.0)),
        ({(1e-4, LOW): 10, (1e-4, HIGH): 30, (1e-3, LOW): 30, (1e-3, HIGH): 20}, (1e-4, 1.0)),
        ({(1e-4, LOW): 30, (1e-4, HIGH): 30, (1e-3, LOW): 30, (1e-3, HIGH): 30}, (1e-4, 0.1)),
    ],
)
def test_tuned_values_are_chosen_with_the_rate(
    shelf: Shelf, scores: dict[tuple[float, Any], int], chosen: tuple[float, float]
) -> None:
    made = [
        Made(
            _with(RUN, epochs=1, learning_rate=rate, hyperparameters=tuned),
            "done",
            (0, score),
            (0, 7),
        )
        for (rate, tuned), score in scores.items()
    ]

    (cell,) = shelf.cells(shelf.put(made)[0]).values()

    assert (cell.learning_rate, cell.hyperparameters) == (chosen[0], f'{{"lambda":{chosen[1]}}}')
    assert (cell.rates, cell.rates_expected, cell.seeds, cell.seeds_expected) == (4, 4, 1, 1)
    assert cell.edge == "low"


def test_a_sweep_may_have_the_last_epoch_stand(shelf: Shelf) -> None:
    """Of the cells that it names, whatever the other cells go by."""
    best = {"epochs": 3, "learning_rate": 1e-4}
    made = [
        Made(_with(RUN, **best), "done", (0, 40, 8, 20), (0, 1, 9, 3)),
        Made(_with(RUN, epochs=3), "done", (0, 30, 8, 25), (0, 4, 5, 6)),
        Made(_with(RUN, **best, method="adamw"), "done", (0, 40, 8, 20), (0, 1, 9, 3)),
    ]
    name, stored = shelf.put(made)
    runs = [one.run for one in stored]
    cell = (RUN.model, RUN.dataset, "sgd")
    shelf.store.register(name, "name: s", runs, {run.id for run in runs}, last={cell})

    for found in (shelf.study(name, "id_val").cells("ood"), shelf.cells(name)):
        by_last, by_best = found[cell], found[RUN.model, RUN.dataset, "adamw"]
        assert (by_last.rule, by_last.epochs, by_last.learning_rate) == ("last", (3,), 1e-3)
        assert by_last.value == 100 * 6 / 64
        assert (by_best.rule, by_best.epochs) == ("id_val", (1,))
    assert shelf.study(name, "ood-oracle").cells("ood")[cell].epochs == (2,)
    shelf.store.register(name, "name: s", runs, {run.id for run in runs})
    assert shelf.cells(name)[cell].epochs == (1,)


def test_runs_of_one_cell_compete_by_one_rule_though_two_sweeps_ask_for_them(
    shelf: Shelf,
) -> None:
    made = [
        Made(_with(RUN, epochs=3, learning_rate=1e-4), "done", (0, 40, 8, 20), (0, 1, 9, 3)),
        Made(_with(RUN, epochs=3, learning_rate=1e-3), "done", (0, 30, 8, 25), (0, 4, 5, 6)),
    ]
    _, stored = shelf.put(made)
    last = stored[1].run
    cell = (RUN.model, RUN.dataset, RUN.method)
    shelf.store.register("others", "name: s", [last], {last.id}, last={cell})
    both = {one.run.id for one in stored}
    study = Study(shelf.store, matches=lambda found: found.run.id in both)

    (found,) = study.cells("ood").values()

    assert (found.rule, found.learning_rate, found.epochs) == ("last", 1e-3, (3,))
    assert [score.best_epoch for score in study.scores(cell, ["ood"])] == [3, 3]


def test_each_rule_reads_its_own_epoch_and_rate(shelf: Shelf) -> None:
    low, high = (_with(RUN, epochs=3, learning_rate=rate) for rate in (1e-4, 1e-3))
    ood = {1e-4: (0, 1, 9, 3), 1e-3: (0, 4, 5, 6)}
    made = [
        Made(low, "done", (0, 40, 8, 20), ood[1e-4], (0, 2, None, 3)),
        Made(high, "done", (0, 30, 8, 25), ood[1e-3], (0, 2, None, 1)),
    ]
    name, _ = shelf.put(made)

    def chosen(rule: Rule) -> tuple[object, ...]:
        (cell,) = shelf.study(name, rule).cells("ood").values()
        assert cell.rule == rule
        assert cell.value == 100 * ood[cell.learning_rate or 0][cell.epochs[0]] / 64
        return cell.learning_rate, cell.epochs[0], round(64 * (cell.score or 0) / 100)

    assert chosen("id_val") == (1e-4, 1, 40)
    assert chosen("last") == (1e-3, 3, 25)
    assert chosen("ood-oracle") == (1e-4, 2, 9)
    assert chosen("id_test") == (1e-4, 3, 3)


def test_a_rate_that_lacks_seeds_is_chosen_where_that_is_asked_for_and_says_so(
    shelf: Shelf,
) -> None:
    made = [
        Made(_with(RUN, learning_rate=1e-4, seed=0), "done", (0, 1, 1), (0, 8, 8)),
        Made(_with(RUN, learning_rate=1e-4, seed=1), "done", (0, 1, 1), (0, 16, 8)),
        Made(_with(RUN, learning_rate=1e-3, seed=0), "done", (0, 64, 64), (0, 32, 64)),
        Made(_with(RUN, learning_rate=1e-3, seed=1), "failed", (0, 64), (0, 64)),
        Made(_with(RUN, learning_rate=1e-2, seed=0), "pending", (), ()),
        Made(_with(RUN, learning_rate=1e-2, seed=1), "pending", (), ()),
    ]
    name, _ = shelf.put(made)

    (cell,) = shelf.study(name, partial=True).cells("ood").values()

    assert (cell.learning_rate, cell.value, cell.values) == (1e-3, 50.0, (50.0,))
    assert (cell.seeds, cell.seeds_expected, cell.rates, cell.rates_expected) == (1, 2, 2, 3)
    assert cell.partial


@pytest.mark.parametrize(
    ("state", "ood", "rule", "reason"),
    [
        ("failed", (0, 1), "id_val", "no run is finished (1 failed)"),
        ("pending", (), "id_val", "no run is finished (1 pending)"),
        ("done", (0, 1, 2), "id_test", "no finished run has a value of the split id_test"),
        ("done", (0, None, None), "ood-oracle", "no finished run has a value of the split ood"),
        ("done", (0, 1, None), "id_val", "the split ood has no value at a chosen epoch"),
    ],
)
def test_a_cell_without_a_value_says_why(
    shelf: Shelf, state: State, ood: Measured, rule: Rule, reason: str
) -> None:
    ids = tuple(range(len(ood)))
    name, _ = shelf.put([Made(RUN, state, ids, ood)])

    (cell,) = shelf.study(name, rule).cells("ood").values()

    assert (cell.value, cell.values, cell.reason) == (None, (), reason)


def test_a_cell_whose_rates_all_lack_a_seed_says_so(shelf: Shelf) -> None:
    made = [
        Made(_with(RUN, seed=0), "done", (0, 1, 1), (0, 8, 8)),
        Made(_with(RUN, seed=1), "failed", (0,), (0,)),
    ]

    (cell,) = shelf.cells(shelf.put(made)[0]).values()

    assert cell.reason == "no rate has a score from every seed"
    assert (cell.rates, cell.rates_expected, cell.seeds_expected, cell.n) == (0, 1, 2, 1)


def test_no_runs_are_no_cells(shelf: Shelf) -> None:
    assert select.cells(shelf.store, [], "ood") == {}


def test_only_the_runs_that_are_asked_about_count(shelf: Shelf) -> None:
    made = [
        Made(_with(RUN, learning_rate=1e-4), "done", (0, 10, 20), (0, 5, 6)),
        Made(_with(RUN, learning_rate=1e-3), "done", (0, 10, 30), (0, 5, 9)),
    ]
    name, _ = shelf.put(made)
    runs = [r for r in shelf.store.briefs(name) if r.learning_rate == 1e-4]

    (cell,) = select.cells(shelf.store, runs, "ood").values()

    assert (cell.learning_rate, cell.n, cell.expected) == (1e-4, 1, 1)


# Variants

PROBE = _with(RUN, kind="linear_probe", method="linear_probe")
OTHER: dict[str, Any] = {
    "kind": "pretrain",
    "epochs": 3,
    "batch_size": 64,
    "micro_batch": 8,
    "weight_decay": 0.01,
    "schedule": "cosine_per_epoch",
    "clip_norm": 1.0,
    "weights": "random",
    "precision": "bf16",
    "threads": 2,
    "evaluate": ("id",),
    "evaluate_on_improvement": ("painting",),
    "images_per_split": 4,
    "source": "import:paper",
    "sup_vit_normalization": "imagenet",
    "waterbirds_selection": "test",
    "resize": "square",
    "low_lr_proj": "fixed",
    "l2_sp": "authors",
    "method_code": "0123456789abcdef",
    "head": f"probe:{PROBE.id}/{PROBE.variant}",
    "kind_version": 2,
    "model_version": 2,
    "dataset_version": 2,
    "method_version": 2,
}


def test_every_field_that_is_not_chosen_over_makes_a_variant() -> None:
    assert OTHER.keys() == set(Run.__dataclass_fields__) - {*CELL, *CHOSEN_OVER}


def register(store: Store, *runs: Run) -> None:
    """A sweep of these runs, all pending."""
    store.register("s", "name: s", runs, {run.id for run in runs})


@pytest.mark.parametrize("field", OTHER)
def test_two_variants_in_a_cell_are_refused_by_the_name_of_the_field(
    store: Store, field: str
) -> None:
    register(store, RUN, PROBE, _with(RUN, **{field: OTHER[field]}))

    with pytest.raises(ReportError, match="2 variants") as caught:
        select.cells(store, store.briefs(), "ood")

    message = str(caught.value)
    assert "tiny_vit digits sgd" in message
    assert f"differ in {field}: " in message
    assert f"--where {field}=" in message
    for name in OTHER.keys() - {field}:
        assert f"{name}: " not in message


def test_variants_in_different_cells_are_no_mixture(store: Store) -> None:
    register(store, RUN, _with(RUN, method="adamw", weight_decay=0.01, batch_size=64))

    assert len(select.cells(store, store.briefs(), "ood")) == 2


def test_rates_and_seeds_are_no_variants(store: Store) -> None:
    register(store, RUN, _with(RUN, seed=1), _with(RUN, learning_rate=1e-2))

    assert len(select.cells(store, store.briefs(), "ood")) == 1


def test_the_report_names_two_variants_and_where_chooses_one(store: Store, store_url: str) -> None:
    register(store, RUN, _with(RUN, batch_size=64))
    report = ["--store", store_url, "report", "--table", "id"]

    both = CliRunner().invoke(main, report)
    one = CliRunner().invoke(main, [*report, "--where", "batch_size=64"])

    assert both.exit_code == 2
    assert "batch_size: 32 / 64" in both.output
    assert "Traceback" not in both.output
    assert one.exit_code == 0, one.output
    assert "(0/1)" in one.output


def test_reading_is_enough_to_select(shelf: Shelf) -> None:
    name, stored = shelf.put([Made(RUN, "done", (0, 16, 16), (0, 16, 32))])
    reader = Reader.open(shelf.url)

    compare(
        select.cells(reader, reader.briefs(name), "ood"),
        reference.cells(stored, ["ood"], "id_val", partial=False)["ood"],
    )
    reader.engine.dispose()
