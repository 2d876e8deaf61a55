"""A table beside the paper's: ours, theirs, the difference, a verdict a cell, and a scorecard."""

from reports.compare.cells import Compared
from reports.compare.comparing import Comparison, compare
from reports.compare.output import FORMATS, as_table, render
from reports.compare.scorecard import Scorecard

__all__ = ["FORMATS", "Compared", "Comparison", "Scorecard", "as_table", "compare", "render"]
