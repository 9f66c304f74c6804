"""Counterfactual texts: what the decoder would have written with the same noise under other conditions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from ladle.autoencoder.counterfactual import PosteriorNoise, counterfactual_ids, place_in
from ladle.autoencoder.loop import LIKELY, Pushed, stepper_of
from ladle.sampling.words import encode_texts
from ladle.seeding import SampleNoise

TEXTS = [*tiny.SENTENCES[:6], "zqx, 7 #!", "."]


def drawn(logits: torch.Tensor, ids: torch.Tensor, seed: int, temperature: float = 1.0) -> PosteriorNoise:
    """The noise of texts of one token each: logits [B, V], ids [B]."""
    there = torch.ones(len(ids), 1, dtype=torch.bool)
    streams = [SampleNoise([seed + row]) for row in range(len(ids))]
    return PosteriorNoise(logits[:, None], ids[:, None], there, streams, temperature)


def chosen(noise: PosteriorNoise, logits: torch.Tensor) -> torch.Tensor:
    return noise(logits, range(len(logits)), [[]] * len(logits))


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.1, 1.0, 20.0]), st.sampled_from([0.5, 1.0]))
@settings(deadline=None, max_examples=30)
def test_under_the_same_conditions_each_token_is_drawn_again(seed: int, spread: float, temperature: float) -> None:
    """Also the least likely one."""
    logits = spread * torch.randn(32, 300, generator=torch.Generator().manual_seed(seed))
    ids = torch.randint(300, (32,), generator=torch.Generator().manual_seed(seed))
    ids[0] = logits[0].argmin()
    assert torch.equal(chosen(drawn(logits, ids, seed, temperature), logits), ids)


def test_under_other_conditions_tokens_have_the_right_distribution() -> None:
    """If texts were drawn from the old distribution, the new ones are drawn from the new one."""
    old, new = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    count = 8000
    ids = torch.multinomial(old.exp(), count, replacement=True, generator=torch.Generator().manual_seed(0))
    found = chosen(drawn(old.expand(count, -1), ids, 0), new.expand(count, -1))
    shares = torch.bincount(found, minlength=4) / count
    torch.testing.assert_close(shares, new.exp(), atol=0.02, rtol=0)


def test_a_token_stays_unless_another_one_has_become_likelier_beside_it() -> None:
    """So more of them stay than in two independent draws, and none is lost to a token that the change does not
    favour."""
    old, new = torch.tensor([0.4, 0.3, 0.2, 0.1]).log(), torch.tensor([0.4, 0.15, 0.35, 0.1]).log()
    ids = torch.arange(4).repeat(500)
    found = chosen(drawn(old.expand(len(ids), -1), ids, 7), new.expand(len(ids), -1))
    moves = {(a, b) for a, b in zip(ids.tolist(), found.tolist(), strict=True) if a != b}
    gained = new - old
    assert moves and all(gained[b] > gained[a] for a, b in moves)
    assert float((found == ids)[ids == 2].float().mean()) == 1.0


def test_the_source_of_a_place_survives_tokens_put_in_left_out_and_replaced() -> None:
    source = [1, 2, 3, 4, 5, 6]
    assert place_in(source, []) == 0
    assert place_in(source, [1, 2, 3]) == 3
    assert place_in(source, [1, 9, 3]) == 3  # replaced
    assert place_in(source, [1, 9, 2, 3]) == 3  # put in
    assert place_in(source, [1, 4, 5]) == 5  # left out
    assert place_in(source, [1, 2, 3, 4, 5, 6, 9, 9]) == 8  # longer than the source


def memories(parts, texts):
    latents = encode_texts(parts.autoencoder, texts, 8)
    return parts.autoencoder.expand(latents)


@pytest.mark.parametrize("push", [0.0, 2.0])
def test_with_the_same_memory_a_text_comes_back(push: float) -> None:
    """Pushed away from itself, too: nothing has changed that could be enlarged."""
    parts = tiny.tiny_plan_parts()
    tokens = parts.autoencoder.backbone.tokenize(TEXTS)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    own = memories(parts, TEXTS)
    streams = [SampleNoise([row]) for row in range(len(TEXTS))]
    found = counterfactual_ids(parts.autoencoder, ids, mask, own, own, streams, push=push)
    assert parts.autoencoder.backbone.detokenize(found, any_sign=True) == TEXTS


def test_a_rewritten_text_depends_on_its_own_seed_alone() -> None:
    parts = tiny.tiny_plan_parts()
    backbone = parts.autoencoder.backbone

    def rewritten(texts: list[str], others: list[str], seeds: list[int]) -> list[str]:
        tokens = backbone.tokenize(texts)
        ids = counterfactual_ids(
            parts.autoencoder, tokens["input_ids"], tokens["attention_mask"], memories(parts, texts),
            memories(parts, others), [SampleNoise([seed]) for seed in seeds],
        )  # fmt: skip
        return backbone.detokenize(ids)

    others = [*reversed(TEXTS)]
    together = rewritten(TEXTS, others, [*range(len(TEXTS))])
    assert together == [rewritten([t], [o], [i])[0] for i, (t, o) in enumerate(zip(TEXTS, others, strict=True))]
    assert len({rewritten(TEXTS[:1], others[:1], [seed])[0] for seed in range(8)}) > 1


def test_a_pushed_decoder_enlarges_the_change() -> None:
    """By the weight, but it makes no token likelier that is far from the likeliest."""
    parts = tiny.tiny_plan_parts()
    decoder = stepper_of(parts.autoencoder.backbone.model)
    own, other = memories(parts, TEXTS[:2]), memories(parts, TEXTS[2:4])
    start = torch.full((2, 1), int(parts.autoencoder.backbone.model.generation_config.decoder_start_token_id))

    def step(stepper, memory):
        return stepper.step(start, stepper.begin(*memory, 2, 8)).log_softmax(-1)

    with torch.no_grad():
        new, old, pushed = step(decoder, own), step(decoder, other), step(Pushed(decoder, *other, 1.5), own)
    difference = new - old
    likely = new > new.amax(-1, keepdim=True) + LIKELY
    expected = new + 1.5 * torch.where(likely, difference, difference.clamp_max(0))
    torch.testing.assert_close(pushed, expected.log_softmax(-1))
