"""Texts rewritten for other latents: what the change does not touch stays."""

import pytest

from knowing import EIGHT, knowing
from ladle.editing.rewriting import Manner, rewrite_each, rewritten
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
    assert rewritten(parts, EIGHT, own, own, streams, parts.sampling) == list(EIGHT)


def test_for_the_latents_of_another_text_it_becomes_that_text(parts) -> None:
    """The decoder knows eight sentences by heart: nothing else can be said of the other latents."""
    cat, dog = latents(parts, CAT, DOG)
    assert rewritten(parts, [CAT], [cat], [dog], [SampleNoise([0])], parts.sampling) == [DOG]


def test_a_text_that_is_kept_changes_less(parts) -> None:
    """The more nats its own tokens are worth at their places, the fewer of them change."""
    own = latents(parts, *EIGHT)
    other = [*own[1:], own[0]]

    def changed(keep: float) -> int:
        streams = [SampleNoise([row]) for row in range(len(EIGHT))]
        found = rewritten(parts, EIGHT, own, other, streams, parts.sampling, keep=keep)
        return sum(text != source for text, source in zip(found, EIGHT, strict=True))

    assert changed(0.0) == len(EIGHT) and changed(100.0) == 0


def test_each_text_is_rewritten_several_times(parts) -> None:
    """In the order of the texts, with a seed for each, whatever stands beside it. Little is sure half-way. A timid
    manner keeps the text."""
    own = latents(parts, *EIGHT)
    half = [(first + second) / 2 for first, second in zip(own, [*own[1:], own[0]], strict=True)]
    seeds = [*range(len(EIGHT))]
    manners = (Manner(), Manner(keep=100), Manner(0.9, push=1.0))
    found = rewrite_each(parts, EIGHT, own, half, seeds, 6, parts.sampling, manners)
    assert [len(texts) for texts in found] == [6] * len(EIGHT)
    assert [(texts[1], texts[4]) for texts in found] == [(text, text) for text in EIGHT]
    alone = rewrite_each(parts, EIGHT[2:3], own[2:3], half[2:3], [2], 6, parts.sampling, manners)
    assert alone == found[2:3]
    assert any(len(set(texts)) > 2 for texts in found)
    assert rewrite_each(parts, EIGHT, own, half, seeds, 0, parts.sampling) == [[]] * len(EIGHT)
