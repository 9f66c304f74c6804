"""The filter of synthetic texts: every reason to drop one, alone."""

import numpy as np
import pytest

from ladle.data.rows import Row
from ladle.evaluation.selection import CrossJudge, Selection, near_copies

GOOD = [f"the {noun} was lovely and the staff was kind" for noun in ("soup", "bread", "tea", "cake", "fish", "room")]
BAD = [f"the {noun} was awful and nobody came to help" for noun in ("soup", "bread", "tea", "cake", "fish", "room")]
ROWS = [Row(text=text, label=label) for label, texts in (("good", GOOD), ("bad", BAD)) for text in texts]


def embed(texts: list[str]) -> np.ndarray:
    """Two channels: kind words and unkind ones."""
    kind = np.array([sum(text.count(word) for word in ("lovely", "kind", "great")) for text in texts], dtype=float)
    other = np.array([sum(text.count(word) for word in ("awful", "nobody")) for text in texts], dtype=float)
    return np.stack([kind, other], axis=1) / np.maximum(1, kind + other)[:, None]


def flat(texts: list[str], label: str) -> list[float]:
    return [0.0] * len(texts)


@pytest.fixture(scope="module")
def judge() -> CrossJudge:
    return CrossJudge.fit(ROWS, embed)


def test_each_fold_is_judged_by_classifiers_that_do_not_know_it(judge: CrossJudge) -> None:
    """Labels that follow no rule must not seem to be recognised: an accuracy on known rows would be 1."""
    assert judge.real == 1.0 and len(judge.members) == 5
    words = [f"w{i}" for i in range(24)]
    rows = [Row(text=word, label=("a", "b")[i % 2]) for i, word in enumerate(words)]
    assert CrossJudge.fit(rows, lambda texts: np.zeros((len(texts), 2))).real < 0.8
    assert len(CrossJudge.fit([*ROWS[:2], *ROWS[-2:]], embed).members) == 2  # as few folds as a label has rows


def test_classifiers_agree_on_the_label_of_a_text(judge: CrossJudge) -> None:
    """A text of the wrong label would teach the wrong thing."""
    share, likeliest = judge.agreement(["a lovely great place", "a lovely great place"], ["good", "bad"])
    assert share.tolist() == [1.0, 0.0] and likeliest.tolist() == [True, False]


def test_near_copies_of_both_kinds_are_found() -> None:
    """A word that is changed in the middle breaks a run, and a part of a long text shares few of its words."""
    real = ["the old cat sat on a mat and looked at the wide blue sea for a long time"]
    texts = [
        "The old cat sat on a mat, and stared at the wide blue sea for a long time!",  # one word is another
        "looked at the wide blue sea",  # a part
        "a dog ran over the wide road to find its old friend",
        "",
    ]
    assert near_copies(texts, real).tolist() == [True, True, False, False]
    assert near_copies(texts, []).tolist() == [False] * 4
    assert near_copies([], real).tolist() == []


def test_every_fate_is_counted(judge: CrossJudge) -> None:
    """What became of the candidates is how a user learns why few came."""
    selection = Selection(ROWS, judge, flat)
    texts = [
        "", "The soup was lovely, and the staff was kind.", "the soup was lovely and the staff was so kind",
        "what a lovely great evening", "What a lovely great evening!", "an awful place where nobody smiles",
        "lovely people make great tea here",
    ]  # fmt: skip
    assert selection.choose(texts, "good") == ["what a lovely great evening", "lovely people make great tea here"]
    assert dict(selection.counts) == {
        "empty": 1, "copies": 1, "nearly copies": 1, "repeated": 1, "of another label": 1, "unsound": 0, "kept": 2
    }  # fmt: skip
    assert selection.choose(["what a lovely great evening"], "good") == []  # in a later round too


def test_the_least_sound_fifth_is_dropped(judge: CrossJudge) -> None:
    """The worst texts of a round, by the model's own measure, whatever its scale."""
    texts = [f"lovely great number {word}" for word in ("one", "two", "three", "four", "five")]
    selection = Selection(ROWS, judge, lambda texts, label: [-1.0 if "three" in text else 0.0 for text in texts])
    assert selection.choose(texts, "good") == [text for text in texts if "three" not in text]
    assert selection.counts["unsound"] == 1
