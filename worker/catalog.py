"""How the declared models, datasets, methods and kinds are found by name.

Every entry is declared once, in `worker/models/__init__.py`, `worker/data/__init__.py`,
`worker/methods.py` and `worker/kinds.py`. The declarations import no torch: code that does is
named by a `module:function` string and loaded when a run needs it.
"""

from __future__ import annotations

import difflib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from db.errors import SpecError


class Entry(Protocol):
    """Anything with an id."""

    @property
    def id(self) -> str: ...


E = TypeVar("E", bound=Entry)


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean "x"?` for the closest of `names`, or the list of them all."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(known)}"


class Catalog(Mapping[str, E]):
    """The entries of one sort in declared order, which is also their order in tables."""

    def __init__(self, noun: str, entries: Iterable[E]) -> None:
        self.noun = noun
        self._entries: dict[str, E] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: E) -> E:
        """Declare one more; a name that is taken is refused."""
        if entry.id in self._entries:
            raise SpecError(f'{self.noun} "{entry.id}" is declared twice: choose another id.')
        self._entries[entry.id] = entry
        return entry

    def find(self, name: str) -> E:
        """The entry called `name`, or a `SpecError` with the nearest name."""
        if name not in self._entries:
            raise SpecError(f'unknown {self.noun} "{name}"; {nearest(name, self._entries)}')
        return self._entries[name]

    def __getitem__(self, name: str) -> E:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def resolve(reference: str) -> Callable[..., Any]:
    """The function that a `module:function` string names."""
    found = pkgutil.resolve_name(reference)
    if not callable(found):
        raise TypeError(f"{reference} is not a function")
    return found  # type: ignore[no-any-return]


def load_plugins(paths: Iterable[str]) -> None:
    """Import a user's own Python files, which declare entries with `MODELS.add(…)` and the like.

    Raises `SpecError` for a file that is missing or does not import.
    """
    for text in paths:
        path = Path(text).resolve()
        name = f"orch_plugin_{path.stem}"
        if name in sys.modules:
            if sys.modules[name].__file__ != str(path):
                raise SpecError(f"plugin {text}: another plugin is called {path.name}; rename it.")
            continue
        if not path.is_file():
            raise SpecError(f"plugin {text}: no such file; --plugin takes the path of a .py file.")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise SpecError(f"plugin {text}: not a Python file; --plugin takes a .py file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise SpecError(f"plugin {text} does not import: {error!r}; mend the file.") from error
