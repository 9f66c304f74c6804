"""The two kinds of failure that a user sees as one line.

Any other exception is a defect of Ladle and keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class LadleError(Exception):
    """Something outside the user's control went wrong (full disk, damaged state): exit code 1."""

    exit_code = 1

    def __str__(self) -> str:
        return super().__str__().replace("\n", " ")  # one line, whatever was given


class UserError(LadleError):
    """Wrong use or wrong input: exit code 2. The message says what was given, what is allowed and what to do."""

    exit_code = 2


def first_line(error: Exception) -> str:
    """The message of an error, as one line."""
    if "ConnectError" in str(error):  # of a hub library, with an address and an error number
        return "the hub cannot be reached"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def from_extra(needs: str, extra: str, package: str) -> Iterator[None]:
    """Wraps the import of a package that a plain install leaves out. needs: the subject, such as "MAUVE needs".

    Raises:
        UserError: the extra is not installed.
    """
    try:
        yield
    except ImportError:
        where = f"in Ladle's folder: pip install '.[{extra}]' -c constraints.txt"
        raise UserError(f"{needs} a package that is not installed ({package}); {where}") from None
