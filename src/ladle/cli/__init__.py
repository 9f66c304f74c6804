"""The command line. Each verb is one function, in the file of the same name.

Data go to standard output; progress bars and messages go to standard error. Heavy imports wait until a verb needs them.
"""

import io
import sys
from collections.abc import Sequence
from functools import partial

from ladle.cli import (  # noqa: F401 (their verbs)
    augment,
    benchmark,
    control,
    convert,
    edit,
    embed,
    evaluate,
    exit_codes,
    infill,
    inspect,
    likelihood,
    plot,
    sample,
    train,
)
from ladle.cli.app import DASH, app
from ladle.data.files import STDIO
from ladle.memory import keep_freed_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: the arguments of the process) and return the exit code."""
    exit_codes.open_closed_streams()
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):  # a sign that the terminal cannot show must not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = sys.argv[1:] if arguments is None else arguments
    words = [DASH if word == STDIO else word for word in given if word != "--debug"]
    call = partial(app, exit_on_error=False, print_error=False, result_action="return_value")
    return exit_codes.run(call, words, debug="--debug" in given)
