"""Result files, CSV and Parquet: rows out of a file, and into one."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from db.errors import EnvironmentProblem, SpecError

Style = Literal["csv", "parquet"]
MAGIC = b"PAR1"
"""How a Parquet file begins."""
BATCH = 50_000
"""Rows of a Parquet file that are in memory at once."""
LONGEST_FIELD = 2**26
"""Characters of a CSV field; a sweep's file is one."""


@dataclass(frozen=True)
class Table:
    """A file's header, and its rows as (number, values)."""

    name: str
    header: Sequence[str]
    rows: Iterator[tuple[int, Sequence[Any]]]
    unit: str
    """What rows are counted in: `line`, or `row` of a file without lines."""
    position: Callable[[int], int]
    """Bytes that are read when a row is, by its number; 0 of a pipe."""
    decimal_comma: bool = False
    """Whether `0,5` is a half: fields are separated by semicolons, as where that is so."""


def size(path: Path) -> int:
    """Bytes of a file; 0 for a pipe, and for what is not there."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_size if stat.S_ISREG(found.st_mode) else 0
    return 0


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Table]:
    """A result file, told by its content whether it is CSV or Parquet.

    Raises `EnvironmentProblem` where it cannot be read and `SpecError`, also while its rows are
    read, where it is neither.
    """
    try:
        with path.open("rb") as binary:
            if binary.peek(len(MAGIC)).startswith(MAGIC):
                yield _parquet(binary, path)
                return
            with io.TextIOWrapper(binary, "utf-8-sig", newline="") as text:
                yield _csv(text, binary, path)
    except OSError as error:
        raise EnvironmentProblem(
            f"{path} cannot be read ({error.strerror or error}); name another file."
        ) from error


def _csv(text: IO[str], binary: IO[bytes], path: Path) -> Table:
    csv.field_size_limit(LONGEST_FIELD)
    lines = _lines(text, path)
    head = next(lines, "")
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(itertools.chain([head], lines), delimiter=delimiter, strict=True)

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        line = 1
        try:
            for row in reader:
                yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            raise SpecError(f"{path}, line {line}: not readable as CSV: {error}.") from error

    numbered = rows()
    _, header = next(numbered, (1, []))
    position = (lambda _: binary.tell()) if size(path) else (lambda _: 0)
    return Table(str(path), header, numbered, "line", position, delimiter == ";")


def _lines(text: IO[str], path: Path) -> Iterator[str]:
    try:
        yield from text
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path} is neither Parquet nor UTF-8 text ({error.reason}); save it as CSV UTF-8."
        ) from error


def _parquet(binary: IO[bytes], path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(binary)
    except (pyarrow.ArrowException, OSError) as error:
        raise SpecError(f"{path} is not a whole Parquet file: {error}.") from error

    def rows() -> Iterator[tuple[int, Sequence[Any]]]:
        numbers = itertools.count(1)
        try:
            for batch in file.iter_batches(batch_size=BATCH):
                values = [_values(column) for column in batch.columns]
                yield from zip(numbers, zip(*values, strict=True), strict=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise SpecError(f"{path} is a damaged Parquet file: {error}.") from error

    bytes_a_row = size(path) / max(1, file.metadata.num_rows)
    return Table(
        str(path), file.schema_arrow.names, rows(), "row", lambda row: int(row * bytes_a_row)
    )


def _values(column: Any) -> list[Any]:
    """A column as Python values; much faster than Arrow's own way where that is slow."""
    from pyarrow import types

    if types.is_dictionary(column.type):
        words = [*_values(column.dictionary), None]  # -1 is the last one
        places: list[int] = column.indices.fill_null(-1).to_numpy().tolist()
        return [words[place] for place in places]
    if types.is_nested(column.type):
        return [*map(str, column.to_pylist())]
    number = types.is_integer(column.type) or types.is_floating(column.type)
    fast = number and not column.null_count
    values: list[Any] = column.to_numpy().tolist() if fast else column.to_pylist()
    return values


def write(
    rows: Iterable[tuple[Any, ...]], columns: Sequence[str], style: Style, output: Path
) -> None:
    """Write rows into a file, which appears as a whole or not at all.

    Fields of a row beyond `columns` are left out. Raises `EnvironmentProblem`.
    """
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    try:
        if style == "parquet":
            _write_parquet(rows, columns, partial)
        elif output.exists() and not output.is_file():  # a pipe, a terminal
            with output.open("w", encoding="utf-8", newline="") as file:
                write_csv(rows, columns, file)
            return
        else:
            with partial.open("w", encoding="utf-8", newline="") as file:
                write_csv(rows, columns, file)
        partial.replace(output)
    except OSError as error:
        raise EnvironmentProblem(
            f"-o {output} cannot be written ({error.strerror or error}); name another file."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_csv(rows: Iterable[tuple[Any, ...]], columns: Sequence[str], file: IO[str]) -> None:
    """Rows as CSV, floats exact to the last bit."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    width = len(columns)
    writer.writerows(row[:width] for row in rows)


_INTEGERS = ("seed", "epoch", "n", "correct")
_FLOATS = (
    "lr", "value", "train_loss", "train_accuracy", "epoch_lr", "seconds", "images_per_second",
)  # fmt: skip


def _write_parquet(rows: Iterable[tuple[Any, ...]], columns: Sequence[str], output: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.dictionary(pa.int32(), pa.string())  # few names, each on many rows
    schema = pa.schema(
        [
            (n, pa.int64() if n in _INTEGERS else pa.float64() if n in _FLOATS else text)
            for n in columns
        ]
    )
    left = iter(rows)
    with parquet.ParquetWriter(output, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(left, BATCH)):
            values = list(zip(*batch, strict=True))[: len(columns)]
            arrays = [
                pa.array(column, kind.type) for column, kind in zip(values, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
