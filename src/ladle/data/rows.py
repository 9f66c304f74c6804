"""From the records of a file to rows: what its columns mean.

A row is a dict with `text` and, where the data have them, `label`, `source` and `references`. A pair's `target` is
its text. Nothing here knows of tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypedDict

from ladle.config import nearest
from ladle.data.files import PathLike
from ladle.data.tables import Record, Table, read_table
from ladle.errors import UserError

COLUMN_NAMES = frozenset({"text", "target", "source", "label"})  # read when no column is named
_LOOK_AT = 1000  # records looked at to learn the columns of a file without a header


class Row(TypedDict, total=False):
    """One text. Always `text`; the rest where the data have it."""

    text: str
    label: str
    source: str
    references: list[str]


@dataclass(frozen=True)
class Columns:
    """Which column holds what. None: the usual name, where there is one. "" : leave it out. `target` means `text`."""

    text: str | None = None
    label: str | None = None
    source: str | None = None
    target: str | None = None


def read_rows(
    path: PathLike, columns: Columns | None = None, *, keep_empty: bool = False, notes: list[str] | None = None
) -> list[Row]:
    """Read the rows of one file (`-`: standard input): JSON Lines, CSV, TSV, plain text, Parquet; gzipped or not.

    Texts lose the white space at their ends. Without a named column the text is `text`, else `target`, else the only
    column that holds text (so a file of sources only reads as texts). A plain text file is one text a line.

    Args:
        columns: the column names; the usual ones when None.
        keep_empty: keep rows whose text is empty, as scoring must; else they are dropped and counted in `notes`.
        notes: lines to be told to the user are appended here.

    Raises:
        UserError: every kind of bad input, in one line, as `file:line` where a line is to blame.
    """
    columns = columns or Columns()
    return list(iter_rows(open_table(path, columns), columns, keep_empty=keep_empty, notes=notes))


def open_table(path: PathLike, columns: Columns) -> Table:
    """`read_table`, which sees by these columns' names too whether a file has a header."""
    return read_table(path, COLUMN_NAMES | {str(name).lower() for name in vars(columns).values() if name})


def iter_rows(
    table: Table, columns: Columns, *, keep_empty: bool = False, notes: list[str] | None = None
) -> Iterator[Row]:
    """The rows of a table, one after another, as `read_rows` has them."""
    notes = [] if notes is None else notes
    records = ((number, _flat(record)) for number, record in table.records)
    first = list(islice(records, _LOOK_AT))
    names = _resolve(table, columns, [record for _, record in first], notes)
    total = kept = 0
    for number, record in chain(first, records):
        total += 1
        row = _to_row(record, names, table, number)
        if row["text"] or keep_empty:
            kept += 1
            yield row
    if not kept:
        raise UserError(f"{table.name} has no rows with text (rows: {total:,}, text column: '{names.text}')")
    if kept < total:
        notes.append(f"{table.name}: {total - kept:,} of {total:,} rows dropped, their text is empty")


def _flat(record: Record) -> Record:
    """Parts of a column that holds an object, as translations do ({"translation": {"de": ..., "en": ...}}), stand
    beside the columns as `translation.de` and `translation.en`."""
    parts = {
        f"{name}.{part}": inner
        for name, value in record.items()
        if isinstance(value, dict)
        for part, inner in value.items()
    }
    return {**record, **parts, **record} if parts else record  # in this order, and no part takes a column's place


def _resolve(table: Table, columns: Columns, sample: list[Record], notes: list[str]) -> Columns:
    """The columns by the file's own names; `text` is always set in the result, `target` never."""
    available = list(dict.fromkeys([*(table.columns or ()), *chain.from_iterable(sample)]))
    usual = {name.lower(): name for name in reversed(available)}
    if table.columns is None:  # JSON: a label or source may first come after the records looked at
        usual = {"label": "label", "source": "source"} | usual
    for name in (columns.text, columns.label, columns.source, columns.target):
        if name and name not in available:
            clause = nearest(name, available)
            listed = f" (columns: {', '.join(available)})" if clause.startswith("did") else ""
            raise UserError(f"{table.name} has no column '{name}': {clause}{listed}")
    if columns.text and columns.target:
        raise UserError(f"give a text column ('{columns.text}') or a target column ('{columns.target}'), not both")
    text = columns.text or columns.target or usual.get("text") or usual.get("target")
    label = usual.get("label") if columns.label is None else columns.label
    source = usual.get("source") if columns.source is None else columns.source
    if text is None:
        others = [name for name in available if name not in (label, source) and any(_is_prose(r, name) for r in sample)]
        if not others and source in available:
            others = [source]  # a file of sources only, to sample from
        if len(others) != 1:
            where = "the first line must name the columns" if table.columns else "columns"
            raise UserError(
                f"{table.name} has no column 'text' or 'target'; {where}, and these are: {', '.join(available)}; "
                "name the one to use (data.text) or rename it"
            )
        text = others[0]
        notes.append(f"{table.name}: the text is in the column '{text}'")
    return Columns(text, *(None if name in ("", text) else name for name in (label, source)))


def _is_prose(record: Record, name: str) -> bool:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _to_row(record: Record, names: Columns, table: Table, number: int) -> Row:
    assert names.text is not None
    row = Row(text=_string(record, names.text, table, number))
    if names.label is not None and (label := _label(record, names.label, table, number)):
        row["label"] = label
    if names.source is not None and (source := _string(record, names.source, table, number)):
        row["source"] = source
    if record.get("references") is not None and names.text != "references":
        references = _references(record["references"], table, number)
        if references:
            row["references"] = references
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
    if not isinstance(values, list):
        raise UserError(f"{table.place(number)}: 'references' is {value!r:.40}, not a list of strings")
    texts = (_string({"references": item}, "references", table, number) for item in values)
    return [text for text in texts if text]
