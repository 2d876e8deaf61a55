"""What SQLite and PostgreSQL do differently: how each is reached, and what its faults mean.

The only place that knows which engines there are; the rest of `db` writes SQL that both read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import make_url
from sqlalchemy.ext.compiler import compiles

from db.errors import StoreError, StoreUnreachable

BUSY_SECONDS = 30
"""How long a transaction waits for another's lock."""
CONNECT_SECONDS = 10
# A peer that vanished without a word is noticed after a minute, not after two hours.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_SCARCE = 1 << 20
"""Bytes left on a disk that count as none: SQLite's own files grow by such steps."""

_BUSY, _LOCKED, _READONLY, _IOERR, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 10, 13, 14, 26
"""SQLite's primary result codes."""
# SQLSTATEs that pass: connection (08), resources (53), shutdown and start-up (57P), deadlock and
# serialization (40), a lock waited for too long (55P03), the end of an idle transaction (25P03).
_PASSING = re.compile(r"08|53|57P0[1-4]|40001|40P01|55P03|25P0[34]")
_REMEDIES = (
    ("password authentication failed", "check the user and password in --store"),
    ("no password supplied", "put a password into --store, or into ~/.pgpass"),
    ("no pg_hba.conf entry", "let this host in by the server's pg_hba.conf"),
    ("role ", "make it with CREATE ROLE, or name another in --store"),
    ("database ", "make it with CREATE DATABASE, or name another in --store"),
)


def parse(text: str) -> sa.URL:
    """The URL that `--store` gives; a path is an SQLite file. Raises `StoreError`."""
    try:
        if re.match(r"[a-z+]+:/[^/]|postgres\w*:", text) and "://" not in text:
            raise ValueError(text)  # a URL with a slash too few, not a file
        url = make_url(text if "://" in text else f"sqlite:///{text}")
    except (sa.exc.ArgumentError, ValueError) as error:
        raise StoreError(
            f'--store "{hidden(text)}" is not a database URL; use for example sqlite:///orch.db '
            "or postgresql://user@host/orch."
        ) from error
    backend = url.get_backend_name()
    if backend in ("postgresql", "postgres"):
        if url.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
            raise StoreError(
                f'--store: the driver of "{url.drivername}" is not used here; '
                "write postgresql://user@host/database."
            )
        if not url.database:
            raise StoreError("--store: name a database, as in postgresql://user@host/orch.")
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(
            f'--store: "{backend}" is no store; use sqlite:///PATH or postgresql://user@host/orch.'
        )
    if not url.database or url.database == ":memory:":
        raise StoreError("--store: a store is a file; use for example sqlite:///orch.db.")
    return url


def hidden(text: str) -> str:
    """A URL, well formed or not, without what may be a password."""
    text = re.sub(r"(?i)(password=)[^&\s]*", r"\1***", text)
    start, at, rest = text.rpartition("@")
    return f"{start.partition(':')[0]}://***@{rest}" if at else text


def place_of(url: sa.URL) -> str:
    """The store as messages name it; never its password."""
    if url.get_backend_name() == "sqlite":
        return f"store {url.database}"
    named = {k: v for k, v in url.query.items() if k in ("host", "port")}
    shown = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database, named)
    return f"store {shown.render_as_string()}"


def make_engine(url: sa.URL) -> sa.Engine:
    """A pool of connections that does nothing yet."""
    return _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)


def reading(engine: sa.Engine) -> sa.Engine:
    """The same pool, for transactions that see one moment of the store and change nothing."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _sqlite(url: sa.URL) -> sa.Engine:
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


def _postgresql(url: sa.URL) -> sa.Engine:
    given = {"connect_timeout": CONNECT_SECONDS, "application_name": "orch", **_KEEPALIVE}
    given |= {"client_encoding": "utf8"}
    engine = sa.create_engine(
        url,
        connect_args={name: value for name, value in given.items() if name not in url.query},
        pool_pre_ping=True,
    )

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: Any, _: object) -> None:
        # As with SQLite: a crash of the server may lose the last epochs, never harm the store. A
        # process that freezes inside a transaction keeps its locks no longer than this.
        connection.execute(
            "SET synchronous_commit = off; "
            f"SET lock_timeout = '{BUSY_SECONDS}s'; "
            f"SET idle_in_transaction_session_timeout = '{2 * BUSY_SECONDS}s'"
        )
        connection.commit()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options.get("durable", False):
            connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
        if options.get("unhurried", False):
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")

    return engine


@contextmanager
def translated(url: sa.URL) -> Iterator[None]:
    """Turn the driver's errors into a `StoreError` that names the store and what to do."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _meaning(url, error) from error
    except sa.exc.TimeoutError as error:
        raise StoreUnreachable(f"{place_of(url)}: every connection is in use; wait.") from error


def _meaning(url: sa.URL, error: sa.exc.DBAPIError) -> StoreError:
    place, text = place_of(url), str(error.orig).strip()
    if url.password:
        text = text.replace(str(url.password), "***")
    if url.get_backend_name() == "sqlite":
        return _meaning_sqlite(place, text, error.orig, Path(str(url.database)).parent)
    return _meaning_postgresql(place, text, getattr(error.orig, "sqlstate", None), error)


def _meaning_sqlite(place: str, text: str, error: BaseException | None, folder: Path) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == _NOTADB:
        return StoreError(f"{place} is not a database; give another --store.")
    if code in (_BUSY, _LOCKED):
        return StoreUnreachable(
            f"{place} stayed locked for {BUSY_SECONDS} s; end the program that holds it."
        )
    if code == _FULL or (code in (_IOERR, _CANTOPEN) and _full(folder)):
        return StoreUnreachable(f"{place}: the disk is full; make room under {folder.resolve()}.")
    if code in (_READONLY, _CANTOPEN):
        return StoreError(f"{place} cannot be opened: {text}; check its permissions.")
    return StoreError(f"{place}: {text}")


def _full(folder: Path) -> bool:
    try:
        there = os.statvfs(folder)
    except OSError:
        return False
    return there.f_bavail * there.f_frsize < _SCARCE


def _meaning_postgresql(
    place: str, text: str, state: str | None, error: sa.exc.DBAPIError
) -> StoreError:
    reason = text.splitlines()[0].removeprefix("connection failed: ") if text else "no answer"
    if state is None:  # libpq tells no state where a connection was refused
        for words, remedy in _REMEDIES:
            if f"FATAL:  {words}" in text or (words in text and not words.endswith(" ")):
                told = text.rpartition("FATAL:  ")[2].splitlines()[0]
                return StoreError(f"{place} cannot be opened: {told}; {remedy}.")
    elif state == "53100":
        return StoreUnreachable(f"{place}: the server's disk is full; make room there.")
    elif state == "55P03":
        return StoreUnreachable(
            f"{place} stayed locked for {BUSY_SECONDS} s; end the program that holds it."
        )
    elif state == "42501":
        return StoreError(f"{place}: {reason}; GRANT it, or name the owner of it in --store.")
    passing = state is not None and _PASSING.match(state)
    lost = isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)) and state is None
    if error.connection_invalidated or passing or lost:
        return StoreUnreachable(
            f"{place} cannot be reached: {reason}; start the server, or check --store."
        )
    return StoreError(f"{place}: {reason}")


# SQL that each engine spells its own way


class now(sa.sql.functions.FunctionElement[float]):  # noqa: N801
    """Seconds since 1970 by the clock of the database's machine, which all its users share."""

    type = sa.Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(_: now, __: Any, **___: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(_: now, __: Any, **___: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


class _Listed(sa.types.TypeDecorator[Any]):
    """A list of values as one parameter, of any length, in a statement that is compiled once."""

    impl = sa.String
    cache_ok = True

    def __init__(self, item: type[int] | type[str]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "sqlite":
            return sa.String()
        return postgresql.ARRAY(sa.BigInteger() if self.item is int else sa.Text(collation="C"))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return json.dumps([*value]) if dialect.name == "sqlite" else [*value]


class _Among(sa.sql.functions.FunctionElement[bool]):
    """Whether a column is one of the values of a `_Listed` parameter."""

    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Self:
        """As it is: `… = 1`, SQLite's way to write a condition, would turn its indexes off."""
        return self


@compiles(_Among, "sqlite")
def _among_sqlite(element: _Among, compiler: Any, **kw: Any) -> str:
    column, listed = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({listed})))"


@compiles(_Among, "postgresql")
def _among_postgresql(element: _Among, compiler: Any, **kw: Any) -> str:
    # Not IN (SELECT unnest(…)): that is a join, one look into the index for each value, and the
    # rows come in the order of the list, so that whoever groups by the column sorts them again.
    column, listed = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({column} = ANY ({listed}))"


def among(column: sa.ColumnElement[Any], name: str, values: Any = None) -> sa.ColumnElement[bool]:
    """Whether a column of integers or texts is among the list bound to `name`."""
    item = int if isinstance(column.type, sa.Integer) else str
    bound: sa.BindParameter[Any] = sa.bindparam(name, values, type_=_Listed(item))
    return _Among(column, bound)


class _Pairs(sa.types.TypeDecorator[Any]):
    """A list of pairs of integers as one parameter."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return json.dumps([*value])


class _PairRows(sa.sql.functions.FunctionElement[Any]):
    """The pairs of a `_Pairs` parameter as rows."""

    inherit_cache = True


@compiles(_PairRows, "sqlite")
def _pair_rows_sqlite(element: _PairRows, compiler: Any, **kw: Any) -> str:
    rows = f"json_each({compiler.process(element.clauses, **kw)})"
    columns = "json_extract(value, '$[0]') AS run_key, json_extract(value, '$[1]') AS epoch"
    return f"(SELECT {columns} FROM {rows})"


@compiles(_PairRows, "postgresql")
def _pair_rows_postgresql(element: _PairRows, compiler: Any, **kw: Any) -> str:
    rows = f"json_array_elements(CAST({compiler.process(element.clauses, **kw)} AS json)) AS pair"
    columns = "CAST(pair->>0 AS bigint) AS run_key, CAST(pair->>1 AS integer) AS epoch"
    return f"(SELECT {columns} FROM {rows})"


def epochs_of(name: str, pairs: Any = None) -> sa.TableValuedAlias:
    """The runs and epochs (`run_key`, `epoch`) of the list of pairs bound to `name`, as a table."""
    bound: sa.BindParameter[Any] = sa.bindparam(name, pairs, type_=_Pairs())
    columns = (sa.column("run_key", sa.BigInteger), sa.column("epoch", sa.Integer))
    return _PairRows(bound).table_valued(*columns, name=name)
