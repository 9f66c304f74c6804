"""Every metric with its name, version, direction, and value for empty texts and for no texts.

`METRICS` is the table. Each `score_...` function measures one metric on a list of texts and returns a `Score`. A change
that moves figures raises the version: scores of different versions are not comparable.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np

from ladle.errors import UserError
from ladle.evaluation import bertscore, novelty, slots, text_stats
from ladle.evaluation.intervals import DEFAULT, Resampling, ratio_of_sums, sum_by_group, wilson_interval
from ladle.evaluation.judge import Judge
from ladle.evaluation.mauve import Featuriser, frechet_distance, mauve_scores, shown_name
from ladle.evaluation.overlap import SELF_BLEU_TEXTS, CorpusScore, bleu_against_all, rouge_scores, self_bleu_scores
from ladle.evaluation.scorer import Scorer, perplexity

Texts = Sequence[str]
Groups = Sequence[Any] | None
BY_INPUT = "bootstrap over inputs"


@dataclass(frozen=True)
class Metric:
    """The meaning of a figure. `no_texts`: its value for an empty set; None: as for one empty text."""

    name: str
    version: int
    direction: Literal["higher", "lower", "as the reference"]
    says: str
    empty_text: str
    no_texts: float | None


@dataclass(frozen=True)
class Score:
    """One figure. `n`: number of rows measured; `interval`: 95 %, by `method`; `details`: settings and parts."""

    metric: str
    value: float
    n: int
    interval: Sequence[float] | None = None
    method: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The form in `report.json`."""
        metric = METRICS[self.metric]
        return {
            "value": self.value,
            "interval": list(self.interval) if self.interval else None,
            "interval_method": self.method if self.interval else None,
            "n": self.n,
            "version": metric.version,
            "direction": metric.direction,
            **({"details": self.details} if self.details else {}),
        }


_METRICS = (
    Metric("empty", 1, "lower", "share of empty texts", "is what it counts", 1.0),
    Metric("distinct", 1, "higher", "share of different texts", "all empty texts together are one text", 0.0),
    Metric("div", 1, "as the reference", "product over n = 2..4 of unique over total n-grams", "adds no n-gram", 0.0),
    Metric("div_per_input", 1, "as the reference", "Div of the draws of one input, mean over inputs", "as div", 0.0),
    Metric("distinct_1", 1, "as the reference", "unique over total words", "adds no word", 0.0),
    Metric("distinct_2", 1, "as the reference", "unique over total pairs of words", "adds no pair", 0.0),
    Metric("entropy", 1, "as the reference", "entropy of the 4-grams, in nats", "adds no 4-gram", 0.0),
    Metric("self_bleu", 1, "as the reference", "BLEU of each text against the others, mean", "scores 0", 0.0),
    Metric("test_bleu", 1, "higher", "BLEU of each text against held-out texts, mean", "scores 0", 0.0),
    Metric("mem", 1, "as the reference", "share of 4-grams that the training text holds", "adds no 4-gram", 0.0),
    Metric("copies", 1, "as the reference", "share of texts that are a training row", "is no copy", 0.0),
    Metric("nearest", 1, "as the reference", "likeness to the nearest training text, mean", "is near to nothing", 0.0),
    Metric(
        "meaning", 1, "as the reference", "cosine to the training text nearest in features, mean", "as any text", 0.0
    ),
    Metric("span", 1, "as the reference", "share that is one run of words of a training text, mean", "has none", 0.0),
    Metric("bleu", 1, "higher", "corpus BLEU against references", "matches nothing, shortens the output", 0.0),
    Metric("chrf", 1, "higher", "corpus chrF against references", "matches nothing", 0.0),
    Metric("rouge_1", 1, "higher", "ROUGE-1 F1 against the best reference, mean", "scores 0", 0.0),
    Metric("rouge_2", 1, "higher", "ROUGE-2 F1 against the best reference, mean", "scores 0", 0.0),
    Metric("rouge_l", 1, "higher", "ROUGE-L F1 against the best reference, mean", "scores 0", 0.0),
    Metric("bertscore", 1, "higher", "BERTScore F1 against the best reference, mean", "scores 0", 0.0),
    Metric("slots_said", 1, "higher", "share of the input's slots that are said (E2E)", "says none", 0.0),
    Metric("slots_wrong", 1, "lower", "wrong additions for each slot of the input (E2E)", "adds none", 1.0),
    Metric("length", 1, "as the reference", "mean number of words", "has 0 words", 0.0),
    Metric("length_distance", 2, "lower", "Wasserstein distance of lengths, in words", "has 0 words", None),
    Metric("perplexity", 1, "as the reference", "perplexity a token under the scorer", "is a token drawn evenly", None),
    Metric("label_true", 1, "higher", "share of texts that are what their label says", "never is", 0.0),
    Metric("label_true_2", 1, "higher", "the same under the second judge", "never is", 0.0),
    Metric("frechet", 1, "lower", "Frechet distance to reference texts", "is featurised as any text", None),
    Metric("mauve", 1, "higher", "MAUVE against reference texts", "is featurised as any text", 0.0),
    Metric(
        "mauve_by_label", 1, "higher", "MAUVE within each label, mean over labels", "is featurised as any text", 0.0
    ),
)
METRICS = {metric.name: metric for metric in _METRICS}


def score_empty(texts: Texts, resampling: Resampling = DEFAULT) -> Score:
    """Share of empty texts."""
    flags = np.array([text_stats.is_empty(text) for text in texts], dtype=bool)
    return _share("empty", flags, resampling, no_texts=1.0)


def scores_of_variety(texts: Texts, resampling: Resampling = DEFAULT) -> list[Score]:
    """The share of different texts, Div, distinct-1, distinct-2 and the entropy of the 4-grams. Each is of the whole
    set and depends on the number of texts."""
    tokens = [text_stats.tokenise(text) for text in texts]
    return [
        _of_set("distinct", text_stats.distinct_share, list(texts), resampling, most=1.0),
        _of_set("div", text_stats.diversity, tokens, resampling, most=1.0),
        _of_set("distinct_1", partial(text_stats.distinct_ngrams, order=1), tokens, resampling),
        _of_set("distinct_2", partial(text_stats.distinct_ngrams, order=2), tokens, resampling),
        _of_set("entropy", text_stats.entropy, tokens, resampling),
    ]


def score_div_per_input(draws: Sequence[Texts], resampling: Resampling = DEFAULT) -> Score:
    """Mean over inputs of the Div of an input's draws. Inputs with one draw are left out."""
    several = [[text_stats.tokenise(text) for text in texts] for texts in draws if len(texts) > 1]
    counts = [len(texts) for texts in several] or [0]
    details = {"draws_per_input": [min(counts), max(counts)]}
    values = [text_stats.diversity(texts) for texts in several]
    return mean_score("div_per_input", values, resampling, details, BY_INPUT)


def score_self_bleu(texts: Texts, resampling: Resampling = DEFAULT) -> Score:
    """Mean sentence BLEU of each text of a subset against the rest of it; depends on the subset's size, `n`."""
    values = self_bleu_scores(texts, seed=resampling.seed)
    details = {"library": f"sacrebleu {package_version('sacrebleu')}", "drawn_from": len(texts)}
    score = mean_score("self_bleu", values, resampling, details, "bootstrap over the texts' scores")
    return replace(score, n=min(len(texts), SELF_BLEU_TEXTS))


def score_test_bleu(
    texts: Texts, reference: Texts, every: Texts | None = None, resampling: Resampling = DEFAULT
) -> Score:
    """Mean sentence BLEU of each text against texts of `reference`, drawn by the seed. They are as many as a text has
    in self-BLEU, so that the two can be compared. Look at both, because a few usual texts said again and again raise
    this one (arXiv 1811.02549).

    every: more held-out texts. `details` then have the mean against all of them too, as Texygen has it
    (arXiv 1802.01886).
    """
    most = max(1, min(len(reference), SELF_BLEU_TEXTS) - 1)
    values = bleu_against_all(texts, reference, max_references=most, seed=resampling.seed)
    details: dict[str, Any] = {
        "library": f"sacrebleu {package_version('sacrebleu')}",
        "references": min(most, len(reference)),
    }
    if every:
        against_every = bleu_against_all(texts, every)
        value = float(np.mean(against_every)) if against_every else 0.0
        details["against_all"] = {"value": value, "references": len(every)}
    return mean_score("test_bleu", values, resampling, details, "bootstrap over the texts' scores")


def score_mem(texts: Texts, training: set[tuple[str, ...]], resampling: Resampling = DEFAULT) -> Score:
    """Mem. `training`: `text_stats.ngram_set` of the training text."""
    share = ratio_of_sums(np.stack(text_stats.memorised_ngrams(texts, training), axis=1))
    interval = resampling.bootstrap(share, len(texts))
    return Score("mem", share(np.arange(len(texts))), len(texts), interval, "bootstrap")


def score_copies(texts: Texts, training: Texts, resampling: Resampling = DEFAULT) -> Score:
    """Share of texts equal to a training row without case, spaces and punctuation."""
    score = _share("copies", text_stats.is_copy(texts, training), resampling)
    return replace(score, details={"compared": "without case, spaces and punctuation"})


def scores_of_audit(texts: Texts, training: Texts, resampling: Resampling = DEFAULT) -> tuple[Score, Score]:
    """The novelty audit's two means: `nearest` (edit distance) and `span` (longest run of words that a training text
    holds). `details` hold quantiles and, for `nearest`, the worst twenty. Raises UserError without the extra."""
    rows = novelty.audit(texts, training)
    nearest, spans = (np.array([getattr(row, name) for row in rows]) for name in ("similarity", "span_share"))
    order = sorted(rows, key=lambda row: (-row.similarity, -row.span_share))
    details = {**novelty.spread_of(nearest), "worst": [asdict(row) for row in order[: novelty.WORST]]}
    return (
        mean_score("nearest", nearest, resampling, details),
        mean_score("span", spans, resampling, novelty.spread_of(spans)),
    )


def score_meaning(texts: Texts, training: Texts, featuriser: Featuriser, resampling: Resampling = DEFAULT) -> Score:
    """Mean cosine between a text's features and those of the nearest training text. `details` hold quantiles and the
    worst twenty."""
    similarity, nearest = novelty.nearest_in_features(featuriser.features(texts), featuriser.features(training))
    order = np.argsort(-similarity, kind="stable")[: novelty.WORST if len(training) else 0]
    rows = [{"text": texts[i], "nearest": training[nearest[i]], "similarity": float(similarity[i])} for i in order]
    details = {**novelty.spread_of(similarity), "worst": rows, "featuriser": featuriser.describe()}
    return mean_score("meaning", similarity, resampling, details)


def mean_score(
    name: str,
    values: Sequence[float] | np.ndarray,
    resampling: Resampling,
    details: dict[str, Any] | None = None,
    method: str = "bootstrap",
    groups: Groups = None,
) -> Score:
    """The mean of one number per text; 0 for no texts. Texts of one group are resampled together."""
    parts = sum_by_group(np.stack([values, np.ones(len(values))], axis=1), groups)
    value = float(np.mean(values)) if len(values) else 0.0
    interval = resampling.bootstrap(ratio_of_sums(parts), len(parts))
    return Score(name, value, len(values), interval, method, details or {})


def score_length(texts: Texts, resampling: Resampling = DEFAULT) -> Score:
    """Mean number of words, with standard deviation and quantiles."""
    lengths = text_stats.lengths(texts)
    known = lengths if len(lengths) else np.zeros(1)
    quantiles = {str(share): float(np.quantile(known, share)) for share in (0.05, 0.25, 0.5, 0.75, 0.95)}
    return mean_score("length", lengths, resampling, {"sd": float(known.std()), "quantiles": quantiles})


def score_length_distance(texts: Texts, reference: Texts, resampling: Resampling = DEFAULT) -> Score:
    """Wasserstein distance of the lengths to those of the reference texts, in words."""
    theirs = text_stats.lengths(reference)
    lengths = text_stats.lengths(texts).tolist()
    score = _of_set("length_distance", partial(text_stats.wasserstein, other=theirs), lengths, resampling)
    return replace(score, details={"reference_texts": len(reference)})


def score_perplexity(texts: Texts, scorer: Scorer, resampling: Resampling = DEFAULT) -> Score:
    """exp of the mean nats per token over all texts."""
    nll, tokens = scorer.score(texts or [""])
    interval = resampling.bootstrap(lambda rows: perplexity(nll[rows], tokens[rows]), len(texts))
    details = {"scorer": scorer.describe()}
    return Score("perplexity", perplexity(nll, tokens), len(texts), interval, "bootstrap", details)


def score_label_true(accuracy: Mapping[str, Any], judge: Judge, name: str = "label_true") -> Score:
    """Share of texts to which the judge gives the label that they were made with: the result of `Judge.accuracy`."""
    details = {"judge": judge.describe(), "by_label": accuracy["by_label"]}
    return Score(name, accuracy["value"], accuracy["n"], accuracy["interval"], "Wilson", details)


# --------------------------------------------------------------------------------- against the references of each text
# `groups` is the input of each text, so that the draws of one input are resampled together.


def score_corpus(
    name: str, texts: Texts, references: Sequence[Texts], resampling: Resampling = DEFAULT, *, groups: Groups = None
) -> Score:
    """Corpus BLEU (`bleu`) or corpus chrF2 (`chrf`)."""
    corpus = CorpusScore(texts, references, groups, name.upper())
    counts = [len(row) for row in references]
    details = {
        "signature": corpus.signature,
        "inputs": corpus.num_groups,
        "references_per_text": float(np.mean(counts)) if counts else 0.0,
    }
    interval = resampling.bootstrap(corpus.score_of, corpus.num_groups)
    return Score(name, corpus.score, len(texts), interval, BY_INPUT, details)


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
    details = {"encoder": shown_name(encoder), "layer": bertscore.layer(encoder)}
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


# --------------------------------------------------------------------------------------------- against other texts


def score_mauve(texts: Texts, reference: Texts, featuriser: Featuriser, *, seeds: int = 3) -> Score:
    """MAUVE, mean over `seeds` clusterings. There is no interval: `details` holds each seed's value and their spread.

    Raises:
        UserError: the extra is not installed, or fewer than three seeds (one clustering moves it by up to .07).
    """
    if seeds < 3:
        raise UserError(f"MAUVE over {seeds} seeds is unreliable; give at least 3 seeds")
    values = mauve_scores(featuriser.features(texts), featuriser.features(reference), seeds=range(seeds))
    details = {
        "featuriser": featuriser.describe(),
        "library": f"mauve-text {package_version('mauve-text')}",
        "reference_texts": len(reference),
        "seeds": list(range(seeds)),
        "values": values,
        "spread": float(np.std(values, ddof=1)),
    }
    return Score("mauve", float(np.mean(values)), len(texts), details=details)


def score_frechet(texts: Texts, reference: Texts, featuriser: Featuriser) -> Score:
    """Frechet distance of the features of two sets. No interval: a resample repeats rows, which moves the distance."""
    value = frechet_distance(featuriser.features(texts or [""]), featuriser.features(reference))
    details = {"featuriser": featuriser.describe(), "reference_texts": len(reference)}
    return Score("frechet", value, len(texts), details=details)


def _share(name: str, flags: np.ndarray, resampling: Resampling, no_texts: float = 0.0) -> Score:
    value = float(flags.mean()) if len(flags) else no_texts
    interval = wilson_interval(int(flags.sum()), len(flags)) if resampling.num_bootstrap else None
    return Score(name, value, len(flags), interval, "Wilson")


def _of_set(
    name: str, statistic: Callable[[list[Any]], float], rows: list[Any], resampling: Resampling, most: float = math.inf
) -> Score:
    """A figure of a whole set, 0 to `most`, that no single text has."""
    interval = resampling.jackknife(lambda chosen: statistic([rows[row] for row in chosen]), len(rows))
    if interval:
        interval = (max(0.0, interval[0]), min(most, interval[1]))
    return Score(name, statistic(rows), len(rows), interval, "jackknife")


def package_version(name: str, otherwise: str = "unknown") -> str:
    """The version of an installed package, or `otherwise`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return otherwise
