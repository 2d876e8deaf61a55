"""Opening, creating and versioning a store. The only place that knows what engine it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from db.errors import StoreError, StoreMissing, StoreVersion
from db.schema import HEAD

# A local lock file means nothing to another host, so SQLite's locking fails there in silence.
NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "fuse.sshfs"})
BUSY_SECONDS = 30


def _url(text: str) -> sa.URL:
    try:
        url = make_url(text if "://" in text else f"sqlite:///{text}")
    except sa.exc.ArgumentError as error:
        raise StoreError(
            f'--store "{text}" is not a database URL; use for example sqlite:///orch.db.'
        ) from error
    if url.get_backend_name() != "sqlite":
        raise StoreError(
            f'--store: "{url.get_backend_name()}" stores are not in this version; '
            "use sqlite:///PATH."
        )
    if not url.database or url.database == ":memory:":
        raise StoreError("--store: a store is a file; use for example sqlite:///orch.db.")
    return url


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


def _engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: Any, _: object) -> None:
        # The driver's own transaction handling is off: BEGIN is ours, and IMMEDIATE where we
        # write, so two writers queue instead of failing half-way.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {1000 * BUSY_SECONDS}")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        # NORMAL: a power cut may lose the last epochs, which come back from the checkpoint; it
        # cannot harm the file. FULL: what is said to be done stays done.
        level = "FULL" if options.get("durable", False) else "NORMAL"
        if connection.info.get("synchronous") != level:
            connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            connection.info["synchronous"] = level
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", False) else "BEGIN")

    return engine


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn the driver's errors into a `StoreError` that names the store and what to do."""
    try:
        yield
    except sa.exc.DatabaseError as error:
        text = str(error.orig)
        if "not a database" in text:
            raise StoreError(f"{place} is not a database; give another --store.") from error
        if "locked" in text:
            raise StoreError(
                f"{place} stayed locked for {BUSY_SECONDS} s; end the program that holds it."
            ) from error
        if "readonly" in text or "unable to open" in text:
            raise StoreError(f"{place} cannot be opened: {text}; check its permissions.") from error
        raise StoreError(f"{place}: {text}") from error


def _version(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(engine: sa.Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.connect().execution_options(writes=True, durable=True) as connection:
        # A table that others refer to is rebuilt; the pragma counts only outside a transaction.
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
                    raise StoreError(
                        f"the upgrade would break {len(broken)} rows; nothing changed."
                    )
        finally:
            driver.execute("PRAGMA foreign_keys = ON")


def open_engine(text: str, *, create: bool) -> sa.Engine:
    """A connection pool to the store at a URL or path, of this version's schema.

    `create` makes a missing one. Raises `StoreMissing`, `StoreVersion` or `StoreError`.
    """
    url = _url(text)
    path = Path(str(url.database))
    place = f"store {path}"
    if path.is_dir():
        raise StoreError(f"{place} is a folder; give a file, for example {path / 'orch.db'}.")
    if not path.exists() and not create:
        raise StoreMissing(
            f"{place} does not exist; `orch launch` makes it, or --store names another."
        )
    if not path.parent.is_dir():
        raise StoreError(f"{place}: the folder {path.parent} does not exist; make it first.")
    if (kind := _filesystem(path.resolve().parent)) in NETWORK_FILESYSTEMS:
        raise StoreError(f"{place} is on a network filesystem ({kind}); use a local disk.")
    engine = _engine(url)
    try:
        _check_version(engine, place, create)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check_version(engine: sa.Engine, place: str, create: bool) -> None:
    """Make the schema where that is asked for; refuse another version's."""
    with translated(place):
        version = _version(engine)
        if version is None:
            _create(engine, place, create)
        elif version != HEAD:
            known = version < HEAD
            raise StoreVersion(
                f"{place} has schema {version}, this orch reads {HEAD}; "
                + ("use the orch that wrote it." if known else "install a newer orch.")
            )


def _create(engine: sa.Engine, place: str, create: bool) -> None:
    with engine.connect() as connection:
        if sa.inspect(connection).get_table_names():
            raise StoreVersion(f"{place} is a database, but not of orch; give another --store.")
        if not create:
            raise StoreMissing(f"{place} is empty; `orch launch` makes a store, or give another.")
    raw = sqlite3.connect(str(engine.url.database), timeout=BUSY_SECONDS)
    try:
        raw.execute("PRAGMA journal_mode = WAL")  # readers and the writer never wait for each other
    finally:
        raw.close()
    _migrate(engine)
