"""What a study tells beside its cells: every run of a cell, every rate, every epoch."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reference
from conftest import PostgresServer
from db.errors import NotFound, ReportError
from db.records import Provenance, Run, State
from db.store import Store
from reports.select import RULES, Key, Rule
from reports.study import RatePoint, RunScore, Study
from shelf import RUN, Made, Shelf

ENGINES = ("sqlite", "postgresql")
KEY: Key = ("tiny_vit", "digits", "sgd")


def _with(run: Run, **changes: Any) -> Run:
    return dataclasses.replace(run, **changes)


@pytest.fixture(scope="module", params=ENGINES)
def shelf(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Shelf]:
    """A store on each engine for all examples of this file."""
    if request.param == "sqlite":
        url = str(tmp_path_factory.mktemp("study") / "orch.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.fresh()
    made = Shelf(url)
    yield made
    made.store.engine.dispose()


RANDOM = settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@settings(RANDOM)
@given(study=reference.studies(), rule=st.sampled_from(RULES), partial=st.booleans())
def test_every_rate_of_every_cell(
    shelf: Shelf, study: list[Made], rule: Rule, partial: bool
) -> None:
    name, stored = shelf.fill(study)
    asked = shelf.study(name, rule, partial=partial)
    found = asked.rates("ood")

    best, (_, values) = reference.scored(stored, rule), reference.frames(stored)
    at_best = best.merge(values[values["split"] == "ood"], on=["run", "epoch"])
    wanted = reference.rates(stored, rule, partial=partial)
    assert {key for key, points in found.items() if points} == set(asked.members)
    assert sum(map(len, found.values())) == len(wanted)
    for rate in wanted.itertuples():
        points = found[str(rate.model), str(rate.dataset), str(rate.method)]
        (point,) = [p for p in points if (p.learning_rate, p.hyperparameters) == (rate.lr, rate.hp)]
        same = (at_best[[*reference.CELL, *reference.RATE]] == [*rate[1:6]]).all(axis=1)
        _same_point(point, at_best.loc[same, "value"] * 100, rate)
    for points in found.values():
        order = [(point.learning_rate, point.hyperparameters) for point in points]
        assert order == sorted(order)


def _same_point(point: RatePoint, shares: "pd.Series[float]", rate: Any) -> None:
    assert (point.seeds, point.seeds_expected) == (len(shares), rate.seeds)
    assert point.chosen == rate.chosen
    mean = None if shares.empty else pytest.approx(shares.mean(), abs=1e-9)
    assert point.mean == mean
    half = 1.645 * shares.std(ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else None
    assert point.ci90 == (None if half is None else pytest.approx(half, abs=1e-9))


@settings(RANDOM)
@given(study=reference.studies(), rule=st.sampled_from(RULES), partial=st.booleans())
def test_every_run_of_a_cell(shelf: Shelf, study: list[Made], rule: Rule, partial: bool) -> None:
    name, stored = shelf.fill(study)
    asked = shelf.study(name, rule, partial=partial)
    key = next(iter(asked.members))
    found = asked.scores(key, ["id", "ood", "id_test"])

    by_run = {made.run.id: made for made in stored if made.run.id in {s.run.id for s in found}}
    assert len(found) == len(asked.members[key]) == len(by_run)
    own = reference.scored(stored, rule).set_index("run")
    ideal = reference.scored(stored, "ood-oracle").set_index("run")
    rates = reference.rates(stored, rule, partial=partial).set_index(
        [*reference.CELL, *reference.RATE]
    )
    for one in found:
        place: Any = (*key, one.run.learning_rate, one.run.hyperparameters)
        rate = rates.loc[place]
        assert (one.competes, one.chosen) == (rate["competes"], rate["chosen"])
        _same_score(one, by_run[one.run.id], own.loc[one.run.id], ideal.loc[one.run.id])
    order = [(s.run.learning_rate, s.run.hyperparameters, s.run.seed) for s in found]
    assert order == sorted(order)


def _same_score(one: RunScore, made: Made, own: Any, ideal: Any) -> None:
    def at(epoch: int | None) -> dict[str, float]:
        if epoch is None:
            return {}
        measured = {s: listed[epoch] for s, listed in made.splits.items() if listed}
        return {s: 100 * v / 64 for s, v in measured.items() if v is not None and math.isfinite(v)}

    assert one.best_epoch == (None if pd.isna(own["epoch"]) else own["epoch"])
    assert one.score == (None if pd.isna(own["score"]) else 100 * own["score"])
    assert one.oracle_epoch == (None if pd.isna(ideal["epoch"]) else ideal["epoch"])
    assert one.epochs_stored == len(made.id) - 1
    assert one.last_epoch == (len(made.id) - 1 or None)
    assert one.values == at(one.best_epoch)
    assert one.oracle == at(one.oracle_epoch)
    assert one.last == at(one.last_epoch)


def test_curves_have_every_epoch_and_what_was_evaluated_there(shelf: Shelf) -> None:
    name, _ = shelf.put(
        [
            Made(RUN, "done", (16, 32, 48), (None, 8, 16)),
            Made(_with(RUN, seed=1), "pending", (), ()),
        ]
    )
    study = shelf.study(name)
    done, pending = (run.key for run in study.runs)

    curves = study.curves([pending, done], ["id", "ood", "nothing"])

    assert curves[pending] == []
    assert curves[done] == [
        (0, {"id": 25.0}, 1.0),
        (1, {"id": 50.0, "ood": 12.5}, 1.0),
        (2, {"id": 75.0, "ood": 25.0}, 1.0),
    ]


def test_the_choice_is_made_once_for_all_splits(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = shelf.put([Made(RUN, "done", (0, 16, 48), (0, 8, 16))])
    study = shelf.study(name)
    study.cells("ood")
    monkeypatch.setattr("reports.select.selection", None)

    (cell,) = study.cells("id").values()

    assert cell.value == 75.0
    assert study.cells("id") is study.cells("id")


def test_only_the_runs_that_match_count(shelf: Shelf) -> None:
    made = [
        Made(_with(RUN, learning_rate=1e-4), "done", (0, 10, 20), (0, 5, 6)),
        Made(_with(RUN, learning_rate=1e-3), "done", (0, 10, 30), (0, 5, 9)),
    ]
    name, _ = shelf.put(made)

    study = Study(shelf.store, name, matches=lambda stored: stored.run.learning_rate < 1e-3)

    (cell,) = study.cells("ood").values()
    assert (cell.learning_rate, cell.n, cell.expected) == (1e-4, 1, 1)


# Stores with little in them


def test_a_store_without_runs(store: Store) -> None:
    study = Study(store)

    assert study.runs == ()
    told: list[object] = [study.cells("ood"), study.members, study.rates("ood")]
    assert [*told, study.curves([], [])] == [{}, {}, {}, {}]
    assert study.miniature == frozenset()
    with pytest.raises(ReportError, match="there is no run of tiny_vit digits sgd"):
        study.scores(KEY, ["id"])
    with pytest.raises(ReportError, match="there is no run of tiny_vit digits sgd"):
        study.rates("ood", [KEY])


@pytest.mark.parametrize("state", ["failed", "pending", "running"])
def test_a_store_without_a_finished_run(shelf: Shelf, state: State) -> None:
    second_seed = Made(_with(RUN, seed=1), state, (), ())
    name, _ = shelf.put([Made(RUN, state, (0, 16), (0, 8)), second_seed])
    study = shelf.study(name)

    (cell,) = study.cells("ood").values()
    (point,) = study.rates("ood")[KEY]
    first, second = study.scores(KEY, ["id"])

    assert (cell.value, cell.n, cell.expected) == (None, 0, 2)
    assert cell.reason == f"no run is finished (2 {state})"
    assert point == RatePoint(1e-3, "{}", 0, 2, None, None, chosen=False)
    assert (first.best_epoch, first.score) == (None, None)
    assert (first.competes, first.chosen) == (False, False)
    assert second.epochs_stored == 0


def test_one_seed_has_no_interval(shelf: Shelf) -> None:
    name, _ = shelf.put([Made(RUN, "done", (0, 16, 48), (0, 8, 16))])
    study = shelf.study(name)

    (cell,) = study.cells("ood").values()
    (point,) = study.rates("ood", [KEY])[KEY]

    assert (cell.value, cell.ci90, cell.seeds, cell.edge) == (25.0, None, 1, "")
    assert point == RatePoint(1e-3, "{}", 1, 1, 25.0, None, chosen=True)


def test_an_unknown_sweep_is_answered_with_the_names_there_are(store: Store) -> None:
    for name in ("first", "second"):
        store.register(name, "name: s", [RUN], {RUN.id})

    with pytest.raises(NotFound, match='has no sweep "thrid"; it has: second, first'):
        _ = Study(store, "thrid").runs


def test_runs_that_nobody_asked_for_are_no_part_of_a_study(store: Store) -> None:
    pretrain = _with(RUN, kind="pretrain")
    store.register("s", "name: s", [pretrain, RUN], {RUN.id})

    assert [run.id for run in Study(store).runs] == [RUN.id]
    assert [run.id for run in Study(store, "s").runs] == [RUN.id]
    assert [run.id for run in Study(store, matches=lambda _: True).runs] == [RUN.id]


def test_generated_data_is_noticed(store: Store) -> None:
    store.register("s", "name: s", [RUN], {RUN.id})
    owner = store.enlist()
    (brief,) = store.briefs()
    claim = store.claim(brief.key, owner)
    assert claim is not None
    store.start(claim, [], Provenance(data_fingerprint="miniature-0123"), None)

    assert Study(store).miniature == {"digits"}
