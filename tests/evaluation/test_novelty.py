"""The audit finds what brute force finds: the nearest text by edit distance, the longest shared run of words."""

import random

import numpy as np
import pytest

from ladle.evaluation.metrics import scores_of_audit
from ladle.evaluation.novelty import audit, longest_spans, nearest_texts

TRAINING = ["the cat sat on the mat", "a dog ran to the sea", "two owls met at noon in the old barn"]


def brute_span(words: list[str], training: list[list[str]]) -> tuple[int, int]:
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length + 1):
            run = words[start : start + length]
            if any(run == row[i : i + length] for row in training for i in range(len(row) - length + 1)):
                return start, length
    return 0, 0


def edits(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, last = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (x != y)))
    return row[-1]


def test_spans_are_those_of_brute_force() -> None:
    numbers = random.Random(0)
    training, texts = (
        [[numbers.choice("abc") for _ in range(numbers.randrange(12))] for _ in range(count)] for count in (15, 200)
    )
    assert longest_spans(texts, training) == [brute_span(words, training) for words in texts]


def test_a_run_does_not_cross_from_one_training_text_into_the_next() -> None:
    assert longest_spans([["b", "c"]], [["a", "b"], ["c", "d"]]) == [(0, 1)]


def test_the_nearest_text_is_that_of_brute_force() -> None:
    texts = ["the cat sat on a mat", "owls met at noon", "", "zzz"]
    similarity, index = nearest_texts(texts, TRAINING)
    for text, share, near in zip(texts[:2], similarity, index, strict=False):
        all_shares = [1 - edits(text, other) / max(len(text), len(other)) for other in TRAINING]
        assert share == pytest.approx(max(all_shares), abs=1e-6)
        assert all_shares[near] == max(all_shares)
    assert (similarity[2], index[2]) == (0.0, -1)
    assert similarity[3] < 0.1


def test_copies_come_first_in_the_summary_and_nothing_is_dropped() -> None:
    texts = ["something else", "a dog ran to the sea", "", "the cat sat on a mat"]
    rows = audit(texts, TRAINING)
    assert [row.text for row in rows] == texts
    assert rows[1].similarity == 1.0 and rows[1].span_share == 1.0
    assert rows[3].span == "the cat sat on" and rows[3].num_span_words == 4
    nearest, _ = scores_of_audit(texts, TRAINING)
    assert nearest.n == 4
    assert [row["text"] for row in nearest.details["worst"]] == [texts[1], texts[3], texts[0], texts[2]]
    assert nearest.details["mean"] == nearest.value == pytest.approx(np.mean([row.similarity for row in rows]))


def test_without_training_texts_everything_is_new() -> None:
    assert audit(["a b"], [])[0].similarity == 0.0
    assert scores_of_audit([], [])[0].details == {"mean": 0.0, "worst": []}
