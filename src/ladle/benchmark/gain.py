"""What are synthetic rows worth? The accuracy that a classifier gains on real test rows by training on them too.

Beside it stands what copies of the real rows gain, and real rows with a few words changed, as many of each label.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ladle.baselines.word_edits import copies, word_edits
from ladle.data.rows import Row
from ladle.evaluation.intervals import wilson_interval
from ladle.evaluation.markdown import format_percent, table
from ladle.evaluation.selection import Embed, tfidf

SEEDS = 5
RESAMPLES = 2000
SYNTHETIC = "synthetic rows"
FEATURES = ("TF-IDF", "embeddings")

Added = Callable[[int], list[Row]]  # seed -> the rows that stand beside the real ones


def measure_gain(
    real: Sequence[Row], synthetic: Sequence[Row], test: Sequence[Row], embed: Embed, seeds: int = SEEDS
) -> dict[str, Any]:
    """Accuracy on `test` of logistic regressions on TF-IDF and on embeddings, trained on the real rows alone and with
    each kind of added rows.

    A seed decides which words are edited. Of `synthetic` it draws as many rows with replacement, so that the interval
    holds the luck of the draw. (The model was trained once. What other trainings give: benchmarks/augmentation.py.)
    Intervals are 95 % percentiles of a bootstrap over seeds and test rows.

    Args:
        real, synthetic, test: rows with text and label.
        embed: texts -> [N, E].
        seeds: number of seeds, from 1.

    Returns:
        {"n": test rows, "counts": added rows by label, features: {"real rows": accuracy, kind: accuracy and gain}}.
    """
    counts = Counter(row["label"] for row in synthetic)
    kinds: dict[str, Added] = {
        "copies": lambda seed: copies(real, counts, seed),
        "word edits": lambda seed: word_edits(real, counts, seed),
        SYNTHETIC: lambda seed: resampled(synthetic, seed),
    }
    vectors = _Remembered(embed)
    found: dict[str, Any] = {"n": len(test), "counts": dict(counts), "seeds": seeds}
    for features in FEATURES:
        before = _hits(features, real, test, vectors)
        found[features] = {"real rows": _share(before[None])}
        for kind, added in kinds.items() if counts else ():
            after = np.stack([_hits(features, [*real, *added(seed)], test, vectors) for seed in range(seeds)])
            found[features][kind] = _share(after) | {"gain": _gain(before, after)}
    return found


def resampled(rows: Sequence[Row], seed: int) -> list[Row]:
    """As many rows of each label, drawn with replacement."""
    generator = np.random.default_rng(seed)
    found: list[Row] = []
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == label]
        found += [own[place] for place in generator.integers(len(own), size=len(own))]
    return found


def to_markdown(found: Mapping[str, Any]) -> str:
    """A line for each kind of training rows: accuracy and gain, in percent, with each of the features."""
    head = ["trained on", *(f"{name}: {what}" for name in FEATURES for what in ("accuracy, %", "gain, points"))]
    lines = []
    for kind in found[FEATURES[0]]:
        cells = [kind if kind == "real rows" else f"real rows + {kind}"]
        for name in FEATURES:
            one = found[name][kind]
            cells += [
                format_percent(one if kind == "real rows" else one | {"interval": None}),
                _points(one.get("gain")),
            ]
        lines.append(cells)
    counts = ", ".join(f"{label} {count:,}" for label, count in found["counts"].items()) or "none"
    note = f"Test rows: {found['n']:,}. Added rows by label: {counts}. Seeds: {found['seeds']}. Intervals: 95 %."
    return "\n".join([*table(head, lines), "", note]) + "\n"


def _points(gain: Mapping[str, Any] | None) -> str:
    if gain is None:
        return "-"
    value, low, high = (100 * number for number in (gain["value"], *gain["interval"]))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _hits(features: str, rows: Sequence[Row], test: Sequence[Row], embed: Embed) -> np.ndarray:
    """Whether a classifier that is trained on `rows` gives each test row its label, bool [T]."""
    from sklearn.linear_model import LogisticRegression

    texts, asked = [row["text"] for row in rows], [row["text"] for row in test]
    if features == FEATURES[0]:
        words = tfidf()
        one, other = words.fit_transform(texts), words.transform(asked)
    else:
        one, other = embed(texts), embed(asked)
    model = LogisticRegression(C=10.0, max_iter=2000).fit(one, [row["label"] for row in rows])
    return np.asarray(model.predict(other) == np.array([row["label"] for row in test]))


def _share(hits: np.ndarray) -> dict[str, Any]:
    """hits [seeds, T] -> the mean accuracy, with Wilson's interval over the test rows for one seed."""
    interval = wilson_interval(int(hits.sum()), hits.shape[1]) if len(hits) == 1 else None
    return {"value": float(hits.mean()), "interval": interval}


def _gain(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """before [T], after [seeds, T] -> the mean gain, and its interval."""
    gains = after.astype(float) - before
    generator = np.random.default_rng(0)
    seeds, rows = gains.shape
    means = [
        gains[generator.integers(seeds, size=seeds)].mean(0)[generator.integers(rows, size=rows)].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(gains.mean()), "interval": [float(low), float(high)]}


class _Remembered:
    """Embeds each text once."""

    def __init__(self, embed: Embed):
        self.embed, self.known = embed, dict[str, np.ndarray]()

    def __call__(self, texts: list[str]) -> np.ndarray:
        if new := [text for text in dict.fromkeys(texts) if text not in self.known]:
            self.known |= zip(new, self.embed(new), strict=True)
        return np.stack([self.known[text] for text in texts])
