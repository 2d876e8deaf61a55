"""A whole study as one page: tables, figures, and every cell down to its runs.

`index.html` needs nothing else: no network, no fonts, no scripts from elsewhere. It is read without
JavaScript too, which only brings a cell's runs to where the reader is.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable
from pathlib import Path

import jinja2

from db.errors import EnvironmentProblem, ReportError
from reports.page.content import gather
from reports.study import Study
from reports.tables import TABLES, Declared, Labels

LIMIT = 20_000
"""Runs that a browser still shows: a page of some 30 MB."""


def write(
    study: Study,
    labels: Labels,
    folder: Path,
    tables: Iterable[Declared] = (),
    *,
    conditions: Iterable[str] = (),
    now: datetime.datetime | None = None,
) -> Path:
    """Write `index.html` into `folder`, which is made where it is not; returns the file.

    `tables` are shown before orch's own; `conditions` are the words of `--where`, for the heading.
    Raises `ReportError` where there is no run, or more than `LIMIT`, or where a cell mixes
    variants; `EnvironmentProblem` where the folder cannot be written.
    """
    if not study.runs:
        raise ReportError("there is no run to report on; widen --sweep or --where.")
    if len(study.runs) > LIMIT:
        raise ReportError(
            f"{len(study.runs):,} runs are more than a page of {LIMIT:,} holds; choose with "
            "--sweep or --where."
        )
    shown = [*dict.fromkeys((*tables, *TABLES.values()))]
    written = now or datetime.datetime.now(datetime.UTC)
    content = gather(study, labels, shown, conditions=[*conditions], written=written)
    return _replace(folder, _render(content))


def _render(content: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports.page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(page=content)


def _replace(folder: Path, text: str) -> Path:
    """Write beside the page, then put it in its place."""
    path = folder / "index.html"
    partial = folder / f".index.html.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise EnvironmentProblem(
            f"--html {folder} cannot be written ({error.strerror}); name another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path
