"""Opening, creating and versioning a store."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.engines import BUSY_SECONDS, make_engine, parse, place_of, translated
from db.errors import StoreError, StoreMissing, StoreVersion
from db.owners import Process, is_dead
from db.schema import HEAD

# A local lock file means nothing to another host, so SQLite's locking fails there in silence.
NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "fuse.sshfs"})
# Held by who makes or upgrades a schema in a PostgreSQL database; the number means nothing.
_SCHEMA_LOCK = 7_305_611_000_001
_ALEMBIC = threading.Lock()  # its context is one of the whole process


@dataclass(frozen=True)
class Upgrade:
    """What `upgrade` did; `backup` is the copy of an SQLite file as it was before."""

    place: str
    before: str
    after: str
    backup: Path | None


def open_engine(text: str, *, create: bool) -> sa.Engine:
    """A connection pool to the store at a URL or path, of this version's schema.

    `create` makes a missing SQLite file, and the tables in an empty PostgreSQL database; several
    processes may do so at once. Raises `StoreMissing`, `StoreVersion`, `StoreUnreachable` where a
    server does not answer, or `StoreError`.
    """
    url = parse(text)
    _check_file(url, create)
    engine = make_engine(url)
    try:
        _check_version(engine, create)
    except BaseException:
        engine.dispose()
        raise
    return engine


def upgrade(text: str) -> Upgrade:
    """Bring the store at a URL or path to this version's schema: all of it, or nothing.

    An SQLite file is copied first to a new file beside it. Raises `StoreError` while a living
    process of this host trains runs of it.
    """
    url = parse(text)
    _check_file(url, create=False)
    engine, place = make_engine(url), place_of(url)
    try:
        with translated(url), _alone(engine) as connection:
            before = _version(connection)
            if before is None:
                raise StoreVersion(f"{place} is no store of orch; give another --store.")
            if before > HEAD:
                raise StoreVersion(_other_version(place, before))
            backup = None
            if before < HEAD:
                _refuse_living(connection, place)
                backup = _back_up(url, before)
                _migrate(connection, place)
    finally:
        engine.dispose()
    return Upgrade(place, before, HEAD, backup)


def _check_file(url: sa.URL, create: bool) -> None:
    """Refuse what cannot be a store before an SQLite file is touched."""
    if url.get_backend_name() != "sqlite":
        return
    path, place = Path(str(url.database)), place_of(url)
    if path.is_dir():
        raise StoreError(f"{place} is a folder; give a file, for example {path / 'orch.db'}.")
    if not path.exists() and not create:
        raise StoreMissing(
            f"{place} does not exist; `orch launch` makes it, or --store names another."
        )
    if not path.parent.is_dir():
        raise StoreError(f"{place}: the folder {path.parent} does not exist; make it first.")
    if (kind := _filesystem(path.resolve().parent)) in NETWORK_FILESYSTEMS:
        raise StoreError(
            f"{place} is on a network filesystem ({kind}); use a local disk, or PostgreSQL."
        )


def _filesystem(path: Path) -> str:
    """The type of the filesystem that holds `path`, empty where the system does not tell."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    mounts = {fields[1]: fields[2] for line in lines if len(fields := line.split()) > 2}
    for folder in (path, *path.parents):
        if str(folder) in mounts:
            return mounts[str(folder)]
    return ""


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _other_version(place: str, version: str) -> str:
    remedy = "run `orch store upgrade`" if version < HEAD else "install a newer orch"
    return f"{place} has schema {version}, this orch reads {HEAD}; {remedy}."


def _check_version(engine: sa.Engine, create: bool) -> None:
    """Make the schema where that is asked for; refuse another version's."""
    place = place_of(engine.url)
    with translated(engine.url):
        with engine.connect() as connection:
            version = _version(connection)
            if version is None:
                _check_empty(connection, place, create)
        if version is None:
            version = _create(engine, place)
        if version != HEAD:
            raise StoreVersion(_other_version(place, version))


def _check_empty(connection: sa.Connection, place: str, create: bool) -> None:
    if _version(connection) is None and sa.inspect(connection).get_table_names():
        raise StoreVersion(f"{place} is a database, but not of orch; give another --store.")
    if not create:
        raise StoreMissing(f"{place} is empty; `orch launch` makes a store, or give another.")
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(sa.text("SHOW server_encoding")).scalar()
        if encoding != "UTF8":
            raise StoreError(
                f"{place} keeps text as {encoding}; make the database anew with ENCODING 'UTF8' "
                "TEMPLATE template0."
            )


def _create(engine: sa.Engine, place: str) -> str:
    """Make the schema, unless another process did so meanwhile; returns the one that is there."""
    if engine.dialect.name == "sqlite":
        _use_wal(str(engine.url.database))
    with _alone(engine) as connection:
        version = _version(connection)
        if version is None:
            _check_empty(connection, place, create=True)
            _migrate(connection, place)
        return version or HEAD


def _use_wal(database: str) -> None:
    """Readers and the writer never wait for each other from now on; the file remembers it."""
    patience = time.monotonic() + BUSY_SECONDS
    with contextlib.closing(sqlite3.connect(database, timeout=BUSY_SECONDS)) as raw:
        while True:
            try:
                raw.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                # This switch alone does not wait for another process that is making it.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                    raise sa.exc.OperationalError("PRAGMA journal_mode", None, error) from error
                time.sleep(0.01)
            except sqlite3.DatabaseError as error:
                raise sa.exc.DatabaseError("PRAGMA journal_mode", None, error) from error
            else:
                return


@contextlib.contextmanager
def _alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that no other process's change of the schema overlaps; durable."""
    with engine.connect().execution_options(writes=True, durable=True) as connection:
        if engine.dialect.name == "postgresql":
            with connection.begin():
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
                yield connection
            return
        # A table that others refer to is rebuilt; the pragma counts only outside a transaction.
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                yield connection
        finally:
            driver.execute("PRAGMA foreign_keys = ON")


def _migrate(connection: sa.Connection, place: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    with _ALEMBIC:
        command.upgrade(config, "head")
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if broken:
            raise StoreError(f"{place} would lose what {len(broken)} rows refer to; unchanged.")


def _refuse_living(connection: sa.Connection, place: str) -> None:
    holders = connection.execute(
        sa.text(
            "SELECT DISTINCT o.host, o.pid, o.boot_id, o.process_started FROM owners o "
            "JOIN runs r ON r.owner_id = o.id"
        )
    )
    for row in holders:
        process = Process(*row)
        if process.is_here() and not is_dead(process):
            raise StoreError(
                f"{place} is in use by process {process.pid} of this host; end its launch first."
            )


def _back_up(url: sa.URL, version: str) -> Path | None:
    """Copy an SQLite file as it is, while the caller's transaction keeps writers out."""
    if url.get_backend_name() != "sqlite":
        return None
    path = Path(str(url.database))
    backup = path.with_name(f"{path.name}.schema-{version}")
    number = 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.schema-{version}-{number}")
    partial = backup.with_name(f"{backup.name}.partial")
    try:
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(partial)) as target,
        ):
            source.backup(target)
        partial.rename(backup)
    except sqlite3.Error as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"{place_of(url)} was not upgraded: its copy {backup} cannot be written ({error})."
        ) from error
    return backup
