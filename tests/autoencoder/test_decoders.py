"""Memory to token ids, one token after another or all at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import memorised
import tiny
from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.choice import chosen_ids
from ladle.autoencoder.decoders import autoregressive_ids, parallel_ids, parallel_targets
from ladle.autoencoder.latents import Latents

END = 2


# ------------------------------------------------------------------------------------------------ parallel


def test_parallel_targets_ask_for_the_end_and_one_place_more() -> None:
    """By hand. A decoder that overlooks the first end token still finds one; the rest of the padding asks nothing."""
    ids = torch.tensor([[5, 6, END, 0, 0], [5, 6, 7, 8, END]])
    targets, weights = parallel_targets(ids, ids != 0, size=9, end=END)
    assert targets.tolist() == [[5, 6, END, END, END, END], [5, 6, 7, 8, END, END]]
    assert weights.tolist() == [[True] * 4 + [False] * 2, [True] * 6]


@pytest.mark.parametrize("kind", ["aligned", "perceiver"])
def test_the_first_places_alone_are_what_they_are_among_all(kind: str) -> None:
    """Training reads out no more than its texts are long, a third of the places of a Perceiver's decoder."""
    autoencoder = tiny.tiny_autoencoder(kind)
    memory, mask = autoencoder.expand(tiny.latents(autoencoder, tiny.SENTENCES[:3]))
    embedding = autoencoder.backbone.model.get_input_embeddings().weight
    decoder = autoencoder.parallel_decoder
    assert decoder is not None
    all_places = decoder(memory, mask, embedding)
    torch.testing.assert_close(decoder(memory, mask, embedding, 4), all_places[:, :4])
    assert decoder(memory, mask, embedding, 500).shape == all_places.shape


def test_parallel_targets_fit_the_places_that_there_are() -> None:
    """Aligned latents have no place beyond the text when its length is a multiple of theirs."""
    ids = torch.tensor([[5, 6, END]])
    targets, weights = parallel_targets(ids, ids != 0, size=3, end=END)
    assert targets.tolist() == [[5, 6, END]]
    assert weights.all()


def test_a_parallel_text_ends_at_its_first_end_token() -> None:
    """The decoder decides its own length: nothing is left behind the end, nothing is read from padding."""
    logits = torch.full((2, 5, 8), -9.0)
    for row, best in enumerate(([5, END, 6, END, 7], [5, 6, 7, 3, 4])):
        logits[row, torch.arange(5), torch.tensor(best)] = 9.0
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert parallel_ids(logits, mask, END).tolist() == [[5, END, END, END, END], [5, 6, 7, END, END]]


def test_parallel_sampling_follows_the_probabilities_at_the_temperature() -> None:
    """Frequencies of 20,000 draws against softmax(logits / temperature)."""
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -50.0, 2.0])
    ids = parallel_ids(logits.expand(20_000, 1, 4), torch.ones(20_000, 1, dtype=torch.bool), END, do_sample=True,
                       temperature=2.0)  # fmt: skip
    shares = torch.bincount(ids.flatten(), minlength=4) / 20_000
    torch.testing.assert_close(shares, (logits / 2).softmax(-1), atol=0.02, rtol=0)


def test_what_is_masked_in_the_memory_does_not_change_the_parallel_text(autoencoder: TextAutoencoder) -> None:
    """Padding of a batch is not read, by self-attention (aligned) or cross-attention (Perceiver)."""
    decoder, embedding = autoencoder.parallel_decoder, autoencoder.backbone.model.get_input_embeddings().weight
    memory, mask = torch.randn(2, 6, 32), torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    logits = decoder(memory, mask, embedding)
    other = decoder(memory.masked_fill(~mask[..., None], 30.0), mask, embedding)
    rows = mask if decoder.queries is None else torch.ones(logits.shape[:2], dtype=torch.bool)
    torch.testing.assert_close(other[rows], logits[rows], atol=1e-4, rtol=1e-4)
    assert logits.shape[1] == (6 if decoder.queries is None else tiny.MAX_TOKENS)


# ------------------------------------------------------------------------------------------------ autoregressive


@pytest.fixture(params=["aligned", "perceiver"])
def learnt(request: pytest.FixtureRequest) -> TextAutoencoder:
    return memorised.memorised(request.param)


def memory_of(autoencoder: TextAutoencoder, noise: float = 0.7, copies: int = 1) -> tuple[Tensor, Tensor]:
    """Memory of the eight sentences, noised, so that the decoder is not sure of itself."""
    torch.manual_seed(0)
    latents = tiny.latents(autoencoder, memorised.EIGHT * copies)
    with torch.no_grad():
        return autoencoder.expand(Latents(latents.values + noise * torch.randn_like(latents.values), latents.mask))


@torch.no_grad()
def by_hand(autoencoder: TextAutoencoder, memory: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Greedy ids [B, steps] without a cache: the best token but padding after all earlier ones, ends after the end."""
    backbone, tokenizer = autoencoder.backbone, autoencoder.backbone.tokenizer
    ids = torch.zeros(len(memory), 0, dtype=torch.long)
    ended = torch.zeros(len(memory), dtype=torch.bool)
    for _ in range(steps):
        padded = torch.cat([ids, torch.zeros(len(memory), 1, dtype=torch.long)], dim=1)
        logits = backbone.decode_logits(padded, memory, mask)[:, -1]
        logits[:, tokenizer.pad_token_id] = -torch.inf
        best = logits.argmax(-1)
        ids = torch.cat([ids, best.masked_fill(ended, tokenizer.eos_token_id)[:, None]], dim=1)
        ended |= best == tokenizer.eos_token_id
    return ids


def log_probs(autoencoder: TextAutoencoder, ids: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    """log p of the ids up to and with the first end token, the mean of a text's tokens, [B]."""
    with torch.no_grad():
        log_p = autoencoder.backbone.decode_logits(ids, memory, mask).log_softmax(-1)
    ended = (ids == autoencoder.backbone.tokenizer.eos_token_id).cumsum(1)
    before = torch.nn.functional.pad(ended, (1, 0))[:, :-1] == 0
    return (log_p.gather(-1, ids[..., None])[..., 0] * before).sum(1) / before.sum(1)


def test_greedy_decoding_with_a_cache_is_greedy_decoding_without(learnt: TextAutoencoder) -> None:
    """Token by token by hand, from the logits that training sees: start token, cache and masks are all right."""
    memory, mask = memory_of(learnt)
    ids = autoregressive_ids(learnt.backbone, memory, mask)
    expected = by_hand(learnt, memory, mask, tiny.MAX_TOKENS)
    assert torch.equal(ids, expected[:, : ids.shape[1]])
    assert (expected[:, ids.shape[1] :] == learnt.backbone.tokenizer.eos_token_id).all()  # nothing is cut off
    assert len({tuple(row) for row in ids.tolist()}) > 1


def test_the_end_token_decides_the_length(learnt: TextAutoencoder) -> None:
    """After it there is nothing but ends, which no text shows, and no text is longer than the model's."""
    tokenizer = learnt.backbone.tokenizer
    memory, mask = memory_of(learnt)
    ids = autoregressive_ids(learnt.backbone, memory, mask)
    assert ids.shape[1] <= tiny.MAX_TOKENS
    after = (ids == tokenizer.eos_token_id).cumsum(1) - (ids == tokenizer.eos_token_id).long() > 0
    assert (ids[after] == tokenizer.eos_token_id).all()
    assert after.any()
    assert (ids == tokenizer.eos_token_id).any(1).sum() > 4


def test_beams_find_texts_at_least_as_likely_as_greedy(learnt: TextAutoencoder) -> None:
    """`num_beams` reaches transformers and the memory is repeated for each beam. Beams are compared by their mean log p
    per token, transformers' usual length penalty."""
    memory, mask = memory_of(learnt, noise=3.0, copies=8)
    greedy = autoregressive_ids(learnt.backbone, memory, mask)
    beams = autoregressive_ids(learnt.backbone, memory, mask, num_beams=4)
    gain = log_probs(learnt, beams, memory, mask) - log_probs(learnt, greedy, memory, mask)
    assert gain.mean() > 0.001
    assert gain.min() > -0.02  # a beam may lose the greedy text on the way, but seldom


def test_a_tiny_nucleus_is_greedy_and_a_whole_one_is_not(learnt: TextAutoencoder) -> None:
    """`do_sample`, `top_p` and `temperature` mean what they mean in transformers."""
    memory, mask = memory_of(learnt, noise=2.0)
    greedy = autoregressive_ids(learnt.backbone, memory, mask)
    nucleus = autoregressive_ids(learnt.backbone, memory, mask, do_sample=True, top_p=1e-6)
    whole = autoregressive_ids(learnt.backbone, memory, mask, do_sample=True, top_p=1.0, temperature=2.0)
    assert torch.equal(nucleus, greedy)
    assert not torch.equal(whole, greedy)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.floats(0.3, 2.0), st.floats(0.2, 1.0), st.integers(0, 1000))
def test_ids_are_chosen_as_often_as_they_are_likely(size: int, temperature: float, top_p: float, seed: int) -> None:
    """Over a grid of uniform numbers the shares are the nucleus' probabilities, worked out here token by token."""
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    probabilities = (logits / temperature).softmax(-1).tolist()
    kept, mass = {}, 0.0
    for token in sorted(range(size), key=lambda t: -probabilities[t]):
        if mass < top_p - 1e-6:
            kept[token] = probabilities[token]
        mass += probabilities[token]
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    ids = chosen_ids(logits.expand(10_000, size), uniform, top_p, temperature)
    for token in range(size):
        share = kept.get(token, 0.0) / sum(kept.values())
        assert abs(float((ids == token).float().mean()) - share) < 2e-3
    assert chosen_ids(logits[None], uniform[:1], top_p, 0.0).item() == logits.argmax()


def test_sampling_leaves_the_callers_random_numbers_alone(learnt: TextAutoencoder) -> None:
    """Without streams torch's global generator is read; to decode must not shift what the caller draws next."""
    memory, mask = memory_of(learnt)
    before = torch.get_rng_state()
    autoregressive_ids(learnt.backbone, memory, mask, do_sample=True)
    assert torch.equal(torch.get_rng_state(), before)
