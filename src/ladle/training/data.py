"""From a file, a folder or a hub data set to rows, and from rows to train, valid and test.

A row is a dict with `text` and, where the data have them, `label`, `source` and `references`. A pair's `target` is
its text. Nothing here knows of tokens.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self, TypedDict

from pydantic import Field

from ladle.config import Config, nearest
from ladle.errors import UserError
from ladle.files import STDIO, PathLike
from ladle.tables import ENDINGS, Record, Table, kind_of, read_table
from ladle.training.hub import hub_tables

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
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


class DataConfig(Config):
    """Where the rows come from, which columns they have, and how many are held out."""

    path: str | None = None  # a file, a folder of train/valid/test files (or of any files), or "-"; wins over `id`
    id: str | None = None  # a `datasets` hub id
    subset: str | None = None  # the hub data set's configuration name
    text: str | None = None  # a column; of one that holds an object a part, "translation.de"
    label: str | None = None
    source: str | None = None
    target: str | None = None
    valid_path: str | None = None
    test_path: str | None = None
    valid_fraction: float = Field(0.05, ge=0, le=0.5)  # of the train rows, when no valid rows are given
    max_valid_rows: int = Field(2000, ge=0)
    max_rows: int | None = Field(None, ge=1)  # train rows used, chosen by the seed
    seed: int = 0

    @property
    def columns(self) -> Columns:
        """The four column names."""
        return Columns(self.text, self.label, self.source, self.target)

    def at(self, path: str) -> Self:
        """This config with a local file or folder in place of its data: a hub set's column names do not go with it."""
        data_of_its_own = ("id", "subset", "text", "label", "source", "target", "valid_path", "test_path")
        return self.model_copy(update={"path": path} | dict.fromkeys(data_of_its_own))


@dataclass(frozen=True)
class Splits:
    """Rows to train on, to choose by, and to report on (may be empty); `notes` are one line each, to be told."""

    train: list[Row]
    valid: list[Row]
    test: list[Row]
    notes: list[str] = field(default_factory=list)


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
    table = read_table(path, COLUMN_NAMES | {str(name).lower() for name in vars(columns or Columns()).values() if name})
    return _to_rows(table, columns or Columns(), keep_empty, [] if notes is None else notes)


def load_splits(config: DataConfig) -> Splits:
    """Read all rows that a run needs. Valid rows are split off the train rows where none are given.

    All rows of one source, else of one text, stay on one side of the split. Which, is decided by a hash of the source
    or text and the seed: the same on every machine, and in whatever order the rows stand.

    Raises:
        UserError: bad input, no train rows, no data named at all.
        LadleError: the hub cannot be reached.
    """
    notes: list[str] = []
    if config.path is not None:
        parts = _read_parts(_split_paths(config.path), config, notes)
    elif config.id is not None:
        tables = hub_tables(config.id, config.subset, SPLIT_NAMES)
        parts = {split: _to_rows(table, config.columns, False, notes) for split, table in tables.items()}
    else:
        raise UserError("no data: name a file or folder (--data), or a hub data set (data.id)")
    given = {"valid": config.valid_path, "test": config.test_path}
    parts |= _read_parts({split: [path] for split, path in given.items() if path is not None}, config, notes)

    train = parts["train"]
    if config.max_rows is not None and len(train) > config.max_rows:
        notes.append(f"train: {config.max_rows:,} of {len(train):,} rows used (max_rows)")
        train = _choose(train, config.max_rows, config.seed)
    if "valid" in parts:
        valid = parts["valid"]
    else:
        train, valid = _split_off(train, config, notes)
    if len(valid) > config.max_valid_rows:  # (all rows of one source: the rest is not trained on either)
        notes.append(f"valid: {config.max_valid_rows:,} of {len(valid):,} rows used (max_valid_rows)")
        valid = _choose(valid, config.max_valid_rows, config.seed)
    return Splits(train, valid, parts.get("test", []), notes)


# ------------------------------------------------------------------------------------------------ records to rows


def _to_rows(table: Table, columns: Columns, keep_empty: bool, notes: list[str]) -> list[Row]:
    records = ((number, _flat(record)) for number, record in table.records)
    first = list(islice(records, _LOOK_AT))
    names = _resolve(table, columns, [record for _, record in first], notes)
    rows: list[Row] = []
    total = 0
    for number, record in chain(first, records):
        total += 1
        row = _to_row(record, names, table, number)
        if row["text"] or keep_empty:
            rows.append(row)
    if not rows:
        raise UserError(f"{table.name} has no rows with text (rows: {total:,}, text column: '{names.text}')")
    if len(rows) < total:
        notes.append(f"{table.name}: {total - len(rows):,} of {total:,} rows dropped, their text is empty")
    return rows


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


# ------------------------------------------------------------------------------------------------ where rows are


def _read_parts(paths: dict[str, list[str]], config: DataConfig, notes: list[str]) -> dict[str, list[Row]]:
    parts = {}
    for split, files in paths.items():
        if len(files) > 1:
            notes.append(f"{split}: {len(files)} files of {Path(files[0]).parent}")
        parts[split] = [row for path in files for row in read_rows(path, config.columns, notes=notes)]
    return parts


def _split_paths(path: str) -> dict[str, list[str]]:
    """{"train": [path]} for a file; for a folder the files of each split, of any known kind: one named after it, or
    several parts of it (train-00000-of-00004.parquet); where none is named so, all are train files."""
    folder = Path(path)
    if path == STDIO or not folder.is_dir():
        return {"train": [path]}
    found: dict[str, list[str]] = {}
    names = sorted(name for name in os.listdir(folder) if kind_of(name) and not name.startswith("."))
    for name in names:
        split = _split_of(name)
        if split is None:
            continue
        others = found.setdefault(split, [])
        if others and (not _is_part(name) or not _is_part(others[0]) or kind_of(name) != kind_of(others[0])):
            raise UserError(f"{path} has two files of {split} rows, {others[0]} and {name}; name one file")
        others.append(name)
    if names and not found:  # files of any names, all of them to train on
        found["train"] = names
    if "train" not in found:
        has = f"it has {', '.join(names[:8])}" if names else "it has no data files"
        raise UserError(f"{path} has no train file (train.jsonl, say; {', '.join(ENDINGS)}, or + .gz): {has}")
    return {split: [str(folder / name) for name in files] for split, files in found.items()}


def _split_of(name: str) -> str | None:
    """The split that a file is named after: train.jsonl, or a part of it, train-00000-of-00004.parquet, train_2.csv."""
    stem = re.sub(r"[-_]\d.*$", "", name.lower().split(".")[0])
    return next((split for split, stems in SPLIT_NAMES.items() if stem in stems), None)


def _is_part(name: str) -> bool:
    """Whether the name is of one file of several, by its number."""
    return bool(re.search(r"[-_]\d", name.split(".")[0]))


# ------------------------------------------------------------------------------------------------ holding out


def _split_off(rows: list[Row], config: DataConfig, notes: list[str]) -> tuple[list[Row], list[Row]]:
    wanted = min(config.max_valid_rows, max(1, round(len(rows) * config.valid_fraction)))
    if config.valid_fraction == 0 or wanted == 0:
        return rows, []
    by_source = any("source" in row for row in rows)
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(_group(row, by_source), []).append(index)
    what = "source" if by_source else "text"
    if len(groups) < 2:
        notes.append(f"valid: none, since all rows have the same {what}")
        return rows, []
    held_out: list[int] = []
    ranked = sorted(groups, key=lambda group: _rank(config.seed, group))
    for group in ranked:
        if len(held_out) + len(groups[group]) <= wanted:
            held_out += groups[group]
    if not held_out:  # every group is larger than what was wanted: one whole group it is
        held_out = groups[min(ranked, key=lambda group: len(groups[group]))]
    chosen = set(held_out)
    train = [row for index, row in enumerate(rows) if index not in chosen]
    valid = [row for index, row in enumerate(rows) if index in chosen]
    notes.append(f"valid: {len(valid):,} of {len(rows):,} rows split off by {what}, no {what} on both sides")
    return train, valid


def _group(row: Row, by_source: bool) -> str:
    """Rows that must stay together have one group; case and spacing make no difference between two texts."""
    kind, value = ("source", row["source"]) if by_source and "source" in row else ("text", row["text"])
    return f"{kind}\0{' '.join(value.casefold().split())}"


def _rank(seed: int, key: str | int) -> bytes:
    """A random-looking sort key that is the same on every machine and for every version of Python."""
    return hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()


def _choose(rows: list[Row], count: int, seed: int) -> list[Row]:
    """`count` of the rows, in their order; random, since files often stand in some order (by book, by label)."""
    chosen: Iterable[int] = sorted(range(len(rows)), key=lambda index: _rank(seed, index))[:count]
    return [rows[index] for index in sorted(chosen)]
