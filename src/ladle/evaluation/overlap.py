"""Words in common: BLEU and chrF by sacreBLEU, ROUGE by rouge-score, against references and within a set."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, zip_longest
from types import SimpleNamespace
from typing import Any

import numpy as np

from ladle.evaluation.extras import load_extra
from ladle.evaluation.intervals import sum_by_group
from ladle.evaluation.text_stats import words_of

SELF_BLEU_TEXTS = 200  # BLEU rises with the number of references, so it is always this many less one
MAX_ORDER = 4  # of BLEU's n-grams


class CorpusScore:
    """sacreBLEU's corpus BLEU or, with kind `CHRF`, its chrF2 (Popovic 2015), 0 to 100, of `hypotheses`, each against
    its own list of references (their number may vary). No texts: 0. Empty texts count: they shorten the output and
    bring the brevity penalty.

    `groups`: rows of one group (the draws of one input) stay together when rows are resampled; None: every row alone.
    """

    def __init__(
        self,
        hypotheses: Sequence[str],
        references: Sequence[Sequence[str]],
        groups: Sequence[Any] | None = None,
        kind: str = "BLEU",
    ):
        from sacrebleu import metrics

        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} texts but {len(references)} lists of references")
        if not all(references):
            raise ValueError("every text needs at least one reference")
        self._metric = getattr(metrics, kind)()
        # sacreBLEU's public functions give the sum of these alone; a resample needs them one by one.
        streams = list(zip_longest(*references))  # None where a text has fewer
        counts = self._metric._extract_corpus_statistics(hypotheses, streams) if hypotheses else np.zeros((0, 1))
        self._counts = sum_by_group(np.array(counts, dtype=np.int64), groups)
        self.num_groups = len(self._counts)  # what `score_of` resamples: groups, else rows
        self.score = self.score_of(np.arange(self.num_groups)) if hypotheses else 0.0
        self.signature = str(self._metric.get_signature()) if hypotheses else "no texts"  # sacreBLEU's, for the record

    def score_of(self, indices: np.ndarray) -> float:
        """The score of the groups `indices` (with repetition), for resampling."""
        return float(self._metric._compute_score_from_stats(self._counts[indices].sum(axis=0).tolist()).score)


ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """ROUGE-1, -2 and -L F1 (Lin 2004) of each text against its best reference: [N, 3], 0 to 1.

    Words are runs of letters, marks and digits of any script (rouge-score itself knows only ASCII), in lower case and
    without stemming. An empty text scores 0. Raises UserError if the extra is not installed.
    """
    module = load_extra("rouge_score.rouge_scorer")
    scorer = module.RougeScorer(list(ROUGE), tokenizer=SimpleNamespace(tokenize=words_of))
    scores = np.zeros((len(texts), len(ROUGE)))
    for row, (text, answers) in enumerate(zip(texts, references, strict=True)):
        found = [scorer.score(answer, text) for answer in answers]
        scores[row] = [max(score[name].fmeasure for score in found) for name in ROUGE]
    return scores


class BleuAgainstAll:
    """sacreBLEU's sentence BLEU (effective order), 0 to 100, of many texts against the same references.

    The value is that of `BLEU(effective_order=True).sentence_score(text, references)`. There every call counts the
    n-grams of all references anew; here they are counted once. An empty text scores 0.

    Raises ValueError: no references.
    """

    def __init__(self, references: Sequence[str]):
        from sacrebleu.metrics import BLEU

        if not references:
            raise ValueError("BLEU needs at least one reference")
        self._metric = BLEU(effective_order=True)
        self._references, self._lengths = references, Counter[int]()
        # Of each n-gram the largest count in one reference, that reference, and the largest count in another one.
        self._most: dict[tuple[str, ...], tuple[int, int, int]] = {}
        for owner, reference in enumerate(references):
            counts, length = self._counted(reference)
            self._lengths[length] += 1
            for gram, count in counts.items():
                first, place, second = self._most.get(gram, (0, -1, 0))
                if count > first:
                    self._most[gram] = (count, owner, first)
                elif count > second:
                    self._most[gram] = (first, place, count)

    def score(self, text: str) -> float:
        """BLEU of a text against all references."""
        return self._score(*self._counted(text), without=None)

    def score_of(self, index: int) -> float:
        """BLEU of the reference with this index against the other references."""
        return self._score(*self._counted(self._references[index]), without=index)

    def _counted(self, text: str) -> tuple[Counter[tuple[str, ...]], int]:
        """The n-grams of a text, n = 1 to 4, as sacreBLEU cuts it into words, and its number of words."""
        words = self._metric.tokenizer(text.rstrip()).split()
        grams = (zip(*(words[start:] for start in range(n)), strict=False) for n in range(1, MAX_ORDER + 1))
        return Counter(chain.from_iterable(grams)), len(words)

    def _score(self, counts: Counter[tuple[str, ...]], length: int, without: int | None) -> float:
        if not length:
            return 0.0
        correct, total = [0] * MAX_ORDER, [max(0, length - n) for n in range(MAX_ORDER)]
        for gram, count in counts.items():
            first, owner, second = self._most.get(gram, (0, -1, 0))
            correct[len(gram) - 1] += min(count, second if owner == without else first)
        others = (own for own, number in self._lengths.items() if number > (without is not None and own == length))
        nearest = min(others, key=lambda own: (abs(own - length), own))
        found = self._metric.compute_bleu(correct, total, length, nearest, "exp", None, True, MAX_ORDER)
        return float(found.score)


def self_bleu_scores(texts: Sequence[str], *, max_texts: int = SELF_BLEU_TEXTS, seed: int = 0) -> list[float]:
    """Sentence BLEU (0 to 100) of each text against all others, on `max_texts` of them drawn by `seed` (Zhu et al.
    2018, arXiv 1802.01886). An empty text scores 0; fewer than two texts: no scores."""
    texts = _drawn(texts, max_texts, seed)
    if len(texts) < 2:
        return []
    bleu = BleuAgainstAll(texts)
    return [bleu.score_of(index) for index in range(len(texts))]


def bleu_against_all(
    texts: Sequence[str], references: Sequence[str], *, max_references: int | None = None, seed: int = 0
) -> list[float]:
    """Sentence BLEU (0 to 100) of each text against all references (Zhu et al. 2018, arXiv 1802.01886), or against
    `max_references` of them drawn by `seed`. An empty text scores 0; no references: no scores.

    BLEU rises with the number of references. So it can be compared with self-BLEU only where both have as many, and
    the two together say what either alone does not: few texts said again and again score high (arXiv 1811.02549).
    """
    chosen = references if max_references is None else _drawn(references, max_references, seed)
    if not chosen:
        return []
    bleu = BleuAgainstAll(chosen)
    return [bleu.score(text) for text in texts]


def _drawn(texts: Sequence[str], most: int, seed: int) -> Sequence[str]:
    """`most` of the texts, in their order; all of them where they are fewer."""
    if len(texts) <= most:
        return texts
    chosen = np.random.default_rng(seed).choice(len(texts), size=most, replace=False)
    return [texts[index] for index in sorted(chosen)]
