"""Reading files: lines, bytes, TOML and JSON, gzipped or not, and tables of any kind. `-` is standard input."""

import codecs
import gzip
import io
import json
import os
import sys
import tomllib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ladle.errors import UserError

NUL = "\0"
STDIO = "-"  # the path that means standard input or standard output
PathLike = str | os.PathLike[str]
Record = dict[str, Any]  # from column to value

_NOT_UTF8 = (
    'not UTF-8 text; save it as UTF-8 (in a spreadsheet program: save it as "CSV UTF-8"), or run '
    "iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
)
# (A mark of UTF-32 begins with one of UTF-16.)
_MARKS = {"utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)}
# What other files are, with what to do instead; the endings of their names, and the bytes with which they begin.
_OTHER_FILES: dict[str, tuple[tuple[str, ...], tuple[bytes, ...]]] = {
    'a spreadsheet, which is not read; save it as "CSV UTF-8" in the spreadsheet program': (
        (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods", ".numbers"), (),
    ),
    "a text document, which is not read; save it as plain text (UTF-8), one text a line": (
        (".docx", ".doc", ".odt", ".rtf", ".pdf", ".pages", ".epub"), (b"%PDF-", b"{\\rtf"),
    ),
    "packed or a database, which is not read; unpack or export it first (gzip is read)": (
        (".zip", ".7z", ".rar", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".db", ".sqlite"),
        (b"BZh9", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"SQLite format"),
    ),
    'a spreadsheet, a document or an archive, which is not read; save it as "CSV UTF-8", or unpack it': (
        (), (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"),
    ),
}  # fmt: skip


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


@contextmanager
def open_bytes(path: PathLike) -> Iterator[io.BufferedReader]:
    """Open a file (`-`: standard input) for reading. Gzip content is unpacked, whatever the file's name.

    Raises:
        UserError: the file is missing, is a folder, cannot be read, or is named `.gz` but is not gzip. Also raised when
            the block reads gzip data that are cut short or damaged.
    """
    name = name_of(path)
    try:
        opened = nullcontext(sys.stdin.buffer) if os.fspath(path) == STDIO else open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise UserError(f"no such file: {name}") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder; give a file") from None
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}") from None
    with opened as raw:
        source = cast(io.BufferedReader, raw)
        try:
            head = source.peek(2)[:2]
            if head == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=source, mode="rb") as unpacked:
                    yield io.BufferedReader(cast(io.RawIOBase, unpacked), 1 << 16)
            elif head and name.endswith(".gz"):
                raise UserError(f"{name} is not a gzip file, but its name ends in .gz; rename or compress it")
            else:
                yield source
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{name} is a damaged or incomplete gzip file ({error}); copy it again") from None


def read_lines(path: PathLike) -> Iterator[str]:
    """Yield the lines of a text file with their ends. `-` is standard input. Gzip is unpacked.

    The text is UTF-8, or has a mark (BOM) that says UTF-16 or UTF-32; the mark is dropped. Only a line feed ends a
    line: other line separators of Unicode stay in the text. (In a file without line feeds, a carriage return does.)

    Raises UserError: as `open_bytes`, an office document, a packed file, or a line that is not text (`file:line`).
    """
    name = name_of(path)
    with open_bytes(path) as stream:
        head = stream.peek(16)[:16]
        ending = Path(name.lower().removesuffix(".gz")).suffix
        for what, (endings, starts) in _OTHER_FILES.items():
            if ending in endings or head.startswith(starts):
                raise UserError(f"{name} is {what}")
        lines: Iterable[bytes] = stream
        if codec := next((codec for codec, marks in _MARKS.items() if head.startswith(marks)), None):
            try:
                lines = io.BytesIO(stream.read().decode(codec).encode())
            except UnicodeError:
                raise UserError(f"{name}: not whole {codec.upper()} text; save it as UTF-8") from None
        plain = True  # so far, ASCII alone
        for number, raw in enumerate(lines, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                near = raw[max(0, error.start - 20) : error.start].decode("utf-8", "replace")
                what = _NOT_UTF8 if plain else "the lines before are UTF-8, this one is not; write it again"
                raise UserError(f"{name}:{number}: {what} (what cannot be read comes after {near!r})") from None
            plain &= line.isascii()
            if NUL in line:
                what = f"a NUL character (\\0), which no text has, after {line.split(NUL)[0][-20:]!r}; remove it"
                # (Many of them from the first line on: UTF-16 without a mark, or no text at all.)
                many = number == 1 and line.count(NUL) * 4 > len(line)
                raise UserError(f"{name}:{number}: {_NOT_UTF8 if many else what}")
            yield from [line] if number > 1 or line.endswith("\n") else io.StringIO(line, newline="\r")


def read_toml(path: PathLike, what: str, hint: str) -> dict[str, Any]:
    """The tables of a TOML file. what: the kind of file, for messages; hint: the remedy for a missing file.

    Raises UserError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {what} at '{path}': {hint}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read the {what} '{path}': {error}") from None


def name_of(path: PathLike) -> str:
    """The path as messages show it."""
    return "standard input" if os.fspath(path) == STDIO else os.fspath(path)


def known_json(path: Path) -> dict[str, Any]:
    """The JSON object that an earlier run left at `path`; {} if the file is missing or incomplete."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
