"""Rows that a command draws one after the other. An interrupted command keeps them, and the same command goes on."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ladle.data.files import STDIO, PathLike
from ladle.data.rows import counted
from ladle.errors import UserError
from ladle.storage.row_tables import is_csv, write_table
from ladle.storage.run_folder import locked
from ladle.storage.writing import append_text, atomic_text, to_json, write_lines, write_rows


class PartialRows:
    """Rows on their way to an output.

    rows: those that an interrupted run of the same command drew. remembered: what that run was given to remember.
    count: of the rows that are kept so far.
    """

    def __init__(self, output: PathLike, path: Path | None, command: str, remember: Any) -> None:
        self.output, self.path, self.command, self.remembered = output, path, command, remember
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            head, *self.rows = _whole_lines(path) or [{}]
            if head.get("command") != self.command:
                what = f"{path} holds rows of another command that was interrupted"
                raise UserError(f"{what}; run that again to finish it, delete the file, or give another --output")
            self.remembered = head["remembered"]
        self.count = len(self.rows)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write `rows`, which follow those in `self.rows`. Returns the number of all. A file gets its name when it is
        whole. Raises as `write_rows`."""
        if self.path is None:  # (standard output, a pipe: row by row)
            return write_rows(self.output, rows)
        head = {"command": self.command, "remembered": self.remembered}
        atomic_text(self.path, "".join(f"{to_json(row)}\n" for row in (head, *self.rows)))  # (without a cut last line)
        for row in rows:
            append_text(self.path, f"{to_json(row)}\n")
            self.count += 1
        if is_csv(self.output):
            write_table(self.output, _whole_lines(self.path)[1:])
        else:
            with open(self.path, "rb") as lines:
                lines.readline()
                write_lines(self.output, lines)
        self.path.unlink()
        return self.count


@contextmanager
def partial_rows(
    output: PathLike, command: str, remember: Any = None, *, log: Callable[[str], None]
) -> Iterator[PartialRows]:
    """Rows for `output`: CSV by its name, else JSON Lines. A file's rows wait in OUTPUT.partial until all are there.

    Args:
        command: a fingerprint of all that the rows depend on. Only the same command goes on.
        remember: a JSON value that the same command gets back when it goes on, such as a random seed.
        log: gets a line when the command goes on, and when it ends early.

    Raises:
        UserError: rows of another command wait for this output, or another process writes them.
    """
    target = Path(os.path.realpath(output))
    if os.fspath(output) == STDIO or (target.exists() and not target.is_file()):  # (a pipe, a device)
        yield PartialRows(output, None, command, remember)
        return
    path = target.with_name(f"{target.name}.partial")
    with locked(output, target.with_name(f".{target.name}.lock")):
        kept = PartialRows(output, path, command, remember)
        if kept.rows:
            log(f"{counted(kept.count, 'row')} drawn before; going on from there")
        elif target.exists() and target.stat().st_size:
            log(f"{output} exists; it is replaced when all new rows are there")
        try:
            yield kept
        except BaseException as error:
            if kept.count and path.exists():
                log(f"{counted(kept.count, 'row')} kept in {path}; the same command goes on from there")
            else:
                path.unlink(missing_ok=True)
                if isinstance(error, KeyboardInterrupt):
                    log(f"no row was drawn yet; {output} is unchanged" if target.exists() else "no row was drawn yet")
            raise


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file's lines, up to the first line that is cut or damaged."""
    found: list[dict[str, Any]] = []
    with suppress(ValueError, TypeError):
        for line in path.read_bytes().splitlines(keepends=True):
            found.append({**json.loads(line if line.endswith(b"\n") else "")})
    return found
