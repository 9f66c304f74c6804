"""Turns a file, a folder, a hub data set or rows in memory into training, validation and test rows."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from pydantic import Field

from ladle.config import Config
from ladle.data.columns import NO_NAMES, Columns
from ladle.data.files import STDIO, PathLike, Table
from ladle.data.hub import hub_tables
from ladle.data.in_memory import RowSource
from ladle.data.row_portions import Portions
from ladle.data.rows import Row, Taken, iter_rows, open_table
from ladle.data.tables import ENDINGS, kind_of
from ladle.errors import UserError
from ladle.storage.kinds import RUN

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# The name of a split's file before its ending, or of a part of it: train, train-00000-of-00004, train_2.
_SPLIT_FILE = re.compile(rf"({'|'.join(_SPLIT_OF)})([-_]\d.*)?")

Data = RowSource | Mapping[str, RowSource] | None  # rows, or the rows of each split; None: those that the config names
# Settings of a recipe that describe its own data set, and not a file that replaces it.
OF_OTHER_DATA = ("id", "subset", "text", "label", "source", "references", "attributes", "valid_path", "test_path")


class DataConfig(Config):
    """Where the rows come from, which columns they have, and how many are held out."""

    path: str | None = None
    """A file, a folder of train, valid and test files (or of any files), or `-` for standard input. If given, `id` is
    not used."""
    id: str | None = None
    """The id of a data set on the Hugging Face hub."""
    subset: str | None = None
    """The configuration of the hub data set."""
    text: str | None = None
    """The column of the texts. By default `text`, else `target`, else the only column that is clearly text. If a column
    holds an object, a dot names a part of it: `translation.de`."""
    label: str | None = None
    """The column of the class labels. By default `label`, if the data have that column. "" uses no labels."""
    source: str | None = None
    """The column of the source texts. By default `source`, if that column holds texts. "" uses no sources."""
    references: str | None = None
    """The column of further good texts for a source (lists). By default `references`. "" uses none."""
    attributes: tuple[str, ...] = ()
    """Columns of further conditions, such as `["food", "area"]`. Each is a class with its own values, beside label and
    source. A row may lack a value."""
    valid_path: str | None = None
    """A file of validation rows: held-out rows on which the training measures itself."""
    test_path: str | None = None
    """A file of test rows, for final results."""
    valid_fraction: float = Field(0.05, ge=0, le=0.5)
    """Share of the rows that is held out for validation if no validation rows are given."""
    max_valid_rows: int = Field(2000, ge=0)
    """Largest number of validation rows."""
    max_rows: int | None = Field(None, ge=1)
    """Largest number of training rows. If there are more, a random choice of them is used."""
    rows_in_memory: int | None = Field(None, ge=1)
    """Number of rows held in memory at once; each epoch trains on the next portion. By default all rows are held."""

    @property
    def columns(self) -> Columns:
        """The column names."""
        return Columns(self.text, self.label, self.source, self.references)

    @classmethod
    def of(cls, columns: Columns | None) -> Self:
        """A config with these columns."""
        return cls(**vars(columns or Columns()))

    def at(self, path: str) -> Self:
        """This config with a local file or folder as its data. The column names of a hub data set are dropped."""
        dropped = {name: type(self).model_fields[name].default for name in OF_OTHER_DATA}
        return self.model_copy(update={"path": path} | dropped)


@dataclass(frozen=True)
class Splits:
    """Training, validation and test rows (valid and test may be empty). `notes` are messages for the user, one line
    each; `taken` says what was taken for text, label and source of the training rows, and `columns` names it. If rows
    are read in portions, `train` is the first portion."""

    train: list[Row]
    valid: list[Row]
    test: list[Row]
    notes: list[str] = field(default_factory=list)
    portions: Portions[Row] | None = None
    taken: list[str] = field(default_factory=list)
    columns: Columns = Columns()

    def of_epoch(self, epoch: int) -> list[Row]:
        """The training rows of an epoch, counted from 0."""
        return self.portions(epoch) if self.portions else self.train


def load_splits(config: DataConfig, data: Data = None, hints: Columns = NO_NAMES) -> Splits:
    """Read all rows that a run needs. If no valid rows are given, they are split off the train rows.

    All rows with the same source (without sources: the same text) stay on one side of the split. A hash of the source
    or text decides the side, so the split is the same on every machine and for every order of the rows.

    Args:
        config: the columns, how many rows are held out, and where the rows are when `data` is None.
        data: replaces the config's path or id: a path, rows in memory (texts, mappings, a `datasets.Dataset`), or a
            mapping from the name of a split to such rows (a `DatasetDict`).
        hints: column names to try before the usual ones.

    Raises:
        UserError: bad input, no train rows, or no data given.
        LadleError: the hub cannot be reached.
    """
    notes: list[str] = []
    if config.rows_in_memory is not None:
        return _load_in_portions(config, data, config.rows_in_memory, notes, hints)
    parts, accounts = _read(_tables(config, data, notes), config, hints, notes)
    train = _limited("train", parts["train"], config.max_rows, "max_rows", notes)
    train, valid = (train, parts["valid"]) if "valid" in parts else _split_off(train, config, notes)
    # (Of a source whose rows are held out, those that are too many are not trained on either.)
    valid = _limited("valid", valid, config.max_valid_rows, "max_valid_rows", notes)
    return Splits(train, valid, parts.get("test", []), notes, None, accounts[0].lines(), accounts[0].found)


def _load_in_portions(config: DataConfig, data: Data, size: int, notes: list[str], hints: Columns) -> Splits:
    """As `load_splits`, but each row's own hash alone decides whether it is held out: about `valid_fraction` of `size`
    rows are. The held-out rows of the first portion are the valid rows; the rest of them are not used."""
    sources = data.values() if isinstance(data, Mapping) else [config.path if data is None else data]
    if any(isinstance(source, Iterator) or source == STDIO for source in sources):
        once = "an iterator or standard input"
        raise UserError(f"data.rows_in_memory reads the data more than once; give a file or a list, not {once}")
    if config.max_rows is not None:
        raise UserError("data.max_rows and data.rows_in_memory cannot be used together; give one of them")
    tables = _tables(config, data, notes)
    fraction = config.valid_fraction if "valid" not in tables and config.max_valid_rows else 0.0
    held_out: list[Row] = []
    first = Taken(next(tables["train"]), tables["train"], attributes=config.attributes)

    def read() -> Iterator[Row]:
        again = _tables(config, data, [])["train"] if first.looks else None
        taken = Taken(next(again), again, attributes=config.attributes) if again else first
        for row in iter_rows(taken, config.columns, hints=hints):
            if int.from_bytes(_rank(_group(row, by_source=True))) >= fraction * 2**64:
                yield row
            elif len(held_out) < config.max_valid_rows:
                held_out.append(row)

    portions = Portions(read, size)
    train = portions(0)
    if not train:
        raise UserError("all rows are held out; lower data.valid_fraction or give more rows")
    notes += first.remarks
    taken = first.lines()
    parts, _ = _read({k: v for k, v in tables.items() if k != "train"}, config, first.columns, notes)
    valid = _limited("valid", parts.get("valid", held_out), config.max_valid_rows, "max_valid_rows", notes)
    notes.append(f"train: {len(train):,} rows at a time, the next portion in each epoch (rows_in_memory)")
    # (A copy: later portions may hold out more.)
    return Splits(train, list(valid), parts.get("test", []), notes, portions, taken, first.found)


def _tables(config: DataConfig, data: Data, notes: list[str]) -> dict[str, Iterator[Table]]:
    """The tables of each split. A table is opened when it is needed."""
    tables: dict[str, Iterator[Table]] = {}
    sources: dict[str, list[RowSource]] = {}
    given = config.path if data is None else data
    if isinstance(given, Mapping):
        sources = _given_splits(given, notes)
    elif isinstance(given, str | os.PathLike):
        sources = _split_paths(given)
    elif given is not None:
        sources = {"train": [given]}
    elif config.id is not None:
        streaming = config.rows_in_memory is not None
        of_hub = hub_tables(config.id, config.subset, SPLIT_NAMES, streaming=streaming)
        tables = {split: iter([table]) for split, table in of_hub.items()}
    else:
        raise UserError("no data; name a file or a folder (--data FILE), or a hub data set (data.id)")
    held_out = {"valid": config.valid_path, "test": config.test_path}
    sources |= {split: [path] for split, path in held_out.items() if path is not None}
    for split, parts in sources.items():
        if len(parts) > 1:
            notes.append(f"{split}: {len(parts)} files of {Path(str(parts[0])).parent}")
        name = f"data ({split})" if isinstance(data, Mapping) else "data"
        opened = partial(open_table, columns=config.columns, name=name, attributes=config.attributes)
        tables[split] = map(opened, parts)
    return tables


def _given_splits(data: Mapping[str, RowSource], notes: list[str]) -> dict[str, list[RowSource]]:
    """The rows of each split of a mapping. Other names in the mapping are noted."""
    found: dict[str, list[RowSource]] = {}
    for name, rows in data.items():
        split = _SPLIT_OF.get(str(name).lower())
        if split is None:
            notes.append(f"data: '{name}' is not the name of a split, and is not used")
        elif split in found:
            raise UserError(f"data has two groups of {split} rows, '{name}' the second: give one")
        else:
            found[split] = [rows]
    if "train" not in found:
        names = ", ".join(map(str, data)) or "nothing"
        raise UserError(f"data has no train rows; it has {names}; give {{'train': rows}}")
    return found


def _read(
    tables: Mapping[str, Iterator[Table]], config: DataConfig, hints: Columns, notes: list[str]
) -> tuple[dict[str, list[Row]], list[Taken]]:
    """The rows of each split, and the accounts of them. The columns of the first one (train, if it is there) count."""
    parts: dict[str, list[Row]] = {}
    accounts: list[Taken] = []
    for split in (split for split in SPLIT_NAMES if split in tables):
        read = Taken(next(tables[split]), tables[split], brief=split != "train", attributes=config.attributes)
        parts[split] = list(iter_rows(read, config.columns, hints=accounts[0].columns if accounts else hints))
        accounts.append(read)
        notes += read.notes()
    return parts, accounts


def _split_paths(path: PathLike) -> dict[str, list[RowSource]]:
    """{"train": [path]} for a file. For a folder: the files of each split, of any known kind. A split is one file with
    its name, or several parts (train-00000-of-00004.parquet). If no file has such a name, all are train files."""
    folder = Path(path)
    if not folder.is_dir():  # (standard input among them)
        return {"train": [os.fspath(path)]}
    own = RUN.names if RUN.wrote(folder) else ()  # (a run folder may be its own data folder)
    names = sorted(name for name in os.listdir(folder) if kind_of(name) and name[0] != "." and name not in own)
    found: dict[str, list[str]] = {}
    kinds: dict[str, set[str | None]] = {}  # of the parts of a split, or the name of its one file
    for name in names:
        if named := _SPLIT_FILE.fullmatch(name.lower().split(".")[0]):
            split = _SPLIT_OF[named[1]]
            found.setdefault(split, []).append(name)
            kinds.setdefault(split, set()).add(kind_of(name) if named[2] else name)
            if len(kinds[split]) > 1:
                one = found[split][0]
                raise UserError(f"{path} has two files of {split} rows, {one} and {name}; keep one of them")
    if names and not found:  # files of any names, all of them to train on
        found["train"] = names
    if "train" not in found:
        has = f"it has {', '.join(names[:8])}" if names else "it has no data files"
        raise UserError(f"{path} has no train file, such as train.jsonl ({', '.join(ENDINGS)}, or + .gz); {has}")
    return {split: [str(folder / name) for name in files] for split, files in found.items()}


def _split_off(rows: list[Row], config: DataConfig, notes: list[str]) -> tuple[list[Row], list[Row]]:
    wanted = min(config.max_valid_rows, max(1, round(len(rows) * config.valid_fraction)))
    if config.valid_fraction == 0 or wanted == 0:
        return rows, []
    by_source = any("source" in row for row in rows)
    groups = [_group(row, by_source) for row in rows]
    sizes = Counter(groups)
    what = "source" if by_source else "text"
    if len(sizes) < 2:
        notes.append(f"valid: none, because all rows have the same {what}")
        return rows, []
    held_out: set[str] = set()
    ranked = sorted(sizes, key=_rank)
    for group in ranked:
        if sizes[group] <= wanted:
            held_out.add(group)
            wanted -= sizes[group]
    if not held_out:  # every group is larger than what was wanted: one whole group it is
        held_out = {min(ranked, key=sizes.__getitem__)}
    train = [row for row, group in zip(rows, groups, strict=True) if group not in held_out]
    valid = [row for row, group in zip(rows, groups, strict=True) if group in held_out]
    notes.append(f"valid: {len(valid):,} of {len(rows):,} rows split off by {what}, no {what} on both sides")
    return train, valid


def _group(row: Row, by_source: bool) -> str:
    """The group of a row. Rows of one group stay together. Case and spacing make no difference."""
    kind, value = ("source", row["source"]) if by_source and "source" in row else ("text", row["text"])
    return f"{kind}\0{' '.join(value.casefold().split())}"


def _rank(key: str | int) -> bytes:
    """A random-looking sort key that is the same on every machine and for every version of Python."""
    return hashlib.blake2b(f"0\0{key}".encode(), digest_size=8).digest()  # the 0 is a seed: splits made so far stay


def _limited(split: str, rows: list[Row], most: int | None, setting: str, notes: list[str]) -> list[Row]:
    """A random choice of `most` rows, in their order. (Files are often sorted, by book or by label.)"""
    if most is None or len(rows) <= most:
        return rows
    notes.append(f"{split}: {most:,} of {len(rows):,} rows used ({setting})")
    chosen = sorted(range(len(rows)), key=_rank)[:most]
    return [rows[index] for index in sorted(chosen)]
