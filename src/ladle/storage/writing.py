"""Writes complete files and folders. Ladle writes to the disk only through this module.

A file goes to a temporary name beside the target, which is then renamed. The files of a folder are gathered in a hidden
folder inside it, then renamed one by one. So a killed run leaves the earlier files or the new ones, never a mixture and
never a half-written file. What Ladle did not write stays. `-` is standard output.
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
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ladle.data.files import STDIO, PathLike, known_json, open_bytes
from ladle.errors import LadleError, UserError

# safetensors reports a full disk by an error type of its own; this is the trace of the system's error in its message.
_FOREIGN_ERRNO = re.compile(r"(?:os error|code:)\s*(\d+)")

_TEMPORARY = ".tmp-"  # prefix of the names of files that `write_atomically` is still writing
_NEW, _PUT = ".ladle-new", ".ladle-put"  # in a folder: its next files while they are written; whole, being put in place
_OF_LADLE = (  # in files of its own
    b', "seed": ', b', "reconstruction": ', b', "embedding": [', b', "synthetic": ', b'\n  "format": ',
    b'\n  "recovery": ',
)  # fmt: skip
_OWN_TABLE = re.compile(rb"(\xef\xbb\xbf)?[^\r\n]+[,\t]synthetic\r?\n")  # the first line of a table of `ladle augment`
PICTURE_MARK = "drawn by ladle"  # in the metadata of every picture, so that it may be drawn again
_PICTURES = (b"\x89PNG", b"<?xml", b"%PDF")
_FILES, _COMMIT = "files", "commit.json"  # in these two: the files; the names of earlier files to delete


class Kind(NamedTuple):
    """A kind of folder that Ladle writes.

    names: all that Ladle writes directly in it. markers: (pattern of files, key of their JSON objects); a file with its
    key says that Ladle wrote the folder.
    """

    names: frozenset[str]
    markers: tuple[tuple[str, str], ...]

    def wrote(self, folder: Path) -> bool:
        """Whether Ladle wrote a folder of this kind here."""
        return any(key in known_json(path) for pattern, key in self.markers for path in folder.glob(pattern))


MODEL = Kind(
    frozenset({
        "README.md", "model.json", "backbone", "tokenizer", "bottleneck", "parallel_decoder", "denoiser", "condition",
        "judge", "judges", "source_encoder", "source_tokenizer", "sentence_encoder", "sentence_tokenizer",
        "decoder_condition", "words.txt", "phrases.json", "autoencoder_changes.safetensors",
    }),
    (("model.json", "ladle"),),
)  # fmt: skip
JUDGE = Kind(frozenset({"judge.json", "model.safetensors"}), (("judge.json", "vocabulary"),))
CONTROL = Kind(frozenset({"control.json", "model.safetensors"}), (("control.json", "space"),))
DIRECTION = Kind(frozenset({"direction.json", "model.safetensors"}), (("direction.json", "towards"),))
SCORER = Kind(
    frozenset({"autoregressive.json", "config.json", "model.safetensors", "tokenizer"}),
    (("autoregressive.json", "config"),),
)
PREFIX_CLASSIFIER = Kind(
    frozenset({"prefix_classifier.json", "model.safetensors"}), (("prefix_classifier.json", "config"),)
)
TOKEN_DIFFUSION = Kind(
    frozenset({"token_diffusion.json", "model.safetensors", "tokenizer"}), (("token_diffusion.json", "config"),)
)
RUN = Kind(
    frozenset({
        "recipe.toml", "config.json", "environment.json", "metrics.jsonl", "samples", "state", "final", "trackers",
    }),
    (("environment.json", "ladle"), ("state/*/state.json", "identity")),
)  # fmt: skip
# What no other output may replace. (Users may put their samples beside the run's own.)
_PARTS = ((MODEL, MODEL.names), (RUN, RUN.names - {"samples", "trackers", "final"}))
RESULTS = Kind(frozenset({"results.json", "table.md", "plots"}), (("results.json", "suite"),))


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
            temporary.touch()  # with the rights of any new file: safetensors alone gives them to the owner only
            mode = (real if real.exists() else temporary).stat().st_mode
            write(temporary)
            temporary.chmod(mode)
            _flush(temporary)
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
    with _saying(Path(path)):
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
    with making(target), _saying(Path(path)):
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
        _flush(new / _FILES / name)
    _flush(new / _COMMIT)
    os.rename(new, target / _PUT)


def recover_folder(path: PathLike) -> None:
    """Finish what a run was putting into a folder when it was killed. Call this before reading. Raises LadleError if
    that fails."""
    target = Path(os.path.realpath(path))
    put = target / _PUT
    if not put.is_dir():
        return
    with _saying(Path(path)):
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
        with _saying("standard output"):
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
    for given in _paths(inputs):
        with suppress(OSError):  # (one of them is missing)
            if os.path.samefile(given, target):  # by any link
                raise UserError(f"cannot write {target}: the command reads it; give another name")
    for whole in Path(os.path.realpath(target)).parents[:3]:
        if any(_name_in(target, whole) in names and kind.wrote(whole) for kind, names in _PARTS):
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
    if not head or _OWN_TABLE.match(head):
        return True
    if head.startswith(_PICTURES):
        return PICTURE_MARK.encode() in head
    return head[:1] == b"{" and any(mark in head for mark in _OF_LADLE)


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
    for given in _paths(inputs):
        if given.exists() and _name_in(given, target) in kind.names:
            raise UserError(f"{given} is an input, but {target} is written over it; give another folder")


def _paths(inputs: Iterable[Any]) -> list[Path]:
    """Those of a command's inputs that are paths."""
    paths = [given for given in inputs if isinstance(given, str | os.PathLike)]
    return [Path("/dev/stdin" if os.fspath(path) == STDIO else path) for path in paths]


def _name_in(path: Path, folder: Path) -> str | None:
    """The name, directly in `folder`, of what holds `path`; None if it is not in that folder."""
    real, inside = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    return inside.relative_to(real).parts[0] if real in inside.parents else None


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


def _flush(path: Path) -> None:
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
