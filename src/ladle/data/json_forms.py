"""JSON in the forms in which people have it.

Those are: an object a line (JSON Lines); an array of objects, or of texts; an object with such an array inside; columns
({"text": [...]}); what pandas writes (`orient` columns, index, split, table); objects one after another.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from ladle.data.files import Record, Table
from ladle.errors import UserError

_BLANK = re.compile(r"\s*")
_NAMES = {str: "string", list: "list", int: "number", float: "number", bool: "boolean", type(None): "null"}
_HELP = "give one object a line, or one array of objects"


def json_table(name: str, first: str, lines: Iterator[str]) -> Table:
    """The table of a JSON file. JSON Lines are read when they are needed, other forms at once.

    first: the first line that is not blank; lines: all lines. Raises UserError, now or while the records are read: not
    JSON, or none of these forms (`file:line`).
    """
    form = ""
    if _is_json(first):
        values: Iterator[tuple[int, Any]] = chain.from_iterable(
            _values(name, line.rstrip(), number) for number, line in enumerate(lines, 1)
        )
    else:
        values, form = _values(name, "".join(lines)), "objects one after another"
    start = list(islice(values, 2))
    rows, form = _rows_of(name, start[0][1]) if len(start) == 1 else (None, form)
    numbered: Iterable[tuple[int, Any]] = chain(start, values) if rows is None else enumerate(rows, 1)
    table = Table(name, iter(numbered), by_line=rows is None, form=form)
    return replace(table, records=_objects(table))


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _objects(table: Table) -> Iterator[tuple[int, Record]]:
    for number, value in table.records:
        if not isinstance(value, dict):
            kind = _NAMES.get(type(value), "value")
            raise UserError(f'{table.place(number)}: a JSON {kind}, not an object like {{"text": "..."}}')
        yield number, value


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


def _rows_of(name: str, value: Any) -> tuple[list[Any] | None, str]:
    """The rows of a whole document, and its form. None: the document is one row."""
    if isinstance(value, list):
        texts = bool(value) and all(isinstance(item, str) for item in value)
        return ([{"text": text} for text in value], "a list of texts") if texts else (value, "")
    if not isinstance(value, dict) or not value:
        return None, ""
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
    return None, ""
