"""Other texts like a given one: how near, how free, in which words."""

from dataclasses import replace
from functools import cache

import pytest
import torch

import memorised
import tiny
from knowing import EIGHT, knowing
from ladle.autoencoder.lexicon import Lexicon, words_of
from ladle.editing.change import sentence_bleu
from ladle.editing.wordings import best_wordings, closeness, draw_wordings, fluency, progress
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.sampling.words import encode_texts


@cache
def plan() -> LatentDiffusion:
    return LatentDiffusion(knowing())


@cache
def aligned() -> LatentDiffusion:
    return LatentDiffusion(memorised.memorised_parts())


MODELS = pytest.mark.parametrize("model", [plan, aligned], ids=["plan", "aligned"])


@MODELS
def test_strength_0_keeps_the_latents(model) -> None:
    """A decoder that knows the text by heart then says it, and the report says that nothing moved."""
    for change in model().vary(EIGHT[1:4], 0, seed=0, temperature=0.0):
        assert change.text == change.source
        assert change.moved == pytest.approx(0, abs=1e-4) and change.amount == 0


@MODELS
def test_strength_1_is_a_free_sample(model) -> None:
    """Nothing of the text is left: another text with as many latents gives the same words by the same seed."""
    mask = encode_texts(model().autoencoder, EIGHT, 8).mask.sum(1).tolist()
    both = next(
        (one, other) for a, one in enumerate(EIGHT) for b, other in enumerate(EIGHT) if a < b and mask[a] == mask[b]
    )
    first, second = (model().vary(text, 1.0, 3, seed=3, temperature=0.0) for text in both)
    for one, other in zip(first, second, strict=True):
        assert one.latents.shape == other.latents.shape
        torch.testing.assert_close(one.latents, other.latents, atol=0.02, rtol=0.02)


def test_a_greater_strength_moves_further() -> None:
    """From near to free."""
    moved = [sum(c.moved for c in aligned().vary(EIGHT[1:4], time, seed=0)) for time in (0, 0.2, 0.5, 0.9)]
    assert moved == sorted(moved) and moved[0] < moved[-1]


@MODELS
def test_a_seed_gives_its_text_in_any_batch(model) -> None:
    """`n` variations of each text have seeds of their own, which count up."""
    whole = model().vary(EIGHT[1:4], 0.5, 2, seed=7, temperature=1.0)
    assert [change.seed for change in whole] == [7, 8, 9, 10, 11, 12]
    assert [change.source for change in whole] == [EIGHT[1]] * 2 + [EIGHT[2]] * 2 + [EIGHT[3]] * 2
    alone = model().vary(EIGHT[2], 0.5, 2, seed=9, temperature=1.0, batch_size=1)
    assert [change.text for change in alone] == [change.text for change in whole[2:4]]
    assert len({change.text for change in whole}) > 1


def test_words_are_those_that_the_model_or_the_text_itself_has() -> None:
    """With `words = known` no other word is written: not one that other texts of the batch have."""
    parts = knowing()
    backbone = parts.autoencoder.backbone
    backbone.lexicon = Lexicon(words_of(EIGHT[:4]), backbone.tokenizer)
    model = LatentDiffusion(parts)
    known = set(words_of(EIGHT[:4]))
    given = [EIGHT[6], EIGHT[4], EIGHT[7]]  # with words that are not among them
    changes = model.vary(given, 0.7, 6, seed=0, temperature=1.5, top_p=1.0)
    for change in changes:
        assert {*words_of([change.text])} <= known | {*words_of([change.source])}, change
    alone = model.vary(given[1], 0.7, 6, seed=6, temperature=1.5, top_p=1.0)
    assert [change.text for change in alone] == [change.text for change in changes[6:12]]
    free = model.vary(given, 0.7, 6, seed=0, temperature=1.5, top_p=1.0, words="any")
    assert any({*words_of([change.text])} - known - {*words_of([change.source])} for change in free)


@MODELS
def test_a_paraphrase_has_other_words_where_there_are_any(model) -> None:
    """The most different wordings come first that are near enough; its own words come last."""
    found = model().paraphrase(EIGHT[1], 3, candidates=24, seed=1, temperature=1.3, max_overlap=60.0)
    assert len(found) == 3
    overlaps = [change.bleu for change in found]
    assert overlaps[0] <= 60
    beyond = [value for value in overlaps if value > 60]
    assert overlaps[len(overlaps) - len(beyond) :] == sorted(beyond)


def test_of_paraphrases_the_one_nearest_in_meaning_is_first() -> None:
    """With the weight that a nat of fluency has."""
    parts = plan().parts
    (first, *_) = plan().paraphrase(EIGHT[1], 1, candidates=8, seed=1, temperature=1.3, max_overlap=60.0)
    options = parts.sampling.override(temperature=1.3)
    noised = first.latents
    assert noised.shape == (4, 8)
    from ladle.editing.vary import PARAPHRASE_TIME

    log_snr = float(parts.diffusion.schedule.log_snr(torch.tensor(PARAPHRASE_TIME)))
    (drawn,) = draw_wordings(parts, [noised], [log_snr], [1], [EIGHT[1]], 8, options)
    allowed = [text for text in drawn if sentence_bleu(text, EIGHT[1]) <= 60]
    z0 = encode_texts(parts.autoencoder, [EIGHT[1]], 1).values[0]
    near, well = closeness(parts, allowed, [z0] * len(allowed)), fluency(parts, allowed)
    scores = [one + 0.1 * other for one, other in zip(near, well, strict=True)]
    assert first.text == allowed[scores.index(max(scores))]


@MODELS
def test_a_paraphrase_does_not_depend_on_its_batch(model) -> None:
    """Seeds count up by text."""
    options = {"candidates": 4, "temperature": 1.0}
    whole = model().paraphrase(EIGHT[1:4], 2, seed=3, **options)
    alone = model().paraphrase(EIGHT[3], 2, seed=5, batch_size=1, **options)
    assert [change.text for change in alone] == [change.text for change in whole[4:]]
    assert [change.seed for change in whole] == [3, 3, 4, 4, 5, 5]


@MODELS
def test_what_reads_well_is_what_the_model_learnt(model) -> None:
    """Sentences against the same words in disorder; an empty text is the worst, whatever is beside it."""
    texts = [text for text in EIGHT if len(text.split()) > 4]
    mixed = [" ".join(reversed(text.split())) for text in texts]
    good, bad = fluency(model().parts, texts), fluency(model().parts, mixed)
    assert sum(one > other for one, other in zip(good, bad, strict=True)) >= len(texts) - 1
    assert fluency(model().parts, ["", texts[0]], batch_size=2)[0] == -100
    assert fluency(model().parts, ["", texts[0]], batch_size=2)[1] == pytest.approx(good[0], abs=1e-3)


@MODELS
def test_a_text_is_close_to_its_own_latents(model) -> None:
    """1 to its own, less to others', -1 for no text."""
    parts = model().parts
    latents = encode_texts(parts.autoencoder, EIGHT[1:3], 2)
    own = [values[mask] for values, mask in zip(latents.values, latents.mask, strict=True)]
    assert closeness(parts, EIGHT[1:3], own) == pytest.approx([1, 1], abs=1e-4)
    assert max(closeness(parts, EIGHT[1:3], own[::-1])) < 0.8
    assert closeness(parts, [" "], own[:1]) == [-1]
    assert best_wordings(parts, [[EIGHT[4], EIGHT[1]], [EIGHT[2], EIGHT[6]]], own) == EIGHT[1:3]


@MODELS
def test_a_text_has_gone_the_way_to_its_own_latents(model, monkeypatch) -> None:
    """1 at the end, 0 at the origin, less on the other side. Of two texts that are near a point, the one is kept that
    has gone there; without an origin the one that reads better."""
    parts = model().parts
    own = encode_texts(parts.autoencoder, EIGHT[1:3], 2).rows()
    there, back = [own[0]] * 2, [own[1]] * 2
    assert progress(own, there, back) == pytest.approx([0, 1], abs=1e-3)
    assert progress(own, [(a + b) / 2 for a, b in zip(there, back, strict=True)], back)[0] < -0.9
    point = own[0] + 0.2 * (own[1] - own[0])
    monkeypatch.setattr("ladle.editing.wordings.cosines", lambda *given: [0.6, 0.5])
    monkeypatch.setattr("ladle.editing.wordings.fluency", lambda *given: [-1.0, -1.0])
    assert best_wordings(parts, [EIGHT[1:3]], [point]) == [EIGHT[1]]
    assert best_wordings(parts, [EIGHT[1:3]], [point], origins=[own[0]]) == [EIGHT[2]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.vary("a", 1.5), "strength is 1.5; it must be from 0 to 1"),
        (lambda m: m.vary("a", "much"), "strength is 'much'; it must be a finite number"),
        (lambda m: m.vary("a", float("nan")), "strength is nan"),
        (lambda m: m.vary("a", True), "strength is True"),
        (lambda m: m.vary("a", n=0), "n is 0"),
        (lambda m: m.vary([]), "no texts given"),
        (lambda m: m.vary(["a", ""]), "is empty and cannot be changed"),
        (lambda m: m.vary("a", seed=2**32), "seed is 4294967296"),
        (lambda m: m.vary("a", batch_size=0), "batch_size is 0"),
        (lambda m: m.paraphrase("a", 3, candidates=2), "2 candidates for 3 paraphrases"),
        (lambda m: m.paraphrase("a", max_overlap=101), "max_overlap is 101; it must be from 0 to 100"),
    ],
)
def test_bad_input_is_one_line(call, says: str) -> None:
    with pytest.raises(UserError) as caught:
        call(plan())
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_prior_only_other_words_can_be_drawn() -> None:
    """And the line says what is missing."""
    model = LatentDiffusion(replace(tiny.tiny_plan_parts(), diffusion=None))
    assert len(model.vary("the old cat.", 0)) == 1
    with pytest.raises(UserError, match="has no diffusion model, so it cannot vary texts"):
        model.vary("the old cat.", 0.5)
