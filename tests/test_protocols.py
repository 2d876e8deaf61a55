"""The paper's protocol and its authors' code: presets, their switches, what each computes."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import worker
from conftest import a_run
from db.records import ADDED_LATER, Run
from orchestrator import sweep as sweeps
from orchestrator.spec import PROTOCOLS, Block
from worker.data import DATASETS, Transform, authors, images
from worker.data.images import Images, Loaded, in_memory, load_for
from worker.data.mini import make_living17
from worker.data.transforms import plain
from worker.determinism import settle
from worker.evaluate import Eye, evaluate
from worker.methods import METHODS
from worker.models import IMAGENET_MEAN, IMAGENET_STD, MODELS
from worker.models.weights import build, new_model


def written(**fields: object) -> str:
    """A sweep file of one run a method, unless told otherwise."""
    base = {
        "name": "s",
        "models": "[clip_vit_b16]",
        "datasets": "[living17]",
        "methods": "[sgd]",
        "learning_rates": "[1e-4]",
    }
    return "".join(f"{k}: {v}\n" for k, v in {**base, **fields}.items() if v is not None)


def requested(**fields: object) -> list[Run]:
    return sweeps.loads(written(**fields), "sweep.yaml").requested


def only(**fields: object) -> Run:
    (run,) = requested(**fields)
    return run


def difference(one: Run, other: Run) -> dict[str, Any]:
    """The fields of `other` that differ from `one`'s."""
    fields = (field.name for field in dataclasses.fields(Run))
    return {n: getattr(other, n) for n in fields if getattr(one, n) != getattr(other, n)}


# Presets

PER_EPOCH = {"schedule": "cosine_per_epoch"}
SWITCHES: list[tuple[dict[str, str], dict[str, object]]] = [
    ({}, PER_EPOCH),
    ({"methods": "[adamw]"}, {**PER_EPOCH, "weight_decay": 0.0}),
    ({"methods": "[sgd_weight_decay]"}, PER_EPOCH),
    ({"models": "[vit_b16_in21k]"}, {**PER_EPOCH, "sup_vit_normalization": "imagenet"}),
    ({"models": "[dino_vit_b16]"}, PER_EPOCH),
    ({"models": "[bit_r50_in21k]"}, PER_EPOCH),
    ({"datasets": "[waterbirds]"}, {**PER_EPOCH, "waterbirds_selection": "test"}),
    ({"methods": "[sgd_low_lr_embed]"}, {**PER_EPOCH, "low_lr_proj": "fixed"}),
    ({"methods": "[sgd_low_lr_embed]", "models": "[vit_b16_in21k]"},
     {**PER_EPOCH, "sup_vit_normalization": "imagenet"}),
    ({"methods": "[adamw_l2_sp]"}, {**PER_EPOCH, "weight_decay": 0.0, "l2_sp": "authors"}),
    ({"methods": "[adam_spd]"}, PER_EPOCH),
    ({"methods": "[gradual_unfreezing]"}, {}),
    ({"methods": "[lars_as_published]"}, PER_EPOCH),
]  # fmt: skip
"""What the authors' code does otherwise than the paper, by run: PROTOCOL section 6."""


@pytest.mark.parametrize(("fields", "differs"), SWITCHES)
def test_the_authors_preset_changes_what_it_makes_a_difference_to(
    fields: dict[str, str], differs: dict[str, object]
) -> None:
    paper, theirs = only(**fields), only(**fields, protocol="authors")
    assert difference(paper, theirs) == differs
    assert only(**fields, protocol="paper") == paper
    assert {n: getattr(paper, n) for n in ADDED_LATER} == ADDED_LATER, "as before there was any"


@pytest.mark.parametrize("field", PROTOCOLS["authors"])
def test_each_field_of_the_preset_can_be_set_by_itself(field: str) -> None:
    """The preset is what its fields do together, and a field that is given goes before it."""
    everything = {
        "models": "[vit_b16_in21k, clip_vit_b16]",
        "datasets": "[living17, waterbirds]",
        "methods": "[adamw, sgd_low_lr_embed, adamw_l2_sp, lp_ft_sgd]",
        "learning_rates": "default",
    }
    theirs = PROTOCOLS["authors"]
    one_by_one = requested(**everything, **theirs)
    assert one_by_one == requested(**everything, protocol="authors")

    neutral = Block.model_fields[field].default
    given = 0.1 if neutral is None else neutral
    without = requested(**everything, **{k: v for k, v in theirs.items() if k != field})
    assert requested(**everything, protocol="authors", **{field: given}) == without
    assert without != one_by_one, "it makes a difference to some of these"


def test_a_field_above_the_blocks_goes_before_a_blocks_preset() -> None:
    blocks = "\n- {seeds: [0]}\n- {seeds: [1], protocol: authors}"
    runs = requested(datasets="[waterbirds]", schedule="cosine_per_step", grids=blocks)
    assert [(r.seed, r.schedule, r.waterbirds_selection) for r in runs] == [
        (0, "cosine_per_step", "validation"),
        (1, "cosine_per_step", "test"),
    ]


def test_runs_that_a_switch_makes_no_difference_to_are_shared() -> None:
    fields = {"schedule": "cosine_per_step", "adamw_weight_decay": "0.01"}
    theirs = only(**fields, protocol="authors")
    assert theirs.id == only().id
    assert only(resize="square", datasets="[fmow]").id == only(datasets="[fmow]").id
    assert only(resize="square").id != only().id


# Rates


def rates(method: str, **fields: object) -> list[float]:
    probe = METHODS[method].starts_from == "probe"
    chosen = {"models": "[clip_vit_b16]", "methods": f"[{method}]", "learning_rates": "default"}
    runs = requested(**{**chosen, **fields})
    assert all((run.probe is not None) == probe for run in runs)
    return [run.learning_rate for run in runs]


def test_lp_ft_trains_at_a_tenth_unless_told_otherwise() -> None:
    """The rate in the store is the one that is used; a list for the method itself is as it says."""
    assert rates("lp_ft_sgd") == [3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3]
    assert rates("lp_ft_adamw") == [3e-8, 1e-7, 3e-7, 1e-6, 3e-6, 1e-5]
    assert rates("lp_ft_sgd", protocol="authors") == [*METHODS["sgd"].learning_rates]
    assert rates("lp_ft_sgd", lp_ft_rate_factor="0.5", learning_rates="[1e-3]") == [5e-4]
    assert rates("lp_ft_sgd", learning_rates="{sgd: [1e-3]}") == [1e-4]
    assert rates("lp_ft_sgd", learning_rates="{lp_ft_sgd: [1e-3]}") == [1e-3]
    assert rates("sgd", lp_ft_rate_factor="0.5", learning_rates="[1e-3]") == [1e-3]


def test_lamb_and_lars_have_eight_rates_or_six() -> None:
    for method in ("lamb", "lars"):
        for name, count in (("living17", 8), ("fmow", 6), ("camelyon17", 6), ("domainnet", 8)):
            found = rates(method, datasets=f"[{name}]")
            assert len(found) == count
            assert found[:6] == [3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4]
    assert rates("lamb", learning_rates="{lamb: [1e-5]}", datasets="[fmow]") == [1e-5]


# Hyperparameters


def test_hyperparameters_are_an_axis() -> None:
    runs = requested(
        methods="[adam_spd, sgd]",
        learning_rates="[1e-5, 1e-4]",
        hyperparameters="{adam_spd: {lambda: [10, 0.1, 1]}}",
        seeds="[0, 1]",
    )
    spd = [(r.learning_rate, r.hyperparameters, r.seed) for r in runs if r.method == "adam_spd"]
    lambdas = [(("lambda", value),) for value in (0.1, 1.0, 10.0)]
    assert spd == list(itertools.product([1e-5, 1e-4], lambdas, [0, 1]))
    assert [r.hyperparameters for r in runs if r.method == "sgd"] == [()] * 4
    assert len({r.id for r in runs}) == len(runs)
    assert len({r.variant for r in runs if r.method == "adam_spd"}) == 1, (
        "one cell chooses among all"
    )


def test_what_is_not_tuned_has_its_default_in_the_runs_identity() -> None:
    assert only(methods="[adam_spd]").hyperparameters == (("lambda", 1.0),)
    assert only(methods="[adamw_l2_sp]").hyperparameters == (("lambda", 0.01),)
    spelled = only(methods="[adam_spd]", hyperparameters="{adam_spd: {lambda: [1]}}")
    assert spelled.id == only(methods="[adam_spd]").id


def test_hyperparameters_above_the_blocks_are_for_those_with_the_method() -> None:
    runs = requested(
        hyperparameters="{adam_spd: {lambda: [2]}}",
        grids="\n- {methods: [sgd]}\n- {methods: [adam_spd]}",
    )
    assert [r.hyperparameters for r in runs] == [(), (("lambda", 2.0),)]


# Sup ViT's normalisation


def test_sup_vits_images_are_normalised_as_the_run_says(tmp_path: Path) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    seen = {}
    for normalization in ("own", "imagenet"):
        settle(0, 1)
        run = a_run(model="tiny_vit", sup_vit_normalization=normalization)
        model = build(run, 5, tmp_path).model
        seen[normalization] = model
        mean, std = (
            (torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
            if normalization == "imagenet"
            else (torch.full((3,), 0.5), torch.full((3,), 0.5))
        )
        by_hand = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        assert torch.equal(model(pixels), model.get_submodule("network")(by_hand))
    own, other = (model.state_dict() for model in seen.values())
    assert all(torch.equal(own[name], other[name]) for name in own), "the same weights"


def test_the_slip_is_sup_vits_alone() -> None:
    slipped = {model.id for model in MODELS.values() if model.authors_imagenet}
    assert slipped == {"vit_b16_in21k", "tiny_vit"}, "and its small relative's"


def test_kept_weights_see_images_as_their_run_did(tmp_path: Path) -> None:
    run = a_run(
        model="tiny_vit", dataset="digits", epochs=1, images_per_split=64, evaluate=("id",),
        sup_vit_normalization="imagenet", learning_rate=0.05,
    )  # fmt: skip
    context = worker.Context(data=Path("unused"), runs=tmp_path, keep="last")
    *_, end = worker.run(run, context)
    assert isinstance(end, worker.Finished), end
    data = load_for(run, Path("unused"))
    splits = [split for split in DATASETS["digits"].splits if split.name == "id"]
    metrics = evaluate(worker.load(run.id, tmp_path), data, splits, Eye("cpu"))
    assert metrics == end.history[-1].metrics
    other = new_model(MODELS["tiny_vit"], 10)
    other.load_state_dict(worker.load(run.id, tmp_path).state_dict())
    kept = worker.load(run.id, tmp_path)
    assert not torch.equal(kept(data.train.batch(torch.arange(4))),
                           other(data.train.batch(torch.arange(4))))  # fmt: skip


# Waterbirds: which images select

TRAIN = (3498, 184, 56, 1057)
"""Of the real one: land on land, land on water, water on land, water on water."""


def answers(right: Tensor, labels: Tensor) -> Tensor:
    """Pixels that `Reader` answers rightly where it should; (N, 3, 1, 1) uint8."""
    said = torch.where(right, labels, 1 - labels)
    return said.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1).contiguous()


class Reader(nn.Module):
    """A model that says what the first pixel is."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 1, 1) -> (B, 2)."""
        said = pixels[:, 0, 0, 0]
        return torch.stack([1 - said, said], dim=1)


def birds(counts: tuple[int, ...], right: tuple[int, ...]) -> Images:
    """Groups of so many images, of which the first `right` of each are answered rightly."""
    groups = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    place = torch.cat([torch.arange(count) for count in counts])
    labels = groups // 2
    hits = place < torch.tensor(right)[groups]
    return in_memory(answers(hits, labels), labels, groups, white=1)


def test_the_authors_waterbirds_by_hand() -> None:
    """PROTOCOL section 6, with the real training counts."""
    test, correct = (50, 40, 10, 30), (49, 20, 6, 27)
    for validation, worst in (((20, 20, 5, 5), "test"), ((4, 2, 1, 1), "validation")):
        data = Loaded(
            birds(TRAIN, TRAIN),
            {"id": birds((20, 20, 5, 5), validation), "ood": birds(test, correct)},
            ("land_on_land", "land_on_water", "water_on_land", "water_on_water"),
            "birds",
        )
        view = authors.waterbirds(data)
        found = evaluate(Reader(), view, DATASETS["waterbirds"].splits, Eye("cpu"))
        headline = {m.split: m.value for m in found if not m.group}
        shares = [Fraction(c, n) for c, n in zip(correct, test, strict=True)]
        weighted = sum(share * n for share, n in zip(shares, TRAIN, strict=True)) / 4795
        assert headline["id"] == pytest.approx(float(weighted), abs=1e-12)
        whole = Fraction(sum(validation), 50)
        assert headline["ood"] == float(min(*shares, whole))
        assert (whole < min(shares)) == (worst == "validation")
        groups = {(m.split, m.group): m.value for m in found if m.group}
        assert groups["ood", "validation"] == float(whole)
        assert ("id", "validation") not in groups

        usual = evaluate(Reader(), data, DATASETS["waterbirds"].splits, Eye("cpu"))
        plain_headline = {m.split: m.value for m in usual if not m.group}
        assert plain_headline["ood"] == float(min(shares))
        assert plain_headline["id"] != headline["id"]


def test_images_of_two_sets_come_in_any_order() -> None:
    first, second = birds((2, 1, 0, 0), (2, 0, 0, 0)), birds((0, 0, 2, 2), (0, 0, 1, 1))
    both = images.joined(first, second)
    wanted = torch.cat([s.batch(torch.arange(len(s))) for s in (first, second)])
    for order in (
        torch.arange(7),
        torch.tensor([6, 0, 3, 2]),
        torch.tensor([1]),
        torch.tensor([5]),
    ):
        assert torch.equal(both.batch(order), wanted[order])
    assert torch.equal(both.labels, torch.tensor([0, 0, 0, 1, 1, 1, 1]))


# Resizing


def test_square_resizes_both_sides_of_living17s_test_and_of_waterbirds() -> None:
    """PROTOCOL section 2's table with the paper's words: 256×256 and 224×224."""
    changed = {}
    for name, entry in DATASETS.items():
        both, own = entry.squared(), (entry.train_transform, entry.test_transform)
        pairs = zip(
            ("train", "test"), own, (both.train_transform, both.test_transform), strict=True
        )
        for part, before, after in pairs:
            if before != after:
                assert isinstance(after, Transform)
                changed[name, part] = (after.resize, after.size, after.crop_size)
        assert entry.resizes == any(key[0] == name for key in changed)
    assert {k: v for k, v in changed.items() if not k[0].startswith("mini_")} == {
        ("living17", "test"): ("square", 256, 224),
        ("waterbirds", "train"): ("square", 224, 224),
        ("waterbirds", "test"): ("square", 224, 224),
    }
    assert {k[0] for k in changed if k[0].startswith("mini_")} == {
        "mini_living17",
        "mini_waterbirds",
    }


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_sees_square_images_where_it_says_so(tmp_path: Path, cached: bool) -> None:
    """Of oblong files; training images, which are cropped by chance, are as ever."""
    place = make_living17(tmp_path / "mini", train=34, val=34, test=34, size=48)
    for file in sorted(place.rglob("val/*/*.JPEG")):
        with Image.open(file) as image:
            image.resize((72, 48)).save(file, "JPEG", quality=95)
    cache = tmp_path / "cache" if cached else None
    short, square = (a_run(dataset="mini_living17", resize=r) for r in ("short", "square"))
    for run in (short, square):
        for _ in images.prepare(run.dataset, tmp_path, cache, 1, run.resize):
            pass
    one, other = (load_for(run, tmp_path, cache) for run in (short, square))
    assert one.fingerprint == other.fingerprint
    rows = torch.arange(4)
    drawn = [data.train.epoch(torch.Generator().manual_seed(0))(rows) for data in (one, other)]
    assert torch.equal(*drawn)
    assert not torch.equal(one.splits["id"].batch(rows), other.splits["id"].batch(rows))
    part = images.source("mini_living17", tmp_path).splits["id"]
    squared = DATASETS["mini_living17"].squared().test_transform
    assert squared is not None
    assert torch.equal(other.splits["id"].batch(rows), plain(part, squared).batch(rows))
