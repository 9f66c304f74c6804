"""Reading files: lines, bytes, TOML and JSON, gzipped or not. `-` is standard input."""

import gzip
import io
import json
import os
import sys
import tomllib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

from ladle.errors import UserError

STDIO = "-"  # the path that means standard input or standard output
PathLike = str | os.PathLike[str]


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
    """Yield the lines of a UTF-8 file with their ends. `-` is standard input. Gzip is unpacked, a BOM is dropped.

    Only `\\n` ends a line: other line separators of Unicode stay in the text.

    Raises UserError: as `open_bytes`, or a line that is not UTF-8 text (`file:line`).
    """
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:  # UTF-16, or no text at all
                where = f"{name_of(path)}:{number}"
                raise UserError(f"{where}: not UTF-8 text; convert it first: iconv -f ENCODING -t UTF-8 FILE")
            yield text


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
