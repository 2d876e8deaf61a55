"""Every declared entry is true: it resolves, builds, loads, and its figures are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import ROOT, TOYS
from db.errors import SpecError
from worker.catalog import Catalog, load_plugins, resolve
from worker.data import DATASETS
from worker.kinds import KINDS
from worker.methods import LEARNING_RATES, METHODS
from worker.models import MODELS
from worker.models.weights import new_model

BUILDABLE = [m for m in MODELS if MODELS[m].build]


@pytest.mark.parametrize("name", BUILDABLE)
def test_a_models_figures_are_counted(name: str) -> None:
    entry = MODELS[name]
    sizes = {n: p.numel() for n, p in new_model(entry, 10).named_parameters()}
    assert sum(sizes.values()) == entry.parameters
    frozen = sum(size for n, size in sizes.items() if n.startswith(entry.embedding))
    assert frozen == entry.embedding_parameters
    head = [n for n in sizes if n.startswith(entry.head)]
    assert len(head) == 2, "a weight and a bias"


@pytest.mark.parametrize("name", BUILDABLE)
def test_every_parameter_of_a_model_is_trained(name: str) -> None:
    model = new_model(MODELS[name], 3)
    model(torch.rand(2, 3, 32, 32) if not name.startswith("toy") else torch.rand(2, 3, 8, 8)).sum(
        0
    )[0].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def test_references_resolve() -> None:
    for kind in KINDS.values():
        resolve(kind.run)
    for dataset in DATASETS.values():
        if dataset.load:
            resolve(dataset.load)
        assert dataset.splits[0].name == "id", "the split that selects comes first"


def test_the_papers_lists() -> None:
    """Six rates a family (paper, section 4), and the grid's five methods first."""
    assert [len(LEARNING_RATES[family]) for family in ("sgd", "adamw")] == [6, 6]
    assert list(METHODS)[:5] == [
        "sgd",
        "adamw",
        "sgd_freeze_embed",
        "sgd_freeze_embed_no_momentum",
        "adamw_freeze_embed",
    ]


def test_the_docs_name_every_dependency() -> None:
    """Each dependency earns its place in a line."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    text = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in listed:
        name = requirement.split("[")[0].split(">")[0].split("<")[0]
        assert f"`{name}`" in text, name


def test_a_name_is_declared_once() -> None:
    catalog = Catalog("model", [MODELS["tiny_vit"]])
    with pytest.raises(SpecError, match="declared twice"):
        catalog.add(MODELS["tiny_vit"])
    with pytest.raises(SpecError, match='did you mean "tiny_vit"'):
        catalog.find("tinyvit")


@pytest.mark.parametrize(
    ("text", "says"), [(None, "no such file"), ("import nothing_here", "does not import")]
)
def test_a_bad_plugin_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "mine.py"
    if text:
        path.write_text(text)
    with pytest.raises(SpecError, match=says):
        load_plugins([str(path)])
    load_plugins([str(TOYS)])
