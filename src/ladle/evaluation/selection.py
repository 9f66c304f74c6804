"""Which texts of a model are fit to be trained on, beside the real rows that the model learnt from?

A text that was drawn for a label is kept if it is no copy of a real text nor nearly one, if classifiers that know the
real rows give it its label, and if it is not among the least sound of its round.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ladle.data.rows import Row
from ladle.evaluation.novelty import longest_spans
from ladle.evaluation.text_stats import copy_key, tokenise
from ladle.evaluation.text_stats import words_of as plain_words

FOLDS = 5  # of the real rows; fewer where a class has fewer rows
AGREEING = 2 / 3  # of the classifiers, at least, must give a text its label
# A text with so large a share of its words in one run that a real text holds, or with so large a share of the words of
# both in common with a real text (Jaccard), is nearly a copy of it.
SAME_RUN, SAME_WORDS = 0.7, 0.8
UNSOUND = 0.2  # share of the texts of a label and a round that is dropped for the lowest soundness
CHUNK = 512  # texts whose words are compared with all real texts at once

Embed = Callable[[list[str]], np.ndarray]  # texts -> [N, E], of norm 1


def tfidf() -> Any:
    """texts -> TF-IDF of words and pairs of words, by scikit-learn, not fitted yet."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(tokenizer=tokenise, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True)


@dataclass
class CrossJudge:
    """Several classifiers of real rows: for each of the folds, one on words and one on embeddings, both trained on the
    other folds. So no single row decides, and each real row is judged by classifiers that do not know it.

    labels: K names, sorted. real: share of the real rows that the classifiers of their fold give their label.
    """

    labels: list[str]
    real: float
    words: Any = field(repr=False)
    embed: Embed = field(repr=False)
    members: list[tuple[Any, Any]] = field(repr=False)

    @classmethod
    def fit(cls, rows: Sequence[Row], embed: Embed, seed: int = 0) -> "CrossJudge":
        """Train on rows with text and label. Every label needs two rows, and there are two labels at least."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold

        texts, labels = [row["text"] for row in rows], np.array([row["label"] for row in rows])
        words = tfidf()
        features = words.fit_transform(texts), embed(texts)
        folds = min(FOLDS, *Counter(labels.tolist()).values())
        members: list[tuple[Any, Any]] = []
        right = 0
        for known, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(texts, labels):
            one, other = (LogisticRegression(C=10.0, max_iter=1000).fit(x[known], labels[known]) for x in features)
            both = one.predict_proba(features[0][held]) + other.predict_proba(features[1][held])
            right += int((one.classes_[both.argmax(1)] == labels[held]).sum())
            members.append((one, other))
        return cls(sorted(set(labels.tolist())), right / len(rows), words, embed, members)

    def agreement(self, texts: list[str], labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """For each text: the share [N] of the classifiers that give it its label, and whether that label is the
        likeliest one by the mean probability of all of them, bool [N]."""
        features = self.words.transform(texts), self.embed(texts)
        tables = np.stack([
            member.predict_proba(x) for pair in self.members for member, x in zip(pair, features, strict=True)
        ])  # fmt: skip
        own = np.array([self.labels.index(label) for label in labels])
        return (tables.argmax(2) == own).mean(0), tables.mean(0).argmax(1) == own


def near_copies(texts: Sequence[str], real: Sequence[str]) -> np.ndarray:
    """Whether each text is nearly a copy of a real text (see `SAME_RUN`, `SAME_WORDS`), bool [N]. Case and punctuation
    make no difference."""
    from sklearn.feature_extraction.text import CountVectorizer

    rows, known = ([plain_words(text) for text in side] for side in (texts, real))
    spans = longest_spans(rows, known)
    found = np.array([n >= SAME_RUN * max(1, len(row)) for row, (_, n) in zip(rows, spans, strict=True)], dtype=bool)
    if not any(rows) or not any(known):
        return found
    counter = CountVectorizer(analyzer=set, binary=True).fit([*known, *rows])
    ours, theirs = counter.transform(rows), counter.transform(known)
    sizes = np.asarray(theirs.sum(1)).ravel()
    for start in range(0, len(rows), CHUNK):
        part = ours[start : start + CHUNK]
        shared = (part @ theirs.T).toarray()
        together = np.asarray(part.sum(1)) + sizes[None] - shared
        found[start : start + CHUNK] |= (shared >= SAME_WORDS * np.maximum(together, 1)).any(1)
    return found


@dataclass
class Selection:
    """Takes candidates, a round at a time, and says which are kept.

    real: the rows that the model learnt from. counts: how many candidates met each fate. sound: (texts, their label) ->
    soundness of each text, higher is better.
    """

    real: Sequence[Row]
    judge: CrossJudge
    sound: Callable[[list[str], str], Sequence[float]]
    counts: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)

    def choose(self, texts: Sequence[str], label: str) -> list[str]:
        """The texts of a round, drawn for `label`, that are kept, in their order."""
        kept = self._new([text.strip() for text in texts])
        if kept:
            agreeing, likeliest = self.judge.agreement(kept, [label] * len(kept))
            kept = self._but(kept, (agreeing < AGREEING) | ~likeliest, "of another label")
        if kept:
            scores = np.asarray(self.sound(kept, label))
            worst = np.zeros(len(kept), dtype=bool)
            worst[np.argsort(scores, kind="stable")[: int(UNSOUND * len(kept))]] = True
            kept = self._but(kept, worst, "unsound")
        self.counts["kept"] += len(kept)
        return kept

    def _new(self, texts: list[str]) -> list[str]:
        """Those that are neither empty nor copies of a real text, nearly one, or of an earlier candidate."""
        real = [row["text"] for row in self.real]
        copies, fresh = {copy_key(text) for text in real}, []
        for text in texts:
            key = copy_key(text)
            fate = "empty" if not key else "copies" if key in copies else "repeated" if key in self._seen else ""
            self.counts[fate] += bool(fate)
            if not fate:
                fresh.append(text)
                self._seen.add(key)
        del self.counts[""]
        return self._but(fresh, near_copies(fresh, real), "nearly copies")

    def _but(self, texts: list[str], dropped: np.ndarray, why: str) -> list[str]:
        self.counts[why] += int(dropped.sum())
        return [text for text, gone in zip(texts, dropped, strict=True) if not gone]
