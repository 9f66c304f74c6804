"""The novelty audit: for each sample the training text nearest to it, and the longest run of words it shares with one.

Neither is a score to be driven to zero: held-out text has neighbours in the training text too, and stands beside.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ladle.errors import from_extra
from ladle.evaluation.text_stats import tokenise

CHUNK = 64  # samples compared at once: 64 x 100,000 distances are 26 MB
WORST = 20
QUANTILES = (0.5, 0.9, 0.99)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing modulo 2^64


@dataclass(frozen=True)
class Neighbour:
    """text: the sample. nearest: the training text at the least edit distance. similarity: 1 - edits / longer length,
    in characters. span: the longest run of words that some training text holds; num_span_words, span_share: its length,
    in words and as a share of the sample's."""

    text: str
    nearest: str
    similarity: float
    span: str
    num_span_words: int
    span_share: float


def audit(texts: Sequence[str], training: Sequence[str]) -> list[Neighbour]:
    """One row a sample, in order. An empty sample is near to nothing; without training texts all are."""
    similarity, nearest = nearest_texts(texts, training)
    spans = longest_spans([tokenise(text) for text in texts], [tokenise(text) for text in training])
    rows = []
    for text, near, share, (start, length) in zip(texts, nearest, similarity, spans, strict=True):
        words = tokenise(text)
        span = " ".join(words[start : start + length])
        rows.append(
            Neighbour(
                text, training[near] if near >= 0 else "", float(share), span, length, length / max(len(words), 1)
            )
        )
    return rows


def summary(rows: Sequence[Neighbour], worst: int = WORST) -> dict[str, Any]:
    """Means and quantiles over the samples, and the `worst` samples, nearest first."""
    similarity, share = (np.array([getattr(row, name) for row in rows]) for name in ("similarity", "span_share"))
    order = sorted(rows, key=lambda row: (-row.similarity, -row.span_share))
    return {
        "n": len(rows),
        "similarity": spread_of(similarity),
        "span_share": spread_of(share),
        "worst": [asdict(row) for row in order[:worst]],
    }


def spread_of(values: np.ndarray) -> dict[str, float]:
    """Mean and upper quantiles of one number a text."""
    if not len(values):
        return {"mean": 0.0}
    points = np.quantile(values, QUANTILES)
    named = {f"q{100 * q:.0f}": float(point) for q, point in zip(QUANTILES, points, strict=True)}
    return {"mean": float(values.mean()), **named}


def nearest_in_features(features: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine to the nearest training row [N] in [-1, 1], and its index [N] (-1: none), of features [N, C], [T, C]."""
    similarity, index = np.zeros(len(features)), np.full(len(features), -1)
    if not len(training) or not len(features):
        return similarity, index
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-8) for rows in (features, training))
    for start in range(0, len(one), CHUNK):
        table = one[start : start + CHUNK] @ other.T
        index[start : start + CHUNK] = table.argmax(axis=1)
        similarity[start : start + CHUNK] = table.max(axis=1)
    return similarity, index


def nearest_texts(texts: Sequence[str], training: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Normalised Levenshtein similarity to the nearest training text [N] in [0, 1], and its index [N] (-1: none).

    Every pair is compared (rapidfuzz); case and spaces count.
    """
    similarity, index = np.zeros(len(texts)), np.full(len(texts), -1)
    if not training:
        return similarity, index
    cdist, Levenshtein = load_rapidfuzz()
    for start in range(0, len(texts), CHUNK):
        part = list(texts[start : start + CHUNK])
        table = cdist(part, training, scorer=Levenshtein.normalized_similarity, dtype=np.float32, workers=-1)
        best = table.argmax(axis=1)
        similarity[start : start + CHUNK] = table[np.arange(len(part)), best]
        index[start : start + CHUNK] = best
    empty = np.array([not text.strip() for text in texts], dtype=bool)
    similarity[empty], index[empty] = 0.0, -1
    return similarity, index


def load_rapidfuzz() -> tuple[Any, Any]:
    """rapidfuzz's `cdist` and its Levenshtein distance.

    Raises:
        UserError: the extra is not installed.
    """
    with from_extra("the novelty audit needs", "evaluation", "rapidfuzz"):
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist
    return cdist, Levenshtein


def longest_spans(texts: Sequence[Sequence[str]], training: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """For each list of words the longest run that stands in one training list: (start, length); (0, 0) if none.

    Runs are compared by 64-bit polynomial hashes, one length after another until no sample has a run so long.
    """
    ids: dict[str, int] = {}
    numbers = np.random.default_rng(0)
    values: list[np.uint64] = []

    def codes(words: Sequence[str]) -> np.ndarray:
        for word in words:
            if word not in ids:
                ids[word] = len(values)
                values.append(numbers.integers(1, 2**63, dtype=np.uint64))
        return np.array([values[ids[word]] for word in words], dtype=np.uint64)

    known, queries = _Windows([codes(words) for words in training]), _Windows([codes(words) for words in texts])
    spans = [(0, 0)] * len(texts)
    length = 1
    while True:
        hashes, owners, starts = queries.of_length(length)
        found = np.isin(hashes, known.of_length(length)[0])
        if not found.any():
            return spans
        # The first run of this length in each text.
        owner, place = np.unique(owners[found], return_index=True)
        for text, start in zip(owner.tolist(), starts[found][place].tolist(), strict=True):
            spans[text] = (start, length)
        length += 1


class _Windows:
    """Hashes of all runs of n words that do not cross the border of a text, grown from those of n - 1."""

    def __init__(self, rows: Sequence[np.ndarray]) -> None:
        self._codes = np.concatenate(rows) if rows else np.zeros(0, dtype=np.uint64)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        self._owner = np.repeat(np.arange(len(rows)), lengths)
        self._offset = np.arange(len(self._codes)) - np.repeat(starts, lengths)
        self._left = np.repeat(lengths, lengths) - self._offset  # words from here to the end of the text
        self._hash = np.zeros_like(self._codes)
        self._length = 0

    def of_length(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hashes of the runs of `length` words, the text each is in, and where it starts there."""
        while self._length < length:
            shifted = np.zeros_like(self._codes)
            shifted[: len(self._codes) - self._length] = self._codes[self._length :]
            self._hash = self._hash * _BASE + shifted  # modulo 2^64
            self._length += 1
        whole = self._left >= length
        return self._hash[whole], self._owner[whole], self._offset[whole]
