"""Words in common: BLEU and chrF by sacreBLEU, ROUGE by rouge-score, against references and within a set."""

from collections.abc import Sequence
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import numpy as np

from ladle.evaluation.extras import load_extra
from ladle.evaluation.intervals import sum_by_group
from ladle.evaluation.text_stats import words_of

SELF_BLEU_TEXTS = 200  # self-BLEU takes the square of this many comparisons


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
