"""A method of one's own, from the documentation alone: declared, swept, resumed, in the table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from worker.methods import METHODS, Method

GUIDE = (ROOT / "docs" / "methods.md").read_text()
EXAMPLE = """
from worker.methods import METHODS, Method

METHODS.add(Method(id="mine", title="Mine", momentum=0.5, {fields}))
"""
SWEEP = (
    "name: s\nmodels: [tiny_vit]\ndatasets: [digits]\nmethods: [sgd, mine]\n"
    "learning_rates: [1e-2]\nweights: random\n"
)


def block(language: str, containing: str) -> str:
    """The guide's block of code with these words."""
    (found,) = (
        text
        for text in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
        if containing in text
    )
    return str(found)


def call(
    folder: Path, *words: str, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The real command, with nothing but what a user gives it."""
    command = [sys.executable, "-m", "orchestrator", *words]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_guides_method_is_added_swept_and_in_the_table(tmp_path: Path) -> None:
    """Every command of the guide, in its order."""
    (tmp_path / "my_methods.py").write_text(block("python", "rmsprop"))
    (tmp_path / "my_methods.yaml").write_text(block("yaml", "rmsprop_freeze_embed"))
    commands = [
        line.split("#")[0].split()[1:]
        for line in block("sh", "ORCH_PLUGINS").splitlines()
        if line.startswith("orch ")
    ]
    assert [words[0] for words in commands] == ["methods", "plan", "launch", "report"]
    plugin = {"ORCH_PLUGINS": str(tmp_path / "my_methods.py")}

    listed, planned, launched, table = (
        call(tmp_path, *words, **plugin).stdout for words in commands
    )

    assert "rmsprop_freeze_embed" in listed
    assert planned.startswith("my_methods: 6 runs in 3 cells")
    assert "6 done" in launched
    for title in ("SGD", "SGD (biases first)", "RMSprop (freeze-embed)"):
        assert re.search(rf"{re.escape(title)} +\d", table), table

    runs = json.loads(call(tmp_path, "runs", "list", "--json", **plugin).stdout)
    assert {run["state"] for run in runs} == {"done"}
    mine = [run for run in runs if run["method"] == "rmsprop_freeze_embed"]
    assert [run["hyperparameters"] for run in mine] == [[["alpha", 0.9]], [["alpha", 0.99]]]
    shown = json.loads(call(tmp_path, "runs", "show", mine[0]["id"], "--json", **plugin).stdout)
    assert len(shown["method_code"]) == 16

    # A changed file is another method: its runs are to be trained anew, the others are not.
    with (tmp_path / "my_methods.py").open("a") as file:
        file.write("# changed\n")
    again = call(tmp_path, "plan", "my_methods.yaml", "--format", "json", **plugin).stdout
    assert json.loads(again)["to_do"] == 4


def ids(folder: Path, plugin: Path, **environment: str) -> dict[str, str]:
    """Run ids by method, as a new process plans them."""
    (folder / "s.yaml").write_text(SWEEP)
    code = (
        "import json, sys\nfrom pathlib import Path\n"
        "from worker.catalog import load_plugins\nload_plugins(sys.argv[1:])\n"
        "from orchestrator import sweep\n"
        "runs = sweep.load(Path('s.yaml')).requested\n"
        "print(json.dumps({r.method: r.id for r in runs}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *([str(plugin)] if plugin.suffix == ".py" else [])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_plugins_bytes_are_its_methods_identity_wherever_it_is(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("one", "other", "changed")}
    for name, folder in places.items():
        folder.mkdir()
        comment = "# another comment\n" if name == "changed" else ""
        (folder / "mine.py").write_text(EXAMPLE.format(fields="") + comment)
    found = {name: ids(folder, folder / "mine.py") for name, folder in places.items()}
    assert found["one"] == found["other"]
    assert found["one"]["mine"] != found["changed"]["mine"]
    assert found["one"]["sgd"] == found["changed"]["sgd"], "the project's own are as ever"


def test_an_installed_packages_methods_need_no_option(tmp_path: Path) -> None:
    """By its entry point; its code is every file of the package."""
    info, package = tmp_path / "my_methods-1.0.dist-info", tmp_path / "my_methods"
    info.mkdir()
    package.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.0\n")
    group = re.search(r'"(orch\.plugins)"\]\n(.*)\n', block("toml", "orch.plugins"))
    assert group is not None
    (info / "entry_points.txt").write_text(f"[{group[1]}]\n{group[2].replace(chr(34), '')}\n")
    (package / "__init__.py").write_text("")
    (package / "sums.py").write_text("def rate(run, step, steps):\n    return run.learning_rate\n")
    (package / "declared.py").write_text(EXAMPLE.format(fields="schedule='my_methods.sums:rate'"))
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    listed = json.loads(call(tmp_path, "methods", "list", "--json", **path).stdout)
    (mine,) = (one for one in listed if one["id"] == "mine")
    assert len(mine["code"]) == 16
    assert mine["schedule"] == "my_methods.sums:rate"
    before = ids(tmp_path, package, **path)
    with (package / "sums.py").open("a") as file:
        file.write("\n")
    after = ids(tmp_path, package, **path)
    assert before["mine"] != after["mine"]
    assert before["sgd"] == after["sgd"]

    (package / "declared.py").write_text("import nothing_of_the_sort\n")
    refused = call(tmp_path, "methods", "list", code=2, **path)
    assert 'plugin "my_methods" of an installed package' in refused.stderr
    assert "mend or uninstall the package" in refused.stderr


def test_a_misspelt_function_is_refused_when_the_sweep_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    for reference, says in (
        ("{__name__}:rmspro", 'orch_plugin_mine has no "rmspro"'),
        ("nowhere:rmsprop", "there is no module nowhere"),
    ):
        (tmp_path / "mine.py").write_text(EXAMPLE.format(fields=f'optimizer=f"{reference}"'))
        done = call(tmp_path, "--plugin", "mine.py", "plan", "s.yaml", code=2)
        assert "s.yaml:4: methods[1]: mine names" in done.stderr
        assert says in done.stderr


def test_a_method_that_cannot_be_is_refused_with_its_plugin(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(EXAMPLE.format(fields="family='mine'"))
    done = call(tmp_path, "--plugin", "mine.py", "methods", "list", code=2)
    assert "plugin" in done.stderr
    assert 'family "mine" has no learning rates' in done.stderr


# In this process


@pytest.fixture
def declare() -> Any:
    """Declare a method for the test's time, as if a plugin with some code did."""
    names: list[str] = []

    def add(code: str, **fields: Any) -> Method:
        method = METHODS.add(Method(id="mine", title="Mine", **fields))
        METHODS._code["mine"] = code
        names.append("mine")
        return method

    yield add
    for name in names:
        METHODS._entries.pop(name)
        METHODS._code.pop(name)


def test_a_run_goes_on_only_with_the_code_that_it_was_planned_with(
    tmp_path: Path, declare: Callable[..., Method]
) -> None:
    import worker
    from conftest import a_run

    declare("a" * 16, momentum=0.5)
    context = worker.Context(data=Path("unused"), runs=tmp_path)
    for code, ends in (("a" * 16, worker.Finished), ("b" * 16, worker.Failed), ("", worker.Failed)):
        *_, end = worker.run(a_run(method="mine", method_code=code), context)
        assert isinstance(end, ends), end
        if isinstance(end, worker.Failed):
            assert end.cause == "environment"
            assert 'the code that declares method "mine" is not that of this run' in end.error
    *_, end = worker.run(a_run(method_code="a" * 16), context)
    assert isinstance(end, worker.Failed), "the project's own methods have no code but its version"


def test_what_a_method_may_be_made_of(tmp_path: Path, declare: Callable[..., Method]) -> None:
    """Its own schedule, penalty, anchors and multipliers, by name, in a real run."""
    import torch

    import worker
    from conftest import a_run

    declare(
        "",
        schedule=f"{__name__}:constant",
        penalty=f"{__name__}:pull",
        anchored=True,
        multipliers={"head": 10.0, "embedding": 0.0},
    )
    run = a_run(method="mine", schedule=f"{__name__}:constant", learning_rate=0.01, epochs=2)
    SEEN.clear()
    *_, end = worker.run(run, worker.Context(data=Path("unused"), runs=tmp_path))
    assert isinstance(end, worker.Finished), end
    assert [record.learning_rate for record in end.history] == [0.01] * 3
    assert SEEN[0] == 0, "nothing has moved before the first step"
    assert len(SEEN) == 4
    assert SEEN[-1] > 0
    (path,) = (tmp_path / run.id).glob("checkpoint-*.pt")
    state = torch.load(path, weights_only=True)
    assert [g["lr"] for g in state["optimizer"]["param_groups"]] == [0.0, 0.1]


SEEN: list[float] = []
"""How far the weights were from their start, each time that `pull` was asked."""


def constant(run: Any, step: int, steps_per_epoch: int) -> float:
    """The run's rate, always."""
    return float(run.learning_rate)


def pull(entry: Any, model: Any, anchors: Any, run: Any) -> Any:
    """Half the squared distance to the start."""
    distance = sum((p - anchors[p]).square().sum() for p in model.parameters())
    SEEN.append(float(distance.detach()))
    return distance / 2
