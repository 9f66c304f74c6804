"""Records with the names of their columns: what every kind of file, and rows in memory, are read into."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
