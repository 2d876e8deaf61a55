"""Published weights: found in every cache, read by the real readers, refused where they differ.

The files are generated in the real formats. The entries are small relatives of the declared ones,
and BiT ResNet-50 itself.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conftest import a_run
from db.errors import MissingInputs, SpecError
from worker.checkpoint import file_digest
from worker.models import MODELS, Model, Published
from worker.models import weights as loading
from worker.models.locate import find, places, remedy
from worker.models.weights import Built, build, copy_backbone, new_model, read, save_weights

IN21K = 21_843


def relative(of: str, id: str, **changes: Any) -> Model:
    """A small model declared as the big one called `of` is."""
    entry = MODELS[of]
    assert entry.published is not None
    return dataclasses.replace(
        entry, id=id, published=dataclasses.replace(entry.published, **changes)
    )


VIT = relative(
    "vit_b16_in21k",
    "small_vit",
    name="vit_tiny_patch16_224",
    hub="timm/vit_tiny_patch16_224.augreg_in21k",
    original="Ti_16.npz",
)
DINO = relative(
    "dino_vit_b16",
    "small_dino",
    name="vit_tiny_patch16_224",
    hub="timm/small_dino",
    original="small_dino.pth",
)
CONVNEXT = relative(
    "convnext_b_in22k", "small_convnext", name="convnext_pico", hub="timm/convnext_pico"
)
CLIP = relative(
    "clip_vit_b16",
    "small_clip",
    name="orch-small-clip-quickgelu",
    hub="timm/small_clip.openai",
    original="small-clip.pt",
)
BIT = MODELS["bit_r50_in21k"]
ENTRIES = (VIT, DINO, CONVNEXT, CLIP)
CLIP_CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}


def declared(entry: Model) -> Published:
    assert entry.published is not None
    return entry.published


@pytest.fixture(scope="module", autouse=True)
def _small_clip(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("config") / f"{declared(CLIP).name}.json"
    path.write_text(json.dumps(CLIP_CONFIG))
    open_clip.add_model_config(path)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without any weights, and no network; the generated ones are deleted after the test."""
    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for entry in ENTRIES:
        monkeypatch.setitem(MODELS._entries, entry.id, entry)
    yield tmp_path
    shutil.rmtree(tmp_path)


def in_hub(home: Path, entry: Model, source: Path, file: str) -> Path:
    """Put a file where `hf_hub_download` would: a blob called by its checksum, and a link."""
    repository = home / "hub" / f"models--{str(declared(entry).hub).replace('/', '--')}"
    revision = "0123456789abcdef0123456789abcdef01234567"
    for folder in ("blobs", "refs", f"snapshots/{revision}"):
        (repository / folder).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(revision)
    blob = repository / "blobs" / file_digest(source)
    source.replace(blob)
    link = repository / "snapshots" / revision / file
    link.symlink_to(f"../../blobs/{blob.name}")
    return link


@lru_cache(maxsize=8)
def as_published(entry: Model, classes: int = 7) -> dict[str, Tensor]:
    """Weights as the library stores them, some other draw than any test's."""
    torch.manual_seed(99)
    ours = declared(entry)
    if ours.library == "open_clip":
        state: dict[str, Tensor] = open_clip.create_model(ours.name).state_dict()
        return state
    network = timm.create_model(ours.name, num_classes=classes)
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def a_file(entry: Model, path: Path, classes: int = 7, **changes: Tensor | None) -> Path:
    """`as_published` as a file; `changes` replace tensors, None drops one."""
    state = {**as_published(entry, classes), **changes}
    present = {name: value for name, value in state.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(present, path)
    else:
        torch.save(present, path)
    return path


def start(entry: Model, weights: Path | None = None, seed: int = 0, classes: int = 3) -> Built:
    torch.manual_seed(seed)
    run = a_run(model=entry.id, weights="pretrained")
    return build(run, classes, Path("unused"), weights=weights)


def backbone(model: nn.Module, entry: Model) -> dict[str, Tensor]:
    return {n: v for n, v in model.state_dict().items() if not n.startswith(entry.head)}


def assert_same_backbone(model: nn.Module, entry: Model, stored: dict[str, Tensor]) -> None:
    prefix = "visual." if declared(entry).library == "open_clip" else ""
    ours = backbone(model, entry)
    for name, value in ours.items():
        assert torch.equal(value, stored[prefix + name.removeprefix("network.")].float()), name


# Locating


def test_locating_imports_no_torch(home: Path) -> None:
    """And importing the declarations no hub client either: every command does it."""
    code = (
        "import sys, pathlib\n"
        "from worker.models import MODELS\n"
        "heavy = {'torch', 'timm', 'open_clip', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from worker.models import layers\n"
        "from worker.models.locate import find, places, remedy\n"
        "for m in MODELS.values():\n"
        "    assert find(m, pathlib.Path('w')) is None\n"
        "    assert places(m, None) and remedy(m)\n"
        "heavy = {'torch', 'timm', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={"HOME": str(home), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr


def test_places_are_looked_through_in_order(home: Path) -> None:
    weights = home / "weights"
    hub = {
        file: in_hub(home, VIT, a_file(VIT, home / "x"), file) for file in declared(VIT).files[::-1]
    }
    old = home / ".cache" / "torch" / "hub" / "checkpoints" / "Ti_16.npz"
    folder = [weights / f"small_vit{s}" for s in (".safetensors", ".pt", ".pth", ".bin", ".npz")]
    for path in (old, *folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    order = [*folder, hub["model.safetensors"], hub["pytorch_model.bin"], old]
    for path in order:
        assert find(VIT, weights) == path
        path.unlink()
    assert find(VIT, weights) is None
    assert find(VIT, None) is None
    said = " ".join(places(VIT, weights))
    for word in (weights, "small_vit", ".safetensors", declared(VIT).hub, home / "hub", old):
        assert str(word) in said
    assert "orch models fetch small_vit" in remedy(VIT)


def test_openais_own_cache_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / ".cache" / "clip" / "small-clip.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert find(CLIP, None) == path
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    path = home / "torch" / "hub" / "checkpoints" / "small_dino.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    assert find(DINO, None) == path


def test_hub_environment_is_honoured(home: Path) -> None:
    """HF_HOME in another process, as a user sets it."""
    link = in_hub(home, BIT, a_file(VIT, home / "x"), "model.safetensors")
    code = (
        "from worker.models import MODELS\nfrom worker.models.locate import find\n"
        "print(find(MODELS['bit_r50_in21k'], None))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={"HF_HOME": str(home), "PATH": ""},
    )
    assert done.stdout.strip() == str(link), done.stderr


def test_missing_weights_say_where_and_how(home: Path) -> None:
    with pytest.raises(MissingInputs, match="orch models fetch small_clip") as caught:
        start(CLIP, home / "weights")
    for word in (home / "weights", declared(CLIP).hub, "small-clip.pt"):
        assert str(word) in str(caught.value)
    with pytest.raises(MissingInputs, match=r"bit_r50_sgd\.safetensors"):
        start(MODELS["bit_r50_sgd"])


# Reading


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda m: m.id)
def test_hub_files_load_and_the_head_is_new(home: Path, entry: Model, index: int) -> None:
    """safetensors and pickle; the head of the 21,843 classes is dropped, or was never there."""
    ours = declared(entry)
    classes = 0 if entry is DINO else IN21K
    file = ours.files[index]
    source = a_file(entry, home / f"x{Path(file).suffix}", classes)
    stored = load_file(source) if index == 0 else torch.load(source)
    link = in_hub(home, entry, source, file)
    built = start(entry)
    assert built.weights_sha256 == link.resolve().name == file_digest(link)
    assert_same_backbone(built.model, entry, stored)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in built.model.parameters())
    assert all(module.training for module in built.model.modules())

    # The head: the seed's, and that of a random start.
    run = a_run(model=entry.id, weights="random")
    torch.manual_seed(0)
    random = build(run, 3, Path("unused"))
    assert random.weights_sha256 == ""
    for name, value in built.model.state_dict().items():
        if name.startswith(entry.head):
            assert value.shape[0] == 3
            assert torch.equal(value, random.model.state_dict()[name])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda m: m.id)
def test_features_are_the_librarys_own(home: Path, entry: Model) -> None:
    """The library loads the same file its own way; images are normalised by hand."""
    weights = home / "weights"
    ours = declared(entry)
    path = a_file(entry, weights / f"{entry.id}.safetensors")
    model = start(entry, weights).model
    images = torch.rand(2, 3, 224, 224)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ours.mean, ours.std))
    with torch.no_grad():
        if entry is CLIP:
            library = open_clip.create_model(ours.name, pretrained=str(path))
            features = library.encode_image((images - mean) / std)
        else:
            library = timm.create_model(
                ours.name,
                pretrained=True,
                num_classes=7,
                pretrained_cfg_overlay={"file": str(path), "num_classes": 7},
            )
            features = library.forward_features((images - mean) / std)
            features = library.forward_head(features, pre_logits=True)
        head = model.get_submodule(entry.head[0].removesuffix("."))
        assert torch.equal(model(images), head(features))


def test_the_real_bit_loads_from_the_hub_and_from_googles_format(home: Path) -> None:
    """ResNet-50 itself: the safetensors of the hub, and the original `.npz` in the folder."""
    stored = as_published(BIT, classes=11)
    save_file(stored, home / "x")
    in_hub(home, BIT, home / "x", "model.safetensors")
    assert_same_backbone(start(BIT, classes=2).model, BIT, stored)

    weights = home / "weights"
    weights.mkdir()
    np.savez(weights / f"{BIT.id}.npz", **bit_npz(stored))
    built = start(BIT, weights, classes=2)
    assert built.weights_sha256 == file_digest(weights / f"{BIT.id}.npz")
    assert_same_backbone(built.model, BIT, stored)


def bit_npz(state: dict[str, Tensor]) -> dict[str, Any]:
    """The names and layouts that timm's converter for BiT reads (`resnetv2._load_weights`)."""
    out: dict[str, Any] = {
        "resnet/root_block/standardized_conv2d/kernel": hwio(state["stem.conv.weight"]),
        "resnet/group_norm/gamma": state["norm.weight"].numpy(),
        "resnet/group_norm/beta": state["norm.bias"].numpy(),
        "resnet/head/conv2d/kernel": hwio(state["head.fc.weight"]),
        "resnet/head/conv2d/bias": state["head.fc.bias"].numpy(),
    }
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] != "stages":
            continue
        unit = f"resnet/block{int(parts[1]) + 1}/unit{int(parts[3]) + 1:02d}/"
        if parts[4] == "downsample":
            out[f"{unit}a/proj/standardized_conv2d/kernel"] = hwio(value)
            continue
        letter = "abc"[int(parts[4][-1]) - 1]
        if parts[4].startswith("conv"):
            out[f"{unit}{letter}/standardized_conv2d/kernel"] = hwio(value)
        else:
            kind = {"weight": "gamma", "bias": "beta"}[parts[5]]
            out[f"{unit}{letter}/group_norm/{kind}"] = value.numpy()
    return out


def hwio(weight: Tensor) -> Any:
    return weight.permute(2, 3, 1, 0).numpy()


def vit_npz(state: dict[str, Tensor], heads: int = 3) -> dict[str, Any]:
    """The names and layouts of the augreg files (`vision_transformer._load_weights`)."""
    width = state["cls_token"].shape[-1]
    out: dict[str, Any] = {
        "embedding/kernel": hwio(state["patch_embed.proj.weight"]),
        "embedding/bias": state["patch_embed.proj.bias"].numpy(),
        "cls": state["cls_token"].numpy(),
        "Transformer/posembed_input/pos_embedding": state["pos_embed"].numpy(),
        "Transformer/encoder_norm/scale": state["norm.weight"].numpy(),
        "Transformer/encoder_norm/bias": state["norm.bias"].numpy(),
        "head/kernel": state["head.weight"].T.numpy(),
        "head/bias": state["head.bias"].numpy(),
    }
    for i in range(12):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            out[f"{theirs}{name}/scale"] = state[f"{ours}{norm}.weight"].numpy()
            out[f"{theirs}{name}/bias"] = state[f"{ours}{norm}.bias"].numpy()
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        weights = state[f"{ours}attn.qkv.weight"].chunk(3)
        biases = state[f"{ours}attn.qkv.bias"].chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            out[f"{attention}{name}/kernel"] = weight.T.reshape(width, heads, -1).numpy()
            out[f"{attention}{name}/bias"] = bias.reshape(heads, -1).numpy()
        out[f"{attention}out/kernel"] = (
            state[f"{ours}attn.proj.weight"].T.reshape(heads, -1, width).numpy()
        )
        out[f"{attention}out/bias"] = state[f"{ours}attn.proj.bias"].numpy()
        for j in (0, 1):
            out[f"{theirs}MlpBlock_3/Dense_{j}/kernel"] = state[
                f"{ours}mlp.fc{j + 1}.weight"
            ].T.numpy()
            out[f"{theirs}MlpBlock_3/Dense_{j}/bias"] = state[f"{ours}mlp.fc{j + 1}.bias"].numpy()
    return out


def test_augregs_own_format_loads_from_torch_hubs_cache(home: Path) -> None:
    path = home / ".cache" / "torch" / "hub" / "checkpoints" / "Ti_16.npz"
    path.parent.mkdir(parents=True)
    stored = as_published(VIT, IN21K)
    np.savez(path, **vit_npz(stored))
    built = start(VIT)
    assert built.weights_sha256 == file_digest(path)
    assert_same_backbone(built.model, VIT, stored)


@pytest.mark.parametrize("change", ["missing", "unknown", "position"])
def test_an_npz_that_differs_is_refused(home: Path, change: str) -> None:
    """timm's converter resamples positions and takes what it wants: the values are counted."""
    arrays = vit_npz(as_published(VIT))
    if change == "missing":
        del arrays["Transformer/encoderblock_3/LayerNorm_0/scale"]
    elif change == "unknown":
        arrays["Transformer/encoderblock_12/LayerNorm_0/scale"] = np.zeros(192, np.float32)
    else:
        arrays["Transformer/posembed_input/pos_embedding"] = np.zeros((1, 577, 192), np.float32)
    np.savez(home / "small_vit.npz", **arrays)
    with pytest.raises(SpecError, match=r"small_vit\.npz does not fit small_vit: it holds [\d,]+"):
        start(VIT, home)


def facebooks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ConvNeXt under the names of its first publication, which timm renames."""
    import re

    out = {}
    for name, value in state.items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv")
        name = name.replace("mlp.fc", "pwconv").replace("head.norm", "norm")
        out[name.replace("head.fc", "head")] = value
    return out


def test_convnexts_first_format_loads(home: Path) -> None:
    entry = relative("convnext_b_in22k", "small_convnext", name="convnext_tiny", original="c.pth")
    stored = as_published(entry)
    path = home / ".cache" / "torch" / "hub" / "checkpoints" / "c.pth"
    path.parent.mkdir(parents=True)
    torch.save({"model": facebooks(stored)}, path)
    model = new_model(entry, 2)
    assert find(entry, None) == path
    read(model, entry, path)
    assert_same_backbone(model, entry, stored)


def test_openais_torchscript_in_half_precision_loads(home: Path) -> None:
    """`ViT-B-16.pt` as OpenAI publishes it: a scripted model, mostly fp16, with three numbers."""
    path = home / ".cache" / "clip" / "small-clip.pt"
    path.parent.mkdir(parents=True)
    torch.manual_seed(99)
    model = open_clip.create_model(declared(CLIP).name)
    open_clip.convert_weights_to_fp16(model)
    archive = Holder(model)
    for name in ("input_resolution", "context_length", "vocab_size"):
        archive.register_buffer(name, torch.tensor(224))
    torch.jit.save(torch.jit.script(archive), path)
    built = start(CLIP)
    assert built.weights_sha256 == file_digest(path)
    assert model.visual.conv1.weight.dtype == torch.float16
    assert_same_backbone(built.model, CLIP, dict(model.state_dict()))
    assert all(p.dtype == torch.float32 for p in built.model.parameters())


class Holder(nn.Module):
    """A model's tensors under their names, in something that can be scripted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, value in model.named_parameters(recurse=False):
            self.register_parameter(name, value)
        for name, value in model.named_buffers(recurse=False):
            if name in model.state_dict():
                self.register_buffer(name, value)
        for name, child in model.named_children():
            self.add_module(name, Holder(child))

    def forward(self, images: Tensor) -> Tensor:
        return images


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_wrapped_and_parallel_checkpoints_load(home: Path, wrap: Any) -> None:
    stored = as_published(VIT)
    torch.save(wrap({f"module.{n}": v for n, v in stored.items()}), home / "small_vit.pth")
    assert_same_backbone(start(VIT, home).model, VIT, stored)


def test_a_file_of_our_own_loads(home: Path) -> None:
    """What `save_weights` writes: how the Appendix E models come, whatever their head was."""
    entry = MODELS["bit_r50_patchify_sgd"]
    (home / "runid").mkdir()
    torch.manual_seed(5)
    pretrained = new_model(entry, 9)
    save_weights(pretrained, home, "runid")
    (home / "runid" / "weights.safetensors").rename(home / f"{entry.id}.safetensors")
    built = start(entry, home)
    expected = backbone(pretrained, entry)
    ours = backbone(built.model, entry)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)
    with pytest.raises(SpecError, match=r"network\.stem\.conv\.weight is \(64, 3, 4, 4\), not"):
        copy_backbone(new_model(BIT, 2), BIT, home / f"{entry.id}.safetensors")


# What is refused


POSITIONS = torch.zeros(1, 577, 192)
CHANGES: dict[str, tuple[Model, dict[str, Tensor | None], str]] = {
    "resolution": (VIT, {"pos_embed": POSITIONS}, r"pos_embed is \(1, 577, 192\), not \(1, 197, "),
    "missing": (VIT, {"blocks.3.norm1.bias": None}, r"network\.blocks\.3\.norm1\.bias is missing"),
    "unknown": (VIT, {"blocks.12.norm1.bias": torch.zeros(192)}, "norm1.bias is unknown"),
    "register": (VIT, {"reg_token": torch.zeros(1, 4, 192)}, "reg_token is unknown"),
    "clip resolution": (
        CLIP,
        {"visual.positional_embedding": torch.zeros(197, 64)},
        r"positional_embedding is \(197, 64\), not \(50, 64\)",
    ),
    "clip missing": (CLIP, {"visual.proj": None}, r"network\.proj is missing"),
    "clip unknown": (CLIP, {"visual.more": torch.zeros(1)}, r"network\.more is unknown"),
    "stage": (CONVNEXT, {"head.norm.weight": None}, r"is missing"),
}


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_differs_is_refused(home: Path, change: str, suffix: str) -> None:
    """Where the libraries resample, adapt, or go on with random weights."""
    entry, changes, says = CHANGES[change]
    path = a_file(entry, home / f"{entry.id}{suffix}", 7, **changes)
    with pytest.raises(SpecError, match=says) as caught:
        start(entry, home)
    assert str(path) in str(caught.value)


def test_another_models_file_is_refused(home: Path) -> None:
    a_file(CONVNEXT, home / "small_vit.safetensors")
    with pytest.raises(SpecError, match=r"does not fit small_vit: .* more"):
        start(VIT, home)
    a_file(VIT, home / "small_clip.safetensors")
    with pytest.raises(SpecError, match=r"does not fit small_clip: .* is missing"):
        start(CLIP, home)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".npz"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "page"])
def test_a_damaged_file_is_named_with_its_remedy(home: Path, suffix: str, damage: str) -> None:
    entry = VIT if suffix == ".npz" else CLIP
    path = home / f"{entry.id}{suffix}"
    if suffix == ".npz":
        np.savez(path, **vit_npz(as_published(VIT)))
    else:
        a_file(entry, path)
    whole = path.read_bytes()
    left = {"truncated": whole[: len(whole) // 2], "empty": b"", "page": b"<html>no</html>" * 99}
    path.write_bytes(left[damage])
    with pytest.raises(MissingInputs, match=f"cannot be read as weights of {entry.id}") as caught:
        start(entry, home)
    assert str(path) in str(caught.value)
    assert f"orch models fetch {entry.id}" in str(caught.value)


def test_code_in_a_pickle_is_not_run(home: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (home / "ran",))

    torch.save({"head.weight": Bomb()}, home / "small_vit.pth")
    with pytest.raises(MissingInputs, match=r"small_vit\.pth cannot be read"):
        start(VIT, home)
    assert not (home / "ran").exists()


def test_a_hub_file_is_held_to_its_checksum(home: Path) -> None:
    """The blob's name says what was downloaded; bytes that rot on the disk are noticed."""
    link = in_hub(home, VIT, a_file(VIT, home / "x.safetensors"), "model.safetensors")
    blob = link.resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(MissingInputs, match="its bytes are not those that were downloaded"):
        start(VIT)


def test_the_checksum_is_computed_once_for_a_thousand_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_file(CLIP, home / "small_clip.safetensors")
    counted: list[Path] = []

    def counting(file: Path) -> str:
        counted.append(file)
        return file_digest(file)

    monkeypatch.setattr(loading, "file_digest", counting)
    first = start(CLIP, home).weights_sha256
    assert start(CLIP, home, seed=1).weights_sha256 == first
    assert len(counted) == 1
    a_file(CLIP, path, **{"visual.proj": torch.zeros(64, 24)})
    assert start(CLIP, home).weights_sha256 != first
    assert len(counted) == 2


def test_a_plugins_model_can_have_weights_too(home: Path) -> None:
    """No library knows it: a file of our own format, under its id in the folder."""
    entry = MODELS["toy"]
    assert find(entry, home) is None
    with pytest.raises(MissingInputs, match=r"toy\.safetensors"):
        start(entry, home)
    torch.manual_seed(5)
    model = new_model(entry, 4)
    save_file(model.state_dict(), home / "toy.safetensors")
    ours = start(entry, home).model.state_dict()
    assert torch.equal(ours["embedding.weight"], model.state_dict()["embedding.weight"])
    assert ours["head.weight"].shape[0] == 3
