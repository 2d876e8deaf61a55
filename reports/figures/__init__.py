"""Figures of a study, as PNG, PDF or SVG.

`FIGURES` says which there are, `draw` makes one, `save` writes it. matplotlib is imported where
something is drawn, and its global state (pyplot) is never touched.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from db.errors import ReportError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.study import Study
    from reports.tables import Labels

FORMATS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class DeclaredFigure:
    """A figure that can be asked for by name."""

    name: str
    title: str
    shows: str
    """What is in it and how to read it, for a caption."""
    module: str = ""
    """Of this package: the one that draws it; empty where this version has nothing to draw."""
    kind: str = "finetune"
    """The kind of run that it reads."""
    command: str = "orch launch sweeps/full_grid.yaml"
    """What makes its runs."""


FIGURES: dict[str, DeclaredFigure] = {
    f.name: f
    for f in (
        DeclaredFigure(
            "summary",
            "Average accuracy of each method (the paper's Figure 1b)",
            "ID and OOD accuracy of each method, averaged over models and datasets.",
            "summary",
        ),
        DeclaredFigure(
            "id-vs-ood",
            "OOD against ID accuracy of every cell",
            "One point a cell at its chosen rate and epochs, a panel a dataset; on the dotted line "
            "both are equal.",
            "id_vs_ood",
        ),
        DeclaredFigure(
            "learning-rate",
            "Accuracy against learning rate",
            "Mean over seeds of ID and OOD accuracy at the epoch that counts of each run, a panel "
            "a cell, a page a model; whiskers are 90% intervals over seeds.",
            "learning_rate",
        ),
        DeclaredFigure(
            "curves",
            "Learning curves of the chosen runs",
            "ID and OOD accuracy after each epoch, above the training loss, of the runs at each "
            "cell's chosen rate; the epoch that counts is marked on every run.",
            "learning_curves",
        ),
        DeclaredFigure(
            "gradients",
            "Gradient norms by layer at the pretrained weights (the paper's Figures 2-8)",
            "The norm of the gradient of each layer, before the first step.",
            kind="grad_norms",
            command="orch launch sweeps/grad_norms.yaml",
        ),
    )
}


def find(name: str) -> DeclaredFigure:
    """The figure called `name`; raises `ReportError` with the names there are."""
    if name not in FIGURES:
        near = difflib.get_close_matches(name, FIGURES, n=1)
        guess = f' (did you mean "{near[0]}"?)' if near else ""
        raise ReportError(f'there is no figure "{name}"{guess}; there are: {", ".join(FIGURES)}.')
    return FIGURES[name]


def draw(name: str, study: Study, labels: Labels) -> list[Figure]:
    """The pages of a figure, at least one.

    Raises `ReportError` for a name that is none, and where the study has nothing to draw.
    """
    declared = find(name)
    if not declared.module:
        raise ReportError(
            f"there are no runs yet for the figure {name}: `{declared.command}` will make them in "
            f"a version of orch that has that sweep file and the kind of run `{declared.kind}`; "
            "this one has not."
        )
    if not study.runs:
        raise ReportError("there is no run to draw; widen --sweep or --where.")
    module = importlib.import_module(f"reports.figures.{declared.module}")
    return cast("list[Figure]", module.draw(study, labels))


def save(figures: Sequence[Figure], path: Path) -> list[Path]:
    """Write pages to `path`, whose ending says the format; returns the files.

    A PDF holds all pages; several PNG or SVG pages become `name-1.png`, `name-2.png`, … The same
    figures give the same bytes. Raises `ReportError` for another ending, `EnvironmentProblem` where
    a file cannot be written.
    """
    from reports.figures.output import save as write

    return write(figures, path)
