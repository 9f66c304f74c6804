"""Writes complete files. Ladle writes to the disk only through this module and `ladle.storage.folders`.

A file goes to a temporary name beside the target, which is then renamed. So a killed run leaves the earlier file or the
new one, never a half-written one. `-` is standard output.
"""

import _thread
import gzip
import json
import os
import re
import secrets
import select
import shutil
import signal
import sys
import threading
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
        with saying(target):
            write(target)
        return
    real = Path(os.path.realpath(target))  # a link stays a link; what it points to is replaced
    temporary = real.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}{''.join(real.suffixes[-2:])}")
    try:
        with saying(target):
            real.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()  # with the rights of any new file: safetensors alone gives them to the owner only
            mode = (real if real.exists() else temporary).stat().st_mode
            write(temporary)
            temporary.chmod(mode)
            flush(temporary)
            os.replace(temporary, real)
    finally:
        remove(temporary)


def clear_temporaries(folder: Path) -> None:
    """Delete files that a writer left when it was killed inside `write_atomically`. The folder must have one writer."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        remove(path)


def atomic_text(path: PathLike, text: str) -> None:
    """Write `text` as UTF-8, completely or not at all. Raises as `write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode("utf-8")))


def append_text(path: PathLike, text: str) -> None:
    """Append whole lines to a file that has one writer. Raises LadleError if that fails."""
    with saying(Path(path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)


def atomic_json(path: PathLike, value: Any) -> None:
    """Write `value` as indented JSON, completely or not at all. NaN and infinities become null, as in JavaScript. `-`
    is standard output.

    Raises TypeError if `value` holds a value that JSON cannot represent, else as `write_atomically`.
    """
    text = to_json(value, indent=2)
    if os.fspath(path) == STDIO:
        sys.stdout.flush()
        sys.stdout.buffer.write(f"{text}\n".encode())  # UTF-8 whatever the terminal speaks, as rows
    else:
        atomic_text(path, f"{text}\n")


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Remove the folders, down to `folder`, that were made in the block and are empty at its end."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for place in missing:
                place.rmdir()


def write_rows(path: PathLike, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON Lines and return their number. `-` is standard output, an ending `.gz` compresses.

    A file appears when the last row is written, or not at all. Standard output is flushed after every row, so that a
    reader sees each row at once. The same rows give the same bytes, compressed or not.

    Raises:
        BrokenPipeError: the reader of standard output has gone, even while `rows` draws the next row. The command line
            then ends quietly.
        UserError, LadleError: as `write_atomically`.
    """
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for row in rows:
            yield (to_json(dict(row)) + "\n").encode("utf-8")
            count += 1

    if os.fspath(path) == STDIO:
        with saying("standard output"):
            _show_lines(lines())
    else:
        write_lines(path, lines())
    return count


def write_lines(path: PathLike, lines: Iterable[bytes]) -> None:
    """Write lines to a file, whole or not at all. An ending `.gz` compresses. Raises as `write_atomically`."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            if os.fspath(path).endswith(".gz"):
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                    packed.writelines(lines)
            else:
                file.writelines(lines)

    write_atomically(path, write)


def _show_lines(lines: Iterable[bytes]) -> None:
    """Write to standard output, and stop when its reader goes, even in the next line, which would be for nobody.

    Raises BrokenPipeError then. The interrupt is a SIGTERM, and one that has no handler of Python's (as the command
    line has) does nothing. (No context manager: it may come even between a block and its `__exit__`.)
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            if _reader_is_gone():
                return _thread.interrupt_main(signal.SIGTERM)

    watcher = threading.Thread(target=watch, daemon=True)
    try:
        try:
            watcher.start()  # (from here on the interrupt may come)
            sys.stdout.flush()
            for line in lines:
                sys.stdout.buffer.write(line)  # bytes, since JSON Lines are UTF-8 whatever the terminal speaks
                sys.stdout.buffer.flush()
        finally:
            done.set()
            watcher.join()
    except SystemExit:
        if _reader_is_gone():
            raise BrokenPipeError from None
        raise


def _reader_is_gone() -> bool:
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # errors, such as that of a pipe without a reader, are always told
        return bool(poll.poll(0))
    except (AttributeError, OSError, ValueError):  # (no such call, no real file)
        return False


@contextmanager
def saying(target: Path | str) -> Iterator[None]:
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


def flush(path: Path) -> None:
    """Force a file's bytes to the disk, so that a full disk is noticed before the rename."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file or a folder. Never raises, because a more important error may be pending."""
    shutil.rmtree(path, ignore_errors=True)  # (does nothing to a file)
    with suppress(OSError):
        path.unlink()


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON of a value. NaN and infinities become null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
        return json.dumps(finite, ensure_ascii=False, indent=indent)
