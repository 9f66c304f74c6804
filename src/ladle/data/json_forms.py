"""The records of JSON in the forms in which people have it.

Those are: an object a line (JSON Lines); an array of objects, or of texts; an object with such an array inside; columns
({"text": [...]}); what pandas writes (`orient` columns, index, split, table); objects one after another.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from ladle.errors import UserError

Records = Iterator[tuple[int, dict[str, Any]]]  # with the number of their line or row

_BLANK = re.compile(r"\s*")
_NAMES = {str: "string", list: "list", int: "number", float: "number", bool: "boolean", type(None): "null"}
_HELP = "give one object a line, or one array of objects"


def json_records(name: str, lines: Iterator[str]) -> tuple[Records, bool, str]:
    """The records of a JSON file that is not blank, whether their numbers are those of lines, and the form if it is
    not one of the usual ones. JSON Lines are read when they are needed, other forms at once.

    Raises:
        UserError: not JSON, or none of these forms (`file:line`).
    """
    start: list[str] = []
    filled = 0
    for line in lines:
        start.append(line)
        filled += bool(line.strip())
        if filled == 2 or (line.strip() and not _is_json(line)):
            break
    if filled == 2:  # and the first is JSON by itself
        return _of_lines(name, chain(start, lines)), True, ""
    text = "".join(chain(start, lines))
    values = list(_values(name, text))
    if len(values) > 1:
        return (
            ((number, _object(value, f"{name}:{number}")) for number, value in values),
            True,
            "objects one after another",
        )
    begin, value = values[0]
    found, form = _rows_of(name, value)
    if found == [value]:
        return iter([(begin, _object(value, f"{name}:{begin}"))]), True, form
    return ((number, _object(value, f"{name}: row {number}")) for number, value in enumerate(found, 1)), False, form


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _of_lines(name: str, lines: Iterator[str]) -> Records:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            for _, value in _values(name, line.rstrip(), number):
                yield number, _object(value, f"{name}:{number}")


def _values(name: str, text: str, first_line: int = 1) -> Iterator[tuple[int, Any]]:
    """The JSON values that stand one after another in `text`, with the number of the line on which each begins."""
    decoder, at, line = json.JSONDecoder(), 0, first_line
    while True:
        begin = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", at, begin)
        if begin == len(text):
            return
        try:
            value, at = decoder.raw_decode(text, begin)
        except json.JSONDecodeError as error:
            where = f"{name}:{first_line + error.lineno - 1}"
            raise UserError(f"{where}: not JSON ({error.msg}, column {error.colno}); {_HELP}") from None
        except (ValueError, RecursionError):  # a number of thousands of digits; brackets thousands deep
            raise UserError(f"{name}:{line}: not usable JSON; {_HELP}") from None
        yield line, value
        line += text.count("\n", begin, at)


def _rows_of(name: str, value: Any) -> tuple[list[Any], str]:
    """The rows of a whole document, and its form."""
    if isinstance(value, list):
        texts = bool(value) and all(isinstance(item, str) for item in value)
        return ([{"text": text} for text in value], "a list of texts") if texts else (value, "")
    if not isinstance(value, dict) or not value:
        return [value], ""
    parts = list(value.values())
    lists = {key: part for key, part in value.items() if isinstance(part, list) and part and isinstance(part[0], dict)}
    if len(lists) > 1:
        raise UserError(f"{name}:1: several lists of rows, {', '.join(lists)}; write each into a file of its own")
    if lists:
        key, rows = lists.popitem()
        return rows, f"rows from the list '{key}'"
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return [dict(zip(value["columns"], row, strict=False)) for row in value["data"]], "rows from columns and data"
    if all(isinstance(part, list) for part in parts) and len({len(part) for part in parts}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)], "rows from columns"
    if all(isinstance(part, dict) for part in parts):
        if all(key.isdecimal() for key in value):
            return parts, "rows by number"
        if all(key.isdecimal() for part in parts for key in part):
            keys = dict.fromkeys(chain.from_iterable(parts))
            return [{name: part.get(key) for name, part in value.items()} for key in keys], "rows from columns"
    return [value], ""


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f'{where}: a JSON {_NAMES.get(type(value), "value")}, not an object like {{"text": "..."}}')
    return value
