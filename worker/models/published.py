"""The big models: the libraries' own architectures, and their weights read from a file.

Built by timm and open_clip, so that parameter names, initialisation and arithmetic are theirs. A
file is read by the library's own reader and renaming, but what it holds must then fit to the
letter: the libraries resample position embeddings that differ, and skip tensors they do not know.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import StdConv2d
from timm.models import load_state_dict
from torch import Tensor, nn

from db.errors import SpecError
from worker.models import Channels, Model, Published
from worker.models.fit import Tensors, fit, other_shapes, refuse
from worker.models.normalized import Normalized

OWN = "network."
"""What our own parameter names begin with, the head's of CLIP aside."""

# The text tower is no part of the model; open_clip builds one all the same: the smallest there is.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class Headed(Normalized):
    """A network behind its input normalisation, with a linear head on its output.

    CLIP's classifier stands after the projection into the space shared with the text, so that its
    features are those that CLIP was trained to compare.
    """

    def __init__(
        self, network: nn.Module, mean: Channels, std: Channels, width: int, classes: int
    ) -> None:
        """Wrap `network`, whose output is `(N, width)`."""
        super().__init__(network, mean, std)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(N, 3, H, W)` in [0, 1] to logits `(N, classes)`."""
        logits: Tensor = self.head(super().forward(images))
        return logits


def architecture(published: Published, classes: int) -> nn.Module:
    """The model with random weights, drawn from torch's global generator; the head last.

    The head has `nn.Linear`'s or `nn.Conv2d`'s own initialisation: timm's is 5 to 20 times smaller.
    """
    mean, std = published.mean, published.std
    if published.library == "open_clip":
        visual = _visual_tower(published.name)
        return Headed(visual, mean, std, visual.output_dim, classes)
    network = timm.create_model(published.name, pretrained=False, num_classes=classes)
    if published.patchify:
        network.stem = _patchify(network.stem.conv)
    network.get_classifier().reset_parameters()
    return Normalized(network, mean, std)


def _visual_tower(name: str) -> Any:
    """`open_clip.create_model(name).visual`.

    Not by calling it: it configures the root logger, and draws a text tower as big as the visual.
    """
    import open_clip  # type: ignore[import-untyped]

    config = open_clip.get_model_config(name)
    return open_clip.CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=config["vision_cfg"],
        text_cfg=_NO_TEXT,
        quick_gelu=config.get("quick_gelu", False),
    ).visual


def _patchify(stem: nn.Conv2d) -> nn.Module:
    """Appendix E's stem: 4×4 patches, no overlap, no pooling.

    The 7×7 stem pools after its convolution; both hand maps of a quarter of the image's side to
    the first stage. The paper gives no patch size: 4 is what keeps that.
    """
    conv = StdConv2d(stem.in_channels, stem.out_channels, 4, stride=4, padding=0, eps=stem.eps)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm's stem
    return nn.Sequential(OrderedDict(conv=conv))


def read_backbone(path: Path, entry: Model, model: nn.Module) -> None:
    """Copy the weights in `path` into `model`, all but the head.

    Takes our own files (`save_weights`), the hub's and the libraries' older formats, and Google's
    `.npz`. Raises `SpecError` where a tensor of the backbone is missing, unknown or of another
    shape; whatever a reader raises where the file is damaged.
    """
    if path.suffix == ".npz":
        _read_npz(path, entry, model)
        return
    stored = _read_tensors(path)
    if any(name.startswith(OWN) for name in stored) or entry.published is None:
        fit(model, entry, stored, path)
    elif entry.published.library == "open_clip":
        fit(model, entry, _of_visual_tower(stored), path)
    else:
        fit(model, entry, _of_timm(stored, entry, model, path), path)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """By timm's reader: safetensors, or pickle without running code. OpenAI's are TorchScript."""
    if path.suffix != ".safetensors" and _is_torchscript(path):
        tensors: dict[str, Tensor] = torch.jit.load(path, map_location="cpu").state_dict()
        return tensors
    stored = load_state_dict(str(path), weights_only=True)
    return {name: value for name, value in stored.items() if isinstance(value, Tensor)}


def _is_torchscript(path: Path) -> bool:
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _of_visual_tower(stored: Tensors) -> Tensors:
    """The visual half of a CLIP file, under our names."""
    prefix = "visual."
    return {OWN + k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}


def _of_timm(stored: Tensors, entry: Model, model: nn.Module, path: Path) -> Tensors:
    """A timm file under our names, through timm's own renaming of older formats.

    That renaming resamples a position embedding of another size: shapes are compared before it.
    """
    network = model.get_submodule("network")
    own = network.state_dict()
    heads = tuple(head.removeprefix(OWN) for head in entry.head)
    wrong = other_shapes(own, {k: v for k, v in stored.items() if not k.startswith(heads)})
    refuse(entry, path, wrong)
    rename = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    renamed: Tensors = rename(dict(stored), network) if rename else stored
    return {OWN + name: value for name, value in renamed.items()}


def _read_npz(path: Path, entry: Model, model: nn.Module) -> None:
    """Google's own format, by timm's converter (`load_pretrained`), which takes what it wants.

    So the count of values is compared too: it differs where the converter resampled or left
    something out.
    """
    import numpy as np

    if entry.published is None or entry.published.library != "timm":
        raise SpecError(f"{path}: {entry.id} has no .npz weights; see docs/models.md.")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        heads = ("head/", "resnet/head/", "pre_logits/")
        sizes = {k: archive[k].size for k in archive.files if not k.startswith(heads)}
    own = {k: v.numel() for k, v in model.state_dict().items() if not k.startswith(entry.head)}
    here, wanted = sum(sizes.values()), sum(own.values())
    if here != wanted:
        refuse(entry, path, [f"it holds {here:,} values beside the head, not {wanted:,}"])
    model.get_submodule("network").load_pretrained(str(path))  # type: ignore[operator]
