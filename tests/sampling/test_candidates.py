"""The choice among candidates, by scores and shares that are given: no model is asked."""

from collections.abc import Sequence

import pytest
import torch

from ladle.errors import UserError
from ladle.sampling.candidates import (
    Candidate,
    ConditionCheck,
    Draw,
    candidate_seeds,
    first_that_matches,
    soundest,
)
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request
from ladle.seeding import SampleNoise

LABELS = ("bad", "good")
VALUES = {"label": LABELS, "size": ("big", "small")}


def classify(texts: list[str], seeds: list[int], name: str) -> torch.Tensor:
    """A cat is good, a dog is bad, anything else might be either; the size is told by "big"."""
    if name == "size":
        big = torch.tensor([0.8 if "big" in text else 0.3 for text in texts])
        return torch.stack([big, 1 - big], dim=1)
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
    check = ConditionCheck(VALUES, classify, always=["label"])
    return [
        sample.text
        for sample in soundest(request, config, drawing(texts), lambda texts, own: [len(text) for text in texts], check)
    ]


def test_scores_are_asked_for_one_samples_texts_at_a_time() -> None:
    """With its own label, source and seed; what is kept has the highest score, and its own latents."""
    asked = []

    def score(texts: list[str], own: Request) -> list[float]:
        asked.append((texts, *own.labels, *own.sources, *own.seeds))
        return [float(text[-1]) for text in texts]

    texts = [["a1", "a3", "a2"], ["b5", "b4", "b5"], ["c1", "", " "]]
    request = Request([0, 1, 2], ["good", None, None], [None, "b", None])
    check = ConditionCheck(VALUES, classify)
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
    samples = first_that_matches(request, options, drawing(texts, asked), ConditionCheck(VALUES, classify))
    assert [sample.text for sample in samples] == ["a cat", "a cat", "or", "a cat"]
    assert [sample.score for sample in samples] == pytest.approx([0.9, 0.9, 0.5, 1.0])
    assert asked == [([0, 1, 2, 3], [0]), ([1, 2, 3], [1]), ([1, 2], [2])]


def test_an_empty_text_has_no_label() -> None:
    """With a label or without, and also where the model has none."""
    texts, wanted = ["", "a cat", "a cat", " "], [{"label": "good"}, {"label": "good"}, {}, {}]
    check = ConditionCheck(VALUES, classify)
    assert check.shares(texts, wanted, [0] * 4) == pytest.approx([0.0, 0.9, 1.0, 0.0])
    assert ConditionCheck({}, classify).shares(texts, [{}] * 4, [0] * 4) == [0.0, 1.0, 1.0, 0.0]


def test_texts_without_a_label_are_not_classified() -> None:
    def refuse(texts: list[str], seeds: list[int], name: str) -> torch.Tensor:
        raise AssertionError("nothing needs a probability here")

    assert ConditionCheck(VALUES, refuse).shares(["a cat", ""], [{}, {}], [0, 1]) == [1.0, 0.0]


def test_of_several_conditions_the_one_that_is_matched_least_counts() -> None:
    """A text that is right in one respect and wrong in another is wrong; only what is asked for is looked at."""
    texts = ["a big cat", "a cat", "a big dog", "a big cat"]
    wanted = [{"label": "good", "size": "big"}] * 3 + [{"size": "small"}]
    check = ConditionCheck(VALUES, classify)
    assert check.shares(texts, wanted, [0] * 4) == pytest.approx([0.8, 0.3, 0.1, 0.2])
    assert check.shares(texts, wanted, [0] * 4, ["size"]) == pytest.approx([0.8, 0.3, 0.8, 0.2])


def test_a_value_to_avoid_is_right_where_it_is_not() -> None:
    """Guidance below 0 leads away from a value: the candidate that has it is the wrong one. At 0 it is not checked."""
    texts, wanted = ["a big cat", "a cat"], [{"label": "good", "size": "big"}] * 2
    avoiding = ConditionCheck(VALUES, classify, avoided=["size"])
    assert avoiding.shares(texts, wanted, [0] * 2) == pytest.approx([0.2, 0.7])
    assert ConditionCheck(VALUES, classify, ignored=["size"]).shares(texts, wanted, [0] * 2) == pytest.approx([0.9] * 2)
    request = Request([0], ["good"], [None], [{"size": "big"}])
    options = SamplingOptions(candidates=3, choose="label")
    kept = first_that_matches(request, options, drawing([["a big cat", "a dog", "a cat"]]), avoiding)
    assert (kept[0].text, kept[0].attributes) == ("a cat", {"size": "big"})


def test_controls_are_asked_beside_the_conditions() -> None:
    """Also where no condition is, and where the choice of the soundest looks at no condition."""
    controls = lambda texts: [0.2 if "old" in text else 0.85 for text in texts]  # noqa: E731
    check = ConditionCheck(VALUES, classify, controls=controls)
    texts, wanted = ["an old cat", "a cat", "a dog", "a dog", ""], [*[{"label": "good"}] * 3, {}, {}]
    assert check.shares(texts, wanted, [0] * 5) == pytest.approx([0.2, 0.85, 0.1, 0.85, 0.0])
    assert check.shares(texts, wanted, [0] * 5, ()) == pytest.approx([0.2, 0.85, 0.85, 0.85, 0.0])
    drawn = [["an old cat that is long", "a dog", "a big cat"]]
    request, options = Request([0], ["good"], [None]), SamplingOptions(candidates=3, label_confidence=0.8)
    by_length = soundest(request, options, drawing(drawn), lambda texts, own: [len(text) for text in texts], check)
    assert by_length[0].text == "a big cat"
    assert first_that_matches(request, options, drawing(drawn), check)[0].text == "a big cat"
    assert first_that_matches(Request([0], [None], [None]), options, drawing(drawn), check)[0].text == "a dog"


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
