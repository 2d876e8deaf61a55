"""The tiny models: names, sizes and initialisation that the big ones' machinery relies on."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from worker.models.normalized import Normalized
from worker.models.tiny import bit, vit

Build = Callable[[int], nn.Module]
EMBEDDING = {vit: ("network.patch_embed.",), bit: ("network.stem.", "network.stages.0.")}
HEAD = {vit: "network.head.", bit: "network.head.fc."}

both = pytest.mark.parametrize("build", [vit, bit])


@both
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


@both
def test_embedding_and_head_have_the_big_models_names(build: Build) -> None:
    names = [name for name, _ in build(3).named_parameters()]

    for prefix in (*EMBEDDING[build], HEAD[build]):
        assert any(name.startswith(prefix) for name in names), prefix
    assert all(name.startswith("network.") for name in names)


def test_vit_keeps_position_and_class_token_outside_the_embedding() -> None:
    names = {name for name, _ in vit(3).named_parameters()}

    assert {"network.pos_embed", "network.cls_token"} <= names


@both
def test_the_head_alone_depends_on_the_classes(build: Build) -> None:
    two, ten = build(2).state_dict(), build(10).state_dict()

    differ = {name for name in two if two[name].shape != ten[name].shape}
    assert differ == {f"{HEAD[build]}weight", f"{HEAD[build]}bias"}


@both
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


def test_position_embedding_is_wide() -> None:
    torch.manual_seed(0)
    assert vit(2).get_parameter("network.pos_embed").std().item() == pytest.approx(0.3, rel=0.1)


@both
def test_train_and_evaluation_mode_agree(build: Build) -> None:
    model, images = build(4), torch.rand(3, 3, 32, 32)

    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert torch.equal(model.train()(images), model.eval()(images))


@both
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


@both
def test_the_seed_decides_the_weights(build: Build) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build(4).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_memory_layout_does_not_change_the_bits() -> None:
    """A loader may hand out either layout; a run's numbers must not depend on it."""
    torch.manual_seed(0)
    model, images = bit(4), torch.rand(6, 3, 32, 32)

    assert torch.equal(model(images), model(images.contiguous(memory_format=torch.channels_last)))


def test_normalised_images_reach_the_network() -> None:
    model = Normalized(nn.Identity(), mean=(0.5, 0.0, 0.25), std=(0.5, 1.0, 0.25))
    out = model(torch.full((1, 3, 2, 2), 0.5))

    assert out[0, :, 0, 0].tolist() == [0.0, 0.5, 1.0]
    assert model.state_dict() == {}
    assert isinstance(model.network, nn.Identity)
