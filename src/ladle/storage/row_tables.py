"""Writes rows as people have them: CSV or JSON Lines, by the ending of the name."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ladle.data.files import STDIO, PathLike
from ladle.errors import UserError
from ladle.storage.writing import write_lines, write_rows

_ENDINGS = (".csv", ".jsonl", ".ndjson")


def check_table_name(path: PathLike) -> None:
    """Raises UserError for a name that says another kind of file than CSV or JSON Lines. `-` is standard output."""
    name = os.fspath(path)
    if name != STDIO and not name.lower().removesuffix(".gz").endswith(_ENDINGS):
        raise UserError(f"cannot write {name}: rows are written as .csv or .jsonl (or + .gz); give such a name")


def write_table(path: PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that all have the columns of the first. `.gz` compresses, `-` is standard output (JSON Lines). In CSV
    True is `true`. Raises as `check_table_name` and `ladle.storage.writing.write_atomically`."""
    check_table_name(path)
    if not os.fspath(path).lower().removesuffix(".gz").endswith(".csv"):
        write_rows(path, rows)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(str(value).lower() if isinstance(value, bool) else value for value in row.values())
    write_lines(path, [text.getvalue().encode()])
