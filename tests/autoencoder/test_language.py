"""The language decoder: token by token it says what it says of the whole text, and it reads what it may, no more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from ladle.autoencoder.language import LanguageDecoder, rms

BATCH, SIZE, VECTORS = 4, 11, 5
MASK = torch.tensor([[True] * 5, [False, True, True, False, True], [True] * 2 + [False] * 3, [True] * 4 + [False]])
MEMORIES = ("none", "whole", "masked")


def inputs(memory: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """ids [4, 11], memory [4, 5, 32] and its mask."""
    torch.manual_seed(1)
    ids, vectors = torch.randint(0, 12, (BATCH, SIZE)), torch.randn(BATCH, VECTORS, 32)
    return ids, None if memory == "none" else vectors, MASK if memory == "masked" else None


def row(x: Tensor | None, number: int) -> Tensor | None:
    return None if x is None else x[number : number + 1]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


# ------------------------------------------------------------------------------------------------ step by step


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("sizes", [[1] * SIZE, [3, 1, 5, 2], [SIZE]])
def test_step_by_step_is_the_whole_pass(memory: str, sizes: list[int]) -> None:
    """Training sees whole texts, writing sees tokens and a cache: both must be one model. Also where a long step and a
    step of one token, which has a short cut, follow each other."""
    decoder, (ids, vectors, mask) = tiny.tiny_decoder(), inputs(memory)
    cache = decoder.begin(vectors, mask, BATCH, SIZE)
    steps = [decoder.step(part, cache) for part in ids.split(sizes, dim=1)]
    close(torch.cat(steps, dim=1), decoder(ids, vectors, mask))
    assert cache.lengths == [SIZE] * BATCH


@pytest.mark.parametrize("memory", MEMORIES)
def test_under_autocast_steps_are_what_they_are_without_it(memory: str) -> None:
    """A training in bf16 draws texts in between; so does a caller with a memory of another dtype."""
    decoder, (ids, vectors, mask) = tiny.tiny_decoder(), inputs(memory)
    expected = decoder.step(ids, decoder.begin(vectors, mask, BATCH, SIZE))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder.step(ids, decoder.begin(vectors, mask, BATCH, SIZE))
    assert torch.equal(found, expected)
    if vectors is not None:
        rounded = vectors.bfloat16()
        close(decoder.step(ids, decoder.begin(rounded, mask, BATCH, SIZE)),
              decoder.step(ids, decoder.begin(rounded.float(), mask, BATCH, SIZE)))  # fmt: skip


@pytest.mark.parametrize("memory", MEMORIES)
def test_rows_of_different_lengths_and_rows_that_go_back_are_read_as_alone(memory: str) -> None:
    """A draft is checked by a step; `lengths` then forgets what was wrong of it. Rows keep different parts, and what
    was forgotten must leave no trace."""
    decoder, (ids, vectors, mask) = tiny.tiny_decoder(), inputs(memory)
    cache = decoder.begin(vectors, mask, BATCH, 24)
    decoder.step(torch.cat([ids[:, :4], torch.randint(0, 12, (BATCH, 5))], dim=1), cache)  # five wrong guesses
    texts = [text[: 4 - number].tolist() for number, text in enumerate(ids)]  # rows keep 4, 3, 2 and 1 token
    cache.lengths = [len(text) for text in texts]
    for size in (3, 1, 1, 4):
        more = torch.randint(0, 12, (BATCH, size))
        found = decoder.step(more, cache)
        for number, text in enumerate(texts):
            text += more[number].tolist()
            alone = decoder(torch.tensor([text]), row(vectors, number), row(mask, number))
            close(found[number], alone[0, -size:])
        assert cache.lengths == [len(text) for text in texts]


@pytest.mark.parametrize("memory", MEMORIES)
def test_rows_that_are_kept_go_on_as_before(memory: str) -> None:
    """Finished texts leave the batch while others are written; the others' keys, values and memories stay theirs."""
    decoder, (ids, vectors, mask) = tiny.tiny_decoder(), inputs(memory)
    cache = decoder.begin(vectors, mask, BATCH, 24)
    decoder.step(ids[:, :6], cache)
    cache.lengths = [6, 5, 4, 3]
    rows = torch.tensor([3, 1])
    cache.keep(rows)
    assert cache.lengths == [3, 5]
    more = ids[rows, 6:9]
    found = decoder.step(more, cache)
    for number, (kept, size) in enumerate(zip(rows.tolist(), (3, 5), strict=True)):
        text = torch.cat([ids[kept, :size], more[number]])[None]
        close(found[number], decoder(text, row(vectors, kept), row(mask, kept))[0, -3:])
    cache.keep(torch.tensor([1]))  # one row alone, which has a short cut
    close(decoder.step(ids[1:2, :1], cache)[0, -1], decoder(
        torch.cat([ids[1, :5], more[1], ids[1, :1]])[None], row(vectors, 1), row(mask, 1))[0, -1])  # fmt: skip


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("sizes", [[1] * 24, [5, 4, 9, 6], [24]])
def test_a_text_that_outgrows_its_first_room_loses_nothing(
    memory: str, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache has room for a short text at first, and grows with it, several times or by much at once."""
    monkeypatch.setattr("ladle.autoencoder.language.FIRST_TOKENS", 3)
    decoder, (_, vectors, mask) = tiny.tiny_decoder(), inputs(memory)
    ids = torch.randint(0, 12, (BATCH, 24))
    cache = decoder.begin(vectors, mask, BATCH, 24)
    steps = [decoder.step(part, cache) for part in ids.split(sizes, dim=1)]
    close(torch.cat(steps, dim=1), decoder(ids, vectors, mask))


def test_small_states_are_normalised_as_in_the_whole_pass() -> None:
    """An RMS norm adds a little to the mean square, which shows where a token's vector is small."""
    decoder, (ids, vectors, mask) = tiny.tiny_decoder(), inputs("masked")
    decoder.embedding.weight.mul_(0.001)
    cache = decoder.begin(vectors, mask, BATCH, SIZE)
    close(decoder.step(ids, cache), decoder(ids, vectors, mask))


# ------------------------------------------------------------------------------------------------ what is read


def test_the_decoder_does_not_look_ahead() -> None:
    """Else it would learn to copy the next token from its input. What came before is read."""
    decoder, (ids, vectors, mask) = tiny.tiny_decoder(), inputs("masked")
    before = decoder(ids, vectors, mask)
    for place in (0, 4, SIZE - 1):
        other = ids.clone()
        other[:, place] = (other[:, place] + 1) % 12
        moved = (decoder(other, vectors, mask) - before).abs().amax((0, 2))
        assert moved[:place].max() < 1e-5 if place else True
        assert moved[place:].min() > 1e-3


def test_padding_behind_a_text_changes_nothing() -> None:
    """A text has the same logits in a batch with longer ones, and alone."""
    decoder, (ids, vectors, mask) = tiny.tiny_decoder(), inputs("masked")
    padded = decoder(torch.cat([ids, torch.full((BATCH, 6), 3)], dim=1), vectors, mask)
    close(padded[:, :SIZE], decoder(ids, vectors, mask))


def test_a_masked_memory_vector_changes_nothing_and_every_other_one_is_read() -> None:
    """Memories of different sizes are together in a batch: labels, sources and plans."""
    decoder, (ids, vectors, mask) = tiny.tiny_decoder(), inputs("masked")
    assert vectors is not None and mask is not None
    before = decoder(ids, vectors, mask)
    close(decoder(ids, vectors.masked_fill(~mask[..., None], 50.0), mask), before)
    for place in range(VECTORS):
        other = vectors.clone()
        other[:, place] = -other[:, place]
        moved = (decoder(ids, other, mask) - before).abs().amax((1, 2))
        assert torch.equal(moved > 1e-3, mask[:, place])


def test_the_memory_is_a_set_and_the_text_an_order() -> None:
    """The memory's vectors carry their places themselves; tokens have rotary positions."""
    decoder, (ids, vectors, mask) = tiny.tiny_decoder(), inputs("masked")
    assert vectors is not None and mask is not None
    order, before = torch.tensor([3, 0, 4, 1, 2]), decoder(ids, vectors, mask)
    close(decoder(ids, vectors[:, order], mask[:, order]), before)
    swapped = ids[:, [1, 0, *range(2, SIZE)]]
    different = ids[:, 0] != ids[:, 1]
    assert different.any()
    assert (decoder(swapped, vectors, mask) - before)[different, -1].abs().amax(-1).min() > 1e-3


def test_a_new_decoder_adds_nothing_to_its_tokens() -> None:
    """What every layer adds is zero at the start, so a deep decoder trains from the first step; all of it can learn."""
    torch.manual_seed(0)
    decoder, (ids, vectors, mask) = LanguageDecoder(12, 32, 2, 2, 24), inputs("masked")
    embedding = decoder.embedding.weight
    close(decoder(ids, vectors, mask), rms(embedding[ids]) @ embedding.T)
    tiny.roughen(decoder)
    with torch.enable_grad():
        decoder(ids, vectors, mask).square().mean().backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


# ------------------------------------------------------------------------------------------------ transformers' form


def test_a_folder_is_read_by_transformers_with_equal_logits(tmp_path: Path) -> None:
    """The rotary angles are not stored: a loaded model must make them anew, and keep every stored weight."""
    from transformers import AutoModelForSeq2SeqLM

    autoencoder = tiny.tiny_plan_autoencoder()
    model, given = autoencoder.backbone.model, tiny.tokens(autoencoder)
    model.save_pretrained(tmp_path / "m")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "m").eval()
    assert type(loaded) is type(model)
    memory = torch.randn(len(given["input_ids"]), 3, 32)
    ids = given["input_ids"]
    assert torch.equal(loaded.get_decoder()(ids, memory), model.get_decoder()(ids, memory))
    cache = loaded.get_decoder().begin(memory, None, len(ids), ids.shape[1])
    close(loaded.get_decoder().step(ids, cache), model.get_decoder()(ids, memory))
    states = [one.get_encoder()(ids, given["attention_mask"].long()).last_hidden_state for one in (model, loaded)]
    assert torch.equal(*states)


def test_transformers_own_search_finds_what_our_loop_writes() -> None:
    """Beam search is transformers': with one beam it must be the greedy text, with four mostly one that is likelier."""
    autoencoder = tiny.tiny_plan_autoencoder()
    backbone, latents = autoencoder.backbone, tiny.latents(autoencoder)
    memory, mask = autoencoder.expand(latents)
    greedy = backbone.write(memory, mask)
    texts = backbone.detokenize(greedy)
    assert len(set(texts)) > 1
    assert backbone.detokenize(backbone.search(memory, mask, 1)) == texts
    beams = backbone.search(memory, mask, 4)
    greedy_likelihood, likelihood = (
        autoencoder.log_likelihood(latents, ids, (ids == backbone.tokenizer.eos_token_id).cumsum(1).cumsum(1) <= 1)
        for ids in (greedy, beams)
    )
    assert likelihood.mean() > greedy_likelihood.mean() + 0.01


def test_texts_longer_than_the_decoder_has_places_for_are_cut() -> None:
    """Neither the tokenizer nor the loop asks for a place that has no rotary angle."""
    autoencoder = tiny.tiny_plan_autoencoder()
    given = tiny.tokens(autoencoder, ["the old cat " * 20])
    assert given["input_ids"].shape == (1, tiny.MAX_TOKENS)
    memory, mask = autoencoder.expand(autoencoder.encode(**given))
    assert autoencoder.backbone.decode_logits(given["input_ids"], memory, mask).isfinite().all()
    assert autoencoder.backbone.write(memory, mask).shape[1] <= tiny.MAX_TOKENS


def test_dropout_is_for_training_alone() -> None:
    """On few texts it delays the learning by heart; a trained decoder must not draw lots."""
    decoder = tiny.tiny_decoder()
    ids = torch.arange(10)[None]
    plain = decoder.eval()(ids)
    decoder.set_dropout(0.5)
    torch.testing.assert_close(decoder(ids), plain)
    decoder.train()
    assert not torch.allclose(decoder(ids), plain, atol=1e-3)
