"""The application that verbs belong to, the kinds of arguments that they share, and what they say."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, Token

from ladle.data.files import STDIO
from ladle.errors import UserError
from ladle.version import __version__

DASH = "(standard input or output)"  # stands for a lone `-` while cyclopts, which takes that for an option, parses


def _file(_: type, tokens: Sequence[Token]) -> str:
    return tokens[0].value.replace(DASH, STDIO)


File = Annotated[str, Parameter(converter=_file)]
Decoder = Literal["autoregressive", "parallel"]
OutputFile = Annotated[str, Parameter(name=("--output", "-o"), converter=_file)]

app = App(
    name="ladle",
    help="Latent diffusion for text: train it on a file of your own, then sample from it.",
    help_epilogue="With any verb, --debug shows where an error comes from. `-` is standard input or output.",
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


def check_counts(counts: Mapping[str, int | None]) -> None:
    """Refuse counts below 1. Raises UserError."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")


def say_cut(tokenizer: Any, limit: int, texts: Sequence[str], what: str) -> None:
    """Say how many texts are longer than `limit` tokens."""
    from ladle.data.stores import count_cut

    cut = count_cut(tokenizer, list(texts), limit)
    if cut:
        log(f"{cut:,} of {len(texts):,} {what} are longer than the model's {limit} tokens and were cut")


def say_wrote(output: str, count: int) -> None:
    """Say how many rows went to a file."""
    if output != STDIO:
        log(f"{count:,} rows written to {output}")


def log(line: str) -> None:
    """A line for the user."""
    from ladle.training.progress import say

    say(line)
