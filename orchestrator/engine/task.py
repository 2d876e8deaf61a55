"""What a worker process is given to train a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.records import canonical_json
from worker.context import Keep


@dataclass(frozen=True)
class Task:
    """All that a worker process needs to train a run: plain JSON values."""

    run: dict[str, Any]
    fence: int
    folders: dict[str, str | None]
    cpus: float
    gpus: float
    keep: Keep = "none"
    plugins: tuple[str, ...] = ()
    data_fingerprint: str | None = None
    weights_sha256: str | None = None
    head_sha256: str | None = None
    checkpoint_seconds: float = 180.0
    bell: str = ""
    """The name of the launch's bell; empty: nobody rings."""

    def to_json(self) -> str:
        """One string, so that Tune has nothing to copy, flatten or print."""
        return canonical_json(self.__dict__)

    def places(self) -> dict[str, Any]:
        """The folders as paths, for `worker.Context`."""
        return {name: Path(path) if path else None for name, path in self.folders.items()}

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "plugins": tuple(values["plugins"])})
