"""The reader of rows: decides what the columns of a file, or of rows in memory, mean.

Training data, sources, references, samples to score and the data of judges are all read here, with the same rules and
the same errors. A row is a dict with `text` and, if the data have them, `label`, `source` and `references`. The
`target` of a pair is its text. This module does not deal with tokens.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal, TypedDict

from ladle.data.columns import COLUMN_NAMES, NO_NAMES, Columns, Profile, is_missing, resolve
from ladle.data.files import Record, Table
from ladle.data.in_memory import RowSource, rows_table
from ladle.data.labels import spell_label
from ladle.data.tables import read_table
from ladle.errors import UserError

_LOOK_AT = 1000  # records looked at to learn what the columns of a file hold
_CLASSES_SHOWN = 8

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
    attributes: dict[str, str]


def counted(number: int, noun: str) -> str:
    """A number and its noun: 1 row, 2 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass
class Taken:
    """What was read of a table, and of more tables with the same columns. Filled while the rows are read.

    attributes: columns of further conditions, beside label and source.
    brief: whether `lines` are not shown, so that `notes` say which columns were found by their contents, and nothing of
    labels, from which nobody learns.
    """

    table: Table
    more: Iterable[Table] = ()
    brief: bool = False
    attributes: Sequence[str] = ()
    files: int = 1
    columns: Columns = Columns()
    looks: dict[str, Profile] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    dropped: Counter[Need] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    unlabelled: Counter[str] = field(default_factory=Counter)
    """What stood in place of labels, in the rows that were used."""
    values: dict[str, Counter[str]] = field(default_factory=dict)
    """Of each attribute, in the rows that were used."""

    @property
    def name(self) -> str:
        """The first file's name, for messages."""
        return self.table.name + (f" and {counted(self.files - 1, 'more file')}" if self.files > 1 else "")

    @property
    def found(self) -> Columns:
        """The columns that the file has."""
        return Columns(**{what: name for what, name in self.columns.given().items() if name in self.looks})

    def lines(self) -> list[str]:
        """What was taken for text, source and label, with examples, for the user."""
        name, names = self.name, self.found
        lines = [f"{name}: {self.table.form}"] if self.table.form else []
        for what, column in (("text", names.text), ("source", names.source)):
            if column:
                where = "one a line" if self.table.plain else f"column '{column}'"
                lines.append(f"{name}: {what} is {where}: {self.looks[column].examples()}")
        if self.labels:
            found = [f"{label} ({counted(count, 'row')})" for label, count in self.labels.most_common(_CLASSES_SHOWN)]
            found += ["..."] * (len(self.labels) > _CLASSES_SHOWN)
            what = f"{counted(len(self.labels), 'label')}: {', '.join(found)}"
            what += "; all rows have the same label, so the model learns nothing from it" * (len(self.labels) == 1)
            lines.append(f"{name}: label is column '{self.columns.label}': {what}")
        elif not self.table.plain:
            lines.append("; ".join([f"{name}: no labels", *self.offers()]))
        return lines + [self._of_attribute(column) for column in self.attributes]

    def _of_attribute(self, column: str) -> str:
        """What an attribute's column holds, and how many rows lack a value."""
        counts = self.values.get(column, Counter())
        found = [f"{value} ({counted(count, 'row')})" for value, count in counts.most_common(_CLASSES_SHOWN)]
        found += ["..."] * (len(counts) > _CLASSES_SHOWN)
        lacking = self.labels.total() + self.unlabelled.total() - counts.total()
        line = f"{self.name}: attribute is column '{column}': {counted(len(counts), 'value')}: {', '.join(found)}"
        line += "; all rows have the same value, so the model learns nothing from it" * (len(counts) == 1)
        return line + f"; {counted(lacking, 'row')} without a value" * (lacking > 0)

    def offers(self) -> list[str]:
        """The columns that could be labels."""
        ask, named = self.columns.ask, vars(self.columns).values()
        others = [name for name in self.looks if name not in named and name not in self.attributes]
        found = [self.looks[name] for name in others if self.looks[name].could_be_labels][:3]
        return [f"{ask('label', x.name)} would use its {x.classes} values ({x.examples(2)})" for x in found]

    def notes(self) -> list[str]:
        """What the user must know about the rows: those left out, and labels from which little can be learnt."""
        name, used = self.name, self.labels.total() + self.unlabelled.total()
        of_all = f"of {used + self.dropped.total():,} rows dropped"
        notes = [f"{name}: {count:,} {of_all}, {_LACKING[lost][1]}" for lost, count in self.dropped.items()]
        notes = self.remarks + notes
        if self.brief or used < 2:
            return notes
        if self.unlabelled and (self.labels or self.found.label):
            missing = ", ".join(f"'{value}'" for value in list(self.unlabelled)[:4])
            count = f"{self.unlabelled.total():,} of {used:,} rows"
            notes.append(f"{name}: {count} have no label ({missing}); they count as unlabelled")
        lone = [f"'{label}'" for label, count in self.labels.items() if count == 1]
        if lone and (len(lone) < len(self.labels) or used > 10):
            which = ", ".join(lone[:4] + ["..."] * (len(lone) > 4))
            notes.append(f"{name}: labels with one row, from which they can hardly be learnt: {which}")
        return notes


def read_rows(
    source: RowSource,
    columns: Columns | None = None,
    *,
    need: Sequence[Need] = ("text",),
    empty: Empty = "drop",
    notes: list[str] | None = None,
    taken: list[str] | None = None,
    hints: Callable[[], Columns] = Columns,
    attributes: Sequence[str] = (),
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
        attributes: columns of further conditions; a missing value is left out of its row.
        name: the name of rows in memory in error messages.

    Raises:
        UserError: bad input, in one line. Errors in a row begin with `file:line` (in memory `name: row N`).
    """
    columns = columns or Columns()
    read = Taken(open_table(source, columns, name, attributes), brief=taken is None, attributes=attributes)
    rows = list(iter_rows(read, columns, need=need, empty=empty, hints=hints()))
    if taken is not None:
        taken += read.lines()
    if notes is not None:
        notes += read.notes()
    return rows


def read_and_tell(
    source: RowSource, columns: Columns | None, log: Callable[[str], None], *, brief: bool = False, **options: Any
) -> list[Row]:
    """`read_rows`, with what was taken (unless brief) and the notes told to `log`."""
    taken: list[str] = []
    notes: list[str] = []
    rows = read_rows(source, columns, taken=None if brief else taken, notes=notes, **options)
    for line in taken + notes:
        log(line)
    return rows


def open_table(source: RowSource, columns: Columns, name: str = "data", attributes: Sequence[str] = ()) -> Table:
    """The records of a file, or of rows in memory, which error messages call `name`. The column names show whether a
    file has a header."""
    if not isinstance(source, str | os.PathLike):
        return rows_table(source, name)
    names = [*columns.given().values(), *attributes]
    own = {name.lower() for name in names if not name.isdecimal()}  # (numbers are no header)
    return read_table(source, COLUMN_NAMES | own)


def iter_rows(
    read: Taken, columns: Columns, *, need: Sequence[Need] = ("text",), empty: Empty = "drop", hints: Columns = NO_NAMES
) -> Iterator[Row]:
    """Yield the rows of the tables of `read`, as `read_rows` returns them, and account for them there."""
    for table in chain([read.table], read.more):
        records = ((number, _flat(record)) for number, record in table.records)
        first = list(islice(records, _LOOK_AT))
        sample = [record for _, record in first]
        names, remarks, looks = resolve(
            table, columns, sample, need, hints, trust=empty == "keep", attributes=read.attributes
        )
        read.remarks += remarks
        for what in need if read.brief and not table.plain else ():
            column = getattr(names, what) or what
            if column.lower() != what and column not in ("target", getattr(columns, what), getattr(hints, what)):
                read.remarks.append(f"{table.name}: the {what} is in the column '{column}'")
        if table is read.table:
            read.columns, read.looks, hints = names, looks, names
            read.remarks += [f"{table.name}: {table.form}"] if table.form and read.brief else []
        else:
            read.files += 1
        used, before = False, read.dropped.copy()
        for number, record in chain(first, records):
            try:
                row = _to_row(record, names, empty)
                if attributes := _values(record, read.attributes):
                    row["attributes"] = attributes
                lacking = next((what for what in need if _lacks(row, record, names, what, empty)), None)
                if lacking and empty != "drop" and not table.plain:
                    raise UserError(f"{_held(record, names, lacking)}; each row needs one")
            except UserError as error:
                raise UserError(f"{table.place(number)}: {error}") from None
            if lacking:
                read.dropped[lacking] += 1
                continue
            used = True
            if "label" in row:
                read.labels[row["label"]] += 1
            else:
                read.unlabelled[str(record.get(names.label, "")) if names.label else ""] += 1
            for attribute, value in row.get("attributes", {}).items():
                read.values.setdefault(attribute, Counter())[value] += 1
            yield row
        if not used:
            dropped = read.dropped - before
            lost = next(iter(dropped), need[0])
            found = f"rows: {dropped.total():,}, {lost} column: '{getattr(names, lost) or lost}'"
            offers = read.offers() or [f"name the label column with {columns.ask('label')}"]
            hint = "; ".join(["", *offers]) if lost == "label" and not columns.label else ""
            raise UserError(f"{table.name} has no rows with {_LACKING[lost][0]} ({found}){hint}")


def _lacks(row: Row, record: Record, names: Columns, what: Need, empty: Empty) -> bool:
    return not (isinstance(record.get(getattr(names, what)), str) if empty == "keep" else row.get(what))


def _held(record: Record, names: Columns, what: Need) -> str:
    """What a record holds in place of a needed value."""
    column = getattr(names, what) or what
    return f"'{column}' is {record[column]!r:.40}" if column in record else f"no '{column}' among {', '.join(record)}"


def _flat(record: Record) -> Record:
    """Add the parts of columns that hold an object as columns of their own: {"translation": {"de": ..., "en": ...}}
    gives `translation.de` and `translation.en`."""
    objects = {name: value for name, value in record.items() if isinstance(value, dict)}
    parts = {f"{name}.{part}": inner for name, value in objects.items() for part, inner in value.items()}
    return {**record, **parts, **record} if parts else record  # in this order, and no part takes a column's place


def _to_row(record: Record, names: Columns, empty: Empty) -> Row:
    """UserError for a value that is not what its column must hold."""
    found = {what: record.get(name) for what, name in names.given().items()}
    row = Row(text=_string(found.get("text"), names.text))
    label = found.get("label")
    if isinstance(label, list | dict):
        raise UserError(f"'{names.label}' is {label!r:.40}, not one label; to leave it out: {names.ask('label', '')}")
    if label := _class(label, names.label):
        row["label"] = label
    if source := _string(found.get("source"), names.source):
        row["source"] = source
    texts = found.get("references")
    texts = [texts] if isinstance(texts, str) else [] if is_missing(texts) else texts
    if not isinstance(texts, list | tuple):
        leave = f"to leave it out: {names.ask('references', '')}"
        raise UserError(f"'{names.references}' is {texts!r:.40}, not a list of strings; {leave}")
    if references := [text for item in texts if (text := _string(item, names.references))]:
        row["references"] = references
        if empty == "drop":  # (an empty sample stays empty)
            row["text"] = row["text"] or references[0]
    return row


def _values(record: Record, attributes: Sequence[str]) -> dict[str, str]:
    """The attributes that a record has. UserError for a value that is not one value."""
    for name in attributes:
        if isinstance(value := record.get(name), list | dict):
            raise UserError(f"'{name}' is {value!r:.40}, not one value; leave this attribute out")
    return {name: value for name in attributes if (value := _class(record.get(name), name))}


def _class(value: Any, column: str | None) -> str | None:
    """A label or a value of an attribute, in its one spelling; None if it is missing."""
    return spell_label(_string(value, column) if isinstance(value, str) else value)


def _string(value: Any, column: str | None) -> str:
    if not isinstance(value, str):
        if is_missing(value):
            return ""
        raise UserError(f"'{column}' is {value!r:.40}, not a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"'{column}' holds half a surrogate pair (\\ud800-\\udfff)") from None
    return value.strip()
