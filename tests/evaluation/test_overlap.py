"""BLEU must be sacreBLEU's, whatever the number of references, and empty texts must cost."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from ladle.evaluation.overlap import BleuAgainstAll, CorpusScore, bleu_against_all, rouge_scores, self_bleu_scores

TEXTS = ["the cat sat on the mat .", "a dog ran in the park", "it rains again today"]
REFERENCES = [["the cat sat on a mat .", "a cat is on the mat ."], ["a dog ran through the park"], ["it rains today"]]


def test_corpus_bleu_is_sacrebleus():
    """With an equal number of references sacreBLEU's plain call is the oracle."""
    padded = [[row[0] for row in REFERENCES]]
    bleu = CorpusScore(TEXTS, [[row[0]] for row in REFERENCES])
    assert bleu.score == pytest.approx(BLEU().corpus_score(TEXTS, padded).score)
    assert "nrefs:1|" in bleu.signature


def test_references_may_vary_in_number():
    """A reference given twice is no new reference: padding with copies must be the same score."""
    padded = [[row[0] for row in REFERENCES], [row[-1] for row in REFERENCES]]
    bleu = CorpusScore(TEXTS, REFERENCES)
    assert bleu.score == pytest.approx(BLEU().corpus_score(TEXTS, padded).score)
    assert "nrefs:var|" in bleu.signature


def test_the_statistics_that_are_resampled_give_the_score():
    """All rows once is the score itself; else the interval would be of something else."""
    bleu = CorpusScore(TEXTS, REFERENCES)
    assert bleu.score_of(np.arange(bleu.num_groups)) == pytest.approx(bleu.score)
    two = CorpusScore([TEXTS[0], TEXTS[2]], [REFERENCES[0], REFERENCES[2]])
    assert bleu.score_of(np.array([0, 2])) == pytest.approx(two.score)


def test_draws_of_one_input_are_resampled_together():
    """Draws of an input are not independent rows: taken as such the interval would be too narrow."""
    bleu = CorpusScore(TEXTS, REFERENCES, groups=["x", "y", "x"])
    assert bleu.num_groups == 2
    assert bleu.score_of(np.array([0])) == pytest.approx(
        CorpusScore([TEXTS[0], TEXTS[2]], [REFERENCES[0], REFERENCES[2]]).score
    )


def test_an_empty_text_lowers_bleu():
    """Never dropped: the corpus gets shorter and the brevity penalty bites."""
    with_empty = CorpusScore([TEXTS[0], TEXTS[1], ""], REFERENCES).score
    assert 0 < with_empty < CorpusScore(TEXTS, REFERENCES).score
    assert CorpusScore(["", ""], REFERENCES[:2]).score == 0
    assert CorpusScore([], []).score == 0


def test_a_text_without_reference_is_refused():
    """Silently scoring it 0, or leaving it out, would both be wrong."""
    with pytest.raises(ValueError, match="at least one reference"):
        CorpusScore(["a"], [[]])
    with pytest.raises(ValueError, match="1 texts but 0"):
        CorpusScore(["a"], [])


def test_self_bleu_of_alike_and_of_unlike_texts():
    """100 where all texts are one text, near 0 where no word is shared; an empty text scores 0."""
    alike = self_bleu_scores(["the cat sat on the mat"] * 4)
    assert alike == pytest.approx([100.0] * 4)
    unlike = self_bleu_scores(["one two three four five", "six seven eight nine ten", "red green blue grey pink"])
    assert max(unlike) < 5
    assert self_bleu_scores(["the cat sat on the mat", "the cat sat on the mat", ""])[2] == 0
    assert self_bleu_scores(["alone"]) == []


def test_self_bleu_draws_a_subset_by_seed():
    """Its cost is the square of the texts; the subset must be the same for the same seed."""
    texts = [f"text number {i} of {i % 7} kinds" for i in range(30)]
    assert len(self_bleu_scores(texts, max_texts=10)) == 10
    assert self_bleu_scores(texts, max_texts=10, seed=1) == self_bleu_scores(texts, max_texts=10, seed=1)


MANY = [
    "the cat sat on the mat .", "The cat, the cat!", "a", "it rains", "", "   ", "a dog ran in the park and a dog sat",
    "it's 3.5% of $20", "it rains again today, and it rains again", "the the the the", "on the mat a cat sat", "a dog",
]  # fmt: skip


def test_bleu_against_all_is_sacrebleus_sentence_bleu() -> None:
    """With many references, of other lengths, words that come twice, signs, and no word in common."""
    oracle = BLEU(effective_order=True)
    references = MANY[3:] + REFERENCES[0]
    found = bleu_against_all([*MANY, "zebra", "the the the the the cat"], references)
    expected = [oracle.sentence_score(text, references).score for text in [*MANY, "zebra", "the the the the the cat"]]
    assert found == pytest.approx(expected, abs=1e-6)
    assert max(found) == pytest.approx(100) and min(found) == 0


def test_self_bleu_is_sacrebleus_sentence_bleu_against_the_others() -> None:
    """A text's own words do not count, also where another text has as many of them, or one is there twice."""
    texts = [text for text in MANY if text.strip()] + ["a dog"]
    oracle = BLEU(effective_order=True)
    expected = [oracle.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]
    assert self_bleu_scores(texts) == pytest.approx(expected, abs=1e-6)


def test_test_bleu_draws_its_references_by_seed() -> None:
    """The same for every system; none at all where there are no references."""
    one = bleu_against_all(MANY, MANY, max_references=4, seed=1)
    assert one == bleu_against_all(MANY, MANY, max_references=4, seed=1) != bleu_against_all(MANY, MANY)
    assert bleu_against_all(MANY, []) == []
    with pytest.raises(ValueError, match="at least one reference"):
        BleuAgainstAll([])


def test_chrf_and_its_resamples_are_sacrebleus_own() -> None:
    """Public score and the sum of the rows' statistics agree, by row and by group."""
    texts = ["the cat sat on the mat", "a dog", "", "it is here"]
    references = [["the cat is on the mat", "cats sat"], ["the dog ran", "a dog"], ["x"], ["it was not here"]]
    streams = [[row[i] if i < len(row) else None for row in references] for i in range(2)]
    expected = CHRF().corpus_score(texts, streams).score
    for groups in (None, ["a", "a", "b", "a"]):
        chrf = CorpusScore(texts, references, groups, "CHRF")
        assert chrf.score == pytest.approx(expected)
        assert chrf.score_of(np.arange(chrf.num_groups)) == pytest.approx(expected)
    assert CorpusScore([], [], kind="CHRF").score == 0


def test_rouge_is_the_packages_own_on_english_and_knows_other_scripts() -> None:
    """rouge-score's own tokenizer drops every letter that is not ASCII: identical Russian texts would score 0."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="ROUGE needs the extra 'evaluation'")
    names = ["rouge1", "rouge2", "rougeL"]
    texts, references = ["The cat isn't on the mat.", "a b"], [["A cat was on that mat", "no"], ["b c a"]]
    own = scorer.RougeScorer(names)
    expected = [
        [max(own.score(answer, text)[name].fmeasure for answer in answers) for name in names]
        for text, answers in zip(texts, references, strict=True)
    ]
    np.testing.assert_allclose(rouge_scores(texts, references), expected)
    assert rouge_scores(["Привет, мир", ""], [["привет мир"], ["мир"]]).tolist() == [[1, 1, 1], [0, 0, 0]]
