"""Checks of what a program gives to Ladle, done once, in the public methods. `UserError` says what to give instead."""

import math
import operator
import os
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from ladle.errors import UserError

MAX_SEED = 2**32 - 1


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number of Python or NumPy from `least` to `most`, as an int. Raises UserError: 2.0 and True are none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise UserError(f"{name} is {value!r:.60}; it must be a whole number")
    if number < least or (most is not None and number > most):
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{name} is {number}; it must be {allowed}")
    return number


def check_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number from `least` to `most`, as a float. Raises UserError: anything else. True is no number."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number):
        raise UserError(f"{name} is {value!r:.60}; it must be a finite number")
    if not least <= number <= most:
        raise UserError(f"{name} is {number:g}; it must be from {least:g} to {most:g}")
    return number


def check_list(name: str, values: Any, wanted: str) -> list[Any]:
    """The items of a list, a generator, an array or a column of a table.

    wanted: what to give, for messages. Raises UserError: a table, a dict, a single value, a set (it has no order).
    """
    kind = type(values).__name__
    keys = values if isinstance(values, Mapping) else getattr(values, "column_names", getattr(values, "columns", None))
    if keys is not None:
        column = _prose(values, list(keys))
        raise UserError(f"{name}: a {kind} was given; give one column of it, such as df[{column!r}]")
    single = not isinstance(values, Iterable) or isinstance(values, str | bytes | set | frozenset)
    if single or getattr(values, "ndim", 1) != 1:
        shape = f" of shape {tuple(values.shape)}" if hasattr(values, "shape") else ""
        raise UserError(f"{name}: one {kind}{shape} was given; give {wanted}")
    for plain in ("tolist", "to_pylist"):  # NumPy, pandas, torch; Arrow
        if hasattr(values, plain):
            return list(getattr(values, plain)())
    return list(values)


def check_texts(texts: Any, name: str = "texts", *, optional: bool = False) -> list[Any]:
    """A text, or texts in anything that `check_list` takes, as a list of strings. optional: an item may be None.

    Raises UserError: no text, an item that is not a text, half a surrogate pair in a text.
    """
    items = [texts] if isinstance(texts, str) else check_list(name, texts, "a text or a list of texts")
    if not items:
        raise UserError(f"no {name} given; give at least one")
    for number, item in enumerate(items):
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise UserError(f"{name}[{number}] holds half a surrogate pair (\\ud800-\\udfff); repair it") from None
        elif not (optional and item is None):
            missing = str(item).lower() in ("none", "nan", "nat", "<na>")
            remedy = "leave it out" if missing else "each item must be one string"
            raise UserError(f"{name}[{number}] is {item!r:.60}, not a text; {remedy}")
    return [item if item is None else str(item) for item in items]


def check_path(name: str, given: Any) -> str:
    """A path as a string. Raises UserError: neither a string nor a path."""
    if not isinstance(given, str | os.PathLike):
        raise UserError(f"{name} is {given!r:.60}; give a folder or a name as a string or a path")
    return os.fspath(given)


def check_device(device: Any) -> Any:
    """The torch device of this name. Raises UserError: this machine has none."""
    import torch  # (not for the command line's help)

    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError):  # (torch raises them all)
        there = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(f"this machine has no device {str(device)!r}; give {there}") from None


def _prose(table: Any, keys: list[Any]) -> Any:
    """The column that is most likely meant: "text", else the first that holds strings."""
    for key in sorted(keys, key=lambda key: key != "text"):
        if isinstance(table[key], Iterable) and isinstance(next(iter(table[key]), None), str):
            return key
    return "text"
