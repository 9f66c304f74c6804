"""Words in common: BLEU and chrF by sacreBLEU, ROUGE by rouge-score, against references and within a set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from ladle.errors import from_extra
from ladle.evaluation.intervals import sum_by_group
from ladle.evaluation.text_stats import words_of

SELF_BLEU_TEXTS = 200  # self-BLEU takes the square of this many comparisons


@dataclass(frozen=True)
class _CorpusScore:
    """A score of sacreBLEU's of `hypotheses`, each against its own list of references (their number may vary).

    `groups`: rows of one group (the draws of one input) stay together when rows are resampled; None: every row alone.
    """

    hypotheses: Sequence[str]
    references: Sequence[Sequence[str]]
    groups: Sequence[Any] | None = None
    kind: ClassVar[str]  # of sacreBLEU's metrics

    def __post_init__(self) -> None:
        if len(self.hypotheses) != len(self.references):
            raise ValueError(f"{len(self.hypotheses)} texts but {len(self.references)} lists of references")
        if not all(self.references):
            raise ValueError("every text needs at least one reference")

    @cached_property
    def _metric(self) -> Any:
        from sacrebleu import metrics

        return getattr(metrics, self.kind)()

    @cached_property
    def _scored(self) -> tuple[float, str]:
        if not self.hypotheses:
            return 0.0, "no texts"
        streams = list(zip_longest(*self.references))  # None where a text has fewer
        score = self._metric.corpus_score(list(self.hypotheses), streams).score
        return float(score), str(self._metric.get_signature())

    @property
    def score(self) -> float:
        """0 to 100. No texts: 0."""
        return self._scored[0]

    @property
    def signature(self) -> str:
        """sacreBLEU's own, for the record."""
        return self._scored[1]

    @cached_property
    def _counts(self) -> np.ndarray:
        if not self.hypotheses:
            return np.zeros((0, 1), dtype=np.int64)
        rows = zip(self.hypotheses, self.references, strict=True)
        # sacreBLEU's public functions give the sum of these alone; a resample needs them one by one.
        counts = [self._metric._extract_corpus_statistics([text], [[ref] for ref in refs])[0] for text, refs in rows]
        return sum_by_group(np.array(counts, dtype=np.int64), self.groups)

    @property
    def num_groups(self) -> int:
        """What `score_of` resamples: groups, else rows."""
        return len(self._counts)

    def score_of(self, indices: np.ndarray) -> float:
        """The score of the groups `indices` (with repetition), for resampling."""
        return float(self._metric._compute_score_from_stats(self._counts[indices].sum(axis=0).tolist()).score)


class CorpusBleu(_CorpusScore):
    """Corpus BLEU. Empty texts count: they shorten the output and bring the brevity penalty."""

    kind = "BLEU"


class CorpusChrf(_CorpusScore):
    """Corpus chrF2 (Popovic 2015)."""

    kind = "CHRF"


ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """ROUGE-1, -2 and -L F1 (Lin 2004) of each text against its best reference: [N, 3], 0 to 1.

    Words are runs of letters, marks and digits of any script (rouge-score itself knows only ASCII), in lower case and
    without stemming. An empty text scores 0. Raises UserError if the extra is not installed.
    """
    scorer = load_rouge()(list(ROUGE), tokenizer=SimpleNamespace(tokenize=words_of))
    scores = np.zeros((len(texts), len(ROUGE)))
    for row, (text, answers) in enumerate(zip(texts, references, strict=True)):
        found = [scorer.score(answer, text) for answer in answers]
        scores[row] = [max(score[name].fmeasure for score in found) for name in ROUGE]
    return scores


def load_rouge() -> Any:
    """rouge-score's scorer. Raises UserError where the extra is not installed."""
    with from_extra("ROUGE needs", "evaluation", "rouge-score"):
        from rouge_score.rouge_scorer import RougeScorer
    return RougeScorer


def self_bleu_scores(texts: Sequence[str], *, max_texts: int = SELF_BLEU_TEXTS, seed: int = 0) -> list[float]:
    """Sentence BLEU (0 to 100) of each text against all others, on `max_texts` of them drawn by `seed` (Zhu et al.
    2018, arXiv 1802.01886). An empty text scores 0; fewer than two texts: no scores."""
    from sacrebleu.metrics import BLEU

    if len(texts) > max_texts:
        chosen = np.random.default_rng(seed).choice(len(texts), size=max_texts, replace=False)
        texts = [texts[index] for index in sorted(chosen)]
    if len(texts) < 2:
        return []
    metric = BLEU(effective_order=True)
    return [
        metric.sentence_score(text, [*texts[:index], *texts[index + 1 :]]).score if text.strip() else 0.0
        for index, text in enumerate(texts)
    ]
