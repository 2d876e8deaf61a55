"""Stores whose engine is slow, gone, full or restarted; and several that make one at once."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from conftest import PostgresServer, a_history, a_run
from db import engines
from db.errors import StoreError, StoreMissing, StoreUnreachable, StoreVersion
from db.reading import Reader
from db.records import Claim
from db.store import Store

ENGINES = ("sqlite", "postgresql")
PASSWORD = "s3cret-%2F"  # as a URL spells it


def claimed(store: Store, epochs: int = 3) -> Claim:
    run = a_run(epochs=epochs)
    store.register("sweep", "text", [run], {run.id})
    claim = store.claim(store.find_run(run.id).key, store.enlist())
    assert claim is not None
    return claim


# A server that goes and comes


def test_a_store_connects_anew_after_a_restart(own_postgres: PostgresServer) -> None:
    store = Store.open(own_postgres.fresh())
    claim = claimed(store)
    history = a_history(claim.run)
    for record in history:
        own_postgres.stop()
        with pytest.raises(StoreUnreachable, match="cannot be reached"):
            store.epoch(claim, record)
        with pytest.raises(StoreUnreachable):
            store.runs()
        own_postgres.start()
        store.epoch(claim, record)
    own_postgres.stop()
    own_postgres.start()
    store.finish(claim, history)  # its connection is dead, and it does not notice
    assert list(store.history(claim.run_key)) == history
    assert store.find_run(claim.run.id).state == "done"


def test_messages_cut_off_anywhere_are_repeated(own_postgres: PostgresServer) -> None:
    """Stops of every kind while messages are on their way; each is sent until acknowledged."""
    store = Store.open(own_postgres.fresh())
    claim = claimed(store, epochs=300)
    history = a_history(claim.run)
    faults: list[str] = []
    over = threading.Event()

    def send(message: Callable[[], None]) -> None:
        while True:
            try:
                return message()
            except StoreUnreachable as fault:
                faults.append(str(fault))

    def work() -> None:
        for record in history:
            send(lambda record=record: store.epoch(claim, record))  # type: ignore[misc]
        send(lambda: store.finish(claim, history))
        over.set()

    worker = threading.Thread(target=work)
    worker.start()
    for mode in ("fast", "immediate", "fast"):
        own_postgres.stop(mode)
        own_postgres.start()
    worker.join()
    assert over.is_set()
    assert faults
    assert list(store.history(claim.run_key)) == history
    assert [a.outcome for a in store.attempts(claim.run_key)] == ["done"]


def test_a_crash_keeps_how_attempts_ended(own_postgres: PostgresServer) -> None:
    store = Store.open(own_postgres.fresh())
    claim = claimed(store)
    store.finish(claim, a_history(claim.run))
    own_postgres.stop("immediate")
    own_postgres.start()
    assert store.find_run(claim.run.id).state == "done"
    assert list(store.history(claim.run_key)) == a_history(claim.run)


def test_a_connection_cut_inside_a_message_passes(postgres: PostgresServer) -> None:
    url = postgres.fresh()
    store = Store.open(url)
    claim = claimed(store)

    def cut() -> None:
        with store.write() as connection, psycopg.connect(url, autocommit=True) as admin:
            connection.execute(sa.text("UPDATE runs SET fence = 5"))
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            connection.execute(sa.text("UPDATE runs SET fence = 6"))

    with pytest.raises(StoreUnreachable):
        cut()
    store.finish(claim, a_history(claim.run))
    assert store.find_run(claim.run.id).state == "done"


# Locks


def test_a_lock_that_is_held_too_long_passes(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(store)
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.1)
    impatient = Store.open(store_url)
    with store.write() as connection:
        connection.execute(sa.text("UPDATE runs SET seed = seed"))
        with pytest.raises(StoreUnreachable, match="stayed locked"):
            impatient.epoch(claim, a_history(claim.run)[0])
    impatient.epoch(claim, a_history(claim.run)[0])


def test_ten_readers_poll_while_a_writer_works(store: Store, store_url: str) -> None:
    """Nobody waits, nobody is told of a lock, and nobody sees half a message."""
    claim = claimed(store, epochs=60)
    history = a_history(claim.run)
    over = threading.Event()
    looks: list[int] = []
    faults: list[BaseException] = []

    def poll() -> None:
        reader = Reader.open(store_url)
        try:
            while not over.is_set():
                seen = reader.history(claim.run_key)
                assert list(seen) == history[: len(seen)]
                assert len(reader.runs()) == 1
                looks.append(len(seen))
        except BaseException as fault:
            faults.append(fault)
        finally:
            reader.engine.dispose()

    readers = [threading.Thread(target=poll) for _ in range(10)]
    for reader in readers:
        reader.start()
    for record in history:
        store.epoch(claim, record)
    store.finish(claim, history)
    over.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(looks) >= 10


# Full disks


def test_a_full_disk_passes(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "orch.db"), create=True)
    claim = claimed(store)
    history = a_history(claim.run)
    with store.write() as connection:  # the connection that the pool gives again
        connection.execute(sa.text("PRAGMA max_page_count = 1"))
        pages = connection.execute(sa.text("PRAGMA max_page_count")).scalar_one()
    error = "x" * 4096 * (pages + 1)
    with pytest.raises(StoreUnreachable, match=f"disk is full; make room under {tmp_path}"):
        store.fail(claim, error, error)
    assert store.find_run(claim.run.id).state == "running"
    with store.write() as connection:
        connection.execute(sa.text("PRAGMA max_page_count = 1000000"))
    store.finish(claim, history)
    assert list(store.history(claim.run_key)) == history


# Making a store


def test_several_processes_make_one_store(tmp_path: Path, postgres: PostgresServer) -> None:
    urls = [str(tmp_path / "new.db"), postgres.empty()]
    code = (
        "import sys\n"
        "import db.store, alembic.command\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for url in sys.argv[1:]:\n"
        "    print(len(db.store.Store.open(url, create=True).runs()), flush=True)\n"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, *urls],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    for maker in makers:
        out, err = maker.communicate(timeout=120)
        assert (out, maker.returncode) == ("0\n0\n", 0), err
    for url in urls:
        claimed(Store.open(url))


def test_only_an_empty_database_becomes_a_store(postgres: PostgresServer) -> None:
    url = postgres.empty()
    with pytest.raises(StoreMissing, match="is empty; `orch launch` makes a store"):
        Store.open(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE mine (x int)")
    with pytest.raises(StoreVersion, match="not of orch"):
        Store.open(url, create=True)
    postgres.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    with pytest.raises(StoreError, match="ENCODING 'UTF8'"):
        Store.open(postgres.url("ascii"), create=True)


# What is said


@pytest.mark.parametrize(
    ("user", "database", "kind", "says"),
    [
        ("reader", "postgres", StoreError, "permission denied.*GRANT"),
        ("reader", "none", StoreError, 'database "none" does not exist; make it with CREATE'),
        ("nobody", "postgres", StoreError, "password authentication failed.*check the user"),
        (None, "postgres", StoreUnreachable, "cannot be reached.*refused; start the server"),
    ],
)
def test_a_server_that_does_not_let_us_in(
    postgres: PostgresServer, user: str | None, database: str, kind: type[StoreError], says: str
) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'reader'").fetchone():
            connection.execute("CREATE ROLE reader LOGIN PASSWORD 's3cret-/'")
    port = postgres.port if user else 1
    url = f"postgresql://{user}:{PASSWORD}@127.0.0.1:{port}/{database}"
    with pytest.raises(StoreError, match=says) as refused:
        Store.open(url, create=True)
    assert type(refused.value) is kind
    assert "s3cret" not in str(refused.value)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_a_place_never_shows_a_password(postgres: PostgresServer, scheme: str) -> None:
    url = postgres.fresh().replace("postgres@", f"postgres:{PASSWORD}@")
    store = Store.open(url.replace("postgresql:", f"{scheme}:"))
    assert store.place.startswith("store postgresql://postgres@")
    with pytest.raises(StoreError) as refused:
        store.find_run("none")
    with pytest.raises(StoreError) as broken, store.write() as connection:
        connection.execute(sa.text("SELECT nonsense"))
    for said in (store.place, str(refused.value), str(broken.value)):
        assert "s3cret" not in said
    store.engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:/user:s3cret@host/db",
        "postgresql:user:s3cret@host/db",
        "postgresql://user:s3cret@host:port/db",
        "postgresql://user:s3cret@host",
        "postgresql+asyncpg://user:s3cret@host/db",
        "mysql://user:s3cret@host/db",
        "postgresql://host:bad/db?user=u&password=s3cret",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(StoreError) as refused:
        Store.open(url, create=True)
    assert "s3cret" not in str(refused.value)
    assert not Path(url).exists()


def test_a_broken_file_does_not_pass(tmp_path: Path) -> None:
    path = tmp_path / "orch.db"
    store = Store.open(str(path), create=True)
    claimed(store)
    store.engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)
    path.write_bytes(damaged)
    with pytest.raises(StoreError) as refused:
        Store.open(str(path)).runs()
    assert not isinstance(refused.value, StoreUnreachable)
