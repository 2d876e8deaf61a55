"""The published models as architectures: sizes, names, heads, normalisation, layers."""

from __future__ import annotations

import dataclasses
import math
import re

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from conftest import a_run
from db.errors import SpecError
from worker.models import HUB_FILES, MODELS, Model, Published
from worker.models.layers import embedding_layers, gradient_layers
from worker.models.weights import new_model
from worker.optim import freeze

OURS = [m for m in MODELS.values() if m.published or m.recipe]
BIG = [m for m in OURS if m.published]
REAL = (
    "clip_vit_b16",
    "vit_b16_in21k",
    "convnext_b_in22k",
    "bit_r50_in21k",
    "bit_r50_patchify_sgd",
)
"""Built for real, one a family: the others differ in size alone."""
every = pytest.mark.parametrize("entry", OURS, ids=lambda m: m.id)
big = pytest.mark.parametrize("entry", BIG, ids=lambda m: m.id)
built = pytest.mark.parametrize("entry", [MODELS[name] for name in REAL], ids=lambda m: m.id)


def published(entry: Model) -> Published:
    assert entry.published is not None
    return entry.published


def on_meta(entry: Model, classes: int) -> nn.Module:
    """The model as `new_model` builds it, without memory or random numbers."""
    with torch.device("meta"):
        return new_model(entry, classes)


def sizes(model: nn.Module) -> dict[str, int]:
    return {name: p.numel() for name, p in model.named_parameters()}


# Sizes and names


@every
def test_the_figures_of_the_protocol_are_counted(entry: Model) -> None:
    counted = sizes(on_meta(entry, 10))
    assert sum(counted.values()) == entry.parameters
    frozen = sum(size for name, size in counted.items() if name.startswith(entry.embedding))
    assert frozen == entry.embedding_parameters
    for prefix in (*entry.embedding, *entry.embedding_without_norm, *entry.stem):
        assert any(name.startswith(prefix) for name in counted), prefix


def test_the_shares_are_the_papers() -> None:
    shares = {m.id: f"{100 * m.embedding_share:.3f}" for m in BIG}
    assert list(shares.items())[:8] == [
        ("clip_vit_b16", "0.686"),
        ("clip_vit_l14", "0.199"),
        ("vit_b16_in21k", "0.688"),
        ("dino_vit_b16", "0.688"),
        ("convnext_b_in22k", "0.482"),
        ("bit_r50_in21k", "0.954"),
        ("bit_r101_in21k", "0.528"),
        ("clip_vit_h14", "0.119"),
    ]


def test_what_the_ablations_freeze() -> None:
    """The stem of ConvNeXt is 0.0075% of it; CLIP's `conv1` the embedding less its layer norm."""
    convnext, clip = MODELS["convnext_b_in22k"], MODELS["clip_vit_b16"]
    stem = sum(
        n
        for name, n in sizes(on_meta(convnext, 10)).items()
        if name.startswith(convnext.frozen_by("stem"))
    )
    assert (stem, f"{100 * stem / convnext.parameters:.4f}") == (6_528, "0.0075")
    conv1 = sum(
        n
        for name, n in sizes(on_meta(clip, 10)).items()
        if name.startswith(clip.frozen_by("embedding_without_norm"))
    )
    assert conv1 == 591_360 - 2 * 768
    assert clip.frozen_by("nothing") == ()
    assert clip.frozen_by("embedding") == clip.embedding
    with pytest.raises(SpecError, match='"clip_vit_b16" has no stem'):
        clip.frozen_by("stem")
    with pytest.raises(SpecError, match="embedding_without_norm"):
        convnext.frozen_by("embedding_without_norm")


@every
@pytest.mark.parametrize("classes", [2, 10, 17, 40, 62])
def test_every_number_of_classes(entry: Model, classes: int) -> None:
    model = on_meta(entry, classes)
    side = entry.image_size
    assert model(torch.empty(3, 3, side, side, device="meta")).shape == (3, classes)
    head = [n for n, _ in model.named_parameters() if n.startswith(entry.head)]
    assert len(head) == 2, "a weight and a bias"
    assert all(p.shape[0] == classes for n, p in model.named_parameters() if n in head)


@every
def test_models_train_and_are_exact_over_micro_batches(entry: Model) -> None:
    """Built in train mode, with nothing in them that mixes images or draws random numbers."""
    for module in on_meta(entry, 2).modules():
        assert module.training
        assert not isinstance(module, nn.modules.batchnorm._BatchNorm)
        assert not (isinstance(module, nn.Dropout) and module.p)
        assert type(module).__name__ != "DropPath"


# The declarations are what the libraries say


@big
def test_declared_weights_are_the_librarys(entry: Model) -> None:
    """So that a file found here is the one that the library would have downloaded."""
    ours = published(entry)
    if ours.tag is None:
        assert (ours.hub, ours.original) == (None, None)
        return
    if ours.library == "timm":
        found = timm.models.get_pretrained_cfg(f"{ours.name}.{ours.tag}")
        hub, url, size = found.hf_hub_id, found.url, found.input_size[-1]
        mean, std = found.mean, found.std
    else:
        config = open_clip.get_pretrained_cfg(ours.name, ours.tag)
        hub, url, mean, std = (
            config["hf_hub"].removesuffix("/"),
            *(config[key] for key in ("url", "mean", "std")),
        )
        model = open_clip.get_model_config(ours.name)
        size = model["vision_cfg"]["image_size"]
        assert config.get("quick_gelu", False) == model.get("quick_gelu", False)
    assert (ours.hub, ours.original) == (hub, url.split("/")[-1] if url else None)
    assert (ours.mean, ours.std, entry.image_size) == (mean, std, size)


def test_the_libraries_ask_the_hub_for_these_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: recorded from their own loaders, which are told that nothing exists."""
    import open_clip.pretrained
    import timm.models._hub as timm_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked: list[tuple[str, str]] = []

    def nothing(repo_id: str, filename: str, **_: object) -> str:
        asked.append((repo_id, filename))
        raise EntryNotFoundError(filename)

    monkeypatch.setattr(timm_hub, "hf_hub_download", nothing)
    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", nothing)
    dino, clip = published(MODELS["dino_vit_b16"]), published(MODELS["clip_vit_b16"])
    assert dino.hub
    assert clip.tag
    with pytest.raises(EntryNotFoundError):
        timm_hub.load_state_dict_from_hf(dino.hub)
    with pytest.raises(FileNotFoundError):
        open_clip.download_pretrained(open_clip.get_pretrained_cfg(clip.name, clip.tag))
    assert asked == [
        *((dino.hub, file) for file in HUB_FILES["timm"]),
        *((clip.hub, file) for file in HUB_FILES["open_clip"]),
    ]


# Architecture


def test_openais_models_compute_quick_gelu_and_laions_does_not() -> None:
    for name, quick in (("clip_vit_b16", True), ("clip_vit_l14", True), ("clip_vit_h14", False)):
        kinds = [type(m).__name__ for m in on_meta(MODELS[name], 2).modules()]
        blocks = kinds.count("ResidualAttentionBlock")
        assert blocks >= 12
        assert (kinds.count("QuickGELU"), kinds.count("GELU")) == (
            (blocks, 0) if quick else (0, blocks)
        )


@pytest.mark.parametrize(
    ("name", "width"), [("clip_vit_b16", 512), ("clip_vit_l14", 768), ("clip_vit_h14", 1024)]
)
def test_clips_head_stands_after_the_projection(name: str, width: int) -> None:
    model = on_meta(MODELS[name], 7)
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (width, 7)
    assert model.get_parameter("network.proj").shape[1] == width
    assert {n.split(".")[0] for n, _ in model.named_parameters()} == {"network", "head"}
    assert not any("token_embedding" in n or "text" in n for n, _ in model.named_parameters())


def test_patchify_is_a_convolution_of_4_by_4_patches() -> None:
    """Maps of 56×56 reach the first stage, as they do behind the 7×7 stem and its pooling."""
    image = torch.empty(1, 3, 224, 224, device="meta")
    for name in ("bit_r50_sgd", "bit_r50_patchify_sgd"):
        stem = on_meta(MODELS[name], 2).get_submodule("network.stem")
        assert stem(image).shape == (1, 64, 56, 56)
    conv = on_meta(MODELS["bit_r50_patchify_sgd"], 2).get_submodule("network.stem.conv")
    assert isinstance(conv, timm.layers.StdConv2d)
    assert (conv.kernel_size, conv.stride, conv.padding) == ((4, 4), (4, 4), (0, 0))
    other = on_meta(MODELS["bit_r50_patchify_sgd"], 2).get_submodule("network.stages.0.blocks.0")
    assert conv.eps == other.get_submodule("conv1").eps == 1e-8


def librarys_own(entry: Model) -> nn.Module:
    ours = published(entry)
    if ours.library == "timm":
        network = timm.create_model(ours.name, num_classes=10)
        assert isinstance(network, nn.Module)
        return network
    visual = open_clip.create_model(ours.name).visual
    assert isinstance(visual, nn.Module)
    return visual


@pytest.mark.parametrize("name", [name for name in REAL if "patchify" not in name])
def test_random_weights_are_the_librarys_for_the_same_seed(name: str) -> None:
    """Drawn from torch's global generator by the library; and the outputs are the library's on
    images that are normalised by hand."""
    entry = MODELS[name]
    torch.manual_seed(3)
    library = librarys_own(entry)
    torch.manual_seed(3)
    model = new_model(entry, 10)
    drawn, same = library.state_dict(), model.get_submodule("network").state_dict()
    heads = tuple(head.removeprefix("network.") for head in entry.head)
    assert drawn.keys() == same.keys()
    assert all(torch.equal(drawn[n], same[n]) for n in drawn if not n.startswith(heads))

    images = torch.rand(2, 3, 224, 224)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (published(entry).mean, published(entry).std)
    )
    with torch.no_grad():
        features = library_features(entry, library, (images - mean) / std)
        head = model.get_submodule(entry.head[0].removesuffix("."))
        expected = head(features).flatten(1)
        assert torch.equal(model(images), expected)


def library_features(entry: Model, library: nn.Module, images: Tensor) -> Tensor:
    """What the head sees, by the library's own ways."""
    if entry.family == "clip":
        features: Tensor = library(images)
        return features
    found: Tensor = library.forward_head(library.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return found[..., None, None] if entry.family == "bit" and found.ndim == 2 else found


@built
def test_a_seed_decides_all_weights_and_the_head_is_torchs_own(entry: Model) -> None:
    """Uniform within 1/sqrt(fan-in), weight and bias; timm's own has std 0.01-0.02 and bias 0."""

    def head_of(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(seed)
        model = new_model(entry, 1_000)
        weight, bias = (p for n, p in model.named_parameters() if n.startswith(entry.head))
        first = next(model.parameters()).flatten()[:100]
        return weight.detach().clone(), bias.detach().clone(), first.detach().clone()

    weight, bias, first = head_of(0)
    bound = weight[0].numel() ** -0.5
    for values in (weight, bias):
        assert values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert all(torch.equal(a, b) for a, b in zip((weight, bias, first), head_of(0), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip((weight, first), head_of(1)[::2], strict=True))


@built
def test_freeze_embed_leaves_the_rest_a_gradient(entry: Model) -> None:
    """Position embedding, class token and CLIP's projection train on (PROTOCOL section 1)."""
    torch.manual_seed(0)
    model = new_model(entry, 3)
    freeze(model, a_run(model=entry.id, method="sgd_freeze_embed"))
    functional.cross_entropy(model(torch.rand(2, 3, 224, 224)), torch.tensor([0, 1])).backward()
    frozen = {n for n, p in model.named_parameters() if p.grad is None}
    assert frozen == {n for n, _ in model.named_parameters() if n.startswith(entry.embedding)}
    assert sum(model.get_parameter(n).numel() for n in frozen) == entry.embedding_parameters
    moving = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum()}
    assert moving | frozen == {n for n, _ in model.named_parameters()}
    if entry.family == "clip":
        names = ("proj", "class_embedding", "positional_embedding")
        assert {f"network.{name}" for name in names} <= moving


@pytest.mark.slow
@big
def test_every_model_builds_and_computes_for_real(entry: Model) -> None:
    """H/14 among them: 2.5 GB."""
    model = new_model(entry, 10)
    assert sum(sizes(model).values()) == entry.parameters
    with torch.no_grad():
        logits = model(torch.rand(2, 3, 224, 224))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_an_entry_needs_a_way_to_be_built() -> None:
    entry = dataclasses.replace(MODELS["tiny_vit"], build=None)
    with pytest.raises(SpecError, match='"tiny_vit" says neither'):
        new_model(entry, 2)


# Layers of the figures of gradient norms


@every
def test_every_parameter_is_in_one_layer(entry: Model) -> None:
    model = on_meta(entry, 2)
    layers = gradient_layers(entry, model)
    names = [name for held in layers.values() for name in held]
    assert sorted(names) == sorted(sizes(model))
    embedding = [n for layer in embedding_layers(entry, layers) for n in layers[layer]]
    assert sorted(embedding) == sorted(n for n in names if n.startswith(entry.embedding))
    assert list(layers)[: len(embedding_layers(entry, layers))] == list(
        embedding_layers(entry, layers)
    ), "the embedding comes first"


def layer_names(name: str) -> list[str]:
    """Block numbers as `*`, each run of them once."""
    found = gradient_layers(MODELS[name], on_meta(MODELS[name], 2))
    return list(dict.fromkeys(re.sub(r"^block\.\d+\.", "block.*.", layer) for layer in found))


BLOCK = ["block.*.norm1", "block.*.attn", "block.*.norm2", "block.*.mlp"]


def test_layers_are_the_protocols() -> None:
    """PROTOCOL section 1, "Layers for gradient norms"; CLIP's names are a ViT's."""
    assert layer_names("clip_vit_l14") == [
        "patch_embed", "ln_pre", "pos_embed", "cls_token", *BLOCK, "post_norm", "proj", "head",
    ]  # fmt: skip
    for name in ("vit_b16_in21k", "dino_vit_b16", "tiny_vit"):
        assert layer_names(name) == [
            "patch_embed", "pos_embed", "cls_token", *BLOCK, "post_norm", "head",
        ]  # fmt: skip
    assert layer_names("convnext_b_in22k") == [
        "stem", "stage.0", "stage.1", "stage.2", "stage.3", "post_norm", "head",
    ]  # fmt: skip
    for name in ("bit_r50_in21k", "bit_r101_in21k", "bit_r50_patchify_adamw"):
        assert layer_names(name) == ["stem", "block.0", "block.1", "block.2", "block.3", "head"]
    entry = MODELS["clip_vit_b16"]
    layers = list(gradient_layers(entry, on_meta(entry, 2)))
    first = layers.index("block.0.norm1")
    assert layers[first : first + 5] == [
        "block.0.norm1", "block.0.attn", "block.0.norm2", "block.0.mlp", "block.1.norm1",
    ]  # fmt: skip
    assert layers[-4] == "block.11.mlp", "blocks in numeric order"


def test_bits_head_is_the_final_norm_and_the_convolution() -> None:
    entry = MODELS["bit_r50_in21k"]
    head = gradient_layers(entry, on_meta(entry, 2))["head"]
    assert [name.removeprefix("network.") for name in head] == [
        "norm.weight", "norm.bias", "head.fc.weight", "head.fc.bias",
    ]  # fmt: skip


def test_a_stranger_to_its_family_is_named() -> None:
    with pytest.raises(SpecError, match=r"parameter embedding\.weight is in no layer"):
        gradient_layers(MODELS["toy"], new_model(MODELS["toy"], 2))
