"""Words in common: BLEU and chrF by sacreBLEU, ROUGE by rouge-score, against references and within a set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ladle.errors import UserError
from ladle.evaluation.text_stats import words_of

SELF_BLEU_TEXTS = 200  # self-BLEU takes the square of this many comparisons


@dataclass(frozen=True)
class CorpusBleu:
    """Corpus BLEU of `hypotheses`, each against its own list of references (their number may vary).

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

    @cached_property
    def _scored(self) -> tuple[float, str]:
        from sacrebleu.metrics import BLEU

        if not self.hypotheses:
            return 0.0, "no texts"
        metric = BLEU()
        score = metric.corpus_score(list(self.hypotheses), _streams(self.references)).score
        return float(score), str(metric.get_signature())

    @property
    def score(self) -> float:
        """0 to 100. No texts: 0. Empty texts count: they shorten the output and bring the brevity penalty."""
        return self._scored[0]

    @property
    def signature(self) -> str:
        """sacreBLEU's own, for the record."""
        return self._scored[1]

    @cached_property
    def _counts(self) -> np.ndarray:
        """The sufficient statistics, summed by group: int [groups, 10] (length, reference length, 4 hits, 4 totals)."""
        from sacrebleu.metrics import BLEU

        metric = BLEU(effective_order=True)  # changes the score of a sentence, not its counts
        names = list(self.groups) if self.groups is not None else list(range(len(self.hypotheses)))
        place = {name: index for index, name in enumerate(dict.fromkeys(names))}
        counts = np.zeros((len(place), 10), dtype=np.int64)
        for name, text, references in zip(names, self.hypotheses, self.references, strict=True):
            score = metric.sentence_score(text, list(references))
            counts[place[name]] += [score.sys_len, score.ref_len, *score.counts, *score.totals]
        return counts

    @property
    def num_groups(self) -> int:
        """What `score_of` resamples: groups, else rows."""
        return len(self._counts)

    def score_of(self, indices: np.ndarray) -> float:
        """BLEU of the groups `indices` (with repetition), for resampling."""
        from sacrebleu.metrics import BLEU

        total = self._counts[indices].sum(axis=0)
        numbers = [int(number) for number in total]
        score = BLEU.compute_bleu(numbers[2:6], numbers[6:10], numbers[0], numbers[1], smooth_method="exp")
        return float(score.score)


@dataclass(frozen=True)
class CorpusChrf:
    """Corpus chrF2 (Popovic 2015), each text against its own list of references, as `CorpusBleu`."""

    hypotheses: Sequence[str]
    references: Sequence[Sequence[str]]
    groups: Sequence[Any] | None = None

    @cached_property
    def _metric(self) -> Any:
        from sacrebleu.metrics import CHRF

        return CHRF()

    @cached_property
    def _scored(self) -> tuple[float, str]:
        if not self.hypotheses:
            return 0.0, "no texts"
        score = self._metric.corpus_score(list(self.hypotheses), _streams(self.references)).score
        return float(score), str(self._metric.get_signature())

    @cached_property
    def _counts(self) -> np.ndarray:
        """Sufficient statistics of the best reference of each text, summed by group: [groups, 3 * 6]."""
        names = list(self.groups) if self.groups is not None else list(range(len(self.hypotheses)))
        place = {name: index for index, name in enumerate(dict.fromkeys(names))}
        counts = np.zeros((len(place), 3 * self._metric.char_order), dtype=np.int64)
        for name, text, references in zip(names, self.hypotheses, self.references, strict=True):
            # sacreBLEU's public function sums these at once; a resample needs them one by one.
            counts[place[name]] += self._metric._extract_corpus_statistics([text], [[ref] for ref in references])[0]
        return counts

    def score_of(self, indices: np.ndarray) -> float:
        """chrF of the groups `indices` (with repetition), for resampling; 0 to 100."""
        total = [int(number) for number in self._counts[indices].sum(axis=0)]
        return float(self._metric._compute_f_score(total))

    @property
    def score(self) -> float:
        """0 to 100. No texts: 0."""
        return self._scored[0]

    @property
    def signature(self) -> str:
        """sacreBLEU's own, for the record."""
        return self._scored[1]

    @property
    def num_groups(self) -> int:
        """What `score_of` resamples: groups, else rows."""
        return len(self._counts)


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """As sacreBLEU takes them: every text's first reference, every text's second one, ..."""
    most = max(map(len, references))
    return [[answers[i] if i < len(answers) else None for answers in references] for i in range(most)]


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
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError("ROUGE needs an extra: pip install 'ladle[evaluation]' (rouge-score)") from None
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
