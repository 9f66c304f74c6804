"""The application that verbs belong to, the kinds of arguments that they share, and what they say."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, Token

from ladle.data.files import STDIO
from ladle.data.rows import Columns, Row, read_rows
from ladle.errors import UserError
from ladle.storage.writing import write_rows
from ladle.version import __version__

DASH = "(standard input or output)"  # stands for a lone `-` while cyclopts, which takes that for an option, parses


def _file(_: type, tokens: Sequence[Token]) -> str:
    return tokens[0].value.replace(DASH, STDIO)


File = Annotated[str, Parameter(converter=_file)]
Decoder = Literal["autoregressive", "parallel"]
OutputFile = Annotated[str, Parameter(name=("--output", "-o"), converter=_file)]
OutputFolder = Annotated[Path, Parameter(name=("--output", "-o"))]
ColumnNames = Annotated[Columns | None, Parameter(name="*")]  # --text, --label, --source

app = App(
    name="ladle",
    help="Latent diffusion for text: train it on a file of your own, then sample from it.",
    help_epilogue="With any verb, --debug shows where an error comes from. `-` is standard input or output.",
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse counts below 1. Raises UserError."""
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")


def say_cut(tokenizer: Any, limit: int, texts: Sequence[str], what: str) -> None:
    """Say how many texts are longer than `limit` tokens."""
    from ladle.data.stores import count_cut

    if cut := count_cut(tokenizer, texts, limit):
        log(f"{cut:,} of {len(texts):,} {what} are longer than the model's {limit} tokens and were cut")


def write_and_say(output: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, and say how many went to a file."""
    count = write_rows(output, rows)
    if output != STDIO:
        log(f"{count:,} rows written to {output}")


def read_and_say(path: str, **options: Any) -> list[Row]:
    """`read_rows`, which has the options; what it notes is said."""
    notes: list[str] = []
    rows = read_rows(path, notes=notes, **options)
    for note in notes:
        log(note)
    return rows


def log(line: str) -> None:
    """A line for the user."""
    from ladle.training.progress import say

    say(line)
