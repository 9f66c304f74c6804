"""Measures the rows of a report with the same texts and models, which are loaded once.

The samples are one row. The controls are more rows, measured as if they had been generated: held-out text
(`reference`), the same text with its words shuffled (`shuffled`), training rows (`training`) and, with an autoencoder,
its reconstructions of the held-out text (`ceiling`).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ladle.evaluation import metrics, text_stats
from ladle.evaluation.intervals import DEFAULT, Resampling
from ladle.evaluation.judge import Judge
from ladle.evaluation.mauve import MIN_TEXTS, Featuriser
from ladle.evaluation.metrics import Score
from ladle.evaluation.overlap import SELF_BLEU_TEXTS
from ladle.evaluation.samples import (
    Reference,
    Sample,
    draws_by_source,
    halves,
    references_by_source,
    spread,
    with_words_shuffled,
)
from ladle.evaluation.scorer import Scorer

Row = dict[str, Score]
Reconstruct = Callable[[list[str]], Sequence[str]]

MIN_LABEL_TEXTS = 50  # of one label, for a MAUVE of its own
JUDGED = ("label_true", "label_true_2")


@dataclass(frozen=True)
class Split:
    """Reference texts for figures that compare distributions. `shown` takes the place of samples; all rows are compared
    with `against`. The two are disjoint; `shown` may be empty. halves: all texts that the two were taken from."""

    shown: list[str]
    against: list[str]
    halves: tuple[list[str], list[str]]


@dataclass
class Measurement:
    """Measures rows. A metric whose setting is None, empty or False is left out.

    reference: held-out texts. train: training texts. featuriser: for MAUVE, the Frechet distance and the nearest
    meaning. scorer: for perplexity. judges: at most two, for labels. bertscore_encoder: folder or hub id. slots: the
    inputs are E2E's. rouge: used if there are references. test_bleu: against held-out texts. novelty: the audit. seeds:
    clusterings of MAUVE. warnings: remarks on the figures, collected while measuring.
    """

    reference: Reference | None = None
    train: Sequence[str] | None = None
    featuriser: Featuriser | None = None
    scorer: Scorer | None = None
    judges: Sequence[Judge] = ()
    bertscore_encoder: str | None = None
    slots: bool = False
    rouge: bool = False
    test_bleu: bool = False
    novelty: bool = False
    seeds: int = 3
    resampling: Resampling = DEFAULT
    warnings: list[str] = field(default_factory=list)

    def measure(self, samples: Sequence[Sample]) -> Row:
        """The row of generated texts."""
        texts = [sample.text for sample in samples]
        row = self._alone(texts, self.novelty)
        draws = draws_by_source(samples)
        if any(len(group) > 1 for group in draws.values()):
            row |= named(metrics.score_div_per_input(list(draws.values()), self.resampling))
        answers = references_by_source(samples, self.reference)
        if answers:
            known = [sample for sample in samples if sample.source in answers]
            if len(known) < len(samples):
                missing = len(samples) - len(known)
                self.warn(f"{missing} of {len(samples)} samples have an input without references; BLEU leaves them out")
            keys = [str(sample.source) for sample in known]
            row |= self._against_references([s.text for s in known], [answers[key] for key in keys], keys)
        labelled = [sample for sample in samples if sample.label is not None]
        ours, labels = [sample.text for sample in labelled], [str(sample.label) for sample in labelled]
        for name, judge in zip(JUDGED, self.judges, strict=False):
            row |= named(metrics.score_label_true(judge.accuracy(ours, labels), judge, name))
        split = self.split(samples)
        if split is not None:
            chosen = random.Random(self.resampling.seed).sample(texts, len(split.against))
            row |= self._distribution(texts, chosen, split) | self._by_label(samples, split)
        return row

    def controls(self, samples: Sequence[Sample], reconstruct: Reconstruct | None = None) -> dict[str, Row]:
        """The control rows. Each has as many texts as `samples`, if there are enough."""
        rows: dict[str, Row] = {"reference": {}}
        split = self.split(samples)
        count, generator = len(samples), random.Random(self.resampling.seed)
        if self.reference is not None:
            beside = spread(list(self.reference.texts.values()), count, generator)
            if len(beside) < count:
                self.warn(
                    f"{len(beside)} reference texts but {count} samples: Div and distinct texts fall with the number "
                    "of texts, so do not compare these two metrics with the reference"
                )
            shown = split.shown if split is not None else []
            rows["reference"] = self._control(beside, shown, split, self.novelty) | self._first_against_others(samples)
            if split is not None and any(sample.label is not None for sample in samples):
                real = [Sample(text, label=self.reference.labels.get(text)) for text in split.halves[0]]
                rows["reference"] |= self._by_label(real, split)
            mixed = [with_words_shuffled(texts, generator) for texts in (beside, shown)]
            rows["shuffled"] = self._control(mixed[0], mixed[1], split)
        for name, judge in zip(JUDGED, self.judges, strict=False):
            if judge.real:  # on real rows held out when the judge was trained
                rows["reference"] |= named(metrics.score_label_true(judge.real, judge, name))
        if self.train:
            replayed = generator.sample(list(self.train), min(count, len(self.train)))
            again = generator.sample(list(self.train), min(len(split.shown), len(self.train))) if split else []
            rows["training"] = self._control(replayed, again, split)
        if reconstruct is not None and self.reference is not None:
            different = list(dict.fromkeys([*beside, *shown]))
            decoded = dict(zip(different, reconstruct(different), strict=True))
            made, made_shown = ([decoded[text] for text in texts] for texts in (beside, shown))
            bleu = metrics.score_corpus("bleu", made, [[text] for text in beside], self.resampling)
            rows["ceiling"] = self._control(made, made_shown, split) | named(bleu)
        return {name: row for name, row in rows.items() if row}

    def split(self, samples: Sequence[Sample]) -> Split | None:
        """Two parts of the reference texts, as large as the part of `samples` that is used; None without reference."""
        if self.reference is None:
            return None
        generator = random.Random(self.resampling.seed)
        within = bool(references_by_source(samples, self.reference))
        one, other = halves(self.reference, within=within, generator=generator)
        count = min(len(samples), *(sum(map(len, half)) for half in (one, other) if half))
        if not one:
            self.warn("too few reference texts to split; MAUVE, frechet and lengths have no reference row")
        if self.test_bleu and count < min(len(samples), SELF_BLEU_TEXTS):
            self.warn(f"test-BLEU has {count - 1} references, self-BLEU more: do not compare the two")
        if count < MIN_TEXTS and self.featuriser is not None:
            self.warn(f"MAUVE on {count} texts; below {MIN_TEXTS} it is high for any two sets and varies with its seed")
        if within is False and self.reference.by_source and draws_by_source(samples):
            self.warn("the reference file has no input of the samples; BLEU is left out")
        every = [text for group in one for text in group], [text for group in other for text in group]
        return Split(spread(one, count, generator), spread(other, count, generator), every)

    def warn(self, line: str) -> None:
        """Keep a warning, once."""
        if line not in self.warnings:
            self.warnings.append(line)

    # ------------------------------------------------------------------------------------------------- parts of a row

    def _control(self, texts: Sequence[str], shown: Sequence[str], split: Split | None, audit: bool = False) -> Row:
        row = self._alone(texts, audit)
        return row | (self._distribution(texts, shown, split) if split is not None and shown else {})

    @cached_property
    def _training_ngrams(self) -> set[tuple[str, ...]]:
        return text_stats.ngram_set(self.train or [])

    def _alone(self, texts: Sequence[str], audit: bool) -> Row:
        """The metrics that need no texts but the training texts. audit: find each text's neighbours among them."""
        scores = [
            metrics.score_empty(texts, self.resampling),
            *metrics.scores_of_variety(texts, self.resampling),
            metrics.score_self_bleu(texts, self.resampling),
            metrics.score_length(texts, self.resampling),
        ]
        if self.train is not None:
            scores.append(metrics.score_mem(texts, self._training_ngrams, self.resampling))
            scores.append(metrics.score_copies(texts, self.train, self.resampling))
        if self.train is not None and audit:
            scores += metrics.scores_of_audit(texts, self.train, self.resampling)
            if self.featuriser is not None:
                scores.append(metrics.score_meaning(texts, self.train, self.featuriser, self.resampling))
        if self.scorer is not None:
            scores.append(metrics.score_perplexity(texts, self.scorer, self.resampling))
        return named(*scores)

    def _distribution(self, texts: Sequence[str], chosen: Sequence[str], split: Split) -> Row:
        """Distances to `split.against`: from `chosen`, as many texts, if the number matters; else from all `texts`."""
        row = named(metrics.score_length_distance(texts, split.against, self.resampling))
        if self.test_bleu:  # (the texts in `shown` are not among `halves[1]`)
            row |= named(metrics.score_test_bleu(texts, split.against, split.halves[1], self.resampling))
        if self.featuriser is not None:
            row |= named(
                metrics.score_mauve(chosen, split.against, self.featuriser, seeds=self.seeds),
                metrics.score_frechet(chosen, split.against, self.featuriser),
            )
        return row

    def _by_label(self, samples: Sequence[Sample], split: Split) -> Row:
        """MAUVE of each label's texts against the held-out texts of that label in the second half, if both are enough.
        The samples' row and the reference's row, which uses the first half, have the same size."""
        assert self.reference is not None
        labels, generator = self.reference.labels, random.Random(self.resampling.seed)
        if self.featuriser is None or not labels:
            return {}
        scores = {}
        for label in sorted({sample.label for sample in samples if sample.label is not None}):
            ours = [sample.text for sample in samples if sample.label == label]
            shown, theirs = ([text for text in half if labels.get(text) == label] for half in split.halves)
            count = min(len(ours), len(shown), len(theirs))
            if count >= MIN_LABEL_TEXTS:
                sets = (generator.sample(ours, count), generator.sample(theirs, count))
                scores[label] = metrics.score_mauve(*sets, self.featuriser, seeds=self.seeds)
        if not scores:
            return {}
        details = {"by_label": {label: {"value": s.value, "n": s.n} for label, s in scores.items()}}
        mean = sum(score.value for score in scores.values()) / len(scores)
        return named(Score("mauve_by_label", mean, sum(score.n for score in scores.values()), details=details))

    def _against_references(
        self, texts: Sequence[str], answers: Sequence[Sequence[str]], sources: Sequence[str]
    ) -> Row:
        """Texts of one source are resampled together."""
        options: dict[str, Any] = {"resampling": self.resampling, "groups": sources}
        scores = [metrics.score_corpus(name, texts, answers, **options) for name in ("bleu", "chrf")]
        if self.rouge:
            scores += metrics.scores_of_rouge(texts, answers, **options)
        if self.bertscore_encoder is not None:
            scores.append(metrics.score_bertscore(texts, answers, self.bertscore_encoder, **options))
        if self.slots:
            scores += metrics.scores_of_slots(texts, sources, self.resampling)
        return named(*scores)

    def _first_against_others(self, samples: Sequence[Sample]) -> Row:
        """Each input's first reference against its others, and Div of as many references of an input as it has
        draws."""
        answers = references_by_source(samples, self.reference)
        several = {source: texts for source, texts in answers.items() if len(texts) > 1}
        if not several:
            return {}
        firsts, others = zip(*((texts[0], texts[1:]) for texts in several.values()), strict=True)
        row = self._against_references(firsts, others, list(several))
        draws = max((len(group) for group in draws_by_source(samples).values()), default=0)
        full = [texts[:draws] for texts in several.values() if len(texts) >= draws]
        if draws > 1 and full:
            row |= named(metrics.score_div_per_input(full, self.resampling))
        return row


def named(*scores: Score) -> Row:
    """Scores by the name of their metric."""
    return {score.metric: score for score in scores}


def as_report(rows: Mapping[str, Row]) -> dict[str, dict[str, dict[str, object]]]:
    """Rows in the form of `report.json`, with the metrics in the order of `METRICS`."""
    return {
        name: {metric: row[metric].to_dict() for metric in metrics.METRICS if metric in row}
        for name, row in rows.items()
        if row
    }
