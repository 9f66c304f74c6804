"""Texts of a wanted number of words."""

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import memorised
import tiny
from ladle.autoencoder.lexicon import Lexicon, words_of
from ladle.autoencoder.loop import Ending, Lookup, write
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.sampling.candidates import Candidate, ConditionCheck, first_that_matches, soundest
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request
from ladle.sampling.word_count import TRIES, TRIES_EACH, WordRange, count_words, missed_line, write_in_range
from ladle.seeding import SampleNoise


@pytest.fixture(scope="module", params=["plan", "aligned"])
def model(request: pytest.FixtureRequest) -> LatentDiffusion:
    """The aligned one has learnt whole texts; the other writes at random, and may write the words of some sentences."""
    if request.param == "aligned":
        return LatentDiffusion(memorised.memorised_parts())
    parts = tiny.tiny_plan_parts()
    parts.autoencoder.backbone.lexicon = Lexicon(words_of(tiny.SENTENCES), parts.autoencoder.backbone.tokenizer)
    backbone = parts.autoencoder.backbone
    with torch.no_grad():  # (else hardly a text would end)
        backbone.model.get_decoder().embedding.weight[backbone.tokenizer.eos_token_id] *= 5
    return LatentDiffusion(parts)


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("the cat.", 2), ("the cat . - sat", 3), ("isn't it well-known?", 3), ("in 12 trees", 3), (" a\n b ", 2)],
)
def test_words_are_what_spaces_separate(text: str, count: int) -> None:
    """A sign that stands alone is none."""
    assert count_words(text) == count


@pytest.mark.parametrize("drawn", [False, True])
def test_no_text_ends_too_early(drawn: bool) -> None:
    """The end token is forbidden until it may come, in drafts too, which change no text; then it is free again."""
    decoder = tiny.tiny_decoder()
    torch.manual_seed(0)
    memory, uniform = 3 * torch.randn(64, 3, 32), torch.rand(64, 24) if drawn else None
    how: dict[str, Any] = {"start": 0, "end": 1, "max_tokens": 24, "uniform": uniform}
    free = write(decoder, memory, None, **how)
    endings = [Ending(lambda tokens: len(tokens) >= 6) for _ in range(2)]
    ids = write(decoder, memory, None, ending=endings[0], **how)
    drafts = [Lookup([row], 0) for row in free.tolist()]
    assert torch.equal(write(decoder, memory, None, ending=endings[1], drafts=drafts, **how), ids)
    lengths = (ids != 1).sum(1)
    assert (lengths >= 6).all() and ((free != 1).sum(1) < 6).any()
    assert endings[0].ended == endings[1].ended == (lengths < 24).tolist()
    assert any(endings[0].ended) and not all(endings[0].ended)
    if not drawn:  # (drawn words are drawn from what is left)
        late = (free != 1).sum(1) >= 6
        size = min(free.shape[1], ids.shape[1])
        assert late.any() and torch.equal(free[late][:, :size], ids[late][:, :size])


@pytest.mark.parametrize(("least", "most"), [(4, None), (3, 4), (None, 4), (5, 5)])
def test_texts_have_as_many_words_as_wanted(model: LatentDiffusion, least: int | None, most: int | None) -> None:
    """Most of them, of a model that knows nothing of it; a warning counts the others."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        texts = model.generate(24, seed=0, temperature=1.0, min_words=least, max_words=most)
    words = WordRange(least or 0, most)
    missed = sum(words.distance(text) > 0 for text in texts)
    free = sum(words.distance(text) > 0 for text in model.generate(24, seed=0, temperature=1.0))
    assert missed < min(free, 12) or missed == free == 0
    told = [str(warning.message) for warning in caught if "words" in str(warning.message)]
    assert told == ([f"{missed} of 24 texts have not {words} after 36 tries; each is the nearest"] if missed else [])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_seed_gives_its_text_at_any_batch_size(model: LatentDiffusion, temperature: float) -> None:
    """Also where neighbours need fewer tries, and where words are drawn only from the second try on."""
    options = {
        "seeds": range(6), "label": [None, "bad"] * 3, "temperature": temperature, "min_words": 3, "max_words": 5,
        "candidates": 2,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = model.generate(**options, batch_size=12)
        assert [model.generate(**options, batch_size=size) for size in (1, 5)] == [texts] * 2


def test_a_text_that_was_right_at_once_is_the_text_without_limits(model: LatentDiffusion) -> None:
    """Limits draw no numbers of their own, and texts may end where they like at first. (Those that must go on behind
    their last word go on with signs.)"""
    free = model.generate(24, seed=0, temperature=1.0, return_samples=True)
    tokens = model.autoencoder.backbone.tokenize([sample.text for sample in free])["attention_mask"].sum(1)
    right = [one for one, size in zip(free, tokens, strict=True) if 2 <= count_words(one.text) <= 8 and size < 14]
    right = [one for one in right if model.autoencoder.is_plan or len(one.latents) <= 4]  # (else others are drawn)
    assert right
    again = model.generate(seeds=[sample.seed for sample in right], temperature=1.0, min_words=2, max_words=8)
    assert again == [sample.text for sample in right]


# ------------------------------------------------------------------------------------------------ tries, by hand


def tried(texts: Sequence[Sequence[tuple[str, bool]]], words: WordRange) -> tuple[list[Candidate], list[list[int]]]:
    """Candidates whose tries are given, [candidate][try] with whether it ended; and which had new latents drawn."""
    every = [Candidate(number, SampleNoise([number])) for number in range(len(texts))]
    done, drawn = [0] * len(texts), []

    def draw(part: Sequence[Candidate]) -> None:
        drawn.append([one.sample for one in part])
        for one in part:
            one.log_snr = (one.log_snr or 0.0) + 1.0

    def write(part: Sequence[Candidate], number: int) -> list[bool]:
        ended = []
        for one in part:
            assert number == done[one.sample]
            own = texts[one.sample]
            one.text, by_itself = own[min(done[one.sample], len(own) - 1)]
            done[one.sample] += 1
            ended.append(by_itself)
        return ended

    write_in_range(words, every, draw, write)
    return every, drawn


def test_the_first_that_is_right_is_kept_else_the_nearest() -> None:
    """Of equals the first. One that was cut is further than any that ended. Latents are those of the text."""
    every, drawn = tried(
        [
            [("a b", True), ("a b c", True)],
            [("a", True), ("a b c", True)],
            [("a b c d e f", True), ("a b c d e", True), ("a b c d f", True), ("a b c d e f g", True)],
            [("a b c", False), ("a b c d e", False), ("a b c d e f", True)],
        ],
        WordRange(2, 4),
    )
    assert [one.text for one in every] == ["a b", "a b c", "a b c d e", "a b c d e f"]
    assert [one.fits for one in every] == [True, True, False, False]
    assert [one.log_snr for one in every] == [None] * 4  # (of later latents: 1, 2, ...)
    assert drawn == [[2, 3]] * (TRIES // TRIES_EACH - 1)
    late, _ = tried([[("a", True)] * TRIES_EACH + [("a b", True)]], WordRange(2))
    assert (late[0].text, late[0].log_snr) == ("a b", 1.0)


def test_candidates_of_the_right_length_are_preferred() -> None:
    """To sounder ones, and to those that are what their label says; where none is right, all count."""
    request = Request([0, 1], ["good", "good"], [None, None])
    table = [[("long cat", False), ("a cat", True), ("dog", True)], [("long cat", False), ("dog", False), ("x", False)]]

    def draw(part: Request, numbers: Sequence[int]) -> list[list[Candidate]]:
        return [
            [Candidate(row, SampleNoise([0]), text=table[seed][n][0], fits=table[seed][n][1]) for n in numbers]
            for row, seed in enumerate(part.seeds)
        ]

    def classify(texts: list[str], seeds: list[int], name: str) -> torch.Tensor:
        good = torch.tensor([0.9 if "cat" in text else 0.1 for text in texts])
        return torch.stack([1 - good, good], dim=1)

    check = ConditionCheck({"label": ("bad", "good")}, classify)
    options = SamplingOptions(candidates=3, label_confidence=0.5)
    by_length = soundest(request, options, draw, lambda texts, *_: [len(text) for text in texts], check)
    assert [sample.text for sample in by_length] == ["a cat", "long cat"]
    assert [sample.text for sample in first_that_matches(request, options, draw, check)] == ["a cat", "long cat"]


# ------------------------------------------------------------------------------------------------ wrong use


def test_ranges_that_cannot_be_kept_are_refused(model: LatentDiffusion) -> None:
    for options, says in (
        ({"min_words": 9, "max_words": 6}, "min_words is 9 and max_words is 6"),
        ({"min_words": 0}, "min_words: must be greater than or equal to 1"),
        ({"max_words": 0}, "max_words: must be"),
        ({"max_words": 4, "num_beams": 2, "temperature": 0.0}, "need num_beams = 1 and the autoregressive decoder"),
        ({"min_words": 4, "decoder": "parallel"}, "need num_beams = 1 and the autoregressive decoder"),
        ({"min_words": 24}, "min_words is 24, but this model's texts have at most 24 tokens, so at most 23 words"),
    ):
        with pytest.raises(UserError, match=says):
            model.generate(1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.generate(1, seed=0, min_words=23)


def test_a_line_says_how_many_missed() -> None:
    options = SamplingOptions(min_words=2, max_words=3)
    assert missed_line(["a b", "a b c"], options) is None and missed_line(["a"], SamplingOptions()) is None
    assert str(missed_line(["a", "a b", ""], options)).startswith("2 of 3 texts have not 2 to 3 words")
    names = [str(WordRange(*pair)) for pair in ((4, None), (0, 5), (1, 1), (8, 8), (6, 9))]
    assert names == ["4 words or more", "at most 5 words", "1 word", "8 words", "6 to 9 words"]
