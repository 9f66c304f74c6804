"""Scores of texts with references, for conditional tasks.

`groups` is the input of each text, so that the draws of one input are resampled together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ladle.evaluation import bertscore, slots
from ladle.evaluation.intervals import DEFAULT, Resampling
from ladle.evaluation.metrics import Score, mean_score
from ladle.evaluation.overlap import CorpusBleu, CorpusChrf, rouge_scores

Groups = Sequence[Any] | None
Texts = Sequence[str]
BY_INPUT = "bootstrap over inputs"


def score_bleu(
    texts: Texts, references: Sequence[Texts], resampling: Resampling = DEFAULT, *, groups: Groups = None
) -> Score:
    """Corpus BLEU."""
    return _corpus_score("bleu", CorpusBleu(texts, references, groups), resampling)


def score_chrf(
    texts: Texts, references: Sequence[Texts], resampling: Resampling = DEFAULT, *, groups: Groups = None
) -> Score:
    """Corpus chrF2."""
    return _corpus_score("chrf", CorpusChrf(texts, references, groups), resampling)


def scores_of_rouge(
    texts: Texts, references: Sequence[Texts], resampling: Resampling = DEFAULT, *, groups: Groups = None
) -> tuple[Score, ...]:
    """ROUGE-1, -2 and -L F1, 0 to 100, means over the texts. UserError where the extra is not installed."""
    columns = zip(("rouge_1", "rouge_2", "rouge_l"), 100 * rouge_scores(texts, references).T, strict=True)
    return tuple(mean_score(name, values, resampling, None, BY_INPUT, groups) for name, values in columns)


def score_bertscore(
    texts: Texts, references: Sequence[Texts], encoder: str, resampling: Resampling = DEFAULT, *, groups: Groups = None
) -> Score:
    """BERTScore F1, 0 to 100, mean over the texts. UserError: no such encoder, or the extra is not installed."""
    values = 100 * bertscore.bert_scores(texts, references, encoder)
    details = {"encoder": encoder, "layer": bertscore.layer(encoder)}
    return mean_score("bertscore", values, resampling, details, BY_INPUT, groups)


def scores_of_slots(texts: Texts, sources: Texts, resampling: Resampling = DEFAULT) -> tuple[Score, Score]:
    """Slots said and wrong additions, by the table of aliases for E2E. Sources are E2E's meaning representations."""
    found = [slots.score(text, slots.parse_mr(source)) for text, source in zip(texts, sources, strict=True)]
    summary = slots.summarise(found, sources, resampling)
    details = {"faultless": summary["faultless"], "wrong_by_slot": summary["wrong_by_slot"]}
    said, wrong = summary["said"], summary["wrong"]
    return (
        Score("slots_said", said["value"], len(texts), said["interval"], BY_INPUT, details),
        Score("slots_wrong", wrong["value"], len(texts), wrong["interval"], BY_INPUT),
    )


def _corpus_score(name: str, corpus: CorpusBleu | CorpusChrf, resampling: Resampling) -> Score:
    interval = resampling.bootstrap(corpus.score_of, corpus.num_groups)
    counts = [len(row) for row in corpus.references]
    details = {
        "signature": corpus.signature,
        "inputs": corpus.num_groups,
        "references_per_text": float(np.mean(counts)) if counts else 0.0,
    }
    return Score(name, corpus.score, len(counts), interval, BY_INPUT, details)
