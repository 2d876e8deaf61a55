"""The linear probe: its features, its path, its head, and that no interruption changes any."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

import worker
from conftest import a_run
from db.errors import MissingInputs, SpecError
from db.records import HEAD_NAME, EpochRecord, Run
from worker.checkpoint import Checkpoints
from worker.data import DATASETS
from worker.data.images import load, load_for
from worker.determinism import generator, settle
from worker.features import SHARED, TRAIN, Extraction, features
from worker.head import Floats, Head, layer_of, start, width_of
from worker.kept import best_epoch
from worker.kinds import NO_RATE, PATH_STEPS, PROBE_BATCH
from worker.models import MODELS
from worker.models.weights import build, new_model
from worker.regression import PATH, Abandoned, Regression, Scale, Solution

NEVER = 10**9
Labels = NDArray[np.int64]


def probe(model: str = "toy", dataset: str = "toy", **changes: object) -> Run:
    """A probe's run, as sweeps plan it."""
    values: dict[str, object] = {
        "kind": "linear_probe", "method": "linear_probe", "model": model, "dataset": dataset,
        "learning_rate": NO_RATE, "epochs": PATH_STEPS, "batch_size": PROBE_BATCH,
        "micro_batch": PROBE_BATCH, "schedule": "none",
    }  # fmt: skip
    return a_run(**{**values, **changes})


def events(run: Run, runs: Path, data: Path = Path("unused"), **surroundings: Any) -> list[Any]:
    """What an attempt says."""
    return [*worker.run(run, worker.Context(data=data, runs=runs, **surroundings))]


def finished(run: Run, runs: Path, data: Path = Path("unused"), **more: Any) -> worker.Finished:
    """The end of an attempt that is done."""
    end = events(run, runs, data, **more)[-1]
    assert isinstance(end, worker.Finished), end
    return end


# Features


@pytest.mark.parametrize("name", [name for name, m in MODELS.items() if m.published or m.recipe])
def test_every_model_has_a_linear_head(name: str) -> None:
    with torch.device("meta"):
        model = new_model(MODELS[name], 10)
    head = layer_of(model, MODELS[name])
    named = {id(p): n for n, p in model.named_parameters()}
    assert head.weight.shape[:2] == (10, width_of(head))
    assert all(named[id(p)].startswith(MODELS[name].head) for p in head.parameters())


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_bit", "clip_vit_b16", "convnext_b_in22k"])
def test_features_are_what_enters_the_head(name: str) -> None:
    """One model of each family: its logits are the head's on the features, and nothing else."""
    entry = MODELS[name]
    model = new_model(entry, 3).eval()
    side = 64 if entry.family == "convnext" else entry.image_size  # convolutions take any
    images = torch.rand(2, 3, side, side)
    head = layer_of(model, entry)
    found = features(model, head, images)
    assert found.shape == (2, width_of(head))
    assert found.dtype == torch.float32
    with torch.inference_mode():
        expected = model(images)
        logits = found @ head.weight.flatten(1).T + head.bias
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert not head._forward_pre_hooks


def test_a_head_of_several_layers_is_refused() -> None:
    entry = dataclasses.replace(MODELS["toy"], head=("embedding.", "head."))
    with pytest.raises(SpecError, match="not one linear layer"):
        layer_of(new_model(entry, 2), entry)


def extraction(run: Run, runs: Path, data: Path, weights: str = "ab") -> Extraction:
    context = worker.Context(data=data, runs=runs)
    model = new_model(MODELS[run.model], 2)
    return Extraction(run, context, model, MODELS[run.model], load_for(run, data), weights, 64)


def test_features_are_shared_by_all_that_would_compute_the_same(mini: Path, tmp_path: Path) -> None:
    """The seed decides augmentation, and random weights; not what a split looks like."""

    def keys(dataset: str, weights: str, **changes: object) -> dict[str, str]:
        made = extraction(probe("tiny_vit", dataset, **changes), tmp_path, mini, weights)
        return {name: made.key(name) for name in made.sets}

    augmented, plain = "mini_fmow", "mini_waterbirds"
    one, two = keys(augmented, "ab"), keys(augmented, "ab", seed=1)
    assert [name for name in one if one[name] != two[name]] == [TRAIN]
    assert keys(plain, "ab") == keys(plain, "ab", seed=1)
    assert keys(plain, "ab").items() >= keys(plain, "ab", evaluate=("id",)).items()
    for changes in ({"precision": "bf16"}, {"threads": 2}, {"images_per_split": 8}):
        assert not set(keys(plain, "ab", **changes).values()) & set(keys(plain, "ab").values())
    for other in (keys(plain, "cd"), keys(plain, ""), keys(augmented, "ab")):
        assert not set(other.values()) & set(keys(plain, "ab").values())
    assert not set(keys(plain, "").values()) & set(keys(plain, "", seed=1).values())


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from worker.data.mini import BENCHMARKS

    folder = tmp_path_factory.mktemp("data")
    for name in ("waterbirds", "fmow"):
        BENCHMARKS[name](folder / "mini", seed=0, train=128, val=64, test=64, size=32)
    return folder


# The path


def looked_at(run: Run, data: Path) -> dict[str, Floats]:
    """The features of each set by timm's own means: what its networks say before their head."""
    loaded = load_for(run, data)
    settle(run.seed, run.threads)
    built = build(run, DATASETS[run.dataset].classes, Path("unused"))
    network: Any = built.model.eval().get_submodule("network")

    def seen(pixels: torch.Tensor) -> Floats:
        with torch.inference_mode():
            maps = network.forward_features((pixels - 0.5) / 0.5)
            rows: Floats = network.forward_head(maps, pre_logits=True).flatten(1).numpy()
        return rows

    augmented = loaded.train.epoch(generator(run.seed, 1, "augment"))
    splits = {name: seen(s.batch(torch.arange(len(s)))) for name, s in loaded.splits.items()}
    return {TRAIN: seen(augmented(torch.arange(len(loaded.train)))), **splits}


def by_hand(
    rows: dict[str, Floats], labels: dict[str, Labels]
) -> Iterator[tuple[LogisticRegression, dict[str, np.ndarray]]]:
    """PROTOCOL section 3 in its own words: of each C the regression, and each set as it sees it."""
    mean, std = rows[TRAIN].mean(dtype=np.float64), rows[TRAIN].std(dtype=np.float64)
    scaled = {name: (some.astype(np.float64) - mean) / std for name, some in rows.items()}
    regression = LogisticRegression(warm_start=True, max_iter=200)
    for c in np.logspace(-7, 2, 50):
        regression.C = c
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            regression.fit(scaled[TRAIN], labels[TRAIN])
        yield regression, scaled


@pytest.mark.parametrize(
    ("model", "dataset", "limit"),
    [
        ("tiny_vit", "digits", 200),
        ("tiny_bit", "digits", 12),  # three of the ten classes are absent from training
        ("tiny_bit", "mini_waterbirds", 128),
        ("tiny_vit", "mini_fmow", 128),  # its training images are mirrored by chance
    ],
)
def test_the_path_is_scikit_learns(
    model: str, dataset: str, limit: int, mini: Path, tmp_path: Path
) -> None:
    """Every C's numbers, and the chosen head, as a loop comes to them that shares no code."""
    run = probe(model, dataset, images_per_split=limit, seed=3)
    end = finished(run, tmp_path, mini)
    assert [r.epoch for r in end.history] == [*range(51)]
    assert [r.learning_rate for r in end.history] == [0.0, *np.logspace(-7, 2, 50)]
    loaded, made = load_for(run, mini), extraction(run, tmp_path, mini, "")
    sets = {TRAIN: loaded.train, **loaded.splits}
    labels = {name: images.labels.numpy() for name, images in sets.items()}
    rows = {name: made.find(name).rows for name in made.sets}  # type: ignore[union-attr]
    expected = looked_at(run, mini)
    for name in rows:
        np.testing.assert_allclose(rows[name], expected[name], rtol=1e-4, atol=1e-5)

    best = best_epoch(end.history)
    head = Head.from_state(load_file(tmp_path / run.id / HEAD_NAME))
    shares = np.bincount(loaded.train.groups)
    for record, (regression, scaled) in zip(end.history[1:], by_hand(rows, labels), strict=True):
        present = regression.classes_
        chances = regression.predict_log_proba(scaled[TRAIN])
        own = chances[range(len(chances)), np.searchsorted(present, labels[TRAIN])]
        if len(present) == len(head.bias):  # absent classes have a chance in the loss of a head
            assert record.train_loss == pytest.approx(-own.mean(), rel=1e-4)
        hits = (regression.predict(scaled[TRAIN]) == labels[TRAIN]).mean()
        assert record.train_accuracy == pytest.approx(hits, abs=1.1 / limit)
        for split in ("id", "ood"):
            right = regression.predict(scaled[split]) == labels[split]
            if dataset == "mini_waterbirds":
                groups = sets[split].groups.numpy()
                each = np.array([right[groups == group].mean() for group in range(4)])
                wanted = np.average(each, weights=shares) if split == "id" else each.min()
            else:
                wanted = right.mean()
            assert record.headline(split) == pytest.approx(wanted, abs=1e-6)
        if record.epoch == best:
            found = torch.log_softmax(head.logits(rows["id"])[:, present], dim=1).numpy()
            wanted = regression.predict_log_proba(scaled["id"])
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
            absent = [c for c in range(len(head.bias)) if c not in present]
            assert not head.weight[absent].any()
            assert not head.bias[absent].any()
            assert len(absent) == (3 if limit == 12 else 0)


def test_epoch_0_is_the_zero_head(tmp_path: Path) -> None:
    first = finished(probe(), tmp_path).history[0]
    labels = load("toy", Path("unused")).splits["id"].labels
    assert first.headline("id") == pytest.approx(float((labels == 0).double().mean()))
    assert (first.train_loss, first.train_accuracy, first.learning_rate) == (None, None, 0.0)


def test_the_first_best_c_is_chosen(tmp_path: Path) -> None:
    """Its weights, and no later one's, are the head, which says whose it is."""
    run = probe()
    end = finished(run, tmp_path)
    best = best_epoch(end.history)
    scores = [r.headline("id") for r in end.history[1:]]
    assert best == 1 + scores.index(max(score for score in scores if score is not None))
    with safe_open(tmp_path / run.id / HEAD_NAME, framework="pt") as file:
        about = json.loads(file.metadata()["orch"])
    assert about == {"run": json.loads(json.dumps(run.content())), "epoch": best}
    named = {artifact.name: artifact for artifact in end.artifacts}
    assert set(named) == {HEAD_NAME, "features.train", "features.id", "features.ood"}
    assert all((tmp_path / a.path).stat().st_size == a.bytes for a in end.artifacts)


@settings(max_examples=30, deadline=None)
@given(
    present=st.sets(st.integers(0, 5), min_size=2, max_size=5),
    mean=st.floats(-3, 3),
    std=st.floats(0.1, 10),
    seed=st.integers(0, 99),
)
def test_a_head_on_raw_features_is_the_regression_on_scaled_ones(
    present: set[int], mean: float, std: float, seed: int
) -> None:
    drawn = np.random.default_rng(seed)
    classes = np.array(sorted(present))
    rows = drawn.normal(mean, std, size=(60, 4)).astype(np.float32)
    labels = np.concatenate([classes, drawn.choice(classes, 60 - len(classes))])
    scale = Scale.of(rows)
    assert scale.mean == pytest.approx(rows.mean(dtype=np.float64))
    assert scale.std == pytest.approx(rows.std(dtype=np.float64))
    regression = LogisticRegression(C=1.0).fit(scale.applied(rows), labels)
    solution = Solution(regression.coef_, regression.intercept_, regression.classes_)
    logits = solution.head(scale, 6).logits(rows)
    assert logits.shape == (60, 6)
    expected = torch.from_numpy(regression.predict_log_proba(scale.applied(rows)))
    found = torch.log_softmax(logits.double()[:, classes], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (logits.argmax(dim=1).numpy() == regression.predict(scale.applied(rows))).mean() > 0.98


def test_features_that_are_all_the_same_are_not_divided_by_nothing() -> None:
    assert Scale.of(np.full((5, 3), 2.0, np.float32)) == Scale(2.0, 1.0)


def test_training_images_of_one_class_are_refused(tmp_path: Path) -> None:
    end = events(probe(images_per_split=1), tmp_path)[-1]
    assert isinstance(end, worker.Failed)
    assert end.cause == "bad_data"
    assert "all of one class" in end.error


# Interruption

SHORT = probe(epochs=12, micro_batch=9, evaluate=("id",), evaluate_on_improvement=("ood",))
"""Eight passes over training images, four over each split; nothing is a multiple of anything."""


class Killed(BaseException):
    """What a kill does to a process, as far as another thread of it can tell."""


def attempt(runs: Path, fence: int, stop: int = NEVER, kill: int = NEVER) -> list[Any]:
    """The events of an attempt that is told to stop, or is killed, when it asks for the n-th time.

    It writes what it has whenever it could.
    """
    asked = itertools.count()

    def should_stop() -> bool:
        now = next(asked)
        if now >= kill:
            raise Killed
        return now >= stop

    heard: list[Any] = []
    context = worker.Context(
        data=Path("unused"), runs=runs, fence=fence, checkpoint_seconds=0, should_stop=should_stop
    )
    try:
        for event in worker.run(SHORT, context):
            heard.append(event)
    except Killed:
        pass
    return heard


def outcome(runs: Path, end: Any) -> list[Any]:
    """All that a run comes to, but the clock."""
    assert isinstance(end, worker.Finished), end
    files = sorted((a.name, a.path, a.sha256) for a in end.artifacts)
    state = Checkpoints(runs / SHORT.id, 10**5).load()
    assert state is not None
    solution = {name: tensor.tolist() for name, tensor in state["solution"].items()}
    return [[record.measured() for record in end.history], files, solution]


@pytest.fixture(scope="module")
def whole() -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        return outcome(Path(folder), attempt(Path(folder), 1)[-1])


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks whether to stop as often as it can while a fit is under way."""
    monkeypatch.setattr("worker.probe.POLL_SECONDS", 0.0)


@pytest.mark.usefixtures("_impatient")
@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(
        st.tuples(st.sampled_from(["stop", "kill"]), st.integers(0, 60)), min_size=1, max_size=4
    )
)
def test_an_interrupted_probe_ends_like_an_uninterrupted_one(
    cuts: list[tuple[str, int]], whole: list[Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        known: dict[int, Any] = {}
        heard: list[Any] = []
        for fence, (how, moment) in enumerate([*cuts, ("stop", NEVER)], 1):
            heard = attempt(runs, fence, **{how: moment})
            for event in heard:
                if isinstance(event, worker.Epoch):
                    record = event.record
                    assert known.setdefault(record.epoch, record.measured()) == record.measured()
            if heard and isinstance(heard[-1], worker.Finished):
                break
        assert outcome(runs, heard[-1]) == whole
        assert not [*(runs / SHORT.id).glob(".partial-*")]


def test_a_stop_while_extracting_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image passes the model once in all."""
    passes: list[int] = []

    def counted(model: Any, head: Any, images: Any) -> Any:
        passes.append(len(images))
        return features(model, head, images)

    monkeypatch.setattr("worker.features.features", counted)
    for fence in range(1, 99):
        heard = attempt(tmp_path, fence, stop=2)
        if not isinstance(heard[-1], worker.Paused):
            break
        if sum(passes) == 128:
            heard = attempt(tmp_path, fence + 1)
            break
    assert isinstance(heard[-1], worker.Finished)
    assert sum(passes) == 64 + 32 + 32
    assert fence > 5


def test_a_part_that_is_damaged_is_computed_again(tmp_path: Path, whole: list[Any]) -> None:
    attempt(tmp_path, 1, stop=5)
    part = max((tmp_path / SHORT.id).glob(".partial-features-*"))
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    assert outcome(tmp_path, attempt(tmp_path, 2)[-1]) == whole


def test_parts_that_another_attempt_takes_away_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[Any]
) -> None:
    attempt(tmp_path, 1, stop=5)
    real, taken = Extraction._finish, []

    def robbed(self: Extraction, name: str) -> Any:
        if not taken:
            taken.extend(self.own.glob(".partial-features-*"))
            for path in taken:
                path.unlink()
        return real(self, name)

    monkeypatch.setattr(Extraction, "_finish", robbed)
    assert outcome(tmp_path, attempt(tmp_path, 2)[-1]) == whole
    assert taken


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_features_that_do_not_last_are_made_anew(
    how: str, tmp_path: Path, whole: list[Any]
) -> None:
    """The path that was over them begins again, and comes to the same."""
    heard = attempt(tmp_path, 1, stop=30)
    assert isinstance(heard[-1], worker.Paused)
    assert heard[-1].epoch > 0
    for path in (tmp_path / SHARED).iterdir():
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    again = attempt(tmp_path, 2)
    assert isinstance(again[0], worker.Started)
    assert again[0].resumed_from is None
    assert outcome(tmp_path, again[-1]) == whole


def test_a_resume_and_another_run_read_the_features_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(probe(evaluate=("id", "ood"), epochs=3), tmp_path)
    monkeypatch.setattr("worker.features.features", None)
    finished(probe(evaluate=("ood", "id"), epochs=3), tmp_path)


def test_a_fit_is_given_up_after_an_iteration() -> None:
    drawn = np.random.default_rng(0)
    regression = Regression(drawn.normal(size=(400, 50)), drawn.integers(0, 9, 400), None)
    regression.fit(1e-3)
    regression.abandon.set()
    with pytest.raises(Abandoned):
        regression.fit(1e3)


def test_a_stop_does_not_wait_for_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit under way is given up, and made again by the next attempt."""
    monkeypatch.setattr("worker.probe.POLL_SECONDS", 0.0)
    begun, given_up = threading.Event(), []
    real = Regression.fit

    def endless(self: Regression, c: float) -> Solution:
        begun.set()
        while True:
            try:
                real(self, c)
            except Abandoned:
                given_up.append(c)
                raise

    monkeypatch.setattr(Regression, "fit", endless)
    context = worker.Context(data=Path("unused"), runs=tmp_path, should_stop=begun.is_set)
    heard = [*worker.run(SHORT, context)]
    assert heard[-1] == worker.Paused(0)
    assert given_up == [PATH[0]]


def test_a_paused_probe_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    for moment in range(0, 40, 3):
        attempt(tmp_path, moment + 1, stop=moment)
    assert threading.active_count() == before


def test_features_that_are_not_finite_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, head: Any, images: Any) -> Any:
        return features(model, head, images) * float("nan")

    monkeypatch.setattr("worker.features.features", broken)
    end = events(probe(), tmp_path)[-1]
    assert isinstance(end, worker.Failed)
    assert end.cause == "bad_data"
    assert "not finite" in end.error


def test_other_data_or_weights_than_the_first_attempts_are_refused(tmp_path: Path) -> None:
    end = events(probe(), tmp_path, data_fingerprint="other")[-1]
    assert isinstance(end, worker.Failed)
    assert end.cause == "bad_data"


def test_memory_that_runs_out_halves_the_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def cramped(model: Any, head: Any, images: Any) -> Any:
        if len(images) > 20:
            raise torch.OutOfMemoryError("no room")
        sizes.append(len(images))
        return features(model, head, images)

    expected = finished(probe(epochs=3), tmp_path / "roomy")
    monkeypatch.setattr("worker.features.features", cramped)
    end = finished(probe(epochs=3), tmp_path / "cramped")
    assert max(sizes) == 16
    for one, two in zip(end.history, expected.history, strict=True):
        assert one.headline("id") == two.headline("id")


# The head, and what starts from it


def tuned(start: Run, **changes: object) -> Run:
    """A fine-tuning run that starts from a probe."""
    values = {"model": start.model, "dataset": start.dataset, "seed": start.seed}
    values |= {"images_per_split": start.images_per_split, "method": "lp_ft_sgd"}
    return a_run(**{**values, "head": f"probe:{start.id}/{start.variant}", **changes})


@pytest.mark.parametrize(
    ("model", "dataset", "limit"),
    [
        ("toy", "toy", None),
        ("tiny_vit", "digits", 100),
        ("tiny_bit", "digits", 12),
        ("tiny_bit", "mini_waterbirds", 100),
    ],
)
def test_lp_ft_starts_with_the_probes_logits(
    model: str, dataset: str, limit: int | None, mini: Path, tmp_path: Path
) -> None:
    """Binary and multi-class, absent classes, linear and convolutional heads."""
    one = probe(model, dataset, images_per_split=limit)
    end = finished(one, tmp_path, mini)
    run = tuned(one)
    loaded = load_for(one, mini)
    classes = len(load_file(tmp_path / one.id / HEAD_NAME)["bias"])
    settle(run.seed, run.threads)
    built = build(run, classes, tmp_path).model.eval()
    sha = start(built, run, tmp_path, None)
    assert sha == next(a.sha256 for a in end.artifacts if a.name == HEAD_NAME)
    head = Head.from_state(load_file(tmp_path / one.id / HEAD_NAME))
    kept = extraction(one, tmp_path, mini, "").find("ood")
    assert kept is not None
    images = loaded.splits["ood"]
    with torch.inference_mode():
        logits = built(images.batch(torch.arange(len(images))))
    torch.testing.assert_close(logits, head.logits(kept.rows), rtol=1e-4, atol=1e-4)
    if model != "toy":  # whose dropout is at work while it is evaluated
        best = end.history[best_epoch(end.history) or 0]
        first = first_epoch(run, tmp_path, mini)
        for split in ("id", "ood"):
            assert first.headline(split) == best.headline(split)


def first_epoch(run: Run, runs: Path, data: Path) -> EpochRecord:
    """The evaluation before training."""
    for event in worker.run(run, worker.Context(data=data, runs=runs)):
        assert not isinstance(event, worker.Failed), event
        if isinstance(event, worker.Epoch):
            return event.record
    raise AssertionError


def test_a_head_that_is_missing_or_another_is_refused(tmp_path: Path) -> None:
    one = probe()
    run = tuned(one)
    with pytest.raises(MissingInputs, match=f"orch runs run {one.id} --local"):
        start(new_model(MODELS["toy"], 2), run, tmp_path, None)
    finished(one, tmp_path)
    with pytest.raises(MissingInputs, match="not the head that its linear probe left"):
        start(new_model(MODELS["toy"], 2), run, tmp_path, "0" * 64)
    with pytest.raises(SpecError, match="does not fit toy"):
        start(new_model(MODELS["toy"], 3), run, tmp_path, None)
    path = tmp_path / one.id / HEAD_NAME
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(MissingInputs, match="cannot be read"):
        start(new_model(MODELS["toy"], 2), run, tmp_path, None)


def test_lp_ft_goes_on_only_from_the_head_that_it_started_from(tmp_path: Path) -> None:
    one = probe()
    finished(one, tmp_path)
    run = tuned(one)
    asked = itertools.count()
    cut = events(run, tmp_path, should_stop=lambda: next(asked) > 8)
    assert isinstance(cut[-1], worker.Paused)
    Head.zero(2, 256).save(tmp_path / one.id)
    end = events(run, tmp_path, fence=2)[-1]
    assert isinstance(end, worker.Failed)
    assert "linear probe's head" in end.error


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_probe_keeps_its_whole_model(keep: Any, tmp_path: Path) -> None:
    run = probe("tiny_vit", "digits", images_per_split=100)
    end = finished(run, tmp_path, keep=keep)
    model = worker.load(run.id, tmp_path).eval()
    head = Head.from_state(load_file(tmp_path / run.id / HEAD_NAME))
    layer = layer_of(model, MODELS["tiny_vit"])
    assert torch.equal(layer.weight, head.weight) == (keep == "best")
    images = load("digits", Path("unused")).at_most(100).splits["id"]
    with torch.inference_mode():
        logits = model(images.batch(torch.arange(len(images))))
    share = float((logits.argmax(dim=1) == images.labels).double().mean())
    record = end.history[best_epoch(end.history) or 0] if keep == "best" else end.history[-1]
    assert record.headline("id") == pytest.approx(share)


def test_the_path_is_the_protocols() -> None:
    assert np.allclose(PATH, np.logspace(-7, 2, 50))
    assert sorted(PATH) == [*PATH]
    end = events(probe(epochs=51), Path("unused"))[-1]
    assert isinstance(end, worker.Failed)


@pytest.fixture(autouse=True, scope="module")
def _no_warnings_from_fits() -> Iterator[None]:
    """A fit that has not converged after 200 iterations is the protocol's, not a fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
