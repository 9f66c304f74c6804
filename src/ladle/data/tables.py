"""The records of a data file: JSON Lines, CSV, TSV, plain text or Parquet, gzipped or not.

A record is a dict of the file's columns. `ladle.data.rows` decides what the columns mean.
"""

import csv
import importlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ladle.data.files import STDIO, PathLike, name_of, open_bytes, read_lines
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

# A cell that a writer had to quote because it holds quotes: inside, every quote stands twice.
_QUOTED_CELL = re.compile(r'"((?:[^"]|"")*""(?:[^"]|"")*)"')


@dataclass(frozen=True)
class Table:
    """An open file: its name, its records with their line (or row) numbers, and its columns if it has a header."""

    name: str
    records: Iterator[tuple[int, Record]]
    columns: list[str] | None = None
    by_line: bool = True

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
        header_names: column names (lower case) that show that a file without a known ending is CSV or TSV.

    Raises:
        UserError: missing, empty or damaged file, bad encoding, malformed line (`file:line`). Errors in lines are
            raised while the records are read.
    """
    name = name_of(path)
    kind = None if os.fspath(path) == STDIO else kind_of(path)
    if kind == "parquet":
        return _parquet(path)
    lines = read_lines(path)
    blank: list[str] = []
    for first in lines:
        if first.strip():
            break
        blank.append(first)
    else:
        raise UserError(f"{name} is empty")
    if kind in (None, "json"):
        kind = _sniff(first, header_names) if kind is None else ("array" if first.lstrip()[0] == "[" else "jsonl")
    lines = chain(blank, [first], lines)
    match kind:
        case "array":
            return _json_array(name, lines)
        case "jsonl":
            return Table(name, _json_lines(name, lines))
        case "csv":
            return _csv(name, lines, _delimiter(first))
        case "tsv":
            return _with_header(name, _tsv_cells(lines))
        case _:
            return Table(name, ((number, {"text": line}) for number, line in enumerate(lines, 1)), ["text"])


def _sniff(line: str, header_names: frozenset[str]) -> str:
    start = line.strip()
    if start == "[" or start.startswith("[{"):
        return "array"
    if start.startswith("{"):
        try:
            json.loads(start)
        except ValueError:
            return "jsonl" if start.startswith('{"') else "text"
        return "jsonl"
    for kind, delimiter in (("tsv", "\t"), ("csv", _delimiter(start))):
        if header_names & {cell.strip(' "').lower() for cell in start.split(delimiter)}:
            return kind
    return "text"


def _json_lines(name: str, lines: Iterable[str]) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{name}:{number}: not JSON ({error.msg}, column {error.colno}); give one object per line"
            ) from None
        except (ValueError, RecursionError):  # a number of thousands of digits; brackets thousands deep
            raise UserError(f"{name}:{number}: not usable JSON; give one object per line") from None
        yield number, _object(record, f"{name}:{number}")


def _json_array(name: str, lines: Iterable[str]) -> Table:
    try:
        values = json.loads("".join(lines))
    except json.JSONDecodeError as error:
        raise UserError(f"{name}:{error.lineno}: not JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{name}: not usable JSON; give one object per line") from None
    records = ((number, _object(value, f"{name}: row {number}")) for number, value in enumerate(values, start=1))
    return Table(name, records, by_line=False)


def _object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise UserError(
            f'{where}: a JSON {_JSON_NAMES.get(type(value), "value")}, not an object like {{"text": "..."}}'
        )
    return value


_JSON_NAMES = {str: "string", list: "list", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _delimiter(header: str) -> str:
    """The delimiter of a header: a comma if it has one. Spreadsheets of many countries write semicolons instead."""
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _csv(name: str, lines: Iterable[str], delimiter: str) -> Table:
    csv.field_size_limit(2**31 - 1)  # the standard 128 KiB would refuse long texts

    def cells() -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        start = 1
        try:
            for row in reader:
                yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            reason = "a quote is never closed" if "end of data" in str(error) else str(error)
            raise UserError(f"{name}:{start}: malformed CSV ({reason})") from None

    return _with_header(name, cells())


def _tsv_cells(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """By its own rules TSV has no quoting, and texts often hold quotes. But pandas and csv quote cells with quotes."""
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\r\n").split("\t")
        yield number, [m[1].replace('""', '"') if (m := _QUOTED_CELL.fullmatch(cell)) else cell for cell in cells]


def _with_header(name: str, rows: Iterator[tuple[int, list[str]]]) -> Table:
    rows = ((number, cells) for number, cells in rows if any(cell.strip() for cell in cells))
    number, cells = next(rows)  # there is one: the file is not empty
    header = [cell.strip() for cell in cells]
    twice = {column for column in header if column and header.count(column) > 1}
    if twice:
        raise UserError(f"{name}:{number}: the column '{min(twice)}' is named twice")

    def records() -> Iterator[tuple[int, Record]]:
        for number, cells in rows:
            if len(cells) != len(header):
                raise UserError(f"{name}:{number}: {len(cells)} cells, but the first line names {len(header)} columns")
            yield number, dict(zip(header, cells, strict=True))

    return Table(name, records(), header)


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
