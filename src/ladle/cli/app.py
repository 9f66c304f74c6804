"""The application that the verbs belong to, with the argument types and the messages that they share."""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, Token

from ladle.data.columns import Columns
from ladle.data.files import STDIO
from ladle.data.rows import Row, counted, read_and_tell
from ladle.errors import UserError
from ladle.storage.partial_rows import PartialRows
from ladle.version import __version__

DASH = "(standard input or output)"  # replaces a lone `-` during parsing: cyclopts would read `-` as an option


def _file(_: type, tokens: Sequence[Token]) -> str:
    return tokens[0].value.replace(DASH, STDIO)


def pasted(path: str | os.PathLike[str]) -> str:
    """A path as it can be pasted into a command."""
    given = os.fspath(path)
    return shlex.quote(f"./{given}" if given.startswith("-") else given)


def _whole(_: type, tokens: Sequence[Token]) -> int:
    name, value = tokens[0].keyword or "", tokens[0].value
    try:
        return int(value)  # (cyclopts rounds 2.5)
    except ValueError:
        raise UserError(f"{name}: '{value}' is not a whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]
File = Annotated[str, Parameter(converter=_file)]
# Values or names, one for each time that the option is given.
Names = Annotated[list[str] | None, Parameter(converter=lambda _, tokens: [_file(str, [token]) for token in tokens])]
Decoder = Literal["autoregressive", "parallel"]
OutputFile = Annotated[str, Parameter(name=("--output", "-o"), converter=_file)]
OutputFolder = Annotated[Path, Parameter(name=("--output", "-o"))]
ColumnNames = Annotated[Columns | None, Parameter(name="*")]  # --text, --label, --source, --references

app = App(
    name="ladle",
    help="Latent diffusion for text: train a model on your own file, then draw new texts from it.",
    help_epilogue="Every command takes --debug: it shows where an error comes from. `-` is standard input or output.",
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


def say_cut(tokenizer: Any, limit: int, texts: Sequence[str], what: str) -> None:
    """Log how many texts are longer than `limit` tokens."""
    from ladle.data.stores import count_cut

    if cut := count_cut(tokenizer, texts, limit):
        log(f"{cut:,} of {len(texts):,} {what} are longer than the model's {limit} tokens and were cut")


def write_and_say(kept: PartialRows, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows after those that are kept. Log how many rows were written when the output is a file."""
    count, output = kept.write(rows), kept.output
    if output != STDIO:
        log(f"{counted(count, 'row')} written to {output}")


def read_and_say(path: str, model: str, columns: Columns, **options: Any) -> list[Row]:
    """Read rows, and log the notes. The names of the columns that `model` was trained on are tried first."""

    def trained() -> Columns:
        from ladle.storage.names import resolve_model
        from ladle.storage.record import read_record

        return Columns.of(read_record(resolve_model(model)).info)

    return read_and_tell(path, columns, log, brief=True, hints=trained, **options)


def log(line: str) -> None:
    """Show a line to the user."""
    from ladle.training.progress import say

    say(line)
