"""How a command ends: every failure becomes one line on standard error and an exit code.

0 done, 1 failed, 2 wrong use or input, 130 interrupted, 141 the reader of standard output has gone, 143 terminated (a
shell shows the last three for any tool). A traceback is shown only with --debug.
"""

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

from cyclopts import CoercionError, CycloptsError

from ladle.errors import LadleError, UserError

INTERRUPTED, READER_GONE, TERMINATED = 130, 141, 143
_SMALLER_BATCH = "a smaller --batch-size, such as 32"
_LESS_MEMORY = {
    "train": "--set training.optimiser.max_tokens=2048", "sample": _SMALLER_BATCH, "reconstruct": _SMALLER_BATCH,
    "embed": _SMALLER_BATCH, "augment": f"--set training.optimiser.max_tokens=2048 and {_SMALLER_BATCH}",
}  # fmt: skip


def run(command: Callable[[Sequence[str]], object], words: Sequence[str], *, debug: bool = False) -> int:
    """Call `command(words)`, report a failure in one line, and return the exit code.

    debug: also show the traceback and the libraries' warnings. Raises SystemExit when the process receives SIGTERM.
    """
    interrupts: list[int] = []
    try:
        with _signals(interrupts), nullcontext() if debug else _quiet():
            command(words)
            sys.stdout.flush()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code, line = _explain(error, words, interrupted=bool(interrupts))
    _settle_output()
    if line:
        with suppress(OSError):  # (nobody may read that either)
            print("ladle: " + " ".join(line.split()), file=sys.stderr)
    return code


def open_closed_streams() -> None:
    """Give streams that the shell closed (`>&-`) to the null device. Else the next file gets their numbers, and what
    anyone prints goes into it."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _explain(error: BaseException, words: Sequence[str], interrupted: bool) -> tuple[int, str]:
    """The exit code of a failure, and its message ("" for no message). interrupted: by Ctrl-C, whatever came of it in
    a library that was at work."""
    match error:
        case BrokenPipeError():
            return READER_GONE, ""
        case CycloptsError():
            return UserError.exit_code, _usage(error)
        case LadleError():
            return error.exit_code, str(error)
        case _ if interrupted or isinstance(error, KeyboardInterrupt):
            resumes = words[:1] in (["train"], ["benchmark"], ["augment"]) or words[:2] == ["fit", "scorer"]
            return INTERRUPTED, "interrupted" + "; run the same command again to go on from there" * resumes
        case _ if _is_out_of_memory(error):
            remedy = _LESS_MEMORY.get("".join(words[:1]), "fewer or shorter texts, or on a machine with more memory")
            return LadleError.exit_code, f"out of memory; try again with {remedy}"
        case OSError():
            return LadleError.exit_code, str(error)
    said = f"{type(error).__name__}: {str(error)[:200]}"
    return LadleError.exit_code, f"internal error ({said}); run again with --debug to see where"


def _usage(error: CycloptsError) -> str:
    if isinstance(error, CoercionError) and error.token and error.token.keyword and error.target_type is float:
        return f"{error.token.keyword}: '{error.token.value}' is not a number"
    error.verbose = False  # else it speaks of functions and tokens
    verb = " ".join(error.command_chain or ())
    line = str(error).rstrip()
    return line if "Did you mean" in line else f"{line} See: ladle {verb} --help".replace("  ", " ")


def _is_out_of_memory(error: BaseException) -> bool:
    """Know Python's error by type, CUDA's by its name (torch may not be loaded), the CPU allocator's by its words."""
    words = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or any(word in str(error) for word in words))
    )


def _settle_output() -> None:
    """Flush standard output. If that fails, send the rest to the null device: else Python reports it at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def _signals(interrupts: list[int]) -> Iterator[None]:
    """Turn SIGTERM into an exception, so that half-written files are removed. Note each SIGINT in `interrupts`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)

    def interrupt(number: int, frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    earlier = {signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # nohup, a job in the background: it stays ignored
        earlier[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and progress bars of libraries off standard error."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
