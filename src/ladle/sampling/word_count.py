"""Texts of a wanted number of words: which range is wanted, and further draws of texts that are outside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ladle.data.rows import counted
from ladle.errors import UserError
from ladle.sampling.candidates import Candidate
from ladle.sampling.options import SamplingOptions

TRIES, TRIES_EACH = 36, 3  # draws of a text's words, the first included; those from the same latents
# Those in which texts may end where they like. (A text that must go on behind its last word goes on with signs.)
FREE_TRIES = 9
# How further tries draw words where words are not drawn otherwise: as base-en does.
DRAWN_AGAIN: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9}
TOKENS_A_WORD = 1.5  # at most as a rule, signs included: so many latents a text of aligned latents may have


@dataclass(frozen=True)
class WordRange:
    """From `least` to `most` words (None: any number)."""

    least: int = 0
    most: int | None = None

    @classmethod
    def of(cls, options: SamplingOptions) -> Self | None:
        """The range that the options ask for; None: they ask for none."""
        if options.min_words is None and options.max_words is None:
            return None
        return cls(options.min_words or 0, options.max_words)

    def distance(self, text: str) -> int:
        """How many words the text has too few or too many."""
        count = count_words(text)
        return max(0, self.least - count, 0 if self.most is None else count - self.most)

    def check(self, max_tokens: int) -> None:
        """Raises UserError if a text of `max_tokens` tokens cannot have so many words: each has a token, and so has the
        end."""
        if self.least > max_tokens - 1:
            most = f"this model's texts have at most {max_tokens} tokens, so at most {max_tokens - 1} words"
            raise UserError(f"min_words is {self.least}, but {most}; give a smaller number")

    def num_latents(self, tokens_per_latent: int) -> tuple[int, int | None]:
        """The smallest and the largest number of aligned latents that a text of so many words should have."""
        most = None if self.most is None else -int(-(TOKENS_A_WORD * self.most + 1) // tokens_per_latent)
        return -(-(self.least + 1) // tokens_per_latent), most

    def __str__(self) -> str:
        if self.most is None:
            return f"{self.least} words or more"
        if self.least in (0, self.most):
            return f"{'at most ' * (self.least == 0)}{counted(self.most, 'word')}"
        return f"{self.least} to {self.most} words"


def count_words(text: str) -> int:
    """The number of words: what spaces separate, if it has a letter or a digit."""
    return sum(any(sign.isalnum() for sign in piece) for piece in text.split())


def write_ending(
    words: WordRange, write: Callable[..., None], part: Sequence[Candidate], number: int, *, drawn: bool
) -> list[bool]:
    """Write the texts of `part`. Whether each ended by itself, and was not cut.

    write: (candidates, options of `decode_texts`) sets their texts. number: of the try, from 0. From FREE_TRIES on no
    text may end too early. drawn: whether words are drawn in the first try too.
    """
    ended: dict[int, bool] = {}
    how = DRAWN_AGAIN if number and not drawn else {}
    least = words.least if number >= FREE_TRIES else 0
    write(part, may_end=lambda text: count_words(text) >= least, ended=ended, **how)
    return [ended[place] for place in range(len(part))]


def write_in_range(
    words: WordRange,
    candidates: Sequence[Candidate],
    draw: Callable[[Sequence[Candidate]], None],
    write: Callable[[Sequence[Candidate], int], list[bool]],
) -> None:
    """Write the candidates' texts from their latents, again and again until they have as many words as wanted and end
    by themselves. After each `TRIES_EACH` tries from the same latents come new latents. All further numbers are of a
    candidate's own stream, so its text does not depend on the others.

    A candidate whose texts are never right gets the nearest one, the first of equals, with its latents.

    draw: draws the latents of some candidates. write: (candidates, number of the try from 0) sets their texts, and
    returns whether each ended by itself.
    """
    best: dict[int, Candidate] = {}
    misses: dict[int, tuple[bool, int]] = {}  # not ended, words too few or too many
    left = dict(enumerate(candidates))
    for number in range(TRIES):
        if number and number % TRIES_EACH == 0:
            draw([*left.values()])
        ended = write([*left.values()], number)
        for (place, one), by_itself in zip(left.items(), ended, strict=True):
            miss = not by_itself, words.distance(one.text)
            if place not in best or miss < misses[place]:
                best[place], misses[place] = replace(one), miss
        left = {place: one for place, one in left.items() if misses[place] > (False, 0)}
        if not left:
            break
    for place, one in enumerate(candidates):
        kept = best[place]
        one.latents, one.log_snr, one.text = kept.latents, kept.log_snr, kept.text
        one.fits = misses[place] == (False, 0)


def missed_line(texts: Sequence[str], options: SamplingOptions) -> str | None:
    """A line that says how many of the texts have too few or too many words. None: no text, or no range is wanted."""
    words = WordRange.of(options)
    missed = 0 if words is None else sum(words.distance(text) > 0 for text in texts)
    if not missed:
        return None
    return f"{missed:,} of {counted(len(texts), 'text')} have not {words} after {TRIES} tries; each is the nearest"
