"""The folder of a training: only one process at a time trains in it, and a refused command leaves it as it was."""

import json
import os
import platform
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ladle.data.files import PathLike, known_json
from ladle.errors import LadleError, UserError
from ladle.storage.folders import check_folder
from ladle.storage.kinds import MODEL, RUN, Kind
from ladle.storage.writing import atomic_json, making, remove
from ladle.version import __version__

LOCK = ".ladle.lock"


@contextmanager
def run_folder(path: PathLike, inputs: Iterable[Any] = (), final: Kind = MODEL) -> Iterator[None]:
    """Train in the run folder `path`: check it, lock it, and say in environment.json that Ladle made it.

    inputs: what the command reads. final: what its folder `final` will be.

    Raises:
        UserError: as `check_folder` and `locked`. A new folder is removed if the block raises UserError before a stage
            has saved its state.
    """
    check_folder(path, RUN, inputs)
    folder = Path(path)
    check_folder(folder / "final", final)
    with locked(folder):
        new = not RUN.wrote(folder)
        if new:
            atomic_json(folder / "environment.json", environment())
        try:
            yield
        except UserError:
            if new and not any(folder.glob("state/*/state.json")):
                for name in RUN.names:  # none of them was there: `check_folder`
                    remove(folder / name)
            raise


@contextmanager
def locked(path: PathLike, file: Path | None = None) -> Iterator[None]:
    """Hold the lock of an output. The system frees the lock of a process that dies.

    file: the file that is locked, which is there only meanwhile; by default it is in the folder `path`. The folder that
    it is in is made if it is missing.

    Raises:
        UserError: another process holds it (the message says which). LadleError: the folder cannot be written.
    """
    file = file or Path(os.path.realpath(path)) / LOCK
    lock = FileLock(file)
    with making(file.parent):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            holder = known_json(file)
            who = "process {process} on {host} since {since}".format_map(holder) if holder else "another process"
            raise UserError(f"{path} is in use by {who}; wait until that ends, or give another --output") from None
        except OSError as error:
            raise LadleError(f"cannot write {path}: {error.strerror or error}") from error
        try:
            holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M")}
            with suppress(OSError):
                file.write_text(json.dumps(holder), encoding="utf-8")
            yield
        finally:
            with suppress(OSError):
                file.unlink()  # (before the release: a file that was unlocked may be another's already)
            lock.release()


def environment() -> dict[str, str]:
    """The machine and the versions that a model was trained with."""
    versions = {package: version(package) for package in ("torch", "transformers", "accelerate", "tokenizers")}
    return {
        "python": platform.python_version(), "platform": platform.platform(), "ladle": __version__, **versions
    }  # fmt: skip
