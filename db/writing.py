"""One transaction a message: what everything that writes to a store begins with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from db.engines import translated
from db.reading import Reader


class Writer(Reader):
    """A store that this process may write to. On SQLite one writes at a time, others wait."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        self._writing = {
            durable: engine.execution_options(writes=True, durable=durable)
            for durable in (False, True)
        }

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        """The only place that commits or rolls back. `durable` also survives a power cut."""
        with translated(self.engine.url), self._writing[durable].begin() as connection:
            yield connection


def insert_new(table: sa.Table) -> sa.TextClause:
    """Insert rows but those whose key is there; the row count says how many were new."""
    return sa.text(f"{_insert(table, table.columns.keys(), ':')} ON CONFLICT DO NOTHING")


def _insert(table: sa.Table, columns: Sequence[str], mark: str) -> str:
    listed = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join(f":{name}" if mark == ":" else mark for name in columns)
    return f"INSERT INTO {table.name} ({listed}) VALUES ({values})"


def insert_all(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Insert many rows that are known to be new, in the way that the engine does fastest."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_insert(table, columns, "?"), [*rows])
        return
    listed = ", ".join(f'"{name}"' for name in columns)
    driver: Any = connection.connection.driver_connection
    statement = f"COPY {table.name} ({listed}) FROM STDIN"
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as error:  # SQLAlchemy was not asked
        raise sa.exc.OperationalError(
            statement, None, error, connection_invalidated=driver.closed
        ) from error


def plain(text: str) -> str:
    """Text that every engine keeps: without NUL, and without halves of characters."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()
