"""Writes complete folders.

The files of a folder are gathered in a hidden folder inside it, then renamed one by one. So a killed run leaves the
earlier files or the new ones, never a mixture. What Ladle did not write stays.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ladle.data.files import PathLike, known_json
from ladle.errors import UserError
from ladle.storage.checks import check_writable, input_paths, name_in
from ladle.storage.kinds import Kind
from ladle.storage.writing import flush, making, remove, saying

_NEW, _PUT = ".ladle-new", ".ladle-put"  # in a folder: its next files while they are written; whole, being put in place
_FILES, _COMMIT = "files", "commit.json"  # in these two: the files; the names of earlier files to delete


@contextmanager
def atomic_folder(path: PathLike, *, kind: Kind | None = None, old: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a new empty folder. Its files are put into `path` when the block ends without an error.

    The folder `path` itself stays, and so does everything in it but the files that are replaced and those in `old`. A
    killed run leaves the earlier files, or the new ones whole once `recover_folder` was called. A path may have only
    one writer at a time.

    Args:
        kind: refuse a folder as `check_folder` does.
        old: files that an earlier call wrote. Those that this one does not write are deleted.

    Raises:
        UserError: `path` is a file; as `check_folder`; a name in it is taken by a folder or a file of another sort.
        LadleError: the folder could not be written (full disk, no permission); the earlier files are not changed.
    """
    target = Path(os.path.realpath(path))
    new = target / _NEW
    with making(target), saying(Path(path)):
        if kind is not None:
            check_folder(path, kind)
        if target.exists() and not target.is_dir():
            raise UserError(f"cannot write into {path}: it is a file; give the name of a folder")
        target.mkdir(parents=True, exist_ok=True)
        recover_folder(target)
        remove(new)
        try:
            (new / _FILES).mkdir(parents=True)
            yield new / _FILES
            _commit(target, new, set(old))
        finally:
            remove(new)
        recover_folder(target)


def _commit(target: Path, new: Path, old: set[str]) -> None:
    """Say that the files in `new` are whole: from here on they are put in place, whatever happens."""
    names = [path.relative_to(new / _FILES) for path in (new / _FILES).rglob("*") if path.is_file()]
    old -= {name.as_posix() for name in names}
    (new / _COMMIT).write_text(json.dumps({"old": sorted(old)}), encoding="utf-8")
    for name in names:
        place = target / name
        in_the_way = next((folder for folder in place.parents if folder.exists() and not folder.is_dir()), None)
        if in_the_way or place.is_dir():
            raise UserError(f"{in_the_way or place} is in the way of Ladle's own; move it, or give another folder")
        mode = (place if place.exists() else new / _COMMIT).stat().st_mode  # else that of any new file
        (new / _FILES / name).chmod(mode)
        flush(new / _FILES / name)
    flush(new / _COMMIT)
    os.rename(new, target / _PUT)


def recover_folder(path: PathLike) -> None:
    """Finish what a run was putting into a folder when it was killed. Call this before reading. Raises LadleError if
    that fails."""
    target = Path(os.path.realpath(path))
    put = target / _PUT
    if not put.is_dir():
        return
    with saying(Path(path)):
        for file in [file for file in (put / _FILES).rglob("*") if file.is_file()]:
            place = target / file.relative_to(put / _FILES)
            place.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # a second reader may be at it too
                os.replace(file, place)
        for name in known_json(put / _COMMIT).get("old", ()):
            place = target / name
            if not Path(os.path.realpath(place.parent)).is_relative_to(target):
                continue  # (a folder may come from a stranger)
            place.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                for folder in place.parents[: len(Path(name).parts) - 1]:
                    folder.rmdir()
        remove(put)


def check_folder(path: PathLike, kind: Kind, inputs: Iterable[Any] = ()) -> None:
    """Check before the work begins that a folder of this kind can be written to `path`.

    Raises UserError: as `check_writable`; something in it has one of the kind's names, but Ladle did not write it; an
    input lies where Ladle writes.
    """
    check_writable(path, folder=True)
    recover_folder(path)
    target = Path(path)
    if target.is_dir() and not kind.wrote(target) and (taken := sorted(kind.names & set(os.listdir(target)))):
        raise UserError(f"{target / taken[0]} exists, and Ladle did not write it; give another folder than {target}")
    for given in input_paths(inputs):
        if given.exists() and name_in(given, target) in kind.names:
            raise UserError(f"{given} is an input, but {target} is written over it; give another folder")


def read_record(folder: Path, name: str, newest: int) -> dict[str, Any]:
    """The JSON object `name` of a folder that `atomic_folder` wrote. newest: the last format that the caller reads.

    Raises OSError, ValueError, KeyError, TypeError: it is missing or damaged, or of a later format; LadleError as
    `recover_folder`.
    """
    recover_folder(folder)
    record: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    if record["format"] > newest:
        raise ValueError(f"format {record['format']} is newer than this ladle, which reads format {newest}")
    return record
