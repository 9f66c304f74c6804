"""The wording: the numbers by which a plan's decoder writes exactly a given text."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from ladle.autoencoder.choice import chosen_ids, ids_of_normals, normals_of_ids
from ladle.autoencoder.latents import Latents
from ladle.autoencoder.wording import wording_of
from ladle.conditioning.decoder import read_conditions
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.storage.parts import ModelParts

OTHERS = ["A text that nobody wrote: zqx, 7 #!", "Tabs\tand\nlines.", "ü 😀 ß", "a a a a a a a a", "."]
TEXTS = [*tiny.SENTENCES[:20], *OTHERS]


def model() -> LatentDiffusion:
    return LatentDiffusion(ModelParts("plan", tiny.tiny_plan_autoencoder()))


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.1, 1.0, 8.0]))
@settings(deadline=None)
def test_the_number_of_a_token_chooses_it(seed: int, spread: float) -> None:
    """Also of tokens that are very unlikely, and of tokens that are equally likely."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(64, 700, generator=generator)
    logits[:, 5:9] = logits[:, 4:5]
    ids = torch.randint(700, (64,), generator=generator)
    ids[:4] = torch.tensor([5, 6, 7, 8])
    ids[4] = logits[4].argmin()
    assert ids_of_normals(logits, normals_of_ids(logits, ids)).tolist() == ids.tolist()


@given(st.integers(0, 2**31 - 1))
@settings(deadline=None)
def test_a_normal_number_chooses_what_its_uniform_number_chooses(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, normals = 2 * torch.randn(64, 700, generator=generator), torch.randn(64, generator=generator)
    uniform = torch.special.ndtr(normals)
    near = sum(chosen_ids(logits, (uniform + shift).clamp(0, 1), 1.0, 1.0) == ids_of_normals(logits, normals)
               for shift in (-1e-6, 0.0, 1e-6))  # fmt: skip
    assert bool((near > 0).all())


def test_a_number_is_the_middle_of_its_tokens_share() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(3, 3)
    numbers = torch.special.ndtr(normals_of_ids(logits, torch.tensor([0, 1, 2])).double())
    torch.testing.assert_close(numbers, torch.tensor([0.9, 0.25, 0.65]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_any_text_comes_back_to_the_letter(batch_size: int) -> None:
    """Whatever batches it is encoded and decoded in; the decoder has never seen it, and would write something else."""
    own = model()
    latents = own.encode(TEXTS, batch_size=batch_size)
    back = own.decode(latents, batch_size=7)
    cut = [
        own.autoencoder.backbone.detokenize(own.autoencoder.backbone.tokenize([text])["input_ids"])[0] for text in TEXTS
    ]
    assert back == cut
    without = own.decode(replace(latents, wording=None))
    assert without == own.decode(own.encode(TEXTS, wording=False)) != back


def test_other_plans_write_other_words_with_the_same_wording() -> None:
    own = model()
    latents = own.encode(TEXTS)
    other = replace(latents, values=latents.values.flip(0))
    assert sum(a == b for a, b in zip(own.decode(other), own.decode(latents), strict=True)) < len(TEXTS) // 2


def test_texts_of_the_decoder_have_normal_wordings() -> None:
    """The wording of drawn texts is noise: mean 0, and nearly the variance of a normal number (middles have less)."""
    own = model()
    latents = own.encode([tiny.SENTENCES[0]] * 200, wording=False)
    tokens = own.autoencoder.decode(latents, do_sample=True)
    end = own.autoencoder.backbone.tokenizer.eos_token_id
    mask = (tokens == end).cumsum(1) - (tokens == end).long() == 0
    numbers = wording_of(own.autoencoder, latents, tokens, mask)[mask]
    assert len(numbers) > 1000
    assert abs(numbers.mean()) < 0.1 and 0.6 < numbers.std() < 1.05


def test_drawn_words_and_beams_do_not_follow_the_wording() -> None:
    own = model()
    latents = own.encode(TEXTS)
    torch.manual_seed(0)
    drawn = own.decode(latents, do_sample=True)
    torch.manual_seed(0)
    assert drawn == own.decode(replace(latents, wording=None), do_sample=True)
    assert own.decode(latents, num_beams=2) == own.decode(replace(latents, wording=None), num_beams=2)


def test_a_part_and_a_copy_of_latents_keep_their_wording() -> None:
    own = model()
    latents = own.encode(TEXTS)
    texts = own.decode(latents)
    assert own.decode(latents[3:9]) == texts[3:9]
    assert own.decode(latents.to("cpu", torch.float64).to("cpu", torch.float32)) == texts


def test_the_decoder_of_conditions_has_its_own_wording() -> None:
    """With the condition that the wording was made with, the text comes back; without it, hardly ever."""
    parts = tiny.tiny_plan_parts(source=False)
    autoencoder = parts.autoencoder
    texts = tiny.SENTENCES[:12]
    batch, latents = tiny.tokens(autoencoder, texts), autoencoder.encode_texts(texts)
    from ladle.conditioning.encoder import RawCondition

    raw = RawCondition(torch.zeros(len(texts), dtype=torch.long))
    read = read_conditions(autoencoder, raw, len(texts))
    wording = wording_of(autoencoder, latents, batch["input_ids"], batch["attention_mask"], read)
    back = autoencoder.backbone.detokenize(autoencoder.decode(latents, read=read, wording=wording))
    assert back == autoencoder.backbone.detokenize(batch["input_ids"])
    none = read_conditions(autoencoder, None, len(texts))
    assert autoencoder.backbone.detokenize(autoencoder.decode(latents, read=none, wording=wording)) != back


def test_latents_without_a_plan_have_no_wording() -> None:
    own = LatentDiffusion(ModelParts("aligned", tiny.tiny_autoencoder("aligned")))
    latents = own.encode(tiny.SENTENCES[:2])
    assert latents.wording is None
    with pytest.raises(UserError, match="no wording"):
        own.decode(replace(latents, wording=torch.zeros(2, 4)))


@pytest.mark.parametrize(
    "wording",
    [torch.zeros(3, 4), torch.zeros(2, 4, 1), torch.zeros(2, tiny.MAX_TOKENS + 1), torch.zeros(2, 4).long(), "words",
     torch.full((2, 4), torch.nan)],
)  # fmt: skip
def test_wordings_that_are_none_are_refused(wording: object) -> None:
    own = model()
    latents: Latents = own.encode(tiny.SENTENCES[:2])
    with pytest.raises(UserError, match="wording"):
        own.decode(replace(latents, wording=wording))  # type: ignore[arg-type]
