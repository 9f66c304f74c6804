"""The reader of rows: decides what the columns of a file, or of rows in memory, mean.

Training data, sources, references, samples to score and the data of judges are all read here, with the same rules and
the same errors. A row is a dict with `text` and, if the data have them, `label`, `source` and `references`. The
`target` of a pair is its text. This module does not deal with tokens.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal, TypedDict

from ladle.config import nearest
from ladle.data.in_memory import RowSource, rows_table
from ladle.data.tables import Record, Table, read_table
from ladle.errors import UserError

COLUMN_NAMES = frozenset({"text", "target", "source", "label"})  # read when no column is named
_LOOK_AT = 1000  # records looked at to learn the columns of a file without a header

Need = Literal["text", "source", "label"]
Empty = Literal["drop", "keep", "refuse"]
# For messages: the missing value, and why rows were dropped.
_LACKING: dict[Need, tuple[str, str]] = {
    "text": ("text", "their text is empty"),
    "source": ("a source", "their source is empty"),
    "label": ("a label", "they have no label"),
}


class Row(TypedDict, total=False):
    """One text. `text` is always there, but may be empty if it was not needed. The other keys depend on the data."""

    text: str
    label: str
    source: str
    references: list[str]


@dataclass(frozen=True)
class Columns:
    """The names of the columns.

    Args:
        text: Column of the texts. Default: text, else target, else the only column that holds text.
        label: Column of the class labels; "" uses no labels. Default: label, if the data have that column.
        source: Column of the source texts; "" uses no sources. Default: source, if the data have that column.
    """

    text: str | None = None
    label: str | None = None
    source: str | None = None


def counted(number: int, noun: str) -> str:
    """A number and its noun: 1 row, 2 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def read_rows(
    source: RowSource,
    columns: Columns | None = None,
    *,
    need: Sequence[Need] = ("text",),
    empty: Empty = "drop",
    notes: list[str] | None = None,
    name: str = "data",
) -> list[Row]:
    """Read rows from a file or from memory.

    A file (`-`: standard input) is JSON Lines, CSV, TSV, plain text (one text a line) or Parquet, gzipped or not. Rows
    in memory are texts, mappings, or a `datasets.Dataset`. White space at both ends of a text is removed. If no column
    is named, the text is `text`, else `target`, else the only column that holds text (so a file with only sources is
    read as texts). A needed source is `source`, else the only column that holds text.

    Args:
        columns: the column names; the usual names when None.
        need: the values that a row must have.
        empty: what to do with a row that lacks a needed value. "drop" leaves the row out and counts it. "refuse" raises
            an error, except that blank lines of plain text are left out. "keep" keeps a row with an empty string, as
            scoring needs; a missing value is still an error.
        notes: messages for the user are appended here.
        name: the name of rows in memory in error messages.

    Raises:
        UserError: bad input, in one line. Errors in a row begin with `file:line` (in memory `name: row N`).
    """
    columns = columns or Columns()
    return list(iter_rows(open_table(source, columns, name), columns, need=need, empty=empty, notes=notes))


def open_table(source: RowSource, columns: Columns, name: str = "data") -> Table:
    """The records of a file, or of rows in memory, which error messages call `name`. The column names show whether a
    file has a header."""
    if not isinstance(source, str | os.PathLike):
        return rows_table(source, name)
    return read_table(source, COLUMN_NAMES | {str(column).lower() for column in vars(columns).values() if column})


def iter_rows(
    table: Table,
    columns: Columns,
    *,
    need: Sequence[Need] = ("text",),
    empty: Empty = "drop",
    notes: list[str] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a table, as `read_rows` returns them."""
    notes = [] if notes is None else notes
    records = ((number, _flat(record)) for number, record in table.records)
    first = list(islice(records, _LOOK_AT))
    names = _resolve(table, columns, [record for _, record in first], need, notes)
    kept = 0
    dropped: Counter[Need] = Counter()
    for number, record in chain(first, records):
        row = _to_row(record, names, table, number, empty)
        lacking = _lacking(row, record, names, need, empty)
        if lacking is None:
            kept += 1
            yield row
            continue
        if empty != "drop" and not table.plain:
            raise UserError(f"{table.place(number)}: {_given(record, names, lacking)}; each row needs one")
        dropped[lacking] += 1
    total = kept + dropped.total()
    if not kept:
        lost = next(iter(dropped), need[0])
        read = f"rows: {total:,}, {lost} column: '{getattr(names, lost) or lost}'"
        hint = "; name the label column with --label COLUMN" if lost == "label" and not columns.label else ""
        raise UserError(f"{table.name} has no rows with {_LACKING[lost][0]} ({read}){hint}")
    for lost, count in dropped.items():
        notes.append(f"{table.name}: {count:,} of {total:,} rows dropped, {_LACKING[lost][1]}")


def _lacking(row: Row, record: Record, names: Columns, need: Sequence[Need], empty: Empty) -> Need | None:
    """The first needed value that the row lacks."""
    for value in need:
        there = isinstance(record.get(getattr(names, value)), str) if empty == "keep" else row.get(value)
        if not there:
            return value
    return None


def _given(record: Record, names: Columns, value: Need) -> str:
    """What a record holds in place of a needed value."""
    column = getattr(names, value) or value
    return f"'{column}' is {record[column]!r:.40}" if column in record else f"no '{column}' among {', '.join(record)}"


def _flat(record: Record) -> Record:
    """Add the parts of columns that hold an object as columns of their own: {"translation": {"de": ..., "en": ...}}
    gives `translation.de` and `translation.en`."""
    objects = {name: value for name, value in record.items() if isinstance(value, dict)}
    parts = {f"{name}.{part}": inner for name, value in objects.items() for part, inner in value.items()}
    return {**record, **parts, **record} if parts else record  # in this order, and no part takes a column's place


def _resolve(table: Table, columns: Columns, sample: list[Record], need: Sequence[Need], notes: list[str]) -> Columns:
    """The names of the columns in this file. Needed columns are always set, except the label's."""
    available = list(dict.fromkeys([*(table.columns or ()), *chain.from_iterable(sample)]))
    usual = {name.lower(): name for name in reversed(available)}
    for name in (columns.text, columns.label, columns.source):
        if name and name not in available:
            clause = nearest(name, available)
            listed = f" (columns: {', '.join(available)})" if clause.startswith("did") else ""
            raise UserError(f"{table.name} has no column '{name}': {clause}{listed}")
    text = columns.text or usual.get("text") or usual.get("target")
    late = table.columns is None  # in JSON, a label or source may first come after the records looked at
    label, source = (
        usual.get(name, name if late else None) if given is None else given
        for name, given in (("label", columns.label), ("source", columns.source))
    )
    if "source" in need and source not in available:
        source = "text" if table.plain else _only_prose(table, available, sample, (label,), "source")
        text = None if text == source else text
        if not table.plain:
            notes.append(f"{table.name}: the source is in the column '{source}'")
    if "text" in need and text is None:
        text = _only_prose(table, available, sample, (label, source), "text")
        notes.append(f"{table.name}: the text is in the column '{text}'")
    return Columns(text, *(None if name in ("", text) else name for name in (label, source)))


def _only_prose(
    table: Table, available: list[str], sample: list[Record], besides: tuple[str | None, ...], what: Need
) -> str:
    """The only column that holds text, not counting `besides`, when no column has the name of `what`."""
    found = [name for name in available if name not in besides and any(_is_prose(r, name) for r in sample)]
    if not found and what == "text":  # a file of sources only reads as texts
        found = [str(name) for name in besides[1:] if name in available]
    if len(found) == 1:
        return found[0]
    usual = "'text' or 'target'" if what == "text" else f"'{what}'"
    where = "the first line must name the columns and has" if table.columns else "its columns are"
    raise UserError(
        f"{table.name} has no column {usual}; {where}: {', '.join(available)}; "
        f"name the column to use (data.{what}) or rename it"
    )


def _is_prose(record: Record, name: str) -> bool:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _to_row(record: Record, names: Columns, table: Table, number: int, empty: Empty) -> Row:
    row = Row(text=_string(record, names.text, table, number) if names.text is not None else "")
    if names.label is not None and (label := _label(record, names.label, table, number)):
        row["label"] = label
    if names.source is not None and (source := _string(record, names.source, table, number)):
        row["source"] = source
    if record.get("references") is not None and names.text != "references":
        references = _references(record["references"], table, number)
        if references:
            row["references"] = references
            if empty == "drop":  # (an empty sample stays empty)
                row["text"] = row["text"] or references[0]
    return row


def _string(record: Record, name: str, table: Table, number: int) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{table.place(number)}: '{name}' is {value!r:.40}, not a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{table.place(number)}: '{name}' holds half a surrogate pair (\\ud800-\\udfff)") from None
    return value.strip()


def _label(record: Record, name: str, table: Table, number: int) -> str:
    value = record.get(name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | dict):
        raise UserError(f"{table.place(number)}: '{name}' is {value!r:.40}, not one label")
    return _string(record, name, table, number)


def _references(value: Any, table: Table, number: int) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise UserError(f"{table.place(number)}: 'references' is {value!r:.40}, not a list of strings")
    texts = (_string({"references": item}, "references", table, number) for item in values)
    return [text for text in texts if text]
