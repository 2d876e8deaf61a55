"""Where a number of a table comes from: every run, what was chosen and why, what to mind.

`audit` gathers the facts of one cell as plain data, `render` prints them.
"""

from reports.explain.collect import audit
from reports.explain.records import Audit
from reports.explain.text import FORMATS, render

__all__ = ["FORMATS", "Audit", "audit", "render"]
