"""Which version of orch an attempt runs: recorded with it, a difference only told."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_state() -> tuple[str, bool] | None:
    """The commit that orch runs from and whether files differ from it; None outside a checkout."""
    here = Path(__file__).resolve()
    try:
        _, commit, changes = (
            subprocess.run(
                ["git", "-C", str(here.parent), *command],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for command in (
                # Fails where orch is installed inside somebody else's checkout.
                ["ls-files", "--error-unmatch", here.name],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip(), bool(changes.strip())
