"""Figures into files: whole or not at all, and the same bytes every time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from db.errors import EnvironmentProblem, ReportError
from reports.figures import FORMATS
from reports.figures.style import styled

# What would differ from one day, or one version of matplotlib, to the next.
_UNDATED: Mapping[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
_UNDATED_PDF = {"CreationDate": None, "Producer": None, "Creator": None}


def save(figures: Sequence[Figure], path: Path) -> list[Path]:
    """See `reports.figures.save`."""
    style = path.suffix.lower()
    if style not in FORMATS:
        raise ReportError(
            f"{path} does not say which format to write; name a file that ends in "
            f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}."
        )
    with styled():
        if style == ".pdf":
            return [_replace(path, lambda partial: _pdf(figures, partial))]
        several = len(figures) > 1
        return [
            _replace(
                path.with_name(f"{path.stem}-{number}{path.suffix}") if several else path,
                lambda partial, figure=figure: figure.savefig(  # type: ignore[misc]
                    partial, format=style[1:], metadata=_UNDATED[style[1:]]
                ),
            )
            for number, figure in enumerate(figures, 1)
        ]


def _pdf(figures: Sequence[Figure], path: Path) -> None:
    with PdfPages(path, metadata=_UNDATED_PDF) as pages:
        for figure in figures:
            pages.savefig(figure)


def _replace(path: Path, write: Callable[[Path], object]) -> Path:
    """Write beside `path`, then put it in its place."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise EnvironmentProblem(
            f"-o {path} cannot be written ({error.strerror}); name another file."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path
