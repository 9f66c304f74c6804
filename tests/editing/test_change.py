"""The figures beside a changed text, against hand-worked ones."""

import pytest
import torch

import memorised
import tiny
from knowing import EIGHT, knowing
from ladle.autoencoder.embedding import embed_texts
from ladle.editing.change import Change, edit_distance, measured, sentence_bleu
from ladle.sampling.words import encode_texts


@pytest.mark.parametrize(
    ("text", "other", "distance"),
    [
        ("the cat sat", "the cat sat", 0.0),
        ("the cat sat", "the dog sat", 1 / 3),  # one replaced
        ("the old cat sat down", "the cat sat", 2 / 5),  # two put in
        ("cat", "the cat.", 2 / 3),  # a word and a sign left out
        ("sat cat the", "the cat sat", 2 / 3),
        ("", "the cat", 1.0),
        ("", "", 0.0),
    ],
)
def test_the_edit_distance_counts_words_and_signs(text: str, other: str, distance: float) -> None:
    """Over the longer text, so that 1 means that nothing is left."""
    assert edit_distance(text, other) == pytest.approx(distance)
    assert edit_distance(other, text) == pytest.approx(distance)


def test_sentence_bleu_by_hand() -> None:
    """Of four words three are there, of three pairs one, of two triples none (counted as half of one), and so on as in
    sacreBLEU: exponential smoothing halves each n-gram order that has no match."""
    assert sentence_bleu("the cat sat on a mat", "the cat sat on a mat") == pytest.approx(100)
    assert sentence_bleu("the cat ate fish", "the cat sat down") == pytest.approx(
        100 * (2 / 4 * 1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 4), rel=1e-3
    )
    assert sentence_bleu(" ", "the cat") == 0


def test_figures_of_a_change_are_those_of_its_two_texts() -> None:
    """By the public functions, text by text: nothing is mixed up where several changes are measured together."""
    parts = knowing(judged=True)
    latents = encode_texts(parts.autoencoder, EIGHT, 8)
    changes = [
        Change(EIGHT[1], EIGHT[4], 0, target=EIGHT[2], amount=0.5, latents=latents.values[1]),
        Change(EIGHT[3], EIGHT[3], 1, latents=latents.values[3]),
    ]

    def chance(texts: list[str]) -> list[float]:
        return [len(text) / 100 for text in texts]

    first, same = measured(parts, changes, attribute=chance, fluency=lambda texts: [float(len(t)) for t in texts])
    points = embed_texts(parts.autoencoder, EIGHT)
    assert first.similarity == pytest.approx(float(points[1] @ points[4]), abs=1e-5)
    assert first.target_similarity == pytest.approx(float(points[1] @ points[2]), abs=1e-5)
    assert first.bleu == pytest.approx(sentence_bleu(EIGHT[1], EIGHT[4]))
    assert first.edit_distance == pytest.approx(edit_distance(EIGHT[1], EIGHT[4]))
    assert first.moved == pytest.approx(float((latents.values[1] - latents.values[4]).square().mean().sqrt()), abs=1e-5)
    assert (first.attribute_before, first.attribute_after) == (len(EIGHT[4]) / 100, len(EIGHT[1]) / 100)
    assert first.perplexity == len(EIGHT[1])
    assert same.similarity == pytest.approx(1, abs=1e-5) and same.bleu == pytest.approx(100)
    assert same.edit_distance == 0 and same.moved == pytest.approx(0, abs=1e-5) and same.target_similarity is None


def test_how_far_latents_of_other_numbers_moved() -> None:
    """Position-aligned latents of a longer text are compared place by place on the shorter one's scale."""
    parts = memorised.memorised_parts()
    source = encode_texts(parts.autoencoder, [EIGHT[4]], 1).values[0]
    longer = torch.repeat_interleave(source, 2, dim=0)  # (the same path, at half the pace)
    (change,) = measured(parts, [Change(EIGHT[1], EIGHT[4], latents=longer + 0.5)])
    (near,) = measured(parts, [Change(EIGHT[1], EIGHT[4], latents=source + 0.5)])
    assert near.moved == pytest.approx(0.5, abs=1e-4)
    assert 0 < change.moved < 1.5


def test_an_empty_text_has_figures_too() -> None:
    """A decoder may write none, and a report must not end in an error."""
    (change,) = measured(knowing(), [Change("", EIGHT[1])])
    assert change.bleu == 0 and change.edit_distance == 1 and -1 <= change.similarity <= 1


def test_a_row_holds_all_that_is_known_and_no_latents() -> None:
    """For JSON Lines."""
    change = Change("a", "b", 3, amount=0.5, latents=torch.zeros(2, 2))
    assert change.as_row() == {
        "text": "a", "source": "b", "seed": 3, "amount": 0.5, "similarity": 0.0, "bleu": 0.0, "edit_distance": 0.0,
        "moved": 0.0,
    }  # fmt: skip
    assert str(change) == "a"
    assert measured(tiny.tiny_parts(), []) == []
