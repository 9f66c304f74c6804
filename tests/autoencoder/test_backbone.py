"""The encoder-decoder with its tokenizer: texts in and out, memory in between, pre-trained or from nothing."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from ladle.autoencoder.autoencoder import AutoencoderConfig
from ladle.autoencoder.backbone import Backbone, SmallBackboneConfig, train_tokenizer
from ladle.autoencoder.signs import literal
from ladle.errors import UserError
from ladle.layers import sinusoids


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny.tiny_autoencoder().backbone.eval()


@pytest.fixture
def pretrained(pretrained_folder: Path) -> Backbone:
    return Backbone.from_pretrained(pretrained_folder, max_tokens=16).eval()


# ------------------------------------------------------------------------------------------------ tokenizer


TOKENIZER = literal(tiny.tiny_tokenizer())


@settings(deadline=None, max_examples=30)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30))
def test_any_text_in_any_language_survives_the_tokenizer(text: str) -> None:
    """Byte-level: no unknown token, whatever the training texts were."""
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip() == text.strip()


def test_digits_stand_alone() -> None:
    """Else every number would want an entry of its own."""
    tokenizer = train_tokenizer(["in 1999 1999 1999 1999", "1999 in"] * 50, 400)
    assert not [token for token in tokenizer.get_vocab() if sum(c.isdigit() for c in token) > 1]


def test_every_text_ends_with_the_end_token() -> None:
    """It decides the length of what is decoded."""
    ids = TOKENIZER(["a cat", ""])["input_ids"]
    assert [row[-1] for row in ids] == [TOKENIZER.eos_token_id] * 2
    assert ids[1] == [TOKENIZER.eos_token_id]


def test_long_texts_are_cut_and_keep_their_end_token(backbone: Backbone) -> None:
    """Without it the model would learn that long texts never end."""
    batch = backbone.tokenize(["the old cat " * 20, "a cat"])
    assert batch["input_ids"].shape == (2, tiny.MAX_TOKENS)
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["input_ids"][0, -1] == backbone.tokenizer.eos_token_id


def test_texts_come_back_without_special_tokens(backbone: Backbone) -> None:
    """Neither padding nor end is part of a text."""
    texts = ["the old cat sat on a mat.", "No. 12!"]
    assert backbone.detokenize(backbone.tokenize(texts)["input_ids"]) == texts


# ------------------------------------------------------------------------------------------- pre-trained models


def test_families_are_met_by_one_class(pretrained: Backbone) -> None:
    """BART, T5 and mT5 from a folder: encode, teacher forcing and generation, with no branch for any of them."""
    batch = pretrained.tokenize(tiny.SENTENCES[:3])
    states = pretrained.encode(**batch)
    assert states.shape == (*batch["input_ids"].shape, pretrained.width)
    logits = pretrained.decode_logits(batch["input_ids"], states, batch["attention_mask"])
    assert logits.shape == (*batch["input_ids"].shape, pretrained.model.config.vocab_size)
    ids = pretrained.write(states, batch["attention_mask"], max_tokens=5)
    assert ids.shape[1] <= 5


def test_padding_does_not_change_the_states(pretrained: Backbone) -> None:
    """A text's states are its own in every family, positions by number (BART) or by distance (T5)."""
    alone = pretrained.encode(**pretrained.tokenize(["a cat"]))
    batch = pretrained.tokenize(["a cat", "the old cat sat on a mat."])
    together = pretrained.encode(**batch)[0][batch["attention_mask"][0]]
    torch.testing.assert_close(together, alone[0], atol=1e-5, rtol=1e-5)


def test_teacher_forcing_does_not_look_ahead(pretrained: Backbone) -> None:
    """The logits at a place know the tokens before it only."""
    batch = pretrained.tokenize(["the old cat sat on a mat."])
    states = pretrained.encode(**batch)
    ids = batch["input_ids"]
    other = ids.clone()
    other[:, 4:] = 7
    first, second = (pretrained.decode_logits(x, states, batch["attention_mask"]) for x in (ids, other))
    torch.testing.assert_close(first[:, :5], second[:, :5], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(first[:, 5:], second[:, 5:], atol=1e-3)


def test_a_summarisers_habits_do_not_shape_the_text(tmp_path: Path) -> None:
    """facebook/bart-base forbids repeated trigrams and the like: a text that repeats itself could never come back."""
    plain = Backbone.from_pretrained(tiny.bart_folder(tmp_path / "plain"), 12).eval()
    path = tiny.bart_folder(tmp_path / "biased") / "generation_config.json"
    habits = {"no_repeat_ngram_size": 1, "min_length": 8, "num_beams": 4, "repetition_penalty": 9.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | habits))
    biased = Backbone.from_pretrained(path.parent, 12).eval()
    batch = plain.tokenize(tiny.SENTENCES[:2])
    memory = plain.encode(**batch)
    end = plain.tokenizer.eos_token_id
    # (in a search BART forces the end at the last place)
    for word, expected, searched in ((9, [9] * 12, [9] * 11 + [end]), (end, [end], [end])):
        for backbone in (plain, biased):
            with torch.no_grad():  # the decoder wants this token
                backbone.model.final_logits_bias.zero_()[0, word] = 1e4
            assert backbone.write(memory, batch["attention_mask"]).tolist() == [expected] * 2
            assert backbone.search(memory, batch["attention_mask"], num_beams=2).tolist() == [searched] * 2


def test_a_model_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    """Neither a traceback of transformers nor a page of advice."""
    with pytest.raises(UserError, match="cannot load the encoder-decoder") as error:
        Backbone.from_pretrained(tmp_path / "nothing", 16)
    assert "\n" not in str(error.value)


def test_a_model_without_a_decoder_is_refused(tmp_path: Path) -> None:
    """BERT encodes, but nothing in it writes."""
    from transformers import BertConfig

    BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=10).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot load the encoder-decoder"):
        Backbone.from_pretrained(tmp_path, 16)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    """A folder with a pickle in place of safetensors is refused, not opened."""
    folder = tiny.bart_folder(tmp_path / "bart")
    opened = tmp_path / "opened"
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (opened,))

    torch.save({"x": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load the encoder-decoder"):
        Backbone.from_pretrained(folder, 16)
    assert not opened.exists()


# ------------------------------------------------------------------------------------------------ from nothing


def test_a_new_model_has_the_sizes_that_were_asked_for() -> None:
    """The config's sizes, the tokenizer's vocabulary, pre-norm layers."""
    config = SmallBackboneConfig(vocab_size=320, width=16, num_encoder_layers=2, num_decoder_layers=1, num_heads=2)
    backbone = Backbone.build(config, 12, TOKENIZER)
    assert (backbone.width, backbone.num_heads) == (16, 2)
    assert len(backbone.model.get_encoder().layers) == 2
    assert len(backbone.model.get_decoder().layers) == 1
    assert backbone.model.config.vocab_size == len(TOKENIZER)


def test_cross_attention_of_a_new_model_starts_at_its_own_place(backbone: Backbone) -> None:
    """From random maps a small decoder takes thousands of steps to find the diagonal."""
    new = Backbone.build(SmallBackboneConfig(vocab_size=320, width=32), tiny.MAX_TOKENS, TOKENIZER)
    codes = sinusoids(tiny.MAX_TOKENS, 32)
    for layer in new.model.get_decoder().layers:
        attention = layer.encoder_attn
        scores = attention.q_proj(codes) @ attention.k_proj(codes).T
        assert torch.equal(scores.argmax(-1), torch.arange(tiny.MAX_TOKENS))
    table = new.model.get_decoder().embed_positions
    torch.testing.assert_close(table.weight[table.offset :], codes)


def test_heads_that_do_not_divide_the_width_of_a_new_model_are_named() -> None:
    """One clear line, not the traceback of a layer."""
    with pytest.raises(UserError, match="num_heads"):
        SmallBackboneConfig.parse({"width": 32, "num_heads": 5})


def test_a_pretrained_model_is_asked_for_no_sizes() -> None:
    """It has its own: those in a recipe would silently mean nothing."""
    with pytest.raises(UserError, match="unknown key 'backbone.width'"):
        AutoencoderConfig.parse({"backbone": {"pretrained": "facebook/bart-base", "width": 32}})
