"""The records of a data file: JSON Lines, CSV, TSV, plain text or Parquet, gzipped or not.

`ladle.data.rows` decides what the columns mean.
"""

import importlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from ladle.data.delimited import MARKS, delimited_table
from ladle.data.files import STDIO, PathLike, Record, Table, name_of, open_bytes, read_lines
from ladle.data.json_forms import json_table
from ladle.errors import UserError, first_line, from_extra

ENDINGS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "text",
    ".parquet": "parquet",
}  # fmt: skip
_JSON = re.compile(r'\{\s*("|\}|$)|\[\s*(["{]|$)')
_EXCELS = re.compile(r'"?sep=.?"?')  # Excel's own first line names the delimiter, which the rows show


def kind_of(path: PathLike) -> str | None:
    """The kind of file by its name's ending (`.gz` removed). None: `read_table` decides by the content."""
    name = os.fspath(path).lower().removesuffix(".gz")
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def read_table(path: PathLike, header_names: frozenset[str] = frozenset()) -> Table:
    """Open a data file. Its records are read when they are needed.

    Args:
        path: a file, or `-` for standard input.
        header_names: column names (lower case) that show that a first line is a header.

    Raises:
        UserError: missing, empty or damaged file, bad encoding, a kind of file that is not read, malformed line
            (`file:line`). Errors in lines are raised while the records are read.
    """
    name = name_of(path)
    kind = None if os.fspath(path) == STDIO else kind_of(path)
    if kind == "parquet" or (kind is None and _is_parquet(path)):
        return _parquet(path)
    lines = read_lines(path)
    before: list[str] = []
    for first in lines:
        if kind != "text" and _EXCELS.fullmatch(first.strip()):
            kind, first = kind or "csv", "\n"  # (blank lines are no rows, but count)
        if first.strip():
            break
        before.append(first)
    else:
        raise UserError(f"{name} is empty")
    lines = chain(before, [first], lines)
    found, form = _sniff(first, header_names), ""
    if kind == "text" and (found := "tsv" if "\t" in first else found) != "text":
        form = f"read as plain text, one text a line; if it is a table, give it the ending .{found}"
    elif kind is None and found == "text" and os.fspath(path) != STDIO:
        form = "read as plain text, one text a line"
    kind = kind or found
    if kind == "json":
        return json_table(name, first, lines)
    if kind in ("csv", "tsv"):
        return delimited_table(name, first, lines, header_names, tsv=kind == "tsv")
    return Table(name, ((n, {"text": line}) for n, line in enumerate(lines, 1)), ["text"], form=form)


def _sniff(line: str, header_names: frozenset[str]) -> str:
    """The kind of file that begins with such a line."""
    start = line.strip()
    if _JSON.match(start):
        return "json"
    marks = (mark for mark in MARKS if header_names & {cell.strip(' "').lower() for cell in start.split(mark)})
    return {None: "text", "\t": "tsv"}.get(next(marks, None), "csv")


def _is_parquet(path: PathLike) -> bool:
    if not os.path.isfile(path):  # (what a pipe holds can be read once)
        return False
    with open_bytes(path) as stream:
        return stream.peek(4)[:4] == b"PAR1"


def _parquet(path: PathLike) -> Table:
    name = name_of(path)
    with from_extra(f"reading {name} needs", "parquet", "pyarrow"):
        parquet = importlib.import_module("pyarrow.parquet")
        arrow_error = importlib.import_module("pyarrow").ArrowException

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except (arrow_error, OSError) as error:
            raise UserError(f"{name} is not a complete Parquet file ({first_line(error)}); copy it again") from None

    with told(), open_bytes(path) as stream:
        packed = not isinstance(stream.raw, io.FileIO) or not os.path.isfile(path)  # or piped
        file = parquet.ParquetFile(io.BytesIO(stream.read()) if packed else os.fspath(path))

    def records() -> Iterator[tuple[int, Record]]:
        with told():
            yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(1000)), start=1)

    return Table(name, records(), list(file.schema_arrow.names), by_line=False)
