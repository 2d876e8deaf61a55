"""Rows of result files, read strictly and gathered into runs."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from db.errors import SpecError
from db.records import State
from orchestrator.exchange import files
from orchestrator.exchange.fields import COLUMNS, KNOWN, LARGEST, OF_EPOCH, Fields, blank, whole
from orchestrator.exchange.runs import check, notes
from orchestrator.exchange.told import (
    FILE_BITS,
    UNTOLD,
    BadRow,
    Parsed,
    Shared,
    Tale,
    Told,
)
from orchestrator.spec import NAME

STATES = tuple(state for state in get_args(State) if state != "running")
COMPLAINTS = 10
"""Bad rows that are named; there may be a million."""
TOLD_AFTER = 5_000
"""Rows between two signs of progress."""


def read(paths: Sequence[Path]) -> Generator[tuple[int, int], None, Parsed]:
    """Read and check result files; yields (bytes read, bytes in all).

    Raises `SpecError` with up to ten bad rows, each with its file and line (of Parquet, its row),
    and `EnvironmentProblem` for a file that cannot be read.
    """
    reading = _Reading()
    before, total = 0, sum(map(files.size, paths))
    for path in paths:
        with files.opened(path) as table:
            for number in reading.take(table):
                yield before + table.position(number), total
        before += files.size(path)
    return reading.finish()


class _Reading:
    """Rows of several files, gathered into runs."""

    def __init__(self) -> None:
        self.parsed = Parsed()
        self.shared = Shared()
        self._complaints: list[str] = []
        self._series: dict[tuple[Any, ...], int] = {}
        self._epochs: dict[Any, int] = {}
        self._trained: tuple[Any, ...] = ()

    def take(self, table: files.Table) -> Iterator[int]:
        """Read one file; yields the number of a row now and then."""
        header = [str(name).strip().lower() for name in table.header]
        self._check_header(table.name, header)
        above = len(self.shared.files) << FILE_BITS
        self.shared.files.append(f"{table.name}, {table.unit}")
        row_of = Fields(header, table.decimal_comma)
        told_of: dict[tuple[Any, ...], Told] = {}
        for number, values in table.rows:
            if number % TOLD_AFTER == 0:
                yield number
            where = above | number
            try:
                row = row_of.fitted(values)
                if row is None:
                    continue
                head = row_of.head(row)
                told = told_of.get(head)
                if told is None:
                    told = told_of[head] = self._told(row_of, row, where)
                self._number(told, row_of, row, where)
            except BadRow as error:
                self._complain(self.shared.place(where), str(error))

    def _check_header(self, name: str, header: Sequence[str]) -> None:
        if missing := [column for column in COLUMNS if column not in header]:
            others = [column for column in header if column not in KNOWN]
            close = difflib.get_close_matches(missing[0], others, 1)
            mean = f' (is it "{close[0]}"?)' if close else ""
            raise SpecError(
                f'{name}, line 1: there is no column "{missing[0]}"{mean}; a result file has the '
                f"columns {','.join(COLUMNS)}."
            )
        if twice := [column for column, count in Counter(header).items() if column and count > 1]:
            raise SpecError(f'{name}, line 1: the column "{twice[0]}" is there twice.')
        if others := [column for column in header if column and column not in KNOWN]:
            self.parsed.notes.append(f"{name}: columns that are not read: {', '.join(others)}.")

    def _told(self, row_of: Fields, row: Sequence[Any], where: int) -> Told:
        """The run of a row, new or told of before."""
        sweep = row_of.text(row, "sweep")
        if not re.fullmatch(NAME, sweep):
            raise BadRow(f'sweep "{sweep}" is no name: letters, digits, . _ - only')
        key = row_of.key(row)
        run_id, state, variant = (row_of.text(row, n, "") for n in ("run_id", "state", "variant"))
        if run_id and state not in STATES:
            raise BadRow(f'state "{state}" is none of {", ".join(STATES)}')
        if not run_id and (variant or state not in ("", "done")):
            raise BadRow(
                "a variant or a state that is not `done` says that orch exported it, and there is "
                "no run_id; export again, with all columns"
            )
        tale = self.parsed.sweeps.setdefault(sweep, Tale())
        told = tale.runs.get((run_id,) if run_id else key)
        if told is None:
            told = Told(self.shared, where, key, run_id, cast("State", state or "done"))
            told.variant = variant
            tale.runs[(run_id,) if run_id else key] = told
        elif (told.key, told.state, told.variant) != (key, state or "done", variant):
            raise BadRow(f"run {run_id} is told of otherwise in {told.place()}")
        return told

    def _number(self, told: Told, row_of: Fields, row: Sequence[Any], where: int) -> None:
        self.parsed.rows += 1
        if record := row[row_of.record]:
            self._record(told, record)
        if told.run_id and blank(row[row_of.split]) and blank(row[row_of.value]):
            if not blank(row[row_of.epoch]):
                self._train(told, self._epoch(row[row_of.epoch]), row_of, row)
            return
        epoch = self._epoch(row[row_of.epoch])
        kind = self._series.get(row_of.series(row))
        if kind is None:
            kind = self._kind(row_of, row)
        value = row_of.number(row[row_of.value], "value", finite=not told.run_id)
        if not told.run_id and not 0.0 <= value <= 1.0:
            percent = "; is it percent? Divide by 100" if 1.0 < value <= 100.0 else ""
            raise BadRow(f"value {value:g} is not a fraction in [0, 1]{percent}")
        n, correct = row_of.count(row[row_of.n], "n"), row_of.count(row[row_of.correct], "correct")
        if correct > n != UNTOLD:
            raise BadRow(f"correct is {correct:,} of only {n:,} (n)")
        if row_of.trains:
            self._train(told, epoch, row_of, row)
        told.where.append(where)
        told.epochs.append(epoch)
        told.kinds.append(kind)
        told.values.append(value)
        told.n.append(n)
        told.correct.append(correct)

    def _epoch(self, raw: Any) -> int:
        epoch = self._epochs.get(raw)
        if epoch is None:
            epoch = self._epochs[raw] = whole(raw, "epoch", LARGEST)
        return epoch

    def _kind(self, row_of: Fields, row: Sequence[Any]) -> int:
        """The number of a row's series, which may be a new one."""
        series = (
            row_of.text(row, "split"),
            row_of.text(row, "group", ""),
            row_of.text(row, "metric"),
        )
        known = self.shared.series
        if series not in known:
            known.append(series)
        kind = self._series[row_of.series(row)] = known.index(series)
        return kind

    def _train(self, told: Told, epoch: int, row_of: Fields, row: Sequence[Any]) -> None:
        """Note what is told of training up to an epoch, the same on each of its rows."""
        raw = row_of.trained(row)
        if self._trained == (told, epoch, raw):
            return
        trained = tuple(
            None if blank(v) else row_of.number(v, name, finite=not told.run_id)
            for v, name in zip(raw, OF_EPOCH, strict=True)
        )
        if trained == (None,) * len(OF_EPOCH) and not told.run_id:
            return
        known = told.trained.setdefault(epoch, trained)
        if repr(known) != repr(trained):
            raise BadRow(f"what it says of training up to epoch {epoch} differs from other rows")
        self._trained = (told, epoch, raw)

    def _record(self, told: Told, raw: Any) -> None:
        if not told.run_id:
            raise BadRow("it has a record and no run_id; export again, with all columns")
        if told.record is not None:
            raise BadRow(f"run {told.run_id} has a record in {told.place()} already")
        try:
            told.record = dict(json.loads(str(raw)))
        except (TypeError, ValueError) as error:
            raise BadRow("its record is not JSON; export again") from error

    def _complain(self, place: str, text: str) -> None:
        self._complaints.append(f"{place}: {text}.")
        if len(self._complaints) == COMPLAINTS:
            self._refuse()

    def _refuse(self) -> None:
        if self._complaints:
            more = ["There may be more."] if len(self._complaints) == COMPLAINTS else []
            raise SpecError("\n".join([*self._complaints, *more, "Nothing was imported."]))

    def finish(self) -> Parsed:
        """Check every run as a whole; raises `SpecError` for all that was complained of."""
        self._refuse()
        for tale in self.parsed.sweeps.values():
            for told in tale.runs.values():
                try:
                    check(told, tale)
                except BadRow as error:
                    where = told.first if error.where is None else error.where
                    self._complain(self.shared.place(where), str(error))
        self._refuse()
        self.parsed.notes += notes(self.parsed)
        return self.parsed
