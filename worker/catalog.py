"""How the declared models, datasets, methods and kinds are found by name.

Every entry is declared once, in `worker/models/__init__.py`, `worker/data/__init__.py`,
`worker/methods.py` and `worker/kinds.py`. The declarations import no torch: code that does is
named by a `module:function` string and loaded when a run needs it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from db.errors import SpecError

ENTRY_POINTS = "orch.plugins"
"""The group under which an installed package names a module that declares entries."""
_declaring = ""
"""A hash of the plugin that is being imported; empty: none is."""


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
        self._code: dict[str, str] = {}
        for entry in entries:
            self.add(entry)
        # The project's own, even where a plugin is the first to import them.
        self._code = dict.fromkeys(self._code, "")

    def add(self, entry: E) -> E:
        """Declare one more; a name that is taken is refused."""
        if entry.id in self._entries:
            raise SpecError(f'{self.noun} "{entry.id}" is declared twice: choose another id.')
        self._entries[entry.id] = entry
        self._code[entry.id] = _declaring
        return entry

    def code_of(self, name: str) -> str:
        """16 digits of a hash of the plugin that declares an entry; empty: the project does."""
        return self._code.get(name, "")

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


def unresolved(reference: str) -> str | None:
    """Why a `module:function` string names nothing; None where it may.

    Modules that are not imported yet are looked for, and not into: they may import torch.
    """
    module, _, name = reference.partition(":")
    if module in sys.modules:
        there = hasattr(sys.modules[module], name.partition(".")[0])
        return None if there else f'"{reference}": {module} has no "{name}"'
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    return None if found else f'"{reference}": there is no module {module}'


def load_plugins(paths: Iterable[str]) -> None:
    """Import a user's own Python files, which declare entries with `MODELS.add(…)` and the like.

    And, once a process, what installed packages name under the entry point `orch.plugins`. Raises
    `SpecError` for a file or a package that is missing or does not import.
    """
    _load_installed()
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
            with _declared_by([path], path.parent):
                spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise SpecError(f"plugin {text} does not import: {error!r}; mend the file.") from error


@lru_cache(maxsize=1)
def _load_installed() -> None:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            files, root = _sources(entry.module)
            with _declared_by(files, root):
                entry.load()
        except Exception as error:
            raise SpecError(
                f'plugin "{entry.name}" of an installed package ({entry.value}) does not import: '
                f"{error!r}; mend or uninstall the package."
            ) from error


def _sources(module: str) -> tuple[list[Path], Path]:
    """The Python files of the package that holds a module, and the folder that they are under."""
    top = importlib.util.find_spec(module.partition(".")[0])
    if top is None or top.origin is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    origin = Path(top.origin)
    if not top.submodule_search_locations:
        return [origin], origin.parent
    return sorted(origin.parent.rglob("*.py")), origin.parent


@contextmanager
def _declared_by(files: Iterable[Path], root: Path) -> Iterator[None]:
    """Record what is declared meanwhile with a hash of these files: their bytes and their names.

    A file alone goes by its bytes, so that a copy of it is the same plugin.
    """
    global _declaring
    listed, code = [*files], hashlib.sha256()
    for file in listed:
        if len(listed) > 1:
            code.update(f"{file.relative_to(root).as_posix()}\0".encode())
        code.update(hashlib.sha256(file.read_bytes()).digest())
    before, _declaring = _declaring, code.hexdigest()[:16]
    try:
        yield
    finally:
        _declaring = before
