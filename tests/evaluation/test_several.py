"""The choice among several draws: the consensus, or the best by the answers."""

import pytest

from ladle.evaluation.several import SIMILARITIES, least_risk, nearest_to, similarity
from ladle.sampling.soundness import likeness_to_others

DRAWS = ("the cat sat on the mat.", "dogs bark at night.", "the cat sat on a mat.", "a cat sat on the mat.", "")


@pytest.mark.parametrize("by", SIMILARITIES)
def test_the_consensus_is_of_least_risk(by: str) -> None:
    """Three draws say the same; the odd one and the empty one are never kept, wherever they stand."""
    pytest.importorskip("rouge_score", reason="ROUGE needs the extra 'evaluation'")
    for turn in range(len(DRAWS)):
        draws = [*DRAWS[turn:], *DRAWS[:turn]]
        assert "cat sat on" in draws[least_risk(draws, by)]  # type: ignore[arg-type]


def test_by_bleu_it_is_the_choice_that_sampling_makes() -> None:
    """The two places that know minimum Bayes risk agree on it."""
    likeness = likeness_to_others(DRAWS)
    assert least_risk(DRAWS, "bleu") == likeness.index(max(likeness))


@pytest.mark.parametrize("by", SIMILARITIES)
def test_the_oracle_keeps_the_draw_nearest_to_any_answer(by: str) -> None:
    """It sees the answers: no draw is more similar to them."""
    pytest.importorskip("rouge_score", reason="ROUGE needs the extra 'evaluation'")
    answers = ["something else", "dogs bark at night"]
    kept = nearest_to(DRAWS, answers, by)  # type: ignore[arg-type]
    assert DRAWS[kept] == "dogs bark at night."
    values = [similarity(text, answers, by) for text in DRAWS]  # type: ignore[arg-type]
    assert values[kept] == max(values) > 0 == values[-1]


def test_of_equal_draws_the_first_that_says_something_is_kept() -> None:
    """So that the choice does not hang on chance, and nobody gets an empty text for nothing."""
    assert least_risk(["one", "two"], "bleu") == nearest_to(["one", "two"], ["three"], "bleu") == 0
    assert least_risk(["", "two"], "bleu") == nearest_to(["", "two"], ["three"], "bleu") == 1
    assert least_risk(["", ""], "bleu") == 0
    with pytest.raises(ValueError, match="empty"):
        least_risk([], "bleu")


def test_rouge_is_of_words_and_bleu_of_runs_of_them() -> None:
    """By hand: two of four words, one of three pairs, a common subsequence of two."""
    pytest.importorskip("rouge_score", reason="ROUGE needs the extra 'evaluation'")
    found = [similarity("a b c d", ["a b x y"], by) for by in ("rouge_1", "rouge_2", "rouge_l")]  # type: ignore[arg-type]
    assert found == pytest.approx([1 / 2, 1 / 3, 1 / 2])
    assert similarity("a b c d", ["a b c d", "x"], "bleu") == pytest.approx(1)
    assert similarity("a", [" "], "bleu") == similarity(" ", ["a"], "rouge_l") == 0
