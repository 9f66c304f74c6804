"""The application that the verbs belong to, with the argument types and the messages that they share."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, Token

from ladle.data.files import STDIO
from ladle.data.rows import Columns, Row, counted, read_rows
from ladle.errors import UserError
from ladle.storage.writing import write_rows
from ladle.version import __version__

DASH = "(standard input or output)"  # replaces a lone `-` during parsing: cyclopts would read `-` as an option


def _file(_: type, tokens: Sequence[Token]) -> str:
    return tokens[0].value.replace(DASH, STDIO)


File = Annotated[str, Parameter(converter=_file)]
Decoder = Literal["autoregressive", "parallel"]
OutputFile = Annotated[str, Parameter(name=("--output", "-o"), converter=_file)]
OutputFolder = Annotated[Path, Parameter(name=("--output", "-o"))]
ColumnNames = Annotated[Columns | None, Parameter(name="*")]  # --text, --label, --source

app = App(
    name="ladle",
    help="Latent diffusion for text: train a model on your own file, then draw new texts from it.",
    help_epilogue="Every command takes --debug: it shows where an error comes from. `-` is standard input or output.",
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse counts below 1. Raises UserError."""
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1")


def say_cut(tokenizer: Any, limit: int, texts: Sequence[str], what: str) -> None:
    """Log how many texts are longer than `limit` tokens."""
    from ladle.data.stores import count_cut

    if cut := count_cut(tokenizer, texts, limit):
        log(f"{cut:,} of {len(texts):,} {what} are longer than the model's {limit} tokens and were cut")


def write_and_say(output: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows. Log how many rows were written when the output is a file."""
    count = write_rows(output, rows)
    if output != STDIO:
        log(f"{counted(count, 'row')} written to {output}")


def read_and_say(path: str, **options: Any) -> list[Row]:
    """Call `read_rows` with `options`, and log its notes."""
    notes: list[str] = []
    rows = read_rows(path, notes=notes, **options)
    for note in notes:
        log(note)
    return rows


def log(line: str) -> None:
    """Show a line to the user."""
    from ladle.training.progress import say

    say(line)
