"""What costs nothing in place of a model's texts: copies of the real rows, and real rows with a few words changed."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from ladle.data.rows import Row

CHANGED = 0.1  # share of a text's words that one edit changes, as in the paper; one word at least


def copies(rows: Sequence[Row], counts: Mapping[str, int], seed: int) -> list[Row]:
    """Real rows again, `counts[label]` of each label: each row equally often, the rest by chance."""
    return _of_rows(rows, counts, Random(seed), lambda text: text)


def word_edits(rows: Sequence[Row], counts: Mapping[str, int], seed: int) -> list[Row]:
    """Real rows with one edit each, `counts[label]` of each label: easy data augmentation (Wei and Zou 2019, arXiv
    1901.11196) without its list of synonyms.

    The edit is one of three, by chance: words are left out, words change places in pairs, or words are replaced by
    words of the set, drawn as often as the set has them.
    """
    generator = Random(seed)
    known = [word for row in rows for word in row["text"].split()]

    def edited(text: str) -> str:
        words = text.split()
        number = max(1, round(CHANGED * len(words)))
        if len(words) > 1:
            return " ".join(generator.choice([_without, _swapped, _replaced])(words, number, known, generator))
        return " ".join(_replaced(words, number, known, generator))

    return _of_rows(rows, counts, generator, edited)


def _without(words: list[str], number: int, known: list[str], generator: Random) -> list[str]:
    gone = set(generator.sample(range(len(words)), min(number, len(words) - 1)))
    return [word for place, word in enumerate(words) if place not in gone]


def _swapped(words: list[str], number: int, known: list[str], generator: Random) -> list[str]:
    words = list(words)
    for _ in range(number):
        one, other = generator.sample(range(len(words)), 2)
        words[one], words[other] = words[other], words[one]
    return words


def _replaced(words: list[str], number: int, known: list[str], generator: Random) -> list[str]:
    words = list(words)
    for place in generator.sample(range(len(words)), min(number, len(words))):
        words[place] = generator.choice(known)
    return words


def _of_rows(
    rows: Sequence[Row], counts: Mapping[str, int], generator: Random, change: Callable[[str], str]
) -> list[Row]:
    found: list[Row] = []
    for label, count in counts.items():
        own = [row["text"] for row in rows if row["label"] == label]
        whole, rest = divmod(count, len(own))
        found += [Row(text=change(text), label=label) for text in own * whole + generator.sample(own, rest)]
    return found
