"""Counts over texts: fixed cases worked out by hand, and the corners (empty texts, no texts, other scripts)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.evaluation import metrics, text_stats


def test_div_is_the_papers_product():
    """arXiv 2212.09462: product over n = 2..4 of unique over total n-grams, counted over the whole set."""
    texts = ["abcd", "abce"]  # a letter is a token
    # 2-grams: ab bc cd ab bc ce -> 4 of 6; 3-grams: abc bcd abc bce -> 3 of 4; 4-grams: 2 of 2.
    assert text_stats.diversity(texts) == pytest.approx(4 / 6 * 3 / 4 * 1)
    assert text_stats.diversity(texts * 2) == pytest.approx(4 / 12 * 3 / 8 * 2 / 4)


def test_div_leaves_out_orders_that_no_text_reaches():
    """A set of two-word texts has no 4-grams; 0/0 must not decide its score."""
    assert text_stats.diversity(["ab", "ab", "cd"]) == pytest.approx(2 / 3)
    assert text_stats.diversity(["a", ""]) == 0
    assert text_stats.diversity([]) == 0


def memorised_share(texts, training):
    return metrics.score_mem(texts, text_stats.ngram_set(training)).value


def test_mem_counts_generated_fourgrams_that_training_holds():
    """With repetition, over all texts; short and empty texts have none and do not dilute it."""
    training = ["the cat sat on the mat", "short"]
    # the cat sat on: yes; cat sat on a: no; sat on a mat: no; then one text that is all training text (3 of 3).
    texts = ["the cat sat on a mat", "the cat sat on the mat", "", "two words"]
    assert memorised_share(texts, training) == pytest.approx((1 + 3) / (3 + 3))
    assert memorised_share(["", "a"], training) == 0
    assert memorised_share([], training) == 0
    assert memorised_share(texts, []) == 0


def test_copies_are_found_without_case_spaces_and_punctuation():
    """`Good food .` is `good food!` copied; a text without a letter or digit copies nothing."""
    training = ["Good food .", "Well-done: 5 stars", "..."]
    flags = text_stats.is_copy(["good food!", "GOODFOOD", "good foods", "well done 5 STARS", "", "!", "good"], training)
    assert flags.tolist() == [True, True, False, True, False, False, False]
    assert text_stats.is_copy([], training).tolist() == []


def test_empty_and_distinct_keep_empty_texts_in_the_count():
    """Dropping empty generations is a known way to flatter a model."""
    texts = ["", "  \n", "a", "a ", "b"]
    assert metrics.score_empty(texts).value == pytest.approx(2 / 5)
    assert text_stats.distinct_share(texts) == pytest.approx(3 / 5)
    assert metrics.score_empty([]).value == 1
    assert text_stats.distinct_share([]) == 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It isn't £20-25, is it?", ["It", "isn't", "£", "20", "-", "25", ",", "is", "it", "?"]),
        ("Café d\u2019été", ["Café", "d\u2019été"]),
        ("Привет, мир!", ["Привет", ",", "мир", "!"]),
        ("我喜欢 tea", ["我", "喜", "欢", "tea"]),
        ("हिन्दी", ["हिन्दी"]),  # vowel signs belong to the word
        ("", []),
    ],
)
def test_tokens_in_any_script(text, tokens):
    """No script may fall apart into marks or melt into one token."""
    assert text_stats.tokenise(text) == tokens


def test_words_are_tokens_with_a_letter_or_digit():
    """Yelp's free-standing full stops are no words."""
    assert text_stats.lengths(["the food is great .", "", "..."]).tolist() == [4, 0, 0]


numbers = st.lists(st.integers(0, 40), min_size=1, max_size=30)


@settings(deadline=None, max_examples=50)
@given(numbers, numbers)
def test_wasserstein_is_scipys(one, other):
    """An independent implementation agrees on any two samples."""
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy, to compare with, is not installed")
    assert text_stats.wasserstein(one, other) == pytest.approx(scipy_stats.wasserstein_distance(one, other))


def test_wasserstein_of_nothing_is_to_a_single_zero():
    """Defined for empty sets, like all the rest."""
    assert text_stats.wasserstein([], [2, 4]) == pytest.approx(3)
    assert text_stats.wasserstein(np.array([]), []) == 0
