"""Reading YAML strictly: no doubled keys, `3e-5` is a number, every field knows its line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from db.errors import SpecError

Location = Sequence[str | int]


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads YAML 1.2 floats and refuses a key that is given twice."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            what = f"what stands here is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(None, None, what, node.start_mark) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep=deep)  # which refuses it
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.MarkedYAMLError(None, None, "a key must be a word", key.start_mark)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    None, None, f'"{name}" is given twice; keep one of them', key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 wants a dot and a signed exponent in a float, so `3e-5` would be a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class YamlFile:
    """A file's text, its values, and where each field stands."""

    name: str
    text: str
    values: Any
    _root: yaml.Node | None

    def line(self, location: Location) -> int:
        """The line, from 1, of the field at a path of keys and indices, or of what it is in."""
        node, line = self._root, 1
        for part in location:
            child = _child(node, part)
            if child is None:
                break
            node, line = child
        return line

    def problem(self, location: Location, text: str) -> str:
        """`file:line: field: text`, the form of every complaint about a sweep file."""
        field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
        end = "" if text.endswith((".", "?")) else "."
        return f"{self.name}:{self.line(location)}: {field + ': ' if field else ''}{text}{end}"


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    return None


def parse(text: str, name: str) -> YamlFile:
    """Parse YAML; raises `SpecError` naming file, line and what is wrong."""
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            values = None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise SpecError(f"{place}: {error.problem}; mend the YAML there.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{name}: not YAML ({error}); mend the file.") from error
    return YamlFile(name, text, values, root)


def read(path: Path) -> YamlFile:
    """Read and parse a YAML file; raises `SpecError` for one that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"{path} does not exist; give the path of a sweep file.") from error
    except IsADirectoryError as error:
        raise SpecError(
            f"{path} is a folder; give a sweep file such as {path / 'demo.yaml'}."
        ) from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text; give a YAML sweep file.") from error
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    return parse(text, str(path))
