"""Section B of the cases from the field, "Texts change in silence": whatever the data hold is learnt, or is named."""

import json
import random
import re
import unicodedata
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import tiny
from ladle import cli
from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.backbone import Backbone, train_tokenizer
from ladle.autoencoder.signs import alphabet_of, literal, unlearnt, unlearnt_line, used_parts, writable, written
from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.conditioning.source_text import SourceEncoder
from ladle.data.rows import Row
from ladle.data.splits import Splits
from ladle.data.stores import TokenStore, count_cut
from ladle.errors import UserError
from ladle.evaluation.mauve import Featuriser
from ladle.evaluation.scorer import Scorer
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.names import shipped_models
from ladle.storage.record import model_digest, read_record
from ladle.training.plan import make_plan
from ladle.training.recipe import Recipe, load_recipe
from ladle.training.run import train
from ladle.training.warm_start import Start, choose_start
from memorised import learn

SPELLINGS = "Use </s> to close <s>this</s>: <pad>, <mask>, <unk>, <extra_id_0>, [SEP] and [CLS]."
SYMBOLS = ["Tab\there.", "Braces {like} <these>.", "A smile 😀.", "Привет, мир.", "مرحبا بالعالم.", "Plain words."]
ANY_SIGN = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
RNG = random.Random(0)
THINGS = ["The food", "The staff", "Our waiter", "The room", "This place", "The soup"]
ENGLISH = [f"{RNG.choice(THINGS)} was {RNG.choice(['great', 'slow', 'cold'])} on day {i}." for i in range(300)]
CYRILLIC = [f"{who} {did}." for who in ("Повар", "Сосед", "Учитель") for did in ("открыл окно", "купил хлеб")] * 50
KINDS = {
    "ours": tiny.tiny_tokenizer,
    "bart": tiny.tiny_bart_tokenizer,
    "t5": tiny.tiny_t5_tokenizer,
    "words": lambda: _of_whole_words(),
}


def rows(texts: list[str], **columns: list[str]) -> list[Row]:
    return [{"text": text, **{k: v[i] for k, v in columns.items()}} for i, text in enumerate(texts)]  # type: ignore


def _of_whole_words() -> Any:
    """Every word is an entry, special tokens are words, and nothing else can be written."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def unlike(sign: str) -> bool:
    """Whether no sample may hold this sign unless the data do."""
    return sign == "\ufffd" or (unicodedata.category(sign) == "Cc" and sign not in "\n\t")


# ------------------------------------------------------------------------------------------------- special tokens


@pytest.mark.parametrize("kind", KINDS)
def test_case_a_special_tokens_spelling_is_text(kind: str, tmp_path: Path) -> None:
    """Case B: `</s>` ends the text. In every kind of tokenizer it is text, again after saving and loading."""
    tokenizer = literal(KINDS[kind]())
    for _ in range(2):
        ends = {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.bos_token_id} - {
            None
        }
        assert not ends & set(tokenizer(SPELLINGS, add_special_tokens=False)["input_ids"])
        assert not ends & set(tokenizer("a </s> a", add_special_tokens=False)["input_ids"])
        before = tokenizer.backend_tokenizer.to_str()
        assert literal(tokenizer).backend_tokenizer.to_str() == before
        tokenizer.save_pretrained(tmp_path)
        tokenizer = literal(AutoTokenizer.from_pretrained(tmp_path))
    if kind in ("ours", "bart"):
        assert tokenizer.decode(tokenizer(SPELLINGS)["input_ids"], skip_special_tokens=True).strip() == SPELLINGS


def test_case_special_tokens_come_back_from_every_door(tmp_path: Path) -> None:
    """Case B: `reconstruct special_tokens.txt`. Backbones, source encoders, the rival, scorers and MAUVE's encoder all
    read the spelling as text."""
    from transformers import BertModel

    backbone = tiny.tiny_autoencoder().backbone
    assert backbone.detokenize(replace_max(backbone, 200).tokenize([SPELLINGS])["input_ids"]) == [SPELLINGS]
    folder = tiny.bert_folder(tmp_path / "bert")
    tokenizers = [
        SourceEncoder.from_pretrained(folder).tokenizer,
        AutoregressiveModel(AutoregressiveConfig(width=8, num_layers=1, num_heads=1), tiny.tiny_tokenizer()).tokenizer,
        Scorer("a", "ladle", None, tiny.tiny_tokenizer(), 0).tokenizer,
        Featuriser("a", "mean", 99, "", tiny.tiny_tokenizer(), BertModel).tokenizer,
    ]
    for tokenizer in tokenizers:
        special = set(tokenizer.all_special_ids)
        assert not special & set(tokenizer(SPELLINGS, add_special_tokens=False)["input_ids"])


def replace_max(backbone: Backbone, max_tokens: int) -> Backbone:
    backbone.max_tokens = max_tokens
    return backbone


def test_case_training_texts_are_whole_behind_a_special_token() -> None:
    """Case B: `train --data html.csv`, training texts are cut in silence. Stored and counted is the whole text."""
    tokenizer = literal(tiny.tiny_tokenizer())
    text = "the cat </s> sat on a <pad> mat."
    store = TokenStore(tokenizer, [text], 64)
    assert tokenizer.decode(store.ids[:-1], skip_special_tokens=True).strip() == text
    assert store.ids.tolist().count(tokenizer.eos_token_id) == 1
    assert count_cut(tokenizer, [text], len(store.ids) - 1) == 1


@cache
def _learnt_by_heart(texts: tuple[str, ...]) -> TextAutoencoder:
    """A tiny autoencoder with a vocabulary of these texts, trained until it gives them back."""
    config = tiny.tiny_autoencoder_config()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Backbone.build(config.backbone, 48, train_tokenizer(texts, 330))
        autoencoder = TextAutoencoder(config.model_copy(update={"max_tokens": 48}), backbone)
        batch = backbone.tokenize(texts)
        learn(
            autoencoder,
            batch,
            lambda: backbone.detokenize(autoencoder.decode(autoencoder.encode(**batch))) == list(texts),
            rounds=10,
        )
    backbone.alphabet = alphabet_of(backbone.tokenizer, texts, 48)
    return autoencoder


def test_case_tags_line_breaks_and_emoji_are_learnt() -> None:
    """Case B: `train --data html.csv, paragraphs.csv, emoji.csv`. A model gives such texts back, sign by sign."""
    texts = ("Use </s> to <b>close</b>.", "One.\n\nTwo\tthree.", "Fine 😀👍🏽!", "Ёж ест 👨‍👩‍👧.", "The <pad> is {x}.")
    autoencoder = _learnt_by_heart(texts)
    backbone, latents = autoencoder.backbone, autoencoder.encode(**autoencoder.backbone.tokenize(texts))
    for decoder in ("autoregressive", "parallel"):
        assert backbone.detokenize(autoencoder.decode(latents, decoder)) == list(texts)


@settings(deadline=None, max_examples=60)
@given(st.lists(ANY_SIGN, min_size=1, max_size=4))
def test_any_text_comes_back_from_a_tokenizer_of_its_own(texts: list[str]) -> None:
    """Any code points: line breaks inside, astral, combining, right-to-left, joiners. (The ends lose white space.)"""
    texts = [text.strip() for text in texts]
    backbone = tiny.tiny_autoencoder().backbone
    backbone = Backbone(backbone.model, train_tokenizer(texts, 300), 400)
    backbone.alphabet = alphabet_of(backbone.tokenizer, texts, 400)
    assert backbone.detokenize(backbone.tokenize(texts)["input_ids"]) == texts


# ----------------------------------------------------------------------------------- no sign that the data do not hold


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 319), max_size=30))
def test_case_no_sample_holds_a_sign_that_the_data_do_not_hold(ids: list[int]) -> None:
    """Case B: control signs and U+FFFD in samples. Whatever tokens a model draws, its text has only known signs."""
    backbone = tiny.tiny_autoencoder().backbone
    for alphabet in (None, alphabet_of(backbone.tokenizer, tiny.SENTENCES, 24)):
        backbone.alphabet = alphabet
        (text,) = backbone.detokenize(torch.tensor([ids], dtype=torch.long).view(1, -1))
        assert not any(map(unlike, text))
        assert alphabet is None or set(text) <= alphabet


def test_case_rivals_texts_hold_no_rubble_either() -> None:
    """Case B: control signs and U+FFFD in samples, of the rival too."""
    torch.manual_seed(0)
    config = AutoregressiveConfig(width=8, num_layers=1, num_heads=1, max_tokens=24)
    texts = AutoregressiveModel(config, tiny.tiny_tokenizer()).eval().generate(20, temperature=5.0)
    assert any(texts)
    assert not any(unlike(sign) for text in texts for sign in text)


@given(ANY_SIGN)
def test_texts_without_rubble_do_not_change(text: str) -> None:
    """Without an alphabet only undecodable bytes and control signs go; with one, only what is outside it."""
    kept = "".join(c for c in text if c != "\ufffd" and unicodedata.category(c) not in ("Cc", "Co", "Cn", "Zl", "Zp"))
    assert written(kept, None) == kept
    assert written(text, frozenset(text)) == text
    assert written(text + "\ufffd", frozenset(text) - {"\ufffd"}).count("\ufffd") == 0


def test_a_sign_of_several_tokens_is_not_dropped() -> None:
    """Bytes of one character may lie in several tokens: the whole sequence is decoded before anything is dropped."""
    backbone = tiny.tiny_autoencoder().backbone
    ids = backbone.tokenize(["a 😀 b"])["input_ids"]
    assert len(ids[0]) > 7
    assert backbone.detokenize(ids) == ["a 😀 b"]
    assert backbone.detokenize(ids[:, :5]) == ["a"]


# --------------------------------------------------------------------------------------- what a model has never learnt


def test_case_the_shipped_model_gives_any_sign_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Case B: `reconstruct symbols.txt` with `base-en`. Its wording holds any sign, so nothing is lost or said."""
    (tmp_path / "symbols.txt").write_text("\n".join(SYMBOLS) + "\n", encoding="utf-8")
    assert cli.main(["reconstruct", str(tmp_path / "symbols.txt"), "-o", str(tmp_path / "out.jsonl")]) == 0
    assert "never learnt" not in capsys.readouterr().err
    back = [json.loads(line)["reconstruction"] for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert back == SYMBOLS


def test_case_python_warns_of_signs_never_learnt() -> None:
    """Case B: the same in Python, by encode, reconstruct and generate(source=...); texts that are known say nothing."""
    parts = tiny.tiny_parts()
    parts.autoencoder.backbone.alphabet = frozenset("".join(tiny.SENTENCES))
    model = LatentDiffusion(parts)
    with pytest.warns(UserWarning, match=r"^2 of 3 texts hold signs that 'tiny' never learnt \(tab, 😀\); they will"):
        model.encode(["a\tcat\there", "😀", "the cat"])
    for call in (lambda: model.reconstruct(["☃"]), lambda: model.generate(source=["☃", None], num_inference_steps=2)):
        with pytest.warns(UserWarning, match="1 of 1 texts hold signs that 'tiny' never learnt"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.reconstruct(["the old cat.\n"])  # (the ends do not count)
        model.generate(source="the cat", num_inference_steps=2)
    parts.autoencoder.backbone.alphabet = None
    assert unlearnt_line(["☃"], None, "older") is None


def test_shipped_models_know_their_alphabet() -> None:
    """English with its usual signs; base-en also line breaks and many scripts. It is no part of the model's
    digest."""
    for name, folder in shipped_models().items():
        alphabet = read_record(folder).alphabet
        assert alphabet is not None
        assert set("The old cat, at 5.") <= set(alphabet), name
        assert not set("\ufffd") & set(alphabet), name
    known = set(read_record(shipped_models()["base-en"]).alphabet or "")
    assert set("“Zoë’s café” cost £5 – or €6.\n\tПр你😀") <= known
    assert set("name[Aromi], £20-25 Café") <= set(read_record(shipped_models()["e2e"]).alphabet or "")


def test_an_alphabet_is_saved_and_loaded_and_older_models_have_none(tmp_path: Path) -> None:
    """Any signs, control signs too."""
    parts = tiny.tiny_parts()
    save_parts(parts, tmp_path / "older")
    assert load_parts(tmp_path / "older").autoencoder.backbone.alphabet is None
    signs = frozenset(' a\n\t\u0085\u2028\u202e😀"\\')
    parts.autoencoder.backbone.alphabet = signs
    save_parts(parts, tmp_path / "new")
    assert load_parts(tmp_path / "new").autoencoder.backbone.alphabet == signs
    assert model_digest(tmp_path / "new") == model_digest(tmp_path / "older")
    assert f"It has learnt {len(signs)} different signs" in (tmp_path / "new" / "README.md").read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------------- the start of a training


def chosen(texts: list[str], recipe: dict[str, Any] | None = None, **columns: list[str]) -> Start:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ladle.training.warm_start.load_parts", _loaded)
        return choose_start(Recipe.parse(recipe or {}), rows(texts, **columns))


_loaded = cache(load_parts)


def test_case_other_scripts_start_from_nothing() -> None:
    """Case B: `train --data cyrillic.txt`, `chinese.jsonl`: noticed before training; own vocabulary, from scratch."""
    questions = [f"问题{i}怎么办" for i in range(300)]
    japanese, arabic = ["これは本です。"] * 300, ["مرحبا بالعالم."] * 300
    for texts in (CYRILLIC, questions, japanese, arabic):
        start = chosen(texts, source=texts)
        assert start.name == "nothing"
        (note,) = start.notes
        assert re.match(r"\d\d% of the characters \(.+\) are no Latin letters, the letters of 'base-en'", note)
        assert note.endswith(": starting from nothing")
        assert any(sign in note for sign in texts[0])
        assert chosen(texts, {"start": "base-en"}).keeps_autoencoder  # asked for: it learns to write them


def test_case_other_languages_in_latin_letters_get_an_own_vocabulary() -> None:
    """Case B, of the same kind as `cyrillic.txt`: the start knows the letters, but not the words."""
    german = "Am Morgen öffnete der Gärtner die Türen des Gewächshauses und goss die jungen Pflanzen."
    turkish = "Sabahleyin bahçıvan seranın kapılarını açtı ve genç bitkileri suladı."
    for text in (german, turkish):
        start = chosen([text] * 200)
        assert (start.name, start.own_vocabulary) == ("base-en", True)
        assert start.notes[0] == "these texts are not in the English of 'base-en': it gets a new vocabulary"


def test_case_english_keeps_the_vocabulary_whatever_signs_it_holds() -> None:
    """Case B: `train --data paragraphs.csv`, `emoji.csv`, `html.csv`: the decoder of a plan learns any sign."""
    for end in ("", "\n\nSecond line here.", " 😀👍🏽 and 😡", "\tx", " </s> <b>y</b>", " {x}"):
        start = chosen([text + end for text in ENGLISH])
        assert (start.name, start.keeps_autoencoder) == ("base-en", True)
        assert start.notes == ("starting from the autoencoder and the denoiser of 'base-en'",)


def test_case_only_the_used_part_of_texts_decides() -> None:
    """Case B: `train --data one_long_row.csv`: what is cut off does not count."""
    start = chosen([text + " word" * 100 + " größer üben" * 400 for text in ENGLISH])
    assert start.keeps_autoencoder
    tokenizer = literal(tiny.tiny_tokenizer())
    assert list(used_parts(tokenizer, ["the cat", "the " * 90], 24)) == ["the cat", ("the " * 90)[: 4 * 23 - 1]]
    assert alphabet_of(tokenizer, ["the cat", "the " * 90 + "ж"], 24) == frozenset("the cat")
    assert "ж" in alphabet_of(tokenizer, ["the " * 10 + "ж"], 24)


def test_what_texts_lack_is_counted() -> None:
    """Texts and characters; the most frequent signs are the examples, with names for those that cannot be seen."""
    found = unlearnt(["ab", "a\nb\n\u200b", "жжж", "aébc"], frozenset("abc"))
    assert found == (0.75, 3, 7 / 14, "ж, line break, U+200B ...")
    assert unlearnt(["ab"], frozenset("ab")) is None


def _recipe(**values: Any) -> Recipe:
    sizes = {"vocab_size": 320, "width": 32, "num_encoder_layers": 1, "num_decoder_layers": 1}
    return Recipe.parse(
        {
            "autoencoder": {
                "max_tokens": 24, "backbone": sizes,
                "bottleneck": {"latent_dim": 16, "num_layers": 1, "tokens_per_latent": 3},
            },
            "diffusion": {"denoiser": {"width": 32, "num_layers": 2, "num_skips": 1}},
            "training": {"steps": 9, "precision": "fp32", "optimiser": {"max_tokens": 400}, "validate_every": 0,
                         "sample_every": 0, "save_every_seconds": 1000},
            "sampling": {"num_inference_steps": 2},
        } | values
    )  # fmt: skip


def test_case_a_trained_model_writes_only_signs_of_its_data(tmp_path: Path) -> None:
    """Case B: no sample ever holds a sign that the data do not hold. A model of one's own knows its alphabet."""
    texts = [f"{text[:20]}\n\t😀 </s> ж" for text in ENGLISH]
    train(_recipe(start="nothing"), tmp_path / "run", data=texts, log=lambda line: None)
    held = set("".join(texts))
    assert set(read_record(tmp_path / "run" / "final").alphabet or "") <= held
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    drawn = model.generate(60, seed=0, temperature=2.0, top_p=1.0, candidates=1)
    assert any(drawn)
    assert set("".join(drawn)) <= held
    # A start with aligned latents that keeps its vocabulary is asked for its alphabet, and adds it to that of the data.
    base = _recipe(start=str(tmp_path / "run" / "final"))
    with pytest.raises(UserError, match="never learnt"):
        train(base, tmp_path / "other", data=CYRILLIC, log=lambda line: None)
    assert not (tmp_path / "other").exists()
    train(base, tmp_path / "other", data=[f"{text[:20]}é" for text in ENGLISH], log=lambda line: None)
    assert set(read_record(tmp_path / "other" / "final").alphabet or "") == held | set("é")


def test_signs_that_a_pretrained_tokenizer_cannot_write_are_named(tmp_path: Path) -> None:
    """T5's vocabulary has no entries for other scripts: said before the training, or refused."""
    lines: list[str] = []
    made = _recipe(
        start="auto", autoencoder={"max_tokens": 24, "backbone": {"pretrained": str(tiny.t5_folder(tmp_path / "t5"))}}
    )
    train(made, tmp_path / "run", "autoencoder", data=[*tiny.SENTENCES, "the cat 😀"], log=lines.append)
    assert any("cannot write 0.1% of the characters (😀), which 2.1% of the texts hold" in line for line in lines)
    with pytest.raises(
        UserError, match=r"cannot write 8\d\.\d% of the characters .* name another model with --backbone"
    ):
        train(made, tmp_path / "other", data=CYRILLIC, log=lambda line: None)
    backbone = tiny.tiny_autoencoder().backbone
    assert writable(backbone, "a😀\n") == frozenset("a😀\n")


def test_a_training_from_a_model_of_ones_own_keeps_that_models_shift(tmp_path: Path) -> None:
    """It was measured on these latents; the recipe's own shift goes before it."""
    parts = tiny.tiny_parts()
    assert parts.diffusion is not None
    config = parts.diffusion.config
    schedule = config.schedule.model_copy(update={"shift": 3.3})
    parts.diffusion = replace_config(parts.diffusion, config.model_copy(update={"schedule": schedule}))
    save_parts(parts, tmp_path / "own")
    splits = Splits(rows(tiny.SENTENCES), [], [])
    plan = make_plan(_recipe(start=str(tmp_path / "own")), splits)
    assert (plan.recipe.diffusion.schedule.shift, plan.measures_shift) == (3.3, False)
    own = {"denoiser": config.denoiser.model_dump(), "schedule": {"shift": 1.5}}
    assert make_plan(_recipe(start=str(tmp_path / "own"), diffusion=own), splits).recipe.diffusion.schedule.shift == 1.5


def replace_config(diffusion: Any, config: Any) -> Any:
    diffusion.config = config
    return diffusion


def test_a_run_from_a_model_with_a_pretrained_backbone_keeps_its_start(tmp_path: Path) -> None:
    """Its recipe.toml names the backbone too: read again, it has the same start."""
    folder = tiny.bart_folder(tmp_path / "bart")
    parts = tiny.tiny_parts(pretrained=str(folder))
    save_parts(replace(parts, name="own"), tmp_path / "own")
    start = {"start": str(tmp_path / "own"), "training": {"steps": 2}}
    train(_recipe(**start), tmp_path / "run", "autoencoder", data=tiny.SENTENCES, log=lambda line: None)
    again = load_recipe(tmp_path / "run" / "recipe.toml")
    assert again.autoencoder.backbone.pretrained == str(folder)
    assert choose_start(again, rows(tiny.SENTENCES)).name == str(tmp_path / "own")
