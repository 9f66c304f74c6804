"""Texts rewritten for other latents: what the change does not touch stays."""

import pytest

from knowing import EIGHT, knowing
from ladle.editing.rewriting import rewrite_each, rewritten
from ladle.sampling.words import encode_texts
from ladle.seeding import SampleNoise

CAT, DOG = EIGHT[1], EIGHT[4]


@pytest.fixture(scope="module")
def parts():
    return knowing()


def latents(parts, *texts):
    return encode_texts(parts.autoencoder, texts, 8).rows()


def test_for_its_own_latents_a_text_stays_as_it_is(parts) -> None:
    own = latents(parts, *EIGHT)
    streams = [SampleNoise([row]) for row in range(len(EIGHT))]
    assert rewritten(parts, EIGHT, own, own, [None] * len(EIGHT), streams, parts.sampling) == list(EIGHT)


def test_for_the_latents_of_another_text_it_becomes_that_text(parts) -> None:
    """The decoder knows eight sentences by heart: nothing else can be said of the other latents."""
    cat, dog = latents(parts, CAT, DOG)
    assert rewritten(parts, [CAT], [cat], [dog], [None], [SampleNoise([0])], parts.sampling) == [DOG]


def test_each_text_is_rewritten_several_times(parts) -> None:
    """In the order of the texts, with a seed for each, whatever stands beside it. Little is sure half-way."""
    own = latents(parts, *EIGHT)
    half = [(first + second) / 2 for first, second in zip(own, [*own[1:], own[0]], strict=True)]
    seeds = [*range(len(EIGHT))]
    found = rewrite_each(parts, EIGHT, own, half, [-2.0] * len(EIGHT), seeds, 3, parts.sampling)
    assert [len(texts) for texts in found] == [3] * len(EIGHT)
    alone = rewrite_each(parts, EIGHT[2:3], own[2:3], half[2:3], [-2.0], [2], 3, parts.sampling)
    assert alone == found[2:3]
    assert any(len(set(texts)) > 1 for texts in found)
    assert rewrite_each(parts, EIGHT, own, half, [None] * len(EIGHT), seeds, 0, parts.sampling) == [[]] * len(EIGHT)
