"""Calls the command line in this process as a shell would, and checks what no call may break.

The rules: the exit code is 0, 1, 2, 130 or 141; a call that fails writes at most four lines to standard error; nobody
sees a traceback; no file changes but the output that the call names.
"""

import io
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from ladle.cli import main

EXIT_CODES = {0, 1, 2, 130, 141}
MOST_LINES = 4  # on standard error, of a call that fails
MOST_LINES_OF_TRAINING = 20  # a training that fails on its way has said what it read and did
LONGEST = 60  # seconds: a call that takes longer hangs


class Ended(NamedTuple):
    """A call that has ended: its exit code, and what it wrote."""

    words: list[str]
    code: int
    out: bytes
    err: str


def call(words: Sequence[str], stdin: bytes = b"", *, interrupt_after: float | None = None) -> Ended:
    """Run one command. interrupt_after: seconds until Ctrl-C."""
    # As in a new process. (Ctrl-C inside torch's own context managers may leave them open.)
    torch.set_autocast_enabled("cpu", False)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    streams = sys.stdin, sys.stdout, sys.stderr
    out = io.BytesIO()
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
    sys.stderr = io.StringIO()
    try:
        with _alarm(LONGEST if interrupt_after is None else max(interrupt_after, 1e-3), interrupt_after is not None):
            code = main(list(words))
        sys.stdout.flush()
        return Ended(list(words), code, out.getvalue(), sys.stderr.getvalue())
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams


class HangsError(BaseException):
    """A call does not end. (No `except Exception` may catch it.)"""


@contextmanager
def _alarm(seconds: float, interrupts: bool) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        if not interrupts:
            raise HangsError(f"the call runs for over {LONGEST} s")
        signal.raise_signal(signal.SIGINT)

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond `room` bytes: the system then says what it says of a disk without room."""
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, earlier[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)
        signal.signal(signal.SIGXFSZ, ignored)


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may write everywhere. So tests that root runs become another user for the time of the call."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file under a folder with its content (None: a folder, a link or a device)."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }


def check(ended: Ended, before: dict[str, bytes | None], folder: Path, may_change: Sequence[str] = ()) -> None:
    """The rules. may_change: names under `folder`, files or folders, that the call names as its output."""
    said = f"{ended.words}: exit code {ended.code}, standard error: {ended.err[-2000:]}"
    assert ended.code in EXIT_CODES, said
    assert "Traceback" not in ended.err and "internal error" not in ended.err, said
    if ended.code:
        assert ended.code in (130, 141) or ended.err.strip(), f"a failure without a word: {said}"
        most = MOST_LINES_OF_TRAINING if ended.words[:1] == ["train"] else MOST_LINES
        assert ended.code == 130 or len(ended.err.splitlines()) <= most, said
    after = snapshot(folder)
    ours = tuple(name for name in may_change if name)
    for name, content in before.items():
        if not _within(name, ours):
            assert name in after, f"{name} is gone; {said}"
            assert after[name] == content, f"{name} has changed; {said}"
    made = [output for output in ours if output in after]
    for name in after.keys() - before.keys():  # (the folders that a written output lies in are made too)
        assert _within(name, ours) or any(_within(output, [name]) for output in made), f"{name} was left behind; {said}"


def _within(name: str, folders: Sequence[str]) -> bool:
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)
