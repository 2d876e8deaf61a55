"""Every error that orch raises on purpose.

    OrchError                 one sentence for the user; the command line exits with 2
    ├── SpecError             a sweep file, or an option, says something it cannot
    ├── MissingInputs         data or weights that a launch needs are not there
    ├── EnvironmentProblem    this machine cannot do what was asked (no GPU, no space)
    ├── StoreError            the results database
    │   ├── StoreMissing      … is not there, and this command does not make one
    │   ├── StoreVersion      … was written by another version of orch
    │   ├── StoreUnreachable  … cannot be used just now; the same again later may succeed
    │   └── NotFound          … holds no such sweep or run
    ├── Superseded            a message of an attempt that another attempt has replaced
    └── ReportError           a table that cannot honestly be made from what is stored

Library errors (SQLAlchemy, pydantic, YAML) are wrapped in these, `from` their cause; only the
command line turns them into an exit code.
"""

from __future__ import annotations


class OrchError(Exception):
    """Root of the tree; its text is one sentence that names the thing and the remedy."""


class SpecError(OrchError):
    """A sweep file or an option is wrong."""


class MissingInputs(OrchError):
    """Files that the runs need are missing; the message lists all of them."""


class EnvironmentProblem(OrchError):
    """The machine lacks something that the runs ask for."""


class StoreError(OrchError):
    """The results database cannot be used."""


class StoreMissing(StoreError):
    """There is no store at the given place."""


class StoreVersion(StoreError):
    """The store's schema is not the one this version of orch reads."""


class StoreUnreachable(StoreError):
    """The store cannot be used just now: no connection, a restart, a lock, a full disk.

    These pass; a message that met one may be sent again as it was.
    """


class NotFound(StoreError):
    """The store has no such sweep or run."""


class Superseded(OrchError):
    """The attempt that sends this no longer owns its run."""


class ReportError(OrchError):
    """The table asked for would mix or invent numbers."""
