"""The records of a data file: JSON Lines, CSV, TSV, plain text or Parquet, gzipped or not.

A record is a dict of the file's columns. `ladle.data.rows` decides what the columns mean.
"""

import importlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ladle.data.delimited import MARKS, read_delimited
from ladle.data.files import STDIO, PathLike, name_of, open_bytes, read_lines, refused_ending
from ladle.data.json_forms import json_records
from ladle.errors import UserError, first_line

ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".parquet": "parquet",
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """An open file: its name, its records with their line (or row) numbers, and its columns if the file names them (or
    numbers them: headless). form: how the file was read, where a user may not expect it."""

    name: str
    records: Iterator[tuple[int, Record]]
    columns: list[str] | None = None
    by_line: bool = True
    headless: bool = False
    form: str = ""

    @property
    def plain(self) -> bool:
        """Whether its records are bare texts, without other columns."""
        return self.columns == ["text"]

    def place(self, number: int) -> str:
        """The place of a record, to begin an error message: `file:line`, or `file: row N` for files without lines."""
        return f"{self.name}:{number}" if self.by_line else f"{self.name}: row {number}"


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
    if kind is None and (why := refused_ending(path)) and os.path.exists(path):
        raise UserError(f"{name} is {why}")
    if kind == "parquet" or (kind is None and _is_parquet(path)):
        return _parquet(path)
    lines = read_lines(path)
    blank: list[str] = []
    for first in lines:
        if first.strip():
            break
        blank.append(first)
    else:
        raise UserError(f"{name} is empty")
    lines = chain(blank, [first], lines)
    found = _sniff(first, header_names)
    forms = []
    if kind is None:
        kind = found
        if os.fspath(path) != STDIO and kind == "text":
            forms.append("read as plain text, one text a line")
    elif kind == "text" and (found := "tsv" if "\t" in first else found) != "text":
        forms.append(f"read as plain text, one text a line; if it is a table, give it the ending .{found}")
    match kind:
        case "json" | "jsonl":
            records, by_line, form = json_records(name, lines)
            columns, headless = None, False
        case "csv" | "tsv":
            columns, rows, headless, form = read_delimited(name, lines, header_names, tsv=kind == "tsv")
            records, by_line = ((number, dict(zip(columns, cells, strict=True))) for number, cells in rows), True
        case _:
            return Table(
                name, ((n, {"text": line}) for n, line in enumerate(lines, 1)), ["text"], form="; ".join(forms)
            )
    return Table(name, records, columns, by_line, headless, "; ".join([*forms, *([form] if form else [])]))


def _sniff(line: str, header_names: frozenset[str]) -> str:
    """The kind of file that begins with such a line."""
    start = line.strip()
    if start[0] in "[{":
        try:
            value = json.loads(start)
        except (ValueError, RecursionError):
            return "json" if start in ("[", "{") or start.startswith(("[{", '{"')) else "text"
        rows = value if isinstance(value, list) else [value]
        return "json" if rows and all(isinstance(row, dict | str) for row in rows) else "text"
    names = (mark for mark in MARKS if header_names & {cell.strip(' "').lower() for cell in start.split(mark)})
    mark = next(names, None)
    return "text" if mark is None else "tsv" if mark == "\t" else "csv"


def _is_parquet(path: PathLike) -> bool:
    if not os.path.isfile(path):  # (what a pipe holds can be read once)
        return False
    with open_bytes(path) as stream:
        return stream.peek(4)[:4] == b"PAR1"


def _parquet(path: PathLike) -> Table:
    name = name_of(path)
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow_error = importlib.import_module("pyarrow").ArrowException
    except ImportError:
        raise UserError(f"reading {name} needs pyarrow: pip install 'ladle[parquet]'") from None

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except (arrow_error, OSError) as error:
            raise UserError(f"{name} is not a complete Parquet file ({first_line(error)}); copy it again") from None

    with ExitStack() as stack, told():
        stream = stack.enter_context(open_bytes(path))
        here = isinstance(stream.raw, io.FileIO) and stream.seekable()  # else piped or packed
        file = parquet.ParquetFile(stream if here else io.BytesIO(stream.read()))
        opened = stack.pop_all()

    def records() -> Iterator[tuple[int, Record]]:
        with opened, told():
            yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(1000)), start=1)

    return Table(name, records(), list(file.schema_arrow.names), by_line=False)
