"""Lists of names and numbers in a sweep file: what they may hold, and complaints that know where.

Each checker takes what the file says and returns it in its final form, or raises `ValueError`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from db.errors import SpecError
from worker.catalog import Catalog, nearest
from worker.methods import LEARNING_RATES, METHODS, Tuned


class At(ValueError):
    """A complaint about a field inside what is being checked."""

    def __init__(self, text: str, *location: str | int) -> None:
        super().__init__(text)
        self.location = location


def unique(values: list[Any]) -> list[Any]:
    """The list; `ValueError` where a value stands in it twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} is listed twice; keep one of them")
    return values


def known(catalog: Catalog[Any]) -> Callable[[str], str]:
    """A checker of names: each must be an entry of the catalog."""

    def check(name: str) -> str:
        try:
            catalog.find(name)
        except SpecError as error:
            raise ValueError(str(error)) from error
        return name

    return check


def _rates(value: Any, *inside: str) -> tuple[float, ...]:
    """A list of learning rates, in ascending order: ties between rates go to the smallest."""
    if not isinstance(value, list):
        raise At("must be a list of rates such as [1e-4, 3e-4], or `default`", *inside)
    if not value:
        raise At("is empty; give at least one rate", *inside)
    for index, rate in enumerate(value):
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise At(f"{rate!r} is not a number; give rates such as 3e-4", *inside, index)
        if not 0 < rate <= sys.float_info.max:  # nan, infinity, and whole numbers past any float
            raise At(f"{rate!r} is not a positive rate; give rates such as 3e-4", *inside, index)
    return tuple(sorted(unique([float(rate) for rate in value])))


def learning_rates(value: Any) -> Any:
    """`default`, a list of rates, or lists by method or family."""
    if value == "default":
        return value
    if not isinstance(value, dict):
        return _rates(value)
    if not value:
        raise ValueError("is empty; give a list, `default`, or {method: list}")
    families = {*LEARNING_RATES, *(method.family for method in METHODS.values())}
    for name in value:
        if name in METHODS and METHODS[name].kind == "linear_probe":
            raise At("has no learning rate: it tries 50 regularisations; leave it out", name)
        if name not in METHODS and name not in families:
            raise At(f'unknown method "{name}"; {nearest(name, METHODS)}', name)
    return {name: _rates(rates, name) for name, rates in value.items()}


def hyperparameters(value: Any) -> Any:
    """Lists of values by method and name."""
    if not isinstance(value, dict) or not value:
        raise ValueError("must be {method: {name: list}}, such as {adam_spd: {lambda: [0.1, 1]}}")
    return {method: _tuned(method, given) for method, given in value.items()}


def _tuned(method: str, given: Any) -> dict[str, tuple[float, ...]]:
    """A method's values by name, each list in ascending order."""
    if method not in METHODS:
        raise At(f'unknown method "{method}"; {nearest(method, METHODS)}', method)
    declared = {tuned.name: tuned for tuned in METHODS[method].hyperparameters}
    if not declared:
        raise At("this method has no hyperparameters; leave it out", method)
    if not isinstance(given, dict) or not given:
        raise At(f"must be {{name: list}}, such as {{{next(iter(declared))}: [0.1, 1]}}", method)
    for name in given:
        if name not in declared:
            raise At(f'unknown hyperparameter "{name}"; {nearest(name, declared)}', method, name)
    return {name: _values(values, declared[name], method) for name, values in given.items()}


def _values(value: Any, tuned: Tuned, method: str) -> tuple[float, ...]:
    place, advice = (method, tuned.name), f"give numbers from {tuned.least:g} on, such as [0.1, 1]"
    if not isinstance(value, list):
        raise At(f"must be a list such as [0.1, 1], not {value!r}", *place)
    if not value:
        raise At("is empty; give at least one value", *place)
    for index, number in enumerate(value):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise At(f"{number!r} is not a number; {advice}", *place, index)
        if not tuned.least <= number <= sys.float_info.max:
            raise At(f"{number!r} is out of range; {advice}", *place, index)
    try:
        return tuple(sorted(unique([float(number) for number in value])))
    except ValueError as error:
        raise At(str(error), *place) from error
