"""Plain counts over sets of texts: empty, distinct, n-gram diversity, overlap with the training text, lengths.

All functions are pure, take lists of strings and are defined for empty texts and for empty lists. An empty text is
one without a character other than white space. It is never dropped: it counts in every denominator over texts.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import regex

# Scripts written without spaces count a character as a word; else a run of letters, marks and digits is one, with
# what an apostrophe joins ("isn't"); any other character stands alone.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}"
_TOKEN = regex.compile(
    rf"(?V1)[{_UNSPACED}]|[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]+(?:['\u2019][\p{{L}}\p{{M}}]+)*|[^\s]"
)
_WORD = regex.compile(rf"(?V1)[{_UNSPACED}]|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+")
_WORDLESS = regex.compile(r"[^\p{L}\p{M}\p{N}]+")


def tokenise(text: str) -> list[str]:
    """Words and single punctuation marks, case kept: the units of all n-gram metrics here."""
    return _TOKEN.findall(text)


def words_of(text: str) -> list[str]:
    """Words alone, in lower case, parted at apostrophes too: for English as rouge-score's own tokenizer."""
    return _WORD.findall(text.casefold())


def is_empty(text: str) -> bool:
    """No character but white space."""
    return not text.strip()


def copy_key(text: str) -> str:
    """The text without case, spaces and punctuation: two texts with one key count as the same text."""
    return _WORDLESS.sub("", text.casefold())


def ngrams(tokens: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """All runs of `order` tokens; none where the text is shorter."""
    return [tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1)]


def _all_ngrams(rows: Iterable[Sequence[str]], order: int) -> list[tuple[str, ...]]:
    return [gram for row in rows for gram in ngrams(row, order)]


def distinct_share(texts: Sequence[str]) -> float:
    """Number of different texts over number of texts, 0 to 1. White space at the ends and its amount are ignored. All
    empty texts count as one text. No texts: 0."""
    return len({" ".join(text.split()) for text in texts}) / len(texts) if texts else 0.0


def diversity(rows: Sequence[Sequence[str]]) -> float:
    """Div of the paper (arXiv 2212.09462): the product over n = 2..4 of unique over total n-grams of the whole set.

    rows: the tokens of each text. Div falls with the number of texts, so compare only sets of the same size. An order n
    is left out if no text is long enough. If no order is left (no texts, or only empty or one-word texts), Div is 0.
    """
    shares = [share for order in (2, 3, 4) if (share := distinct_ngrams(rows, order))]
    return math.prod(shares) if shares else 0.0


def distinct_ngrams(rows: Iterable[Sequence[str]], order: int) -> float:
    """distinct-n (Li et al. 2016, arXiv 1510.03055): unique over total n-grams of the whole set. It falls with the
    number of texts. No n-gram at all: 0."""
    grams = _all_ngrams(rows, order)
    return len(set(grams)) / len(grams) if grams else 0.0


def entropy(rows: Iterable[Sequence[str]]) -> float:
    """Shannon entropy, in nats, of the set's n-grams (Zhang et al. 2018, arXiv 1809.05972: Ent-4). It grows with the
    number of n-grams, to the log of that number if all differ. No n-gram at all: 0."""
    counts = np.array(list(Counter(_all_ngrams(rows, 4)).values()), dtype=float)
    if not len(counts):
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def ngram_set(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """All 4-grams of a corpus, for `memorised_ngrams`."""
    return {gram for text in texts for gram in ngrams(tokenise(text), 4)}


def memorised_ngrams(texts: Sequence[str], training: set[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Per text: how many of its 4-grams are in the training text, and how many it has. Two int arrays [N]."""
    rows = [ngrams(tokenise(text), 4) for text in texts]
    found = np.array([sum(gram in training for gram in row) for row in rows], dtype=int)
    return found, np.array([len(row) for row in rows], dtype=int)


def is_copy(texts: Sequence[str], training: Iterable[str]) -> np.ndarray:
    """Per text: does a training row equal it, compared by `copy_key`? Bool array [N]. Texts without a letter or
    digit are never copies."""
    keys = {copy_key(text) for text in training} - {""}
    return np.array([copy_key(text) in keys for text in texts], dtype=bool)


def lengths(texts: Sequence[str]) -> np.ndarray:
    """Words of each text (tokens that hold a letter or digit), int array [N]; an empty text has 0."""
    return np.array([sum(bool(_WORDLESS.sub("", token)) for token in tokenise(text)) for text in texts], dtype=int)


def wasserstein(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float:
    """1-Wasserstein distance of two samples of a number: the area between their distribution functions, in the
    number's unit. A side without numbers stands for a single 0."""
    a, b = (np.sort(np.asarray(side, dtype=float)) if len(side) else np.zeros(1) for side in (one, other))
    points = np.sort(np.concatenate([a, b]))
    height_a = np.searchsorted(a, points[:-1], side="right") / len(a)
    height_b = np.searchsorted(b, points[:-1], side="right") / len(b)
    return float(np.sum(np.abs(height_a - height_b) * np.diff(points)))
