"""Why a run failed, in one word: what decides whether it is worth another try, and where."""

from __future__ import annotations

import errno

from db.errors import EnvironmentProblem, MissingInputs
from db.records import Cause
from worker.disk import FULL, DiskFull
from worker.memory import is_out_of_memory

_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG)
"""The system's refusals that are no fault of the code."""


def cause_of(error: BaseException) -> Cause:
    """The cause that an exception which ended a run stands for; `bug` unless known better."""
    if is_out_of_memory(error):
        return "out_of_memory"
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, DiskFull) or number in FULL:
        return "disk_full"
    if isinstance(error, MissingInputs):
        return "bad_data"
    if isinstance(error, EnvironmentProblem) or number in _MACHINE:
        return "environment"
    return "bug"
