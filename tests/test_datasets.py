"""Every dataset's layout, on miniature files: splits, groups, labels, and what is wrong with them.

The miniatures are read by the same functions as the real datasets; only their counts differ.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import worker
from conftest import a_run
from db.errors import MissingInputs
from orchestrator.cli import main, show
from worker.data import DATASETS, Split, images, mini
from worker.data.images import Loaded, in_memory
from worker.data.wilds_sets import WATERBIRDS_GROUPS, open_wilds
from worker.evaluate import headline

NAMES = ("living17", "waterbirds", "domainnet", "fmow", "camelyon17", "cifar10")
MAKERS: dict[str, Callable[..., Path]] = {
    "living17": mini.make_living17,
    "waterbirds": mini.make_waterbirds,
    "domainnet": mini.make_domainnet,
    "fmow": mini.make_fmow,
    "camelyon17": mini.make_camelyon17,
    "cifar10": mini.make_cifar10,
}
SIZES = {"train": 80, "val": 40, "test": 48}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with every miniature, at the real ones' 224 pixels."""
    data = tmp_path_factory.mktemp("data")
    for make in MAKERS.values():
        make(data / "mini", **SIZES, size=224)
    return data


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    images.source.cache_clear()
    images.load.cache_clear()


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A data root of its own for a test that breaks one dataset; returns the dataset's folder."""

    def copy(name: str) -> Path:
        folder = DATASETS[name].folder
        shutil.copytree(root / "mini" / folder, tmp_path / folder)
        return tmp_path / folder

    return copy


def both(root: Path, name: str) -> tuple[Loaded, Loaded]:
    """The dataset as the big models see it, and as the tiny ones do."""
    return images.load(name, root / "mini"), images.load(f"mini_{name}", root)


@pytest.mark.parametrize("name", NAMES)
def test_a_miniature_is_read_as_the_real_one(root: Path, name: str) -> None:
    big, small = both(root, name)
    entry = DATASETS[name]
    assert set(big.splits) == {split.name for split in entry.splits}
    assert big.fingerprint == small.fingerprint
    assert big.fingerprint.startswith("miniature-")
    for side, data in ((224, big), (32, small)):
        for split in (data.train, *data.splits.values()):
            assert len(split) > 0
            assert 0 <= int(split.labels.min()) <= int(split.labels.max()) < entry.classes
            assert int(split.groups.max()) < len(data.groups)
            batch = split.batch(torch.arange(2) % len(split))
            assert batch.shape == (2, 3, side, side)
            assert batch.dtype == torch.float32
            assert 0 <= float(batch.min()) < float(batch.max()) <= 1
        if data.train.augmented:
            shown = data.train.epoch(torch.Generator().manual_seed(0))(torch.arange(3))
            assert shown.shape == (3, 3, side, side)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("cifar10", "fmow")])
def test_counts_are_as_asked(root: Path, name: str) -> None:
    data = images.load(name, root / "mini")
    found = [len(data.train), len(data.splits["id"]), len(data.splits["ood"])]
    assert found == [80, 40, 48]


def test_living17_is_a_shift_of_subpopulations(root: Path) -> None:
    """Source and target are other ImageNet classes of the same superclasses."""
    found = images.source("living17", root / "mini")
    seen = {found.train.pool.names[row].split("/")[1] for row in found.train.rows.tolist()}
    source, target = (
        {part.pool.names[row].split("/")[1] for row in part.rows.tolist()}
        for part in (found.splits["id"], found.splits["ood"])
    )
    assert source == seen
    assert not target & seen
    assert found.splits["id"].labels.unique().tolist() == list(range(17))


def test_waterbirds_groups_are_what_wilds_calls_them(root: Path) -> None:
    dataset = open_wilds("waterbirds", root / "mini")
    names = [dataset._eval_grouper.group_str(group) for group in range(4)]
    for ours, theirs in zip(WATERBIRDS_GROUPS, names, strict=True):
        bird, place = ours.split("_on_")
        assert f"{bird}bird" in theirs
        assert f"background = {'' if place == 'water' else ' '}{place}" in theirs
    data = images.load("waterbirds", root / "mini")
    assert torch.equal(data.train.groups // 2, data.train.labels), "a group is a bird and a place"
    assert torch.bincount(data.splits["ood"].groups).tolist() == [12] * 4, "the test is balanced"
    own = data.train_group_counts()[[0, 3]].sum()
    assert own / 80 == pytest.approx(0.95, abs=0.03), "birds on their own ground"


def test_domainnet_splits_are_domains(root: Path) -> None:
    found = images.source("domainnet", root / "mini")
    for split, domain in {"id": "sketch", "ood": "real", "clipart": "clipart"}.items():
        part = found.splits[split]
        assert {part.pool.names[row].split("/")[0] for row in part.rows.tolist()} == {domain}


def test_fmow_is_tested_in_africa(root: Path) -> None:
    data = images.load("fmow", root / "mini")
    africa = data.groups.index("Africa")
    assert set(data.splits["ood"].groups.tolist()) == {africa}
    assert len(data.splits["ood_test"].groups.unique()) > 1
    in_africa = int((data.splits["ood_test"].groups == africa).sum())
    assert len(data.splits["ood"]) == in_africa


def test_cifar10_holds_a_tenth_of_training_out(root: Path) -> None:
    data = images.load("cifar10", root / "mini")
    assert [len(data.train), len(data.splits["id"]), len(data.splits["id_test"])] == [108, 12, 48]
    again = images.load.__wrapped__("cifar10", root / "mini")
    assert torch.equal(again.splits["id"].labels, data.splits["id"].labels)


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_is_of_content_not_of_place(
    root: Path, copied: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = copied(name)
    first = images.load(name, root / "mini").fingerprint
    assert images.load(name, tmp_path).fingerprint == first
    images.load.cache_clear()
    images.source.cache_clear()
    _change_one_image(name, folder)
    assert images.load(name, tmp_path).fingerprint != first


def _change_one_image(name: str, folder: Path) -> None:
    if name == "cifar10":
        batch = folder / "data_batch_1"
        values = pickle.loads(batch.read_bytes(), encoding="latin1")
        values["data"][0] = 255 - values["data"][0]
        batch.write_bytes(pickle.dumps(values))
        return
    found = images.source(name, folder.parent)
    one = folder / found.train.pool.names[int(found.train.rows[0])]
    images.source.cache_clear()
    one.write_bytes(one.read_bytes() + b"\0")


def test_the_fingerprint_covers_the_names_of_groups(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    mapping = copied("fmow") / "country_code_mapping.csv"
    before = images.source("fmow", tmp_path).fingerprint()
    images.source.cache_clear()
    text = mapping.read_text()
    mapping.write_text(text.replace("Europe", "x").replace("Asia", "Europe").replace("x", "Asia"))
    assert images.source("fmow", tmp_path).fingerprint() != before


@given(groups=st.lists(st.integers(0, 4), min_size=1, max_size=60), count=st.integers(1, 70))
def test_a_few_images_are_of_every_group(groups: list[int], count: int) -> None:
    whole = in_memory(
        torch.zeros(len(groups), 1, 1, 1, dtype=torch.uint8),
        torch.arange(len(groups)),
        torch.tensor(groups),
    )
    few = Loaded(whole, {"id": whole}, tuple("abcde"), "").at_most(count).train
    assert len(few) <= count
    assert few.labels.tolist() == sorted(set(few.labels.tolist())), "each once, in order"
    assert len(set(few.groups.tolist())) == min(count, len(set(groups)))
    if count >= len(groups):
        assert len(few) == len(groups)
    if len(set(groups)) == 1:
        assert len(few) == min(count, len(groups))


@pytest.mark.parametrize("name", ["living17", "domainnet", "camelyon17"])
def test_numbers_do_not_depend_on_how_images_are_prepared(
    root: Path, tmp_path: Path, name: str
) -> None:
    """Cache or none, threads or none, cut after an epoch or not: augmentation included."""
    run = a_run(
        model="tiny_bit", dataset=f"mini_{name}", epochs=2, batch_size=16, micro_batch=5,
        evaluate=("id", "ood"),
    )  # fmt: skip
    places = {"data": root, "cache": tmp_path / "cache"}
    ways = {
        "plain": worker.Context(data=root, runs=tmp_path / "plain"),
        "cache": worker.Context(**places, runs=tmp_path / "cached"),
        "threads": worker.Context(**places, runs=tmp_path / "threads", loaders=2),
    }
    ends = {way: list(worker.run(run, context))[-1] for way, context in ways.items()}
    asked = iter(range(10**6))
    steps = -(-SIZES["train"] // 16)
    cut = dataclasses.replace(
        ways["threads"], runs=tmp_path / "cut", should_stop=lambda: next(asked) >= steps + 6
    )  # asked before each step, and before the one pass over each split, of which there are two
    assert list(worker.run(run, cut))[-1] == worker.Paused(1, 2), "two steps into the second epoch"
    again = dataclasses.replace(ways["plain"], runs=tmp_path / "cut", fence=2)
    ends["cut"] = list(worker.run(run, again))[-1]
    measured = {way: [r.measured() for r in end.history] for way, end in ends.items()}
    assert measured["cache"] == measured["plain"]
    assert measured["threads"] == measured["plain"]
    assert measured["cut"] == measured["plain"]
    weights = [(tmp_path / way / run.id).glob("checkpoint-*-000002-*.pt") for way in
               ("plain", "cached", "threads", "cut")]  # fmt: skip
    models = [torch.load(next(found), weights_only=True)["model"] for found in weights]
    for other in models[1:]:
        assert all(torch.equal(models[0][k], other[k]) for k in models[0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_run_on_next_to_nothing_has_numbers(root: Path, tmp_path: Path, count: int) -> None:
    run = a_run(model="tiny_bit", dataset="mini_waterbirds", epochs=1, images_per_split=count)
    *_, end = worker.run(run, worker.Context(data=root, runs=tmp_path))
    assert isinstance(end, worker.Finished), end
    assert all(0 <= m.value <= 1 for record in end.history for m in record.metrics)


def test_groups_that_training_lacks_cannot_be_weighed() -> None:
    split = Split("id", "weighted_accuracy", "val")
    with pytest.raises(MissingInputs, match="no group that training has"):
        headline(split, torch.tensor([0, 3]), torch.tensor([0, 4]), torch.tensor([5, 0]))


# What can be wrong with the files


def check(data: Path, *words: str) -> Result:
    """`orch data check`, which looks at everything that a run would fall over."""
    return CliRunner().invoke(main, ["--data", str(data), "data", "check", *words])


def refused(data: Path, name: str, *said: str) -> None:
    """`data check` says so with exit code 2, and a run would hear the same."""
    result = check(data, name)
    assert result.exit_code == 2, result.output
    text = result.output.replace("\n", " ")
    for part in said:
        assert part in text, text
    assert "Traceback" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_dataset_is_ok(root: Path, name: str) -> None:
    result = check(root / "mini", name, "--all")
    assert result.exit_code == 0, result.output
    assert f"{name} (a miniature): ok" in result.output
    found = json.loads(check(root / "mini", name, "--format", "json").output)
    assert found[0]["ok"] is True
    assert found[0]["miniature"] is True
    assert {one["split"] for one in found[0]["splits"]} == {
        "train",
        *(split.name for split in DATASETS[name].splits),
    }


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_named_with_their_remedy(tmp_path: Path, name: str) -> None:
    refused(tmp_path, name, str(tmp_path / DATASETS[name].folder), DATASETS[name].remedy)
    with pytest.raises(MissingInputs, match="not there; get it"):
        images.load(name, tmp_path)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "cifar10"])
def test_a_truncated_image_is_named(
    copied: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = copied(name)
    found = images.source(name, tmp_path)
    one = folder / found.train.pool.names[int(found.train.rows[0])]
    one.write_bytes(one.read_bytes()[: one.stat().st_size // 2])
    result = check(tmp_path, name, "--all")
    assert result.exit_code == 2
    assert f"{one}: not a readable image" in result.output
    images.source.cache_clear()
    with pytest.raises(MissingInputs, match=f"{one.name}: not a readable image"):
        images.load(name, tmp_path).train.epoch(torch.Generator())(torch.arange(1))


@pytest.mark.parametrize("name", ["waterbirds", "domainnet", "fmow", "camelyon17"])
def test_an_image_that_a_list_names_and_nobody_has(
    copied: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = copied(name)
    found = images.source(name, tmp_path)
    one = folder / found.train.pool.names[int(found.train.rows[0])]
    images.source.cache_clear()
    one.unlink()
    refused(tmp_path, name, f"{one} is named by")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_label_out_of_range(copied: Callable[[str], Path], tmp_path: Path) -> None:
    import pandas as pd

    for name, file, column in (
        ("waterbirds", "metadata.csv", "y"),
        ("camelyon17", "metadata.csv", "tumor"),
    ):
        path = copied(name) / file
        table = pd.read_csv(path, dtype={"patient": str})
        table.loc[3, column] = 7
        table.to_csv(path, index=False)
        refused(tmp_path, name, str(path), "label 7", "classes 0 to 1")
    path = copied("fmow") / "rgb_metadata.csv"
    table = pd.read_csv(path)
    table.loc[3, "category"] = "castle"
    table.to_csv(path, index=False)
    refused(tmp_path, "fmow", str(path.parent.parent), "castle")
    path = copied("domainnet") / "SENTRY_splits" / "sketch_train_mini.txt"
    first = path.read_text().splitlines()[0]
    _edit(path, first, first.rpartition(" ")[0] + " 77")
    refused(tmp_path, "domainnet", f"{path}, line 1", "label 77")
    path = copied("cifar10") / "data_batch_2"
    batch = pickle.loads(path.read_bytes(), encoding="latin1")
    batch["labels"][0] = 12
    path.write_bytes(pickle.dumps(batch))
    refused(tmp_path, "cifar10", "label 12", "0 to 9")


def test_a_split_that_is_gone(copied: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied("domainnet") / "SENTRY_splits" / "real_test_mini.txt"
    path.unlink()
    refused(tmp_path, "domainnet", f"{path} is not there")
    path.write_text("")
    refused(tmp_path, "domainnet", f"{path} is empty")
    path.write_text("real/airplane/a.jpg\n")
    refused(tmp_path, "domainnet", f"{path}, line 1", "domain/class/file label")
    import pandas as pd

    path = copied("waterbirds") / "metadata.csv"
    table = pd.read_csv(path)
    table[table.split != 1].to_csv(path, index=False)
    refused(tmp_path, "waterbirds", str(path), "no images for split `id`")
    path = copied("living17")
    empty = next(iter((path / "val").iterdir()))
    for image in empty.iterdir():
        image.unlink()
    refused(tmp_path, "living17", f"{empty} holds no images")
    empty.rmdir()
    refused(tmp_path, "living17", f"{empty} is not there")


def test_metadata_without_a_column(copied: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied("camelyon17") / "metadata.csv"
    _edit(path, "tumor", "tumour")
    refused(tmp_path, "camelyon17", "wilds cannot read camelyon17", "tumor")


def test_an_image_of_another_size(copied: Callable[[str], Path], tmp_path: Path) -> None:
    """FMoW's transform has no resize: other pixels than 224 × 224 are not FMoW's."""
    from PIL import Image

    folder = copied("fmow")
    found = images.source("fmow", tmp_path)
    one = folder / found.train.pool.names[int(found.train.rows[0])]
    images.source.cache_clear()
    Image.new("RGB", (200, 224)).save(one)
    result = check(tmp_path, "fmow", "--all")
    assert result.exit_code == 2
    assert one.name in result.output


def test_counts_are_held_against_the_published(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("waterbirds")
    (folder / "MINIATURE.json").unlink()  # now it claims to be the real one
    refused(tmp_path, "waterbirds", "train has 80 images", "4,795")


def test_other_counts_than_the_published_are_logged_by_a_run(
    copied: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied("waterbirds") / "MINIATURE.json").unlink()
    images.source("waterbirds", tmp_path)
    assert "waterbirds: train has 80 images, not the 4795 published" in caplog.text


def test_json_is_nothing_but_json(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "COUNT_SECONDS", 0.0)
    for words in (["--json"], ["--format", "json"]):
        result = check(root / "mini", "waterbirds", *words)
        assert json.loads(result.stdout)[0]["ok"]
    assert "opening images of waterbirds: " in check(root / "mini", "waterbirds").stderr


def test_checking_nothing_says_where_to_begin(tmp_path: Path) -> None:
    result = check(tmp_path)
    assert result.exit_code == 2
    assert "no dataset is under --data" in result.output
    assert "orch data make-mini" in result.output


def test_a_sweep_is_checked_by_its_datasets(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nmodels: [tiny_vit]\ndatasets: [mini_waterbirds, digits]\nmethods: [sgd]\n"
    )
    result = check(root, str(path))
    assert result.exit_code == 0, result.output
    assert "mini_waterbirds (a miniature): ok" in result.output
    assert "digits: ok" in result.output
    assert "shapes: ok" in result.output, "what pretraining needs, too"


@pytest.mark.parametrize("name", ["waterbirds", "cifar10"])
def test_fetching_without_a_network_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # the port where nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    result = CliRunner().invoke(main, ["--data", str(tmp_path), "data", "fetch", name])
    assert result.exit_code == 2, result.output
    assert "try again with a network" in result.output
    assert "Traceback" not in result.output


def test_fetching_what_is_here_does_nothing(root: Path) -> None:
    words = ["--data", str(root / "mini"), "data", "fetch", "fmow"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0
    assert "orch data check fmow" in result.output
    refusal = CliRunner().invoke(main, ["data", "fetch", "living17"])
    assert refusal.exit_code == 2
    assert "ImageNet 2012" in refusal.output
