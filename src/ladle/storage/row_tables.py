"""Writes rows as people have them: CSV or JSON Lines, by the ending of the name."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ladle.data.files import STDIO, PathLike
from ladle.errors import UserError
from ladle.storage.checks import check_writable
from ladle.storage.writing import to_json, write_lines, write_rows

_ENDINGS = (".csv", ".jsonl", ".ndjson")
_OTHERS = (".tsv", ".txt", ".parquet", ".xlsx", ".xls", ".arrow", ".feather", ".npy")


def check_table_name(path: PathLike) -> None:
    """Raises UserError for a name that says another kind of file than CSV or JSON Lines. `-` is standard output."""
    if os.fspath(path) != STDIO and not _name(path).endswith(_ENDINGS):
        _refuse(path)


def check_rows_output(path: PathLike, inputs: Iterable[Any] = ()) -> None:
    """As `check_writable`, and refuses names of other tables. A name that says no kind of file stands for JSON Lines.

    Raises UserError for both.
    """
    check_writable(path, inputs=inputs)
    if _name(path).endswith(_OTHERS):
        _refuse(path)


def is_csv(path: PathLike) -> bool:
    """Whether the name says that rows are to be written as CSV."""
    return _name(path).endswith(".csv")


def write_table(path: PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows: CSV by the name, else JSON Lines. `.gz` compresses, `-` is standard output.

    CSV has a column for each name that a row has. A cell is empty where its row has no such value, true is `true`, and
    lists and mappings are JSON.

    Raises as `ladle.storage.writing.write_atomically`.
    """
    if not is_csv(path):
        write_rows(path, rows)
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    write_lines(path, [text.getvalue().encode()])


def _cell(value: Any) -> Any:
    if isinstance(value, bool | list | tuple | dict):
        return to_json(value)
    return value


def _name(path: PathLike) -> str:
    return os.fspath(path).lower().removesuffix(".gz")


def _refuse(path: PathLike) -> NoReturn:
    raise UserError(f"cannot write {path}: rows are written as .csv or .jsonl (or + .gz); give such a name")
