"""Which run and epoch stand for a cell: the window functions against a plain reference.

Every value is a multiple of 1/64, so that sums are exact in any order and ties are real ties.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import PostgresServer
from db.errors import ReportError
from db.reading import Reader
from db.records import CELL, CHOSEN_OVER, EpochRecord, Metric, Provenance, Run, State
from db.store import Store
from orchestrator.cli import main
from reports import select
from reports.select import Cell, Key

ENGINES = ("sqlite", "postgresql")
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
GRID = (0, 16, 32, 48)  # of 64: few values, many ties
RUN = Run(
    kind="finetune",
    model="tiny_vit",
    dataset="digits",
    method="sgd",
    learning_rate=1e-3,
    seed=0,
    epochs=2,
    batch_size=32,
    micro_batch=16,
    weight_decay=0.0,
    schedule="cosine_per_step",
    clip_norm=None,
    weights="pretrained",
    precision="fp32",
    threads=1,
    evaluate=("id", "ood"),
)


@dataclass(frozen=True)
class Made:
    """A run to store: where it got to, and the `id` and `ood` values of its epochs in 64ths."""

    run: Run
    state: State
    id: tuple[int, ...]
    ood: tuple[int, ...]

    def history(self) -> list[EpochRecord]:
        """Its epochs, with values of groups and of a third split that must decide nothing."""
        return [
            EpochRecord(
                epoch,
                train_loss=1.0,
                train_accuracy=0.5,
                learning_rate=self.run.learning_rate,
                metrics=(
                    Metric("id", "", "accuracy", one / 64, one, 64),
                    Metric("id", "land", "accuracy", 1.0 - one / 64, None, None),
                    Metric("ood", "", "worst_group_accuracy", other / 64, None, None),
                    Metric("ood", "land", "accuracy", 1.0 - other / 64, None, None),
                    Metric("id_test", "", "accuracy", 1.0 - one / 64, None, None),
                ),
            )
            for epoch, (one, other) in enumerate(zip(self.id, self.ood, strict=True))
        ]


class Shelf:
    """One store for many examples: each is a sweep of its own, told apart by `threads`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = Store.open(url, create=True)
        self.owner = self.store.enlist()
        self.examples = itertools.count(2)

    def put(self, made: Sequence[Made]) -> tuple[str, list[Made]]:
        """Store runs as a new sweep; returns its name and the runs as they were stored."""
        number = next(self.examples)
        stored = [dataclasses.replace(m, run=_with(m.run, threads=number)) for m in made]
        name = f"example{number}"
        runs = [m.run for m in stored]
        self.store.register(name, "name: s", runs, {run.id for run in runs})
        keys = {s.id: s.key for s in self.store.runs(name)}
        for one in stored:
            self._train(one, keys[one.run.id])
        return name, stored

    def _train(self, made: Made, key: int) -> None:
        if made.state == "pending":
            return
        claim = self.store.claim(key, self.owner)
        assert claim is not None
        history = made.history()
        self.store.start(claim, history[:1], Provenance(), None)
        for record in history[1:2]:
            self.store.epoch(claim, record)
        if made.state == "done":
            self.store.finish(claim, history)
        elif made.state == "diverged":
            self.store.diverge(claim, history, "the loss is nan")
        elif made.state == "failed":
            self.store.fail(claim, "OSError: no such file", "Traceback …")

    def cells(self, name: str, split: str = "ood") -> dict[Key, Cell]:
        """The cells of a sweep."""
        return select.cells(self.store, self.store.briefs(name), split)


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


# The reference: PROTOCOL section 4, in exact fractions


def best_epoch(made: Made) -> int | None:
    """The first of a final run's best epochs by `id`; epoch 0 never counts."""
    if made.state not in ("done", "diverged") or len(made.id) < 2:
        return None
    return 1 + made.id[1:].index(max(made.id[1:]))


def mean(values: Sequence[Fraction]) -> Fraction:
    """Exact."""
    return sum(values, Fraction()) / len(values)


def best_rate(members: Sequence[Made]) -> list[Made] | None:
    """The runs, one a seed, of the rate with the best mean score, the smallest of equals."""
    best: tuple[Fraction, list[Made]] | None = None
    for rate in sorted({m.run.learning_rate for m in members}):
        seeds = [m for m in members if m.run.learning_rate == rate]
        if any(best_epoch(m) is None for m in seeds):
            continue
        score = mean([Fraction(max(m.id[1:]), 64) for m in seeds])
        if best is None or score > best[0]:
            best = score, sorted(seeds, key=lambda m: m.run.seed)
    return best[1] if best else None


def interval(values: Sequence[Fraction]) -> float | None:
    """1.645 · s / √n, with n − 1 in s."""
    if len(values) < 2:
        return None
    middle = mean(values)
    variance = sum((v - middle) ** 2 for v in values) / (len(values) - 1)
    return 1.645 * math.sqrt(variance) / math.sqrt(len(values))


def expected_cell(members: Sequence[Made], split: Literal["id", "ood"]) -> dict[str, object]:
    """The fields of a cell, by the protocol's words."""
    rates = sorted({m.run.learning_rate for m in members})
    cell: dict[str, object] = {
        "n": sum(m.state in ("done", "diverged") for m in members),
        "expected": len(members),
        "value": None,
        "ci90": None,
        "learning_rate": None,
        "edge": "",
        "diverged": False,
        "runs": (),
    }
    chosen = best_rate(members)
    if chosen is None:
        return cell
    values = [
        Fraction(100 * (m.id if split == "id" else m.ood)[best_epoch(m) or 0], 64) for m in chosen
    ]
    rate, width = chosen[0].run.learning_rate, interval(values)
    edge = "" if len(rates) == 1 else "low" if rate == rates[0] else ""
    return cell | {
        "value": pytest.approx(float(mean(values)), abs=1e-9),
        "ci90": None if width is None else pytest.approx(width, abs=1e-9),
        "learning_rate": rate,
        "edge": "high" if len(rates) > 1 and rate == rates[-1] else edge,
        "diverged": any(m.state == "diverged" for m in chosen),
        "runs": tuple(m.run.id for m in chosen),
    }


def compare(found: dict[Key, Cell], stored: Sequence[Made], split: Literal["id", "ood"]) -> None:
    """Every cell, field by field."""
    members: dict[Key, list[Made]] = {}
    for made in stored:
        members.setdefault((made.run.model, made.run.dataset, made.run.method), []).append(made)
    assert found.keys() == members.keys()
    for key, cell in found.items():
        wanted = expected_cell(members[key], split)
        assert {name: getattr(cell, name) for name in wanted} == wanted
        assert (cell.model, cell.dataset, cell.method) == key
        if cell.value is not None:
            assert cell.metric == {"id": "accuracy", "ood": "worst_group_accuracy"}[split]


# Random stores

STATES: tuple[State, ...] = ("done",) * 6 + ("diverged", "diverged", "failed", "pending", "running")


@st.composite
def studies(draw: st.DrawFn) -> list[Made]:
    """One to four cells, each with one to four rates, one to three seeds and few epochs."""
    axes = itertools.product(("tiny_vit", "tiny_bit"), ("digits", "fmow"), ("sgd", "adamw"))
    cells = draw(st.lists(st.sampled_from(list(axes)), min_size=1, max_size=4, unique=True))
    states = draw(st.sampled_from([STATES, STATES[:8], STATES[:1]]))
    made = []
    for model, dataset, method in cells:
        epochs = draw(st.integers(1, 3))
        rates = draw(st.lists(st.sampled_from(RATES), min_size=1, max_size=4, unique=True))
        most = draw(st.integers(1, 3))
        for rate in rates:
            few = draw(st.sampled_from([most, most, most, 1]))  # a rate may ask for fewer seeds
            for seed in range(few):
                state = draw(st.sampled_from(states))
                # A run that diverged in its first epoch has only the evaluation before training.
                reached = epochs if state == "done" else draw(st.integers(0, epochs))
                size = reached + 1
                values = st.lists(st.sampled_from(GRID), min_size=size, max_size=size).map(tuple)
                cell = {"model": model, "dataset": dataset, "method": method, "epochs": epochs}
                run = _with(RUN, **cell, learning_rate=rate, seed=seed)
                made.append(Made(run, state, draw(values), draw(values)))
    return draw(st.permutations(made))


RANDOM = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


@settings(RANDOM, max_examples=40)
@given(study=studies())
def test_selection_is_the_protocols(shelf: Shelf, study: list[Made]) -> None:
    name, stored = shelf.put(study)

    compare(shelf.cells(name, "ood"), stored, "ood")
    compare(shelf.cells(name, "id"), stored, "id")


@settings(RANDOM, max_examples=12)
@given(study=studies(), data=st.data())
def test_nothing_but_id_chooses(shelf: Shelf, study: list[Made], data: st.DataObject) -> None:
    """The same `id` values with any other `ood` values choose the same rates and runs."""

    def other(made: Made) -> Made:
        size = len(made.ood)
        values = data.draw(st.lists(st.sampled_from(GRID), min_size=size, max_size=size))
        return dataclasses.replace(made, ood=tuple(values))

    def choice(name: str) -> dict[Key, object]:
        by_id = {stored.id: stored.run for stored in shelf.store.runs(name)}
        return {
            key: (cell.learning_rate, cell.edge, cell.n, [by_id[i].seed for i in cell.runs])
            for key, cell in shelf.cells(name).items()
        }

    once, again = shelf.put(study)[0], shelf.put([other(made) for made in study])[0]

    assert choice(once) == choice(again)


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
    register(store, RUN, _with(RUN, **{field: OTHER[field]}))

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

    compare(select.cells(reader, reader.briefs(name), "ood"), stored, "ood")
    reader.engine.dispose()
