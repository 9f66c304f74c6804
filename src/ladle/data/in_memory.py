"""Rows in memory, read into the same tables as files."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

from ladle.data.files import PathLike, Record, Table
from ladle.errors import UserError

Rows = Iterable[str | Mapping[str, Any]]  # texts, or mappings from column to value; a `datasets.Dataset` is such one
RowSource = PathLike | Rows  # a string is a path, never a text


def rows_table(rows: Rows, name: str) -> Table:
    """Rows in memory (texts, mappings, or a data set of the library `datasets`) as a table. Places are `name: row N`.

    Raises:
        UserError: no rows, one mapping instead of a list of them, a pandas table. While the records are read: a row
            that is neither a text nor a mapping.
    """
    if hasattr(rows, "features") and hasattr(rows, "column_names"):
        return dataset_table(rows, name)
    if isinstance(rows, Mapping) or hasattr(rows, "itertuples") or not isinstance(rows, Iterable):
        kind = type(rows).__name__
        remedy = {"DataFrame": "df.to_dict('records')"}.get(
            kind, "a list of texts, or of mappings such as {'text': ...}"
        )
        raise UserError(f"{name} has the type {kind}, which is not a list of rows; give {remedy}")
    all_rows = iter(rows)
    first = next(all_rows, None)
    if first is None:
        raise UserError(f"{name} is empty")
    columns = ["text"] if isinstance(first, str) else None
    return Table(name, _records(chain([first], all_rows), name), columns, by_line=False)


def dataset_table(data: Any, name: str, guard: AbstractContextManager[None] | None = None) -> Table:
    """A data set of the library `datasets` as a table, with class names in place of class numbers (-1: no label).
    guard: surrounds the reading of the records."""
    names = data.column_names and list(data.column_names)  # None: a stream may not know them
    return Table(name, enumerate(_with_class_names(data, guard or nullcontext()), start=1), names, by_line=False)


def _records(rows: Rows, name: str) -> Iterator[tuple[int, Record]]:
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield number, {"text": row}
        elif isinstance(row, Mapping):
            yield number, dict(row)
        else:
            raise UserError(f"{name}: row {number}: {row!r:.40} is neither a text nor a mapping from column to value")


def _with_class_names(data: Any, guard: AbstractContextManager[None]) -> Iterator[Record]:
    classes = {name: feature for name, feature in (data.features or {}).items() if hasattr(feature, "int2str")}
    with guard:
        for record in data:
            numbers = {name: -1 if record[name] is None else record[name] for name in classes}
            yield record | {name: classes[name].int2str(n) if n >= 0 else None for name, n in numbers.items()}
