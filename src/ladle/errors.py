"""The two kinds of failure that a user is told about in one line.

Everything else is a defect of ours and keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class LadleError(Exception):
    """Something outside the user's control went wrong (full disk, damaged state): exit code 1."""

    exit_code = 1


class UserError(LadleError):
    """Wrong use or wrong input. Says what was given, what is allowed, what to do: exit code 2."""

    exit_code = 2


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def from_extra(needs: str, extra: str, package: str) -> Iterator[None]:
    """Around the import of a package that a plain install leaves out. needs: "MAUVE needs", say.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        yield
    except ImportError:
        raise UserError(f"{needs} an extra: pip install 'ladle[{extra}]' ({package})") from None
