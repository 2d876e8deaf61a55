"""What the README promises is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from conftest import ROOT
from orchestrator import sweep as sweeps
from orchestrator.cli import main
from orchestrator.spec import Block

README = (ROOT / "README.md").read_text()


def test_the_readmes_sweep_is_a_sweep(tmp_path: Path) -> None:
    text = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert text is not None
    path = tmp_path / "my_sweep.yaml"
    path.write_text(text[1])
    found = CliRunner().invoke(main, ["--store", str(tmp_path / "x.db"), "plan", str(path)])
    assert found.output.startswith("my_sweep: 21 runs in 2 cells, and 1 pretraining run")
    assert "21 runs in 2 cells, and 1 pretraining run" in README


def test_the_readmes_field_table_is_the_specs() -> None:
    table = README[README.index("| field | default |") : README.index("`sweeps/demo.yaml` uses")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {*Block.model_fields, "name", "grids"}


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.name)
def test_a_sweep_file_opens_with_its_question(path: Path) -> None:
    lines = path.read_text().splitlines()
    heads = [line for line in lines if re.match(r"# (Question|Command|Expect): ", line)]
    assert [head.split()[1] for head in heads] == ["Question:", "Command:", "Expect:"]
    assert lines[0].startswith("# Question")
    sweep = sweeps.load(path)
    assert sweep.name == path.stem
    runs = re.search(r"([\d,]+) runs in (\d+) cells", path.read_text())
    assert runs is not None
    assert int(runs[1].replace(",", "")) == len(sweep.requested)
    cells = {(r.model, r.dataset, r.method) for r in sweep.requested}
    assert int(runs[2]) == len(cells)


def test_every_linked_file_exists() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links {link}"


def test_the_readmes_commands_exist() -> None:
    words = re.findall(r"^orch ([a-z-]+)(?: ([a-z-]+))?", README, re.MULTILINE)
    assert len(words) > 8
    for group, command in words:
        found = main.commands[group]
        inner = getattr(found, "commands", None)
        assert inner is None or command in inner, f"orch {group} {command}"
