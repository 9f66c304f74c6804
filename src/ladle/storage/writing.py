"""Writes complete files and folders. Ladle writes to the disk only through this module.

Data go to a temporary name beside the target, which is then renamed. So a killed run leaves the earlier file or the new
one, never a half-written file. `-` is standard output.
"""

import gzip
import json
import math
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ladle.data.files import STDIO, PathLike
from ladle.errors import LadleError, UserError

# safetensors reports a full disk by an error type of its own; this is the trace of the system's error in its message.
_FOREIGN_ERRNO = re.compile(r"(?:os error|code:)\s*(\d+)")

_TEMPORARY = ".tmp-"  # prefix of the names of files that `write_atomically` is still writing


def write_atomically(path: PathLike, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)` on a new name in the same folder, then rename it to `path`.

    The temporary name keeps the ending of `path`, on which some writers depend. Missing folders are made. A path that
    exists and is not a plain file (a pipe, `/dev/null`) cannot be replaced, so it is written directly.

    Raises:
        UserError: `path` is a folder.
        LadleError: the file could not be written (full disk, no permission); the earlier file is not changed.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give the name of a file")
    if target.exists() and not target.is_file():
        with _saying(target):
            write(target)
        return
    real = Path(os.path.realpath(target))  # a link stays a link; what it points to is replaced
    temporary = real.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}{''.join(real.suffixes[-2:])}")
    try:
        with _saying(target):
            real.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            _flush(temporary)
            os.replace(temporary, real)
    finally:
        _remove(temporary)


def clear_temporaries(folder: Path) -> None:
    """Delete files that a writer left when it was killed inside `write_atomically`. The folder must have one writer."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        _remove(path)


def atomic_text(path: PathLike, text: str) -> None:
    """Write `text` as UTF-8, completely or not at all. Raises as `write_atomically`."""
    data = text.encode("utf-8")
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def append_text(path: PathLike, text: str) -> None:
    """Append whole lines to a file that has one writer. Raises LadleError if that fails."""
    with _saying(Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)


def atomic_json(path: PathLike, value: Any) -> None:
    """Write `value` as indented JSON, completely or not at all. NaN and infinities become null, as in JavaScript. `-`
    is standard output.

    Raises TypeError if `value` holds a value that JSON cannot represent, else as `write_atomically`.
    """
    text = _to_json(value, indent=2)
    if os.fspath(path) == STDIO:
        sys.stdout.flush()
        sys.stdout.buffer.write(f"{text}\n".encode())  # UTF-8 whatever the terminal speaks, as rows
    else:
        atomic_text(path, f"{text}\n")


@contextmanager
def atomic_folder(path: PathLike, *, marker: str | None = None) -> Iterator[Path]:
    """Yield a new empty folder beside `path`. It replaces `path` when the block ends without an error.

    An earlier folder is moved aside, then removed. The names are fixed (`.NAME.tmp`, `.NAME.old`), so the next run
    removes what a killed run left. `recover_folder` undoes a kill between the two renames. A path may have only one
    writer at a time.

    Args:
        marker: a file that an earlier folder must hold to be replaced, such as `model.json`, so that a folder with the
            user's own files is never deleted by mistake. None replaces any folder. An empty folder is always replaced.

    Raises:
        UserError: `path` is a file, or a folder without the marker.
        LadleError: the folder could not be written (full disk, no permission); the earlier folder is not changed.
    """
    target = Path(os.path.realpath(path))
    temporary, aside = _beside(target, "tmp"), _beside(target, "old")
    try:
        with _saying(Path(path)):
            recover_folder(target)
            if target.exists() and not target.is_dir():
                raise UserError(f"cannot write the folder {target}: a file has that name")
            if marker is not None and target.exists() and any(target.iterdir()) and not (target / marker).exists():
                raise UserError(f"{target} exists but holds no {marker}, so it is not replaced; give another folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove(temporary)
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            if not target.exists():
                os.rename(temporary, target)
                return
            os.rename(target, aside)
            try:
                os.rename(temporary, target)
            except BaseException:
                os.rename(aside, target)
                raise
    finally:
        _remove(temporary)
        if target.exists():
            _remove(aside)


def recover_folder(path: PathLike) -> None:
    """Put the earlier folder back if a run was killed while `atomic_folder` replaced it. Call this before reading."""
    target = Path(os.path.realpath(path))
    aside = _beside(target, "old")
    if target.exists():
        _remove(aside)
    elif aside.exists():
        os.rename(aside, target)


def write_rows(path: PathLike, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON Lines and return their number. `-` is standard output, an ending `.gz` compresses.

    A file appears when the last row is written, or not at all. Standard output is flushed after every row, so that a
    reader sees each row at once. The same rows give the same bytes, compressed or not.

    Raises:
        BrokenPipeError: the reader of standard output has gone. The command line then ends quietly.
        UserError, LadleError: as `write_atomically`.
    """
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for row in rows:
            yield (_to_json(dict(row)) + "\n").encode("utf-8")
            count += 1

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            if os.fspath(path).endswith(".gz"):
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                    packed.writelines(lines())
            else:
                file.writelines(lines())

    if os.fspath(path) != STDIO:
        write_atomically(path, write)
        return count
    with _saying("standard output"):
        sys.stdout.flush()
        for line in lines():
            sys.stdout.buffer.write(line)  # bytes, since JSON Lines are UTF-8 whatever the terminal speaks
            sys.stdout.buffer.flush()
    return count


def check_writable(path: PathLike | None, *, folder: bool = False) -> None:
    """Check before the work begins that a file (or a folder and its content) can be written. Leaves no trace. None
    means that nothing will be written.

    Raises UserError: `path` is a folder (a file), or cannot be written.
    """
    if path is None or (os.fspath(path) == STDIO and not folder):
        return
    target = Path(path)
    if not folder and target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give the name of a file")
    if folder and target.exists() and not target.is_dir():
        raise UserError(f"cannot write into {target}: it is a file; give the name of a folder")
    if target.exists() and not target.is_dir() and not target.is_file():
        return  # a device or a pipe
    place = target if target.is_dir() else target.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; give another place") from None


@contextmanager
def _saying(target: Path | str) -> Iterator[None]:
    """Turn a failure of the disk into one line with the target and the reason."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LadleError(f"cannot write {target}: {error.strerror or error}") from error
    except Exception as error:
        found = _FOREIGN_ERRNO.search(str(error)) if type(error).__name__ == "SafetensorError" else None
        if found is None:
            raise
        raise LadleError(f"cannot write {target}: {os.strerror(int(found[1]))}") from error


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}.{ending}")


def _flush(path: Path) -> None:
    """Force a file's bytes to the disk, so that a full disk is noticed before the rename."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    """Remove a leftover. Never raises, because a more important error may be pending."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _to_json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
