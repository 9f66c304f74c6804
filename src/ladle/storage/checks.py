"""Checks, before the work begins, that an output can be written and that nobody loses a file by it."""

import csv
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ladle.data.files import STDIO, PathLike, open_bytes
from ladle.errors import UserError
from ladle.storage.kinds import MODEL, RUN

_OF_LADLE = (  # in files of its own
    b', "seed": ', b', "reconstruction": ', b', "embedding": [', b', "synthetic": ', b'\n  "format": ',
    b'\n  "recovery": ',
)  # fmt: skip
_DIGEST = re.compile("[0-9a-f]{16}")  # of a model, in the rows that it drew
_FIGURES = {"text", "seed", "similarity", "bleu", "edit_distance"}  # of a report of changed texts
PICTURE_MARK = "drawn by ladle"  # in the metadata of every picture, so that it may be drawn again
_PICTURES = (b"\x89PNG", b"<?xml", b"%PDF")
# What no other output may replace. (Users may put their samples beside the run's own.)
_PARTS = ((MODEL, MODEL.names), (RUN, RUN.names - {"samples", "trackers", "final"}))


def check_writable(path: PathLike | None, *, folder: bool = False, inputs: Iterable[Any] = ()) -> None:
    """Check before the work begins that a file (or a folder and its content) can be written. Leaves no trace. None
    means that nothing will be written.

    Args:
        inputs: what the command reads. Only paths are looked at: rows in memory cannot be overwritten.

    Raises UserError: `path` is a folder (a file), cannot be written, is one of the inputs by any name, or is a part of
    a model or of a run.
    """
    if path is None:
        return
    if os.fspath(path) == STDIO and not folder:
        if sys.__stdout__ is None:
            raise UserError("standard output is closed; give --output FILE")
        return
    target = Path(path)
    if not folder and target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give the name of a file")
    if folder and target.exists() and not target.is_dir():
        raise UserError(f"cannot write into {target}: it is a file; give the name of a folder")
    if target.exists() and not target.is_dir() and not target.is_file():
        return  # a device or a pipe
    for given in input_paths(inputs):
        with suppress(OSError):  # (one of them is missing)
            if os.path.samefile(given, target):  # by any link
                raise UserError(f"cannot write {target}: the command reads it; give another name")
    for whole in Path(os.path.realpath(target)).parents[:3]:
        if any(name_in(target, whole) in names and kind.wrote(whole) for kind, names in _PARTS):
            raise UserError(f"cannot write {target}: Ladle made {whole}, and this is a part of it; give another name")
    if target.is_file() and not _is_ours(target):
        raise UserError(f"{target} exists, and Ladle did not write it; give another name")
    new = target / "new" if target.is_dir() else target
    place = next(folder for folder in new.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; give another place") from None


def _is_ours(file: Path) -> bool:
    """Whether Ladle wrote a file: rows that it drew, a report, a table of such rows, or a picture. An empty file is
    anybody's."""
    with open_bytes(file) as stream:
        head = stream.read(1 << 20)
    if not head or _is_own_table(head):
        return True
    if head.startswith(_PICTURES):
        return PICTURE_MARK.encode() in head
    return head[:1] == b"{" and any(mark in head for mark in _OF_LADLE)


def _is_own_table(head: bytes) -> bool:
    """Whether this is the beginning of a CSV that Ladle wrote: of `augment`, of rows that a model drew, of texts beside
    their reconstructions, or of a report."""
    rows = csv.reader(io.StringIO(head.decode("utf-8-sig", errors="replace"), newline=""))
    with suppress(csv.Error):
        header, first = next(rows, []), next(rows, [])
        if header[-1:] == ["synthetic"] or header == ["text", "reconstruction"] or {*header} >= _FIGURES:
            return len(header) > 1
        drawn = header[:1] == ["text"] and "seed" in header and header[-1] == "model"
        return drawn and len(first) == len(header) and _DIGEST.fullmatch(first[-1]) is not None
    return False


def input_paths(inputs: Iterable[Any]) -> list[Path]:
    """Those of a command's inputs that are paths."""
    paths = [given for given in inputs if isinstance(given, str | os.PathLike)]
    return [Path("/dev/stdin" if os.fspath(path) == STDIO else path) for path in paths]


def name_in(path: Path, folder: Path) -> str | None:
    """The name, directly in `folder`, of what holds `path`; None if it is not in that folder."""
    real, inside = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    return inside.relative_to(real).parts[0] if real in inside.parents else None
