"""The models: how each is built, where its weights come from, what its embedding layer is.

Sources: PROTOCOL section 1; paper section 4, Tables 1 and 4, Appendix E. One entry a model.
Parameter counts are those of the visual tower with a 10-class head; tests build every model and
compare, and compare the hub repositories with those that the libraries themselves would use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from db.errors import SpecError
from worker.catalog import Catalog

ARTIFACT = "weights.safetensors"
"""The file in a `pretrain` run's folder that holds its weights."""

Frozen = Literal["nothing", "embedding", "embedding_without_norm", "stem", "head"]
"""Parts of a model that a method freezes, or gives another rate: see `Model.frozen_by`."""

Channels = tuple[float, float, float]
"""One value for each of red, green and blue, in units of [0, 1] pixels."""

HALF: Channels = (0.5, 0.5, 0.5)
"""Mean and std of Google's weights (supervised ViT, BiT)."""
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
CLIP_MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Channels = (0.26862954, 0.26130258, 0.27577711)

# What each library asks the hub for, in its order.
HUB_FILES = {
    "timm": ("model.safetensors", "pytorch_model.bin"),
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a tiny model is pretrained: a run of kind `pretrain` on a generated upstream task."""

    dataset: str
    method: str
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    clip_norm: float


@dataclass(frozen=True, kw_only=True)
class Published:
    """An architecture as a library builds it, and the weights that go with it."""

    library: Literal["timm", "open_clip"]
    name: str
    """The library's name of the architecture."""
    mean: Channels
    """What the weights were trained with: subtracted from images in [0, 1]."""
    std: Channels
    """Divided by, after the mean."""
    tag: str | None = None
    """The library's name of the weights; None: they are not the library's, a user brings them."""
    hub: str | None = None
    """The Hugging Face repository of the weights; None: found in the `--weights` folder alone."""
    original: str | None = None
    """What the first publishers' file is called in the library's cache from before the hub."""
    patchify: bool = False
    """BiT: a 4×4 convolution of stride 4 in place of the 7×7 stem (Appendix E)."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of `hub` that hold the weights, the preferred one first."""
        return HUB_FILES[self.library]


@dataclass(frozen=True, kw_only=True)
class Model:
    """One architecture with its weights."""

    id: str
    title: str
    """As the paper's tables print it."""
    family: Literal["vit", "clip", "convnext", "bit"]
    parameters: int
    embedding_parameters: int
    embedding: tuple[str, ...]
    """Name prefixes of the parameters that freeze-embed freezes."""
    head: tuple[str, ...]
    """Name prefixes of the classification head, which never comes from pretraining."""
    embedding_without_norm: tuple[str, ...] = ()
    """CLIP: the embedding layer but for its layer norm, which then trains."""
    stem: tuple[str, ...] = ()
    """ConvNeXt: the stem alone, where the embedding layer is stem and first stage."""
    blocks: int = 0
    """Transformer blocks, which gradual unfreezing counts; 0: it is made of other layers."""
    projection: tuple[str, ...] = ()
    """CLIP: the name of the map into the space shared with the text, before the head."""
    image_size: int = 224
    """Side in pixels of the square images it is meant for."""
    least_side: int = 0
    """Smaller images are enlarged to this side inside the model; 0: none are."""
    published: Published | None = None
    """How a library builds it, and where its weights are."""
    build: str | None = None
    """`module:function` taking the number of classes, where no library builds it."""
    recipe: Recipe | None = None
    """How we pretrain it; None: the weights are published ones."""
    authors_imagenet: bool = False
    """The authors' code normalises its images as ImageNet's, though its weights want 0.5."""
    version: int = 1

    @property
    def embedding_share(self) -> float:
        """The fraction of parameters that freeze-embed freezes."""
        return self.embedding_parameters / self.parameters

    def frozen_by(self, what: Frozen) -> tuple[str, ...]:
        """Name prefixes of what a method freezes; `SpecError` where the model has no such part."""
        prefixes: dict[Frozen, tuple[str, ...]] = {
            "embedding": self.embedding,
            "embedding_without_norm": self.embedding_without_norm,
            "stem": self.stem,
            "head": self.head,
        }
        if what == "nothing":
            return ()
        if not prefixes[what]:
            have = ", ".join(name for name, own in prefixes.items() if own and name != "head")
            raise SpecError(
                f'model "{self.id}" has no {what} to freeze (it has: {have}); '
                "choose another method for it."
            )
        return prefixes[what]


def _clip(
    id: str,
    title: str,
    name: str,
    tag: str,
    hub: str,
    original: str | None,
    blocks: int,
    counts: tuple[int, int],
) -> Model:
    return Model(
        id=id,
        title=title,
        family="clip",
        parameters=counts[0],
        embedding_parameters=counts[1],
        # Neither the position embedding nor the class token: they are never frozen.
        embedding=("network.conv1.", "network.ln_pre."),
        embedding_without_norm=("network.conv1.",),
        head=("head.",),
        blocks=blocks,
        projection=("network.proj",),
        published=Published(
            library="open_clip",
            name=name,
            tag=tag,
            hub=hub,
            original=original,
            mean=CLIP_MEAN,
            std=CLIP_STD,
        ),
    )


def _vit(id: str, title: str, tag: str, original: str, mean: Channels, std: Channels) -> Model:
    return Model(
        id=id,
        title=title,
        family="vit",
        parameters=85_806_346,
        embedding_parameters=590_592,
        embedding=("network.patch_embed.",),
        head=("network.head.",),
        blocks=12,
        authors_imagenet=mean == HALF,
        published=Published(
            library="timm",
            name="vit_base_patch16_224",
            tag=tag,
            hub=f"timm/vit_base_patch16_224.{tag}",
            original=original,
            mean=mean,
            std=std,
        ),
    )


def _bit(id: str, title: str, name: str, parameters: int, tag: str | None = "goog_in21k") -> Model:
    return Model(
        id=id,
        title=title,
        family="bit",
        parameters=parameters,
        embedding_parameters=224_320,
        embedding=("network.stem.", "network.stages.0."),
        head=("network.head.fc.",),
        published=Published(
            library="timm",
            name=name,
            tag=tag,
            hub=f"timm/{name}.{tag}" if tag else None,
            mean=HALF,
            std=HALF,
        ),
    )


def _appendix_e(id: str, title: str, patchify: bool) -> Model:
    """BiT ResNet-50 as pretrained by the user with one optimizer, with or without patchify."""
    plain = _bit(id, title, "resnetv2_50x1_bit", 23_520_842, tag=None)
    if not patchify:
        return plain
    assert plain.published is not None
    fewer = 64 * 3 * (7 * 7 - 4 * 4)  # weights of the stem
    return replace(
        plain,
        parameters=plain.parameters - fewer,
        embedding_parameters=plain.embedding_parameters - fewer,
        published=replace(plain.published, patchify=True),
    )


MODELS: Catalog[Model] = Catalog(
    "model",
    [
        # OpenAI's weights want QuickGELU: the plain names of open_clip build GELU.
        _clip(
            "clip_vit_b16",
            "CLIP ViT-B/16",
            "ViT-B-16-quickgelu",
            "openai",
            "timm/vit_base_patch16_clip_224.openai",
            "ViT-B-16.pt",
            12,
            (86_197_770, 591_360),
        ),
        _clip(
            "clip_vit_l14",
            "CLIP ViT-L/14",
            "ViT-L-14-quickgelu",
            "openai",
            "timm/vit_large_patch14_clip_224.openai",
            "ViT-L-14.pt",
            24,
            (303_973_898, 604_160),
        ),
        _vit(
            "vit_b16_in21k",
            "Sup ViT-B/16",
            "augreg_in21k",
            "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz",
            HALF,
            HALF,
        ),
        _vit(
            "dino_vit_b16",
            "DINO ViT-B/16",
            "dino",
            "dino_vitbase16_pretrain.pth",
            IMAGENET_MEAN,
            IMAGENET_STD,
        ),
        Model(
            id="convnext_b_in22k",
            title="ConvNext-Base",
            family="convnext",
            parameters=87_576_714,
            embedding_parameters=422_016,
            embedding=("network.stem.", "network.stages.0."),
            stem=("network.stem.",),
            head=("network.head.fc.",),
            published=Published(
                library="timm",
                name="convnext_base",
                tag="fb_in22k",
                hub="timm/convnext_base.fb_in22k",
                original="convnext_base_22k_224.pth",
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
            ),
        ),
        _bit("bit_r50_in21k", "BiT ResNet-50", "resnetv2_50x1_bit", 23_520_842),
        _bit("bit_r101_in21k", "BiT ResNet-101", "resnetv2_101x1_bit", 42_512_970),
        # Table 4 alone (memory).
        _clip(
            "clip_vit_h14",
            "OpenCLIP ViT-H/14",
            "ViT-H-14",
            "laion2b_s32b_b79k",
            "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            None,
            32,
            (632_087_050, 755_200),
        ),
        # Appendix E: stem and pretraining optimizer, crossed.
        _appendix_e("bit_r50_sgd", "BiT ResNet-50 (SGD)", patchify=False),
        _appendix_e("bit_r50_adamw", "BiT ResNet-50 (AdamW)", patchify=False),
        _appendix_e("bit_r50_patchify_sgd", "BiT ResNet-50 patchify (SGD)", patchify=True),
        _appendix_e("bit_r50_patchify_adamw", "BiT ResNet-50 patchify (AdamW)", patchify=True),
        Model(
            id="tiny_vit",
            title="Tiny ViT",
            family="vit",
            parameters=81_226,
            embedding_parameters=12_352,
            embedding=("network.patch_embed.",),
            head=("network.head.",),
            blocks=2,
            authors_imagenet=True,
            image_size=32,
            build="worker.models.tiny:vit",
            recipe=Recipe(
                dataset="shapes",
                method="adamw",
                learning_rate=2e-3,
                weight_decay=0.05,
                epochs=3,
                batch_size=64,
                clip_norm=1.0,
            ),
        ),
        Model(
            id="tiny_bit",
            title="Tiny BiT",
            family="bit",
            parameters=27_602,
            embedding_parameters=4_840,
            embedding=("network.stem.", "network.stages.0."),
            head=("network.head.fc.",),
            image_size=32,
            build="worker.models.tiny:bit",
            recipe=Recipe(
                dataset="shapes",
                method="sgd",
                learning_rate=0.1,
                weight_decay=0.0,
                epochs=2,
                batch_size=64,
                clip_norm=1.0,
            ),
        ),
        Model(
            id="tiny_clip",
            title="Tiny CLIP",
            family="clip",
            parameters=116_490,
            embedding_parameters=12_416,
            embedding=("network.conv1.", "network.ln_pre."),
            embedding_without_norm=("network.conv1.",),
            head=("head.",),
            blocks=3,
            projection=("network.proj",),
            image_size=32,
            build="worker.models.tiny:clip",
            # Pretrained on labels, without a text tower. At half this rate its features told the
            # birds of mini_waterbirds apart from one seed and not from another.
            recipe=Recipe(
                dataset="shapes",
                method="adamw",
                learning_rate=1e-3,
                weight_decay=0.05,
                epochs=4,
                batch_size=64,
                clip_norm=1.0,
            ),
        ),
        Model(
            id="tiny_convnext",
            title="Tiny ConvNext",
            family="convnext",
            parameters=114_346,
            embedding_parameters=3_792,
            embedding=("network.stem.", "network.stages.0."),
            stem=("network.stem.",),
            head=("network.head.fc.",),
            image_size=32,
            least_side=32,
            build="worker.models.tiny:convnext",
            recipe=Recipe(
                dataset="shapes",
                method="adamw",
                learning_rate=5e-4,
                weight_decay=0.05,
                epochs=2,
                batch_size=64,
                clip_norm=1.0,
            ),
        ),
    ],
)
