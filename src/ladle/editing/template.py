"""A text with blanks: what is given and must stay, and where words are wanted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ladle.autoencoder.backbone import Backbone
from ladle.editing.vocabulary import uncut_tokens
from ladle.errors import UserError

BLANK = re.compile(r"_{3,}")
ENDED = re.compile(r"""(^|[.!?…]["'”’)\]]*)\s*$""")  # a text before which, and behind which, stand whole sentences
BREAK = re.compile(r"""[.!?…;:]["'”’)\]]*(\s|$)""")
LEAST = 3  # tokens that a blank may need for one word


@dataclass(frozen=True)
class Template:
    """The pieces that are given, to the letter: the one before the first blank, those between two blanks, the one after
    the last. A piece may be empty."""

    pieces: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """A blank is three or more underscores. Raises UserError: no blank, an empty template."""
        if not text.strip():
            raise UserError("the template is empty; give a text with blanks, such as 'The ___ served ___ food.'")
        pieces = tuple(BLANK.split(text))
        if len(pieces) == 1:
            raise UserError(f"the template {text!r:.60} has no blank; write ___ where words are wanted")
        return cls(pieces)

    @property
    def num_blanks(self) -> int:
        """How many blanks there are, 1 at least."""
        return len(self.pieces) - 1

    @property
    def known(self) -> str:
        """What is given, as a text without blanks; empty where only blanks are given."""
        return re.sub(r"\s+([.,;:!?])", r"\1", " ".join(" ".join(self.pieces).split()))

    def before(self, fills: Sequence[str]) -> str:
        """The text up to the blank after these fills; with a fill for each blank the whole text."""
        return "".join(piece + fill for piece, fill in zip(self.pieces, [*fills, ""], strict=False))

    def is_between_sentences(self, fills: Sequence[str]) -> bool:
        """Whether the blank after these fills stands between two sentences, so that sentences may stand in it."""
        rest = self.pieces[len(fills) + 1].lstrip()
        return bool(ENDED.search(self.before(fills))) and not rest[:1].islower() and rest[:1].isalnum()

    def check_room(self, backbone: Backbone) -> None:
        """Raises UserError if the template leaves no room for a word in every blank."""
        size = len(uncut_tokens(backbone.tokenizer, [" ".join(self.pieces)])[0])
        room = backbone.max_tokens - size - LEAST * self.num_blanks
        if room < 0:
            what = f"the template has {size} tokens and {self.num_blanks} blanks, and the model holds texts of"
            raise UserError(f"{what} {backbone.max_tokens} tokens; shorten the template by {-room} tokens")
