"""The worth of added rows: what is known to help must show a gain, and what cannot help must not."""

from collections import Counter

import numpy as np
import pytest

from ladle.baselines.word_edits import CHANGED, copies, word_edits
from ladle.benchmark.gain import SYNTHETIC, measure_gain, resampled, to_markdown
from ladle.data.rows import Row

NOUNS = [f"n{i}" for i in range(40)]
GOOD, BAD = [f"g{i}" for i in range(20)], [f"b{i}" for i in range(20)]


def rows(count: int, seed: int, words: int = 20) -> list[Row]:
    """Texts of nouns with one word that decides, of the first `words` of each label."""
    generator = np.random.default_rng(seed)
    found = []
    for i in range(count):
        kind = (GOOD, BAD)[i % 2]
        text = [*generator.choice(NOUNS, 7).tolist(), kind[generator.integers(words)]]
        found.append(Row(text=" ".join(text), label=("good", "bad")[i % 2]))
    return found


def embed(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), text.count("n1")] for text in texts], dtype=float)


def test_edits_keep_label_and_most_words() -> None:
    """Each edit of the paper without synonyms: left out, changed places, or another word of the set."""
    real = rows(8, 0)
    counts = {"good": 30, "bad": 6}
    made = word_edits(real, counts, seed=1)
    assert Counter(row["label"] for row in made) == counts
    known = {word for row in real for word in row["text"].split()}
    originals = {label: [row["text"].split() for row in real if row["label"] == label] for label in counts}
    number = round(CHANGED * 8)
    kinds = Counter[str]()
    for row in made:
        words = row["text"].split()
        assert set(words) <= known
        gone = min(sum((Counter(one) - Counter(words)).values()) for one in originals[row["label"]])
        assert gone <= number
        same = words in originals[row["label"]]
        kinds["shorter" if len(words) < 8 else "same" if same else "swapped" if not gone else "replaced"] += 1
    assert {"shorter", "swapped", "replaced"} <= kinds.keys()
    assert made == word_edits(real, counts, seed=1) != word_edits(real, counts, seed=2)
    assert word_edits([Row(text="one", label="a")], {"a": 3}, seed=0) == [Row(text="one", label="a")] * 3


def test_copies_are_equally_many_of_each_row() -> None:
    real = rows(6, 0)
    made = copies(real, {"good": 7, "bad": 3}, seed=0)
    assert sorted(Counter(row["text"] for row in made if row["label"] == "good").values()) == [2, 2, 3]
    assert len(made) == 10 and {row["text"] for row in made} == {row["text"] for row in real}


def test_rows_with_new_words_gain_and_copies_do_not() -> None:
    """Words that decide, which the few real rows lack, are what a classifier must learn from the added ones."""
    real, test, synthetic = rows(20, 0, words=4), rows(200, 1), rows(200, 2)
    found = measure_gain(real, synthetic, test, embed, seeds=3)
    good, copied = (found["TF-IDF"][kind] for kind in (SYNTHETIC, "copies"))
    assert good["gain"]["interval"][0] > 0.1
    assert abs(copied["gain"]["value"]) < 0.1
    assert good["value"] == pytest.approx(found["TF-IDF"]["real rows"]["value"] + good["gain"]["value"])
    assert abs(found["embeddings"][SYNTHETIC]["gain"]["value"]) < 0.2  # (they do not show these words)
    table = to_markdown(found)
    assert "| real rows + word edits |" in table and "Test rows: 200. Added rows by label: good 100, bad 100." in table


def test_without_synthetic_rows_there_is_the_accuracy_alone() -> None:
    """All candidates may be unfit, and the command must still end well."""
    found = measure_gain(rows(20, 0), [], rows(20, 1), embed)
    assert list(found["TF-IDF"]) == ["real rows"]
    assert "Added rows by label: none" in to_markdown(found)


def test_resampling_keeps_the_number_of_each_label() -> None:
    """Else a seed would change the balance of the classes, and not the luck of the draw."""
    made = resampled(rows(31, 0), seed=3)
    assert Counter(row["label"] for row in made) == {"good": 16, "bad": 15}
    assert len({row["text"] for row in made}) < 31
