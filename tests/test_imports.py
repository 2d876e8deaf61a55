"""The house keeps its floors: who may import whom, and what starting a command may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("db", "worker", "orchestrator", "reports")
# What each room must not import anywhere, not even inside a function.
FORBIDDEN = {
    "db": {"torch", "ray", "click", "worker", "orchestrator", "reports"},
    "worker": {"ray", "sqlalchemy", "click", "orchestrator", "reports"},
    "reports": {"torch", "ray", "worker", "orchestrator"},
    "orchestrator": set(),
}
# The worker knows the records and the errors of db, nothing that speaks SQL.
WORKER_MAY = {"db.records", "db.errors"}
SEAM = ROOT / "orchestrator" / "engine" / "tune.py"


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_downwards(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for name in _imports(path):
            assert name.split(".")[0] not in FORBIDDEN[room], f"{path} imports {name}"
            if room == "worker" and name.split(".")[0] == "db":
                assert name in WORKER_MAY, f"{path} imports {name}"


def test_ray_is_imported_in_the_seam_alone() -> None:
    for path in sorted((ROOT / "orchestrator").rglob("*.py")):
        tops = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.stmt)]
        for node in tops:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            heavy = [n for n in names if n.split(".")[0] in ("ray", "torch")]
            assert path == SEAM or not heavy, f"{path} imports {heavy} when it is imported"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["plan", str(ROOT / "sweeps" / "full_grid.yaml"), "--format", "json"],
        ["status"],
        ["report", "--table", "ood", "--table", "id"],
        ["export"],
        ["claims"],
        ["explain", "toy", "toy", "sgd"],
        ["runs", "list"],
        ["launch", "sweep.yaml"],  # with nothing left to train
        ["models", "list"],
        ["data", "list"],
    ],
)
def test_light_commands_import_neither_torch_nor_ray(
    words: list[str], finished_sweep: Path
) -> None:
    code = (
        "import sys\n"
        "from orchestrator.cli import main\n"
        f"try: main({['--plugin', str(ROOT / 'tests' / 'toys.py'), *words]!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'ray', 'timm', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=finished_sweep, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of two runs, both done."""
    from conftest import a_history
    from db.records import Provenance
    from db.store import Store
    from orchestrator import sweep as sweeps

    folder = tmp_path_factory.mktemp("finished")
    (folder / "sweep.yaml").write_text(
        "name: small\nmodels: [toy]\ndatasets: [toy]\nmethods: [sgd]\nweights: random\n"
        "learning_rates: [0.1, 0.2]\n"
    )
    sweep = sweeps.load(folder / "sweep.yaml")
    store = Store.open(str(folder / "orch.db"), create=True)
    runs = sweep.requested
    store.register(sweep.name, sweep.text, runs, {run.id for run in runs})
    owner = store.enlist()
    for stored in store.runs(sweep.name):
        claim = store.claim(stored.key, owner)
        assert claim is not None
        store.start(claim, (), Provenance(data_fingerprint="d", weights_sha256="w"), None)
        store.finish(claim, a_history(stored.run))
    store.retire(owner)
    return folder
