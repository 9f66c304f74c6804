"""The choice among candidates, by scores and shares that are given: no model is asked."""

from collections.abc import Sequence

import pytest
import torch

from ladle.errors import UserError
from ladle.sampling.candidates import Candidate, Draw, LabelCheck, candidate_seeds, first_with_label, soundest
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request
from ladle.seeding import SampleNoise

LABELS = ("bad", "good")


def classify(texts: list[str], seeds: list[int]) -> torch.Tensor:
    """A cat is good, a dog is bad, anything else might be either."""
    good = torch.tensor([0.9 if "cat" in text else 0.1 if "dog" in text else 0.5 for text in texts])
    return torch.stack([1 - good, good], dim=1)


def drawing(texts: list[list[str]], asked: list[tuple[list[int], list[int]]] | None = None) -> Draw:
    """texts: [seed][number]. asked: where seeds and numbers are noted."""

    def draw(request: Request, numbers: Sequence[int]) -> list[list[Candidate]]:
        if asked is not None:
            asked.append((request.seeds, list(numbers)))
        return [
            [Candidate(row, SampleNoise([seed]), latents=torch.full((1, 2), n), text=texts[seed][n]) for n in numbers]
            for row, seed in enumerate(request.seeds)
        ]

    return draw


def kept_texts(texts: list[list[str]], labels: list[str | None], **options: object) -> list[str]:
    """By length, among those that are right."""
    request = Request(list(range(len(texts))), labels, [None] * len(texts))
    config = SamplingOptions.parse({"candidates": len(texts[0])} | options)
    check = LabelCheck(LABELS, classify, always=True)
    return [
        sample.text
        for sample in soundest(
            request, config, drawing(texts), lambda texts, label, source, seed: [len(text) for text in texts], check
        )
    ]


def test_scores_are_asked_for_one_samples_texts_at_a_time() -> None:
    """With its own label, source and seed; what is kept has the highest score, and its own latents."""
    asked = []

    def score(texts: list[str], label: str | None, source: str | None, seed: int) -> list[float]:
        asked.append((texts, label, source, seed))
        return [float(text[-1]) for text in texts]

    texts = [["a1", "a3", "a2"], ["b5", "b4", "b5"], ["c1", "", " "]]
    request = Request([0, 1, 2], ["good", None, None], [None, "b", None])
    check = LabelCheck(LABELS, classify)
    samples = soundest(request, SamplingOptions(candidates=3), drawing(texts), score, check)
    assert asked == [(["a1", "a3", "a2"], "good", None, 0), (["b5", "b4", "b5"], None, "b", 1)]
    assert [(sample.text, sample.score) for sample in samples] == [("a3", 3.0), ("b5", 5.0), ("c1", None)]
    assert [int(sample.latents[0, 0]) for sample in samples] == [1, 0, 0]
    assert [(sample.seed, sample.label, sample.source) for sample in samples] == [
        (0, "good", None), (1, None, "b"), (2, None, None),
    ]  # fmt: skip


def test_an_empty_candidate_is_kept_only_where_all_are() -> None:
    assert kept_texts([["", " ", "a cat."], ["", "a cat.", " "], ["", " ", ""]], [None] * 3) == ["a cat.", "a cat.", ""]


def test_the_soundest_is_looked_for_among_those_that_are_what_the_label_says() -> None:
    """Where none is, the nearest; without a label among all."""
    drawn = ["a dog one", "a cat two two", "a dog", "a cat one"]
    assert kept_texts([drawn] * 3, ["good", "bad", None]) == ["a cat two two", "a dog one", "a cat two two"]
    assert kept_texts([["a dog", "one two", "", "a dog dog"]], ["good"]) == ["one two"]
    assert kept_texts([["a dog", "one two", "", "a dog dog"]], ["good"], label_confidence=0.0) == ["a dog dog"]


def test_the_first_with_its_label_is_kept_and_the_others_are_drawn_again() -> None:
    """Only those that still need one, each by its next seed; with none at the end the nearest."""
    asked: list[tuple[list[int], list[int]]] = []
    texts = [["a cat", "?", "?"], ["a dog", "a dog two", "a cat"], ["a dog", "or", "a dog"], ["", "a cat", "?"]]
    request = Request([0, 1, 2, 3], ["good"] * 3 + [None], [None] * 4)
    options = SamplingOptions(candidates=3, choose="label", label_confidence=0.8)
    samples = first_with_label(request, options, drawing(texts, asked), LabelCheck(LABELS, classify))
    assert [sample.text for sample in samples] == ["a cat", "a cat", "or", "a cat"]
    assert [sample.score for sample in samples] == pytest.approx([0.9, 0.9, 0.5, 1.0])
    assert asked == [([0, 1, 2, 3], [0]), ([1, 2, 3], [1]), ([1, 2], [2])]


def test_an_empty_text_has_no_label() -> None:
    """With a label or without, and also where the model has none."""
    texts, labels = ["", "a cat", "a cat", " "], ["good", "good", None, None]
    check = LabelCheck(LABELS, classify)
    assert check.shares(texts, labels, [0] * 4) == pytest.approx([0.0, 0.9, 1.0, 0.0])
    assert LabelCheck((), classify).shares(texts, [None] * 4, [0] * 4) == [0.0, 1.0, 1.0, 0.0]


def test_texts_without_a_label_are_not_classified() -> None:
    def refuse(texts: list[str], seeds: list[int]) -> torch.Tensor:
        raise AssertionError("nothing needs a probability here")

    assert LabelCheck(LABELS, refuse).shares(["a cat", ""], [None, None], [0, 1]) == [1.0, 0.0]


def test_the_first_candidate_is_the_samples_own() -> None:
    """One candidate is what one draw gives; the others' seeds stay apart, also those of neighbouring seeds."""
    assert candidate_seeds(7, 1) == [7]
    seeds = [seed for own in range(100) for seed in candidate_seeds(own, 16)]
    assert len(set(seeds)) == 1600
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_there_is_not_is_not_bent_into_another(seed: int) -> None:
    """Two seeds with one stream would look like two samples."""
    with pytest.raises(UserError, match=f"seed is {seed}"):
        SampleNoise(candidate_seeds(seed, 3))
