"""The two kinds of failure that a user is told about in one line.

Everything else is a defect of ours and keeps its traceback.
"""


class LadleError(Exception):
    """Something outside the user's control went wrong (full disk, damaged state): exit code 1."""

    exit_code = 1


class UserError(LadleError):
    """Wrong use or wrong input. Says what was given, what is allowed, what to do: exit code 2."""

    exit_code = 2
