"""Frozen sentence encoders, which make the plans: one that the model folder holds, and one that it only names."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
import tiny
from ladle.autoencoder.sentence_encoder import sentence_encoder
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.training.run import train
from plan_runs import SIZES, recipe, rows


def sentence_folder(path: Path) -> Path:
    """A random BERT with mean pooling, 24 wide, as sentence-transformers saves it."""
    modules = pytest.importorskip(
        "sentence_transformers.sentence_transformer.modules", reason="the extra 'sentences' is not installed"
    )
    from sentence_transformers import SentenceTransformer

    words = modules.Transformer(str(tiny.bert_folder(path / "bert")), max_seq_length=tiny.MAX_TOKENS)
    pooling = modules.Pooling(24, pooling_mode="mean")
    SentenceTransformer(modules=[words, pooling], device="cpu").save(str(path / "sentences"))
    return path / "sentences"


def with_encoder(name: str) -> dict[str, Any]:
    sizes = {"backbone": SIZES["backbone"] | {"num_encoder_layers": 0}}
    return {"autoencoder": SIZES | sizes | {"bottleneck": {"kind": "plan", "num_latents": 3, "latent_dim": 8,
                                                           "sentence_encoder": name}}}  # fmt: skip


def test_a_sentence_encoder_makes_the_plans_and_is_not_needed_to_write(tmp_path: Path) -> None:
    """It is no part of the model: the folder moves without it, and only encoding says that it is missing."""
    folder = sentence_folder(tmp_path)
    train(recipe(**with_encoder(str(folder))), tmp_path / "run", log=runs.quiet, data=rows("both"))
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    z0 = model.encode(tiny.SENTENCES)
    assert z0.values.shape == (len(tiny.SENTENCES), 3, 8)
    torch.testing.assert_close(z0.values.mean(0), torch.zeros(3, 8), atol=0.4, rtol=0)
    assert not list((tmp_path / "run" / "final").rglob("*sentence*"))
    texts = model.generate(3, seed=0, label="good")
    folder.rename(tmp_path / "moved")
    alone = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert alone.generate(3, seed=0, label="good") == texts
    assert alone.decode(z0) == model.decode(z0)
    with pytest.raises(UserError) as caught:
        alone.encode(["the old cat"])
    assert "cannot load the sentence encoder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, before anything is trained."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError) as caught:
        train(recipe(**with_encoder("some/encoder")), tmp_path / "run", log=runs.quiet, data=rows("neither"))
    where = "in Ladle's folder: pip install '.[sentences]' -c constraints.txt"
    assert str(caught.value) == f"the sentence encoder 'some/encoder' needs a package; {where}"


def test_a_folder_that_is_none_and_a_width_that_does_not_fit_are_said_in_one_line(tmp_path: Path) -> None:
    """Before anything is trained; the settings to change are named."""
    folder = sentence_folder(tmp_path)
    wrong = with_encoder(str(folder))
    wrong["autoencoder"]["bottleneck"]["latent_dim"] = 7
    for made, line in (
        (with_encoder(str(tmp_path / "nowhere")), "cannot load the sentence encoder '.*nowhere'"),
        (wrong, "the sentence encoder gives 24 channels; num_latents times latent_dim"),
    ):
        with pytest.raises(UserError, match=f"^{line}") as caught:
            train(recipe(**made), tmp_path / "run", log=runs.quiet, data=rows("neither"))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run" / "state" / "autoencoder").exists()


@pytest.mark.parametrize("kind", ["stored", "named"])
def test_embeddings_have_norm_one_and_do_not_depend_on_the_batch(kind: str, tmp_path: Path) -> None:
    """Texts of different lengths are padded together."""
    folder = tiny.bert_folder(tmp_path / "plain") if kind == "stored" else sentence_folder(tmp_path)
    encoder = sentence_encoder(str(folder))
    assert encoder is not None
    texts = [*tiny.SENTENCES[:6], "a cat.", ""]
    found = encoder.embed(texts)
    assert found.shape == (8, 24) and found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(8))
    for again in (torch.cat([encoder.embed([text]) for text in texts]), encoder.embed(texts, batch_size=3)):
        torch.testing.assert_close(again, found, atol=1e-5, rtol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-4
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_one_encoder_gives_the_same_embeddings_stored_or_named(tmp_path: Path) -> None:
    """The mean of the token states is what sentence-transformers computes; the package is not needed for it."""
    named = sentence_encoder(str(sentence_folder(tmp_path)))
    stored = sentence_encoder(str(tmp_path / "bert"))
    assert named is not None and stored is not None and type(named) is not type(stored)
    torch.testing.assert_close(named.embed(tiny.SENTENCES), stored.embed(tiny.SENTENCES), atol=1e-5, rtol=1e-5)


def test_a_stored_encoder_is_a_part_of_the_model_folder(tmp_path: Path) -> None:
    """Of BERT's kind, with its tokenizer: the folder that it came from may go, and plans are made as before."""
    folder = tiny.bert_folder(tmp_path / "bert")
    train(recipe(**with_encoder(str(folder))), tmp_path / "run", log=runs.quiet, data=rows("both"))
    model = LatentDiffusion.from_pretrained(tmp_path / "run")
    given = sentence_encoder(str(folder))
    assert given is not None
    raw = model.autoencoder.bottleneck.split(given.embed(tiny.SENTENCES))
    z0 = model.encode(tiny.SENTENCES)
    torch.testing.assert_close(model.autoencoder.normaliser.denormalise(z0.values), raw, atol=1e-4, rtol=1e-4)
    folder.rename(tmp_path / "moved")
    alone = LatentDiffusion.from_pretrained(tmp_path / "run")
    assert torch.equal(alone.encode(tiny.SENTENCES).values, z0.values)  # trained on, it would have moved
    how: dict[str, Any] = {"seed": 0, "label": "good", "source": "the old cat", "candidates": 2}
    assert alone.generate(2, **how) == model.generate(2, **how)
    alone.save_pretrained(tmp_path / "copy")
    assert torch.equal(LatentDiffusion.from_pretrained(tmp_path / "copy").encode(tiny.SENTENCES).values, z0.values)
