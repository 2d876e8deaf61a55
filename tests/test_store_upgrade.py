"""Stores that older versions wrote: `stores/NNNN.sql` are dumps of real ones."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from conftest import Orch, a_history, a_run
from db import schema
from db.connect import upgrade
from db.errors import StoreError, StoreVersion
from db.owners import this_process
from db.store import Store

DUMPS = Path(__file__).parent / "stores"
Rows = dict[str, list[dict[str, object]]]


def rows_of(path: Path) -> Rows:
    """Every row of every table."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            name: [dict(row) for row in connection.execute(f'SELECT * FROM "{name}"')]
            for (name,) in tables.fetchall()
        }


def execute(path: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The first release's store: every state, attempts, dependencies, two sweeps."""
    return dumped(tmp_path, "0001")


def dumped(folder: Path, schema_version: str) -> Path:
    """A store as that schema's version of orch left it."""
    path = folder / "orch.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((DUMPS / f"{schema_version}.sql").read_text())
        connection.execute("PRAGMA journal_mode = WAL")
    return path


def test_every_old_schema_has_a_dump() -> None:
    before = [f"{number:04}" for number in range(1, int(schema.HEAD))]
    assert sorted(path.stem for path in DUMPS.iterdir()) == before


def test_an_older_store_is_named_with_what_upgrades_it(old: Path) -> None:
    with pytest.raises(StoreVersion, match=r"schema 0001.*`orch store upgrade`"):
        Store.open(str(old), create=True)


def test_an_upgrade_keeps_every_row(old: Path) -> None:
    before = rows_of(old)
    assert all(before[name] for name in ("runs", "attempts", "epochs", "metrics", "artifacts"))

    done = upgrade(str(old))

    after = rows_of(old)
    assert (done.before, done.after) == ("0001", schema.HEAD)
    for table, rows in before.items():
        if table != "alembic_version":
            kept = [{name: row[name] for name in rows[0]} for row in after[table]]
            assert kept == rows, table
    assert {row["ttl"] for row in after["owners"]} == {60.0}
    assert {row["extended"] for row in after["sweep_runs"]} == {0}
    assert {row["micro_batch"] for row in after["attempts"]} == {None}


def test_the_second_schema_is_upgraded_too(tmp_path: Path) -> None:
    """Its voids, extended runs and lost launches are kept."""
    path = dumped(tmp_path, "0002")
    before = rows_of(path)
    assert all(before[name] for name in ("voids", "artifacts", "metrics", "owners"))
    assert upgrade(str(path)).before == "0002"
    after = rows_of(path)
    for table in before.keys() - {"alembic_version"}:
        kept = [{name: row[name] for name in before[table][0]} for row in after[table]]
        assert kept == before[table], table
    assert {row["last"] for row in after["sweep_runs"]} == {0}
    store = Store.open(str(path))
    with store.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.Base.metadata) == []
    assert Counter(stored.state for stored in store.runs()) == {
        "done": 2, "diverged": 1, "failed": 1, "voided": 1, "cancelled": 1, "running": 1,
        "pending": 1,
    }  # fmt: skip


def test_an_upgraded_store_is_like_a_new_one(old: Path) -> None:
    upgrade(str(old))
    store = Store.open(str(old))
    with store.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.Base.metadata) == []
        assert connection.execute(sa.text("PRAGMA foreign_key_check")).all() == []
    count, holders = store.recover()
    assert (count, holders) == (1, []), "a lease that was never renewed ran out long ago"
    for stored in store.runs("first"):
        if stored.state == "pending":
            claim = store.claim(stored.key, store.enlist())
            assert claim is not None
            store.finish(claim, a_history(claim.run))
    failed = next(s for s in store.runs() if s.state == "failed")
    store.void(failed.key, "not wanted")
    with pytest.raises(StoreError, match="constraint"), store.write() as connection:
        connection.execute(sa.text("UPDATE runs SET state = 'finished'"))
    assert {s.state for s in store.runs()} == {"done", "diverged", "voided"}
    assert store.find_run(a_run(kind="pretrain", epochs=1).id).state == "done"


def test_the_copy_is_the_store_as_it_was(old: Path) -> None:
    before = rows_of(old)
    first = upgrade(str(old)).backup
    assert first == old.with_name("orch.db.schema-0001")
    assert rows_of(first) == before
    with pytest.raises(StoreVersion, match="schema 0001"):
        Store.open(str(first))
    assert upgrade(str(old)).backup is None, "the second time there is nothing to do"


def test_an_earlier_copy_is_not_overwritten(old: Path) -> None:
    old.with_name("orch.db.schema-0001").write_text("mine")
    assert upgrade(str(old)).backup == old.with_name("orch.db.schema-0001-2")
    assert old.with_name("orch.db.schema-0001").read_text() == "mine"


def test_an_upgrade_that_fails_changes_nothing(old: Path) -> None:
    execute(old, "CREATE TABLE voids (mine)")  # the last of what the upgrade makes
    before = rows_of(old)
    with pytest.raises(StoreError, match="voids"):
        upgrade(str(old))
    assert rows_of(old) == before


def test_a_store_in_use_is_not_upgraded(old: Path) -> None:
    me = this_process()
    statement = "UPDATE owners SET host = ?, pid = ?, boot_id = ?, process_started = ?"
    execute(old, statement, me.host, me.pid, me.boot_id, me.started)
    before = rows_of(old)
    with pytest.raises(StoreError, match=rf"in use by process {me.pid}"):
        upgrade(str(old))
    assert rows_of(old) == before
    assert list(old.parent.glob("*.schema-*")) == []


def test_what_is_no_store_is_not_upgraded(tmp_path: Path, old: Path) -> None:
    other = tmp_path / "other.db"
    execute(other, "CREATE TABLE mine (x)")
    with pytest.raises(StoreVersion, match="no store of orch"):
        upgrade(str(other))
    execute(old, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreVersion, match="install a newer orch"):
        upgrade(str(old))


def test_the_command_says_where_the_copy_is(old: Path, orch: Orch) -> None:
    refused = orch("--store", old, "store", "info", check=2)
    assert "orch store upgrade" in refused.stderr
    done = orch("--store", old, "store", "upgrade")
    assert f"As it was: {old}.schema-0001" in done.stdout
    assert "schema 0001 is now" in done.stdout
    assert "nothing to do" in orch("--store", old, "store", "upgrade").stdout
