"""Numbers of words and weights of conditions where blanks are filled, and where texts are changed."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import memorised
import tiny
from ladle import cli
from ladle.autoencoder.lexicon import Lexicon, words_of
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.sampling import word_count
from ladle.sampling.word_count import count_words
from ladle.storage.model_folder import save_parts


@cache
def model(kind: str = "plan") -> LatentDiffusion:
    """The aligned one has learnt whole texts; the other writes some words at random, and may end."""
    if kind == "aligned":
        return LatentDiffusion(memorised.memorised_parts())
    parts = tiny.tiny_plan_parts()
    backbone = parts.autoencoder.backbone
    backbone.lexicon = Lexicon(words_of(tiny.SENTENCES), backbone.tokenizer)
    with torch.no_grad():
        backbone.model.get_decoder().embedding.weight[backbone.tokenizer.eos_token_id] *= 3
    return LatentDiffusion(parts)


@pytest.mark.parametrize("kind", ["plan", "aligned"])
def test_blanks_are_filled_until_the_text_has_as_many_words_as_wanted(kind: str) -> None:
    """The words that are given count too. Texts that are right at once stay as they are."""
    given: dict[str, Any] = {"n": 6, "seed": 0, "temperature": 1.0, "candidates": 1, "num_inference_steps": 2}
    free = model(kind).infill("the ___ saw ___", **given)
    counts = [count_words(text) for text in free]
    most = sorted(counts)[3]
    assert min(counts) > 2 and most < max(counts), "one text at least must be too long"
    texts = model(kind).infill("the ___ saw ___", **given, max_words=most)
    assert all(2 < count_words(text) <= most for text in texts)
    kept = [text for text, count in zip(free, counts, strict=True) if count <= most]
    assert [text for text, count in zip(texts, counts, strict=True) if count <= most] == kept
    assert model(kind).infill("the ___ saw ___", **given, max_words=most, batch_size=2) == texts


def test_a_number_of_words_that_blanks_cannot_reach_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Python a warning, in the shell a line; a template that has too many already is refused."""
    monkeypatch.setattr(word_count, "TRIES", 2)
    given: dict[str, Any] = {"seed": 0, "candidates": 1, "num_inference_steps": 1}
    with pytest.warns(UserWarning, match="1 of 1 text"):
        model().infill("a ___ b", **given, min_words=20)
    with pytest.raises(UserError, match="the template 'a cat ___ b' has 3 words, but max_words is 2"):
        model().infill("a cat ___ b", max_words=2)
    with pytest.raises(UserError, match="min_words is 90, but this model's texts have at most"):
        model().infill("a ___ b", min_words=90)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model().infill("a cat___ b", **given, max_words=20)
    save_parts(model().parts, tmp_path / "model")
    words = ["--template", "a ___ b", "--seed", "0", "--candidates", "1", "--num-inference-steps", "1"]
    assert cli.main(["infill", "--model", str(tmp_path / "model"), *words, "--min-words", "20"]) == 0
    assert "1 of 1 text have not 20 words or more" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["min_words", "max_words"])
def test_edits_refuse_numbers_of_words(name: str) -> None:
    """They would not be kept; a model that is saved with such a number edits all the same."""
    for change in (
        lambda **more: model().vary("the cat sat.", 0.5, seed=0, **more),
        lambda **more: model().paraphrase("the cat sat.", candidates=2, seed=0, **more),
        lambda **more: model().interpolate("the cat sat.", "a dog ran.", 3, seed=0, **more),
    ):
        with pytest.raises(UserError, match=f"{name} is for new texts and blanks alone"):
            change(**{name: 4})
    parts = tiny.tiny_plan_parts()
    parts.sampling = parts.sampling.override(**{name: 4})
    assert LatentDiffusion(parts).vary("the cat sat.", 0.5, seed=0)


def test_a_condition_of_weight_zero_changes_no_blank() -> None:
    """Neither the latents, nor the words of a decoder that reads conditions, nor the choice; and a wrong name is
    refused as in generate."""
    given: dict[str, Any] = {"n": 6, "seed": 0, "temperature": 1.0, "candidates": 2, "guidance_scale": 1.0}
    free = model().infill("the ___ a ___.", **given)
    assert model().infill("the ___ a ___.", **given, label="good") != free
    assert model().infill("the ___ a ___.", **given, label="good", guidance_scales={"label": 0.0}) == free
    with pytest.raises(UserError, match="guidance of 'food'"):
        model().infill("the ___", guidance_scales={"food": 2.0})
