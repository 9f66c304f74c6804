"""Words in common: BLEU and chrF by sacreBLEU, ROUGE by rouge-score, against references and within a set."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ladle.errors import from_extra
from ladle.evaluation.intervals import sum_by_group
from ladle.evaluation.text_stats import words_of

SELF_BLEU_TEXTS = 200  # self-BLEU takes the square of this many comparisons


@dataclass(frozen=True)
class _CorpusScore(ABC):
    """A score of sacreBLEU's of `hypotheses`, each against its own list of references (their number may vary).

    `groups`: rows of one group (the draws of one input) stay together when rows are resampled; None: every row alone.
    """

    hypotheses: Sequence[str]
    references: Sequence[Sequence[str]]
    groups: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if len(self.hypotheses) != len(self.references):
            raise ValueError(f"{len(self.hypotheses)} texts against {len(self.references)} lists of references")
        if not all(self.references):
            raise ValueError("every text needs at least one reference")

    @abstractmethod
    def _metric(self) -> Any:
        """sacreBLEU's metric."""

    @abstractmethod
    def _row_counts(self) -> list[list[int]]:
        """The sufficient statistics of each text."""

    @abstractmethod
    def _of_counts(self, total: list[int]) -> float:
        """The score of summed statistics."""

    @cached_property
    def _scored(self) -> tuple[float, str]:
        if not self.hypotheses:
            return 0.0, "no texts"
        metric = self._metric()
        most = max(map(len, self.references))
        streams = [[refs[i] if i < len(refs) else None for refs in self.references] for i in range(most)]
        score = metric.corpus_score(list(self.hypotheses), streams).score
        return float(score), str(metric.get_signature())

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
        return sum_by_group(np.array(self._row_counts(), dtype=np.int64), self.groups)

    @property
    def num_groups(self) -> int:
        """What `score_of` resamples: groups, else rows."""
        return len(self._counts)

    def score_of(self, indices: np.ndarray) -> float:
        """The score of the groups `indices` (with repetition), for resampling."""
        return self._of_counts([int(number) for number in self._counts[indices].sum(axis=0)])


class CorpusBleu(_CorpusScore):
    """Corpus BLEU. Empty texts count: they shorten the output and bring the brevity penalty."""

    def _metric(self) -> Any:
        from sacrebleu.metrics import BLEU

        return BLEU()

    def _row_counts(self) -> list[list[int]]:
        from sacrebleu.metrics import BLEU

        metric = BLEU(effective_order=True)  # changes the score of a sentence, not its counts
        rows = zip(self.hypotheses, self.references, strict=True)
        scores = [metric.sentence_score(text, list(references)) for text, references in rows]
        return [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]

    def _of_counts(self, total: list[int]) -> float:
        from sacrebleu.metrics import BLEU

        return float(BLEU.compute_bleu(total[2:6], total[6:10], total[0], total[1], smooth_method="exp").score)


class CorpusChrf(_CorpusScore):
    """Corpus chrF2 (Popovic 2015)."""

    def _metric(self) -> Any:
        from sacrebleu.metrics import CHRF

        return CHRF()

    def _row_counts(self) -> list[list[int]]:
        metric, rows = self._metric(), zip(self.hypotheses, self.references, strict=True)
        # sacreBLEU's public functions give the sum of these alone; a resample needs them one by one.
        return [metric._extract_corpus_statistics([text], [[ref] for ref in refs])[0] for text, refs in rows]

    def _of_counts(self, total: list[int]) -> float:
        return float(self._metric()._compute_f_score(total))


ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """ROUGE-1, -2 and -L F1 (Lin 2004) of each text against the reference that suits it best: [N, 3], 0 to 1.

    Words are runs of letters, marks and digits of any script (rouge-score's own know ASCII only), in lower case and
    without stemming. An empty text scores 0.

    Raises:
        UserError: the extra is not installed.
    """
    scorer = load_rouge()(list(ROUGE), tokenizer=_Words())
    scores = np.zeros((len(texts), len(ROUGE)))
    for row, (text, answers) in enumerate(zip(texts, references, strict=True)):
        found = [scorer.score(answer, text) for answer in answers]
        scores[row] = [max(score[name].fmeasure for score in found) for name in ROUGE]
    return scores


def load_rouge() -> Any:
    """rouge-score's scorer.

    Raises:
        UserError: the extra is not installed.
    """
    with from_extra("ROUGE needs", "evaluation", "rouge-score"):
        from rouge_score.rouge_scorer import RougeScorer
    return RougeScorer


class _Words:
    """What rouge-score calls a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text)


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
