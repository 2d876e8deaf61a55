"""What Ray tells of a worker process that died, a page long, in one sentence."""

from __future__ import annotations

import re

LONGEST = 200
"""Characters of what is not known better."""
OUT_OF_MEMORY = "OutOfMemory"
"""What the sentence begins with where memory was the reason."""


def sentence(page: str) -> str:
    """Why the process died, as far as Ray knows; a `page` may be empty."""
    if "killed due to the node running low on memory" in page:
        used = re.search(r"was (\S+) used / (\S+) limit", page)
        share = f" ({used[1]} of {used[2]} in use)" if used else ""
        return f"{OUT_OF_MEMORY}: the machine's memory was nearly full{share}, so Ray ended it"
    if code := re.search(r"exits with an exit code (\d+)", page):
        return f"the worker process ended with exit code {code[1]}"
    if "its node has died" in page:
        return "the worker process died with its node"
    if "connection error code 2" in page:  # its socket was closed: a signal, or `_exit`
        return "the worker process was killed or crashed"
    last = (page.strip().splitlines() or ["the worker process died"])[-1]
    return last if len(last) <= LONGEST else last[: LONGEST - 1] + "…"
