"""The reader of rows: decides what the columns of a file, or of rows in memory, mean.

Training data, sources, references, samples to score and the data of judges are all read here, with the same rules and
the same errors. A row is a dict with `text` and, if the data have them, `label`, `source` and `references`. The
`target` of a pair is its text. This module does not deal with tokens.
"""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal, TypedDict

from ladle.data.columns import COLUMN_NAMES, Columns, Profile, is_missing, resolve
from ladle.data.in_memory import RowSource, rows_table
from ladle.data.labels import spell_label
from ladle.data.tables import Record, Table, read_table
from ladle.errors import UserError

_LOOK_AT = 1000  # records looked at to learn what the columns of a file hold
_CLASSES_SHOWN = 8
_OFFERED = 20  # classes at most; a column with more is hardly one of labels

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


def counted(number: int, noun: str) -> str:
    """A number and its noun: 1 row, 2 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass
class Taken:
    """What was read of a file: its columns, what they hold, how many rows were used. Filled while the rows are read."""

    table: Table
    columns: Columns = Columns()
    looks: dict[str, Profile] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    rows: int = 0
    dropped: Counter[Need] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    unlabelled: Counter[str] = field(default_factory=Counter)
    """What stood in place of labels, in the rows that were used."""

    files: int = 1

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.table.name + (f" and {counted(self.files - 1, 'more file')}" if self.files > 1 else "")

    def add(self, other: "Taken") -> None:
        """Account for another file of the same set too."""
        self.files += 1
        self.rows += other.rows
        for name in ("dropped", "labels", "unlabelled"):
            getattr(self, name).update(getattr(other, name))
        self.remarks += other.remarks
        if other.columns != self.columns:
            columns = ", ".join(f"{what} '{name}'" for what, name in other.columns.given().items())
            self.remarks.append(f"{other.table.name}: its columns are {columns}, other than before")

    @property
    def found(self) -> Columns:
        """The columns that the file has."""
        return Columns(**{what: name for what, name in self.columns.given().items() if name in self.looks})

    def as_hints(self) -> Columns:
        """The same columns, for other files of the same data: a usual name that was left aside is so there too."""
        found = {name.lower() for name in self.looks}
        left_aside = {what: "" for what in ("label", "source", "references") if what in found}
        return Columns(**left_aside | self.columns.given())

    @property
    def other_remarks(self) -> list[str]:
        """The remarks that `lines` does not make needless."""
        return [remark for remark in self.remarks if " is in the column " not in remark]

    def lines(self) -> list[str]:
        """What was taken for text, source and label, with examples, for the user."""
        name, names = self.name, self.columns
        lines = [f"{name}: {self.table.form}"] if self.table.form else []
        for what, column in (("text", names.text), ("source", names.source)):
            if column in self.looks:
                where = "one a line" if self.table.plain else f"column '{column}'"
                lines.append(f"{name}: {what} is {where}: {self.looks[column].examples()}")
        if self.labels:
            lines.append(f"{name}: label is column '{names.label}': {_classes(self.labels)}")
        elif not self.table.plain:
            lines.append("; ".join([f"{name}: no labels", *self.offers()]))
        return lines

    def offers(self) -> list[str]:
        """The columns that could be labels."""
        others = [look for look in self.looks.values() if look.name not in vars(self.columns).values()]
        found = [look for look in others if look.could_be_labels and 1 < look.classes <= _OFFERED][:3]
        ask = [self.columns.ask("label", shlex.quote(look.name)) for look in found]
        held = [f"would use its {look.classes} values ({look.examples(2)})" for look in found]
        return list(map(" ".join, zip(ask, held, strict=True)))

    def notes(self, *, labels: bool = True) -> list[str]:
        """What the user must know about the rows: those left out, and labels from which little can be learnt."""
        name, total = self.name, self.rows + self.dropped.total()
        of_all = f"of {total:,} rows dropped"
        notes = [f"{name}: {count:,} {of_all}, {_LACKING[lost][1]}" for lost, count in self.dropped.items()]
        if not labels:
            return notes
        if self.unlabelled and self.rows > 1 and (self.labels or self.columns.label in self.looks):
            missing = ", ".join(f"'{value}'" for value in list(self.unlabelled)[:4])
            count = self.unlabelled.total()
            notes.append(f"{name}: {count:,} of {self.rows:,} rows have no label ({missing}); they count as unlabelled")
        if len(self.labels) == 1 and self.rows > 1:
            notes.append(f"{name}: all rows have one label, '{next(iter(self.labels))}': it tells nothing apart")
        lone = [label for label, count in self.labels.items() if count == 1]
        if lone and (len(lone) < len(self.labels) or self.rows > 10):
            which = ", ".join(f"'{label}'" for label in lone[:4]) + ", ..." * (len(lone) > 4)
            one = len(lone) == 1
            what = f"the label {which} has one row" if one else f"{len(lone)} labels have one row each ({which})"
            notes.append(f"{name}: {what}, from which it can hardly be learnt")
        return notes


def _classes(labels: Counter[str]) -> str:
    """Labels with their rows, the most frequent first."""
    found = [f"{label} ({counted(count, 'row')})" for label, count in labels.most_common(_CLASSES_SHOWN)]
    return f"{counted(len(labels), 'label')}: {', '.join(found)}{', ...' * (len(labels) > _CLASSES_SHOWN)}"


def read_rows(
    source: RowSource,
    columns: Columns | None = None,
    *,
    need: Sequence[Need] = ("text",),
    empty: Empty = "drop",
    notes: list[str] | None = None,
    taken: list[str] | None = None,
    hints: Callable[[], Columns] = Columns,
    name: str = "data",
) -> list[Row]:
    """Read rows from a file or from memory.

    A file (`-`: standard input) is JSON, CSV, TSV, plain text (one text a line) or Parquet, gzipped or not, in the
    forms that docs/training.md lists. Rows in memory are texts, mappings, or a `datasets.Dataset`. White space at both
    ends of a text is removed. Columns are found as `Columns` says; a usual name whose column does not hold what it says
    is left aside, with a note. A file with only sources is read as texts. A needed source is `source`, else the column
    that is clearly text.

    Args:
        columns: the column names; the usual names when None.
        need: the values that a row must have.
        empty: what to do with a row that lacks a needed value. "drop" leaves the row out and counts it. "refuse" raises
            an error, except that blank lines of plain text are left out. "keep" keeps a row with an empty string, as
            scoring needs; a missing value is still an error, and usual names count whatever they hold.
        notes: messages for the user are appended here.
        taken: what was taken for text, label and source is appended here, a line each.
        hints: column names to try before the usual ones, asked for when the file has been opened.
        name: the name of rows in memory in error messages.

    Raises:
        UserError: bad input, in one line. Errors in a row begin with `file:line` (in memory `name: row N`).
    """
    columns = columns or Columns()
    read = Taken(open_table(source, columns, name))
    rows = list(iter_rows(read, columns, need=need, empty=empty, hints=hints()))
    if taken is not None:
        taken += read.lines()
    if notes is not None:
        notes += [f"{read.name}: {read.table.form}"] if read.table.form and taken is None else []
        notes += [*(read.remarks if taken is None else read.other_remarks), *read.notes(labels=taken is not None)]
    return rows


def read_and_tell(source: RowSource, columns: Columns | None, log: Callable[[str], None], **options: Any) -> list[Row]:
    """`read_rows`, with what was taken and the notes told to `log`."""
    taken: list[str] = []
    notes: list[str] = []
    rows = read_rows(source, columns, taken=taken, notes=notes, **options)
    for line in (*taken, *notes):
        log(line)
    return rows


def open_table(source: RowSource, columns: Columns, name: str = "data") -> Table:
    """The records of a file, or of rows in memory, which error messages call `name`. The column names show whether a
    file has a header."""
    if not isinstance(source, str | os.PathLike):
        return rows_table(source, name)
    own = {name.lower() for name in columns.given().values() if not name.isdecimal()}  # (numbers are no header)
    return read_table(source, COLUMN_NAMES | own)


def iter_rows(
    read: Taken,
    columns: Columns,
    *,
    need: Sequence[Need] = ("text",),
    empty: Empty = "drop",
    hints: Columns = Columns(),  # noqa: B008 (frozen)
) -> Iterator[Row]:
    """Yield the rows of a table, as `read_rows` returns them, and account for them in `read`."""
    table = read.table
    records = ((number, _flat(record)) for number, record in table.records)
    first = list(islice(records, _LOOK_AT))
    sample = [record for _, record in first]
    names, remarks, read.looks = resolve(table, columns, sample, need, hints, trust=empty == "keep")
    read.columns, dropped = names, read.dropped
    read.remarks += remarks
    for number, record in chain(first, records):
        row = _to_row(record, names, table, number, empty)
        lacking = _lacking(row, record, names, need, empty)
        if lacking is None:
            read.rows += 1
            if "label" in row:
                read.labels[row["label"]] += 1
            elif names.label is not None:
                read.unlabelled[str(record.get(names.label, ""))] += 1
            yield row
            continue
        if empty != "drop" and not table.plain:
            raise UserError(f"{table.place(number)}: {_given(record, names, lacking)}; each row needs one")
        dropped[lacking] += 1
    if not read.rows:
        lost = next(iter(dropped), need[0])
        what = f"rows: {dropped.total():,}, {lost} column: '{getattr(names, lost) or lost}'"
        hint = ""
        if lost == "label" and not columns.label:
            hint = "; " + ("; ".join(read.offers()) or f"name the label column with {columns.ask('label')}")
        raise UserError(f"{table.name} has no rows with {_LACKING[lost][0]} ({what}){hint}")


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


def _to_row(record: Record, names: Columns, table: Table, number: int, empty: Empty) -> Row:
    row = Row(text=_string(record, names.text, table, number) if names.text is not None else "")
    if names.label is not None and (label := _label(record, names, table, number)):
        row["label"] = label
    if names.source is not None and (source := _string(record, names.source, table, number)):
        row["source"] = source
    if names.references is not None and (references := _references(record, names, table, number)):
        row["references"] = references
        if empty == "drop":  # (an empty sample stays empty)
            row["text"] = row["text"] or references[0]
    return row


def _string(record: Record, name: str, table: Table, number: int) -> str:
    value = record.get(name)
    if value is None or (not isinstance(value, str) and is_missing(value)):
        return ""
    if not isinstance(value, str):
        raise UserError(f"{table.place(number)}: '{name}' is {value!r:.40}, not a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{table.place(number)}: '{name}' holds half a surrogate pair (\\ud800-\\udfff)") from None
    return value.strip()


def _label(record: Record, names: Columns, table: Table, number: int) -> str | None:
    value = record.get(str(names.label))
    if isinstance(value, list | dict):
        leave = f"to leave it out: {names.ask('label', chr(34) * 2)}"
        raise UserError(f"{table.place(number)}: '{names.label}' is {value!r:.40}, not one label; {leave}")
    return spell_label(_string(record, str(names.label), table, number) if isinstance(value, str) else value)


def _references(record: Record, names: Columns, table: Table, number: int) -> list[str]:
    name, value = str(names.references), record.get(str(names.references))
    values = [value] if isinstance(value, str) else [] if is_missing(value) else value
    if not isinstance(values, list | tuple):
        leave = f"to leave it out: {names.ask('references', chr(34) * 2)}"
        raise UserError(f"{table.place(number)}: '{name}' is {value!r:.40}, not a list of strings; {leave}")
    texts = (_string({name: item}, name, table, number) for item in values)
    return [text for text in texts if text]
