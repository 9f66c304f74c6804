"""The novelty audit: for each sample, the nearest training text and the longest run of words shared with one.

Neither score should be driven to zero: held-out text has neighbours in the training text too, so compare with it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ladle.evaluation.extras import load_extra
from ladle.evaluation.text_stats import tokenise

CHUNK = 64  # samples compared at once: 64 x 100,000 distances are 26 MB
WORST = 20
QUANTILES = (0.5, 0.9, 0.99)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing modulo 2^64


@dataclass(frozen=True)
class Neighbour:
    """text: the sample. nearest: the training text with the least edit distance. similarity: 1 - edits / longer length,
    in characters. span: the longest run of words that a training text holds. num_span_words, span_share: the length of
    the span, in words and as a share of the sample's words."""

    text: str
    nearest: str
    similarity: float
    span: str
    num_span_words: int
    span_share: float


def audit(texts: Sequence[str], training: Sequence[str]) -> list[Neighbour]:
    """One row per sample, in order. An empty sample has no neighbour. Without training texts no sample has one."""
    similarity, index = nearest_texts(texts, training)
    words = [tokenise(text) for text in texts]
    spans = longest_spans(words, [tokenise(text) for text in training])
    rows = []
    for text, row, share, near, (start, length) in zip(texts, words, similarity, index, spans, strict=True):
        nearest = training[near] if near >= 0 else ""
        span = " ".join(row[start : start + length])
        rows.append(Neighbour(text, nearest, float(share), span, length, length / max(len(row), 1)))
    return rows


def spread_of(values: np.ndarray) -> dict[str, float]:
    """Mean and upper quantiles of one number a text."""
    if not len(values):
        return {"mean": 0.0}
    points = np.quantile(values, QUANTILES)
    named = {f"q{100 * q:.0f}": float(point) for q, point in zip(QUANTILES, points, strict=True)}
    return {"mean": float(values.mean()), **named}


def nearest_in_features(features: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine to the nearest training row [N] in [-1, 1], and its index [N] (-1: none), of features [N, C], [T, C]."""
    if not len(features) or not len(training):
        return np.zeros(len(features)), np.full(len(features), -1)
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-8) for rows in (features, training))
    return _best(len(one), len(other), lambda part: one[part] @ other.T)


def nearest_texts(texts: Sequence[str], training: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Normalised Levenshtein similarity to the nearest training text [N] in [0, 1], and its index [N] (-1: none).

    Every pair is compared (rapidfuzz); case and spaces count.
    """
    cdist, distances = load_extra("rapidfuzz.process").cdist, load_extra("rapidfuzz.distance")
    options = {"scorer": distances.Levenshtein.normalized_similarity, "dtype": np.float32, "workers": -1}
    similarity, index = _best(len(texts), len(training), lambda part: cdist(list(texts[part]), training, **options))
    empty = np.array([not text.strip() for text in texts], dtype=bool)
    similarity[empty], index[empty] = 0.0, -1
    return similarity, index


def _best(num: int, num_training: int, compared: Callable[[slice], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The highest similarity of each row [N] and its column [N] (0 and -1 without columns), of tables of some rows."""
    similarity, index = np.zeros(num), np.full(num, -1)
    for start in range(0, num if num_training else 0, CHUNK):
        part = slice(start, start + CHUNK)
        table = compared(part)
        similarity[part], index[part] = table.max(axis=1), table.argmax(axis=1)
    return similarity, index


def longest_spans(texts: Sequence[Sequence[str]], training: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """For each list of words, the longest run that occurs in a training list: (start, length); (0, 0) if none.

    Runs are compared by 64-bit polynomial hashes, one length after another until no sample has a run of that length.
    """
    generator = np.random.default_rng(0)
    codes: dict[str, np.uint64] = defaultdict(lambda: generator.integers(1, 2**63, dtype=np.uint64))
    spans = [(0, 0)] * len(texts)
    both = zip(_runs(texts, codes), _runs(training, codes), strict=False)
    for length, ((hashes, owners, starts), (known, *_)) in enumerate(both, start=1):
        found = np.isin(hashes, known)
        if not found.any():
            break
        # The first run of this length in each text.
        owner, place = np.unique(owners[found], return_index=True)
        for text, start in zip(owner.tolist(), starts[found][place].tolist(), strict=True):
            spans[text] = (start, length)
    return spans


def _runs(rows: Sequence[Sequence[str]], codes: Mapping[str, np.uint64]) -> Iterator[tuple[np.ndarray, ...]]:
    """For one word, two words, ...: the hashes of all runs of that length, the row of each run, and its start there.

    No run crosses the border of a row. The hashes of n words are computed from those of n - 1.
    """
    words = np.array([codes[word] for row in rows for word in row], dtype=np.uint64)
    owner = np.array([index for index, row in enumerate(rows) for _ in row], dtype=int)
    start = np.array([place for row in rows for place in range(len(row))], dtype=int)
    hashes = np.zeros_like(words)
    for length in range(len(words) + 1):
        count = len(words) - length
        hashes = hashes[:count] * _BASE + words[length:]  # modulo 2^64
        whole = owner[:count] == owner[length:]
        yield hashes[whole], owner[:count][whole], start[:count][whole]
