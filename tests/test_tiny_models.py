"""The tiny models: names, sizes and initialisation that the big ones' machinery relies on."""

import re
from collections.abc import Callable

import open_clip.transformer  # type: ignore[import-untyped]
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from worker.models import MODELS, Model
from worker.models.normalized import Normalized
from worker.models.published import Headed
from worker.models.tiny import _resampling, bit, clip, convnext, vit
from worker.models.weights import new_model

Build = Callable[[int], nn.Module]
EMBEDDING: dict[Build, tuple[str, ...]] = {
    vit: ("network.patch_embed.",),
    bit: ("network.stem.", "network.stages.0."),
    clip: ("network.conv1.", "network.ln_pre."),
    convnext: ("network.stem.", "network.stages.0."),
}
HEAD: dict[Build, str] = {
    vit: "network.head.",
    bit: "network.head.fc.",
    clip: "head.",
    convnext: "network.head.fc.",
}
RELATIVE = {
    "tiny_vit": "vit_b16_in21k",
    "tiny_bit": "bit_r50_in21k",
    "tiny_clip": "clip_vit_b16",
    "tiny_convnext": "convnext_b_in22k",
}

every = pytest.mark.parametrize("build", [vit, bit, clip, convnext])


@every
def test_images_become_logits_and_gradients(build: Build) -> None:
    torch.manual_seed(0)
    model = build(7)
    logits = model(torch.rand(5, 3, 32, 32))
    nn.functional.cross_entropy(logits, torch.arange(5)).backward()

    assert logits.shape == (5, 7)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every
def test_embedding_and_head_have_the_big_models_names(build: Build) -> None:
    names = [name for name, _ in build(3).named_parameters()]

    for prefix in (*EMBEDDING[build], HEAD[build]):
        assert any(name.startswith(prefix) for name in names), prefix
    assert all(name.startswith(("network.", HEAD[build])) for name in names)


def test_the_tiny_models_are_one_a_family() -> None:
    families = {entry.id: entry.family for entry in MODELS.values() if entry.recipe}

    assert families == {name: MODELS[big].family for name, big in RELATIVE.items()}


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_convnext"])
def test_a_tiny_model_has_its_relatives_names_and_is_declared_like_it(name: str) -> None:
    """Only numbers of blocks and channels are smaller: what a method freezes is called the same."""
    tiny, big = MODELS[name], MODELS[RELATIVE[name]]

    assert named(tiny) <= named(big)
    assert {layer_of(n) for n in named(tiny)} == {layer_of(n) for n in named(big)}
    for field in ("embedding", "embedding_without_norm", "stem", "head", "projection"):
        assert getattr(tiny, field) == getattr(big, field), field
    assert bool(tiny.blocks) == bool(big.blocks)


def named(entry: Model) -> set[str]:
    with torch.device("meta"):
        return {name for name, _ in new_model(entry, 10).named_parameters()}


def layer_of(name: str) -> str:
    """A parameter's name without the number of its block; a stage of ConvNeXt keeps its own."""
    return re.sub(r"(blocks)\.\d+", r"\1.*", name)


def test_vit_keeps_position_and_class_token_outside_the_embedding() -> None:
    names = {name for name, _ in vit(3).named_parameters()}

    assert {"network.pos_embed", "network.cls_token"} <= names


@every
def test_the_head_alone_depends_on_the_classes(build: Build) -> None:
    two, ten = build(2).state_dict(), build(10).state_dict()

    differ = {name for name in two if two[name].shape != ten[name].shape}
    assert differ == {f"{HEAD[build]}weight", f"{HEAD[build]}bias"}


@every
def test_the_head_has_torchs_default_initialisation(build: Build) -> None:
    """Uniform within 1/sqrt(fan-in), weight and bias; timm's own has std 0.01-0.02, bias 0."""
    torch.manual_seed(0)
    head = build(1_000).get_submodule(HEAD[build].removesuffix("."))
    assert isinstance(head, nn.Linear | nn.Conv2d)
    assert head.bias is not None
    bound = head.weight[0].numel() ** -0.5

    for values in (head.weight, head.bias):
        assert values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("build", "name"), [(vit, "network.pos_embed"), (clip, "network.positional_embedding")]
)
def test_position_embedding_is_wide(build: Build, name: str) -> None:
    torch.manual_seed(0)
    assert build(2).get_parameter(name).std().item() == pytest.approx(0.3, rel=0.1)


@every
def test_train_and_evaluation_mode_agree(build: Build) -> None:
    model, images = build(4), torch.rand(3, 3, 32, 32)

    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert torch.equal(model.train()(images), model.eval()(images))


@every
def test_micro_batches_add_up(build: Build) -> None:
    """No layer mixes images: the parts' gradients sum to the whole batch's."""
    torch.manual_seed(0)
    model, images, labels = build(4), torch.rand(8, 3, 32, 32), torch.arange(8) % 4

    def gradient(size: int) -> torch.Tensor:
        model.zero_grad()
        for part, wanted in zip(images.split(size), labels.split(size), strict=True):
            loss = nn.functional.cross_entropy(model(part), wanted, reduction="sum") / len(images)
            loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient(4), gradient(8), rtol=1e-3, atol=1e-5)


@every
def test_the_seed_decides_the_weights(build: Build) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build(4).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize("side", [16, 32])
@pytest.mark.parametrize("build", [bit, clip, convnext])
def test_memory_layout_does_not_change_the_bits(build: Build, side: int) -> None:
    """A loader may hand out either layout; a run's numbers must not depend on it."""
    torch.manual_seed(0)
    model, images = build(4), torch.rand(6, 3, side, side)

    assert torch.equal(model(images), model(images.contiguous(memory_format=torch.channels_last)))


@every
@pytest.mark.parametrize("side", [8, 16, 32, 48])
def test_images_of_other_sides_are_taken(build: Build, side: int) -> None:
    """Digits have 16 pixels; every parameter still learns from them."""
    model = build(3)
    logits = model(torch.rand(4, 3, side, side))
    functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()

    assert logits.shape == (4, 3)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


# CLIP and ConvNeXt against their libraries


def test_clip_computes_what_open_clip_does() -> None:
    """Its own forward pass at 32 pixels, normalised with CLIP's values, and a head behind it."""
    torch.manual_seed(0)
    model = clip(5)
    assert isinstance(model, Headed)
    library = open_clip.transformer.VisionTransformer(
        32, 8, 64, 3, 2, 2, output_dim=32, act_layer=open_clip.transformer.QuickGELU
    )
    library.load_state_dict(model.network.state_dict())
    images = torch.rand(4, 3, 32, 32)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)

    assert torch.equal(model(images), model.head(library((images - mean) / std)))
    assert model.head.in_features == library.output_dim == 32
    assert [type(m).__name__ for m in model.modules()].count("QuickGELU") == 3


def test_convnext_computes_what_timm_does() -> None:
    torch.manual_seed(0)
    model = convnext(5)
    library = timm.create_model(
        "convnext_base", depths=(1, 1, 2, 1), dims=(16, 32, 48, 64), num_classes=5
    )
    library.load_state_dict(model.get_submodule("network").state_dict())
    images = torch.rand(4, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    assert torch.equal(model(images), library((images - mean) / std))


@pytest.mark.parametrize("new", [(4, 4), (2, 2), (1, 1), (6, 6), (3, 5)])
def test_positions_are_resampled_as_timms_are(new: tuple[int, int]) -> None:
    """A cell's weights add up to one; on the old grid each is its own."""
    positions = torch.randn(1, 16, 7)
    weights = _resampling((4, 4), new)
    expected = timm.layers.resample_abs_pos_embed(positions, new, (4, 4), num_prefix_tokens=0)

    torch.testing.assert_close(weights @ positions[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(1), torch.ones(new[0] * new[1]))


def test_small_images_are_enlarged_before_convnext() -> None:
    """A plain surface stays plain, so enlarging changes nothing about it."""
    model = convnext(3)
    colour = torch.rand(2, 3, 1, 1)
    small, large = (model(colour.expand(-1, -1, side, side)) for side in (16, 32))

    torch.testing.assert_close(small, large)
    assert MODELS["tiny_convnext"].least_side == MODELS["tiny_convnext"].image_size == 32


def test_normalised_images_reach_the_network() -> None:
    model = Normalized(nn.Identity(), mean=(0.5, 0.0, 0.25), std=(0.5, 1.0, 0.25))
    out = model(torch.full((1, 3, 2, 2), 0.5))

    assert out[0, :, 0, 0].tolist() == [0.0, 0.5, 1.0]
    assert model.state_dict() == {}
    assert isinstance(model.network, nn.Identity)
