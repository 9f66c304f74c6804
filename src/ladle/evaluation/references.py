"""Scores of texts with references, for conditional tasks.

`groups` is the input of each text, so that the draws of one input are resampled together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ladle.evaluation import bertscore, slots
from ladle.evaluation.intervals import ratio_of_sums, sum_by_group
from ladle.evaluation.metrics import DEFAULT, Resampling, Score
from ladle.evaluation.overlap import CorpusBleu, CorpusChrf, rouge_scores

Groups = Sequence[Any] | None
Texts = Sequence[str]


def score_bleu(
    texts: Texts, references: Sequence[Texts], resampling: Resampling = DEFAULT, *, groups: Groups = None
) -> Score:
    """Corpus BLEU. `groups`: the input of each text, so that the draws of one input are resampled together."""
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
    return tuple(_grouped_mean(name, values, resampling, groups) for name, values in columns)


def score_bertscore(
    texts: Texts, references: Sequence[Texts], encoder: str, resampling: Resampling = DEFAULT, *, groups: Groups = None
) -> Score:
    """BERTScore F1, 0 to 100, mean over the texts. UserError: no such encoder, or the extra is not installed."""
    values = 100 * bertscore.bert_scores(texts, references, encoder)
    details = {"encoder": encoder, "layer": bertscore.layer(encoder)}
    return _grouped_mean("bertscore", values, resampling, groups, details)


def scores_of_slots(texts: Texts, sources: Texts, resampling: Resampling = DEFAULT) -> tuple[Score, Score]:
    """Slots said and wrong additions, by the table of aliases for E2E. Sources are E2E's meaning representations."""
    found = [slots.score(text, slots.parse_mr(source)) for text, source in zip(texts, sources, strict=True)]
    summary = slots.summarise(found, sources, num_bootstrap=resampling.num_bootstrap, seed=resampling.seed)
    details = {"faultless": summary["faultless"], "wrong_by_slot": summary["wrong_by_slot"]}

    def share(name: str, part: Mapping[str, Any], details: dict[str, Any]) -> Score:
        return Score(name, part["value"], len(texts), part["interval"], "bootstrap over inputs", details)

    return share("slots_said", summary["said"], details), share("slots_wrong", summary["wrong"], {})


def _corpus_score(name: str, corpus: CorpusBleu | CorpusChrf, resampling: Resampling) -> Score:
    interval = resampling.bootstrap(corpus.score_of, corpus.num_groups)
    counts = [len(row) for row in corpus.references]
    details = {
        "signature": corpus.signature,
        "inputs": corpus.num_groups,
        "references_per_text": float(np.mean(counts)) if counts else 0.0,
    }
    return Score(name, corpus.score, len(corpus.hypotheses), interval, "bootstrap over inputs", details)


def _grouped_mean(
    name: str, values: np.ndarray, resampling: Resampling, groups: Groups, details: dict[str, Any] | None = None
) -> Score:
    """The mean over texts, resampled by group."""
    summed = sum_by_group(np.stack([values, np.ones(len(values))], axis=1), groups)
    interval = resampling.bootstrap(ratio_of_sums(summed), len(summed))
    value = float(values.mean()) if len(values) else 0.0
    return Score(name, value, len(values), interval, "bootstrap over inputs", details or {})
