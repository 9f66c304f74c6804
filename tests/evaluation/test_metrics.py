"""The table of metrics: each is named, versioned, and defined for empty texts and for no texts at all."""

import numpy as np
import pytest

from ladle.evaluation import metrics, text_stats
from ladle.evaluation.intervals import Resampling
from ladle.evaluation.judge import Judge
from ladle.evaluation.metrics import METRICS, Score

TRAIN = ["the cat sat on the mat today", "a dog ran in the park"]
TEXTS = ["the cat sat on the mat today", "A dog ran in the park!", "", "a new text about nothing much", "short"]
MR = "name[The Cat], eatType[pub], area[riverside]"
RESAMPLING = Resampling(num_bootstrap=100)


class WordScorer:
    """Four nats a word and one token each, and an end of one nat."""

    def score(self, texts):
        words = np.array([len(text.split()) for text in texts], dtype=float)
        return 4 * words + 1, words + 1

    def describe(self):
        return {"name": "words"}


class LengthJudge(Judge):
    """Texts of five words or more are long."""

    def __init__(self):
        super().__init__("bigrams", ("long", "short"), np.zeros((2, 1)), np.zeros(2), ("a",))

    def __post_init__(self):
        pass

    def predict(self, texts):
        return ["long" if len(text.split()) >= 5 else "short" for text in texts]


class LengthFeatures:
    """Characters and words."""

    def features(self, texts):
        return np.array([[len(text), len(text.split())] for text in texts], dtype=np.float32)

    def describe(self):
        return {"name": "lengths"}


def score_label_true(texts, name):
    """All texts were to be long."""
    judge = LengthJudge()
    return metrics.score_label_true(judge.accuracy(texts, ["long"] * len(texts)), judge, name)


MEASURES = {
    "empty": lambda texts: metrics.score_empty(texts, RESAMPLING),
    "distinct": lambda texts: metrics.scores_of_variety(texts, RESAMPLING)[0],
    "div": lambda texts: metrics.scores_of_variety(texts, RESAMPLING)[1],
    "distinct_1": lambda texts: metrics.scores_of_variety(texts, RESAMPLING)[2],
    "distinct_2": lambda texts: metrics.scores_of_variety(texts, RESAMPLING)[3],
    "entropy": lambda texts: metrics.scores_of_variety(texts, RESAMPLING)[4],
    "div_per_input": lambda texts: metrics.score_div_per_input([texts] if texts else [], RESAMPLING),
    "self_bleu": lambda texts: metrics.score_self_bleu(texts, RESAMPLING),
    "test_bleu": lambda texts: metrics.score_test_bleu(texts, TRAIN, TRAIN, RESAMPLING),
    "mem": lambda texts: metrics.score_mem(texts, text_stats.ngram_set(TRAIN), RESAMPLING),
    "copies": lambda texts: metrics.score_copies(texts, TRAIN, RESAMPLING),
    "nearest": lambda texts: metrics.scores_of_audit(texts, TRAIN, RESAMPLING)[0],
    "span": lambda texts: metrics.scores_of_audit(texts, TRAIN, RESAMPLING)[1],
    "meaning": lambda texts: metrics.score_meaning(texts, TRAIN, LengthFeatures(), RESAMPLING),
    "bleu": lambda texts: metrics.score_corpus("bleu", texts, [TRAIN for _ in texts], RESAMPLING),
    "chrf": lambda texts: metrics.score_corpus("chrf", texts, [TRAIN for _ in texts], RESAMPLING),
    "rouge_1": lambda texts: metrics.scores_of_rouge(texts, [TRAIN for _ in texts], RESAMPLING)[0],
    "rouge_2": lambda texts: metrics.scores_of_rouge(texts, [TRAIN for _ in texts], RESAMPLING)[1],
    "rouge_l": lambda texts: metrics.scores_of_rouge(texts, [TRAIN for _ in texts], RESAMPLING)[2],
    "slots_said": lambda texts: metrics.scores_of_slots(texts, [MR for _ in texts], RESAMPLING)[0],
    "slots_wrong": lambda texts: metrics.scores_of_slots(texts, [MR for _ in texts], RESAMPLING)[1],
    "length": lambda texts: metrics.score_length(texts, RESAMPLING),
    "length_distance": lambda texts: metrics.score_length_distance(texts, TRAIN, RESAMPLING),
    "perplexity": lambda texts: metrics.score_perplexity(texts, WordScorer(), RESAMPLING),
    "label_true": lambda texts: score_label_true(texts, "label_true"),
    "label_true_2": lambda texts: score_label_true(texts, "label_true_2"),
    "frechet": lambda texts: metrics.score_frechet(texts, TRAIN, LengthFeatures()),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["one"], TEXTS])
def test_every_metric_is_defined_for_any_set(name, texts):
    """No crash, no NaN, an interval that holds the value, and a form that JSON can carry."""
    score = MEASURES[name](texts)
    assert score.metric == name
    assert np.isfinite(score.value)
    if score.interval is not None:
        assert score.interval[0] - 1e-9 <= score.value <= score.interval[1] + 1e-9
    row = score.to_dict()
    assert row["version"] == METRICS[name].version
    assert row["direction"] == METRICS[name].direction


@pytest.mark.parametrize("name", MEASURES)
def test_no_texts_give_what_the_table_says(name):
    """The table is documentation: it has to be true."""
    expected = METRICS[name].no_texts
    expected = MEASURES[name]([""]).value if expected is None else expected
    assert MEASURES[name]([]).value == pytest.approx(expected)


def test_mauve_is_in_the_table_and_has_its_own_tests():
    """A metric that is added to the table must be measured here, or in the tests of what needs an encoder."""
    assert METRICS.keys() - MEASURES.keys() == {"mauve", "mauve_by_label", "bertscore"}


def test_test_bleu_has_as_many_references_as_self_bleu():
    """Else the two could not be compared: BLEU rises with the number of references."""
    held_out = [f"the {i % 9} cats sat on mat {i} at {i % 7}" for i in range(400)]
    ours = [f"the {i % 9} cats sat on mat {i % 5} at noon" for i in range(300)]
    score = metrics.score_test_bleu(ours, held_out, held_out, RESAMPLING)
    assert score.details["references"] == metrics.score_self_bleu(ours, RESAMPLING).n - 1 == 199
    assert score.details["against_all"]["references"] == 400
    assert score.value < score.details["against_all"]["value"]
    assert score.n == 300 and score.interval[0] < score.value < score.interval[1]


def test_values_of_a_known_set():
    """One look at the figures themselves, so that a swapped metric is seen."""
    value = {name: measure(TEXTS).value for name, measure in MEASURES.items()}
    assert value["empty"] == pytest.approx(1 / 5)
    assert value["distinct"] == 1
    assert value["copies"] == pytest.approx(2 / 5)
    # Words: 7, 6 with "!" a token apart, 0, 6, 1: 4-grams 4, 4 and 3; in training 4 of 4; "dog ran in the" and
    # "ran in the park" of the second (its "A" is upper case); none of the third.
    assert value["mem"] == pytest.approx((4 + 2) / (4 + 4 + 3))
    assert value["perplexity"] == pytest.approx(np.exp((4 * 20 + 5) / (20 + 5)))
    assert value["label_true"] == pytest.approx(3 / 5)
    assert value["distinct_1"] == pytest.approx(19 / 21)  # 7 + 7 + 0 + 6 + 1 tokens; "the" comes three times
    assert value["entropy"] == pytest.approx(np.log(11))  # 4 + 4 + 3, all different
    assert value["length"] == pytest.approx((7 + 6 + 0 + 6 + 1) / 5)


def test_intervals_can_be_left_out():
    """num_bootstrap = 0 is for those who want the figures fast."""
    quick = Resampling(num_bootstrap=0)
    assert metrics.score_corpus("bleu", TEXTS, [TRAIN] * 5, quick).interval is None
    assert metrics.scores_of_variety(TEXTS, quick)[1].to_dict()["interval"] is None
    assert metrics.score_empty(TEXTS, quick).to_dict()["interval_method"] is None


def test_div_per_input_looks_within_inputs_only():
    """Draws that are all alike within their input are not varied, however the inputs differ."""
    collapsed: Score = metrics.score_div_per_input([["a b c d e"] * 3, ["f g h i j"] * 3], RESAMPLING)
    varied = metrics.score_div_per_input([["a b c d e", "k l m n o"], ["f g h i j"]], RESAMPLING)
    assert collapsed.value == pytest.approx((1 / 3) ** 3)
    assert varied.value == 1
    assert varied.n == 1
