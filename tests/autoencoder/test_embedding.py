"""Embeddings: one vector a text, which a program that wants a sentence encoder can take."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import runs
import tiny
from ladle.autoencoder.embedding import SentenceEncoderView, embed_texts
from ladle.autoencoder.sentence_encoder import StoredSentenceEncoder
from ladle.data.rows import read_rows
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.storage.parts import ModelParts

TEXTS = tiny.SENTENCES[:5]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["aligned", "perceiver", "plan"])
def model(request: pytest.FixtureRequest) -> LatentDiffusion:
    made = tiny.tiny_plan_autoencoder() if request.param == "plan" else tiny.tiny_autoencoder(request.param)
    return LatentDiffusion(ModelParts("tiny", made))


def test_every_text_has_one_vector_of_norm_one(model: LatentDiffusion) -> None:
    """Whatever kind of latents a model has, and however many: else a cosine would mean nothing."""
    found = model.embed([*TEXTS, "cat"])
    assert found.dtype == torch.float32 and found.ndim == 2
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
    assert len({tuple(row) for row in found.tolist()}) == 6


def test_the_batch_and_the_order_change_no_embedding(model: LatentDiffusion) -> None:
    """Padding must not count in a mean, and vectors must come back to their texts."""
    whole = model.embed(TEXTS)
    torch.testing.assert_close(model.embed(TEXTS[::-1], batch_size=2).flip(0), whole)
    torch.testing.assert_close(model.embed(TEXTS[3]), whole[3:4])


def test_the_embedding_of_a_plan_is_the_sentence_embedding() -> None:
    """The normaliser's scales are taken off again: distances are those of the encoder that made the plan."""
    encoder = StoredSentenceEncoder(tiny.tiny_autoencoder().backbone.model.get_encoder(), tiny.tiny_tokenizer())
    autoencoder = tiny.tiny_plan_autoencoder()
    autoencoder.sentence_encoder = encoder
    autoencoder.normaliser.mean.normal_()
    autoencoder.normaliser.std.uniform_(0.5, 2.0)
    torch.testing.assert_close(embed_texts(autoencoder, TEXTS), encoder.embed(list(TEXTS)), atol=1e-5, rtol=1e-5)


def test_an_embedding_of_aligned_latents_is_their_mean() -> None:
    model = LatentDiffusion(ModelParts("tiny", tiny.tiny_autoencoder("aligned")))
    latents = model.encode(TEXTS)
    for vector, values, mask in zip(model.embed(TEXTS), latents.values, latents.mask, strict=True):
        torch.testing.assert_close(vector, torch.nn.functional.normalize(values[mask].mean(0), dim=0))


def test_the_view_gives_what_sentence_transformers_gives(model: LatentDiffusion) -> None:
    """Kinds and shapes by option, as programs rely on them: an array, a tensor, a list; one text, no text."""
    view, wanted = model.as_sentence_encoder(), model.embed(TEXTS)
    array = view.encode(TEXTS, batch_size=2, show_progress_bar=False, normalize_embeddings=True)
    assert isinstance(array, np.ndarray) and array.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(array), wanted)
    tensor = view.encode(TEXTS, convert_to_tensor=True, show_progress_bar=True)
    assert isinstance(tensor, torch.Tensor)
    torch.testing.assert_close(tensor, wanted)
    parts = view.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(parts, list) and len(parts) == 5
    one = view.encode(TEXTS[0])
    assert isinstance(one, np.ndarray) and one.shape == (view.get_sentence_embedding_dimension(),)
    assert view.encode([]).shape == (0, len(one))
    likeness = view.similarity(array, array)
    torch.testing.assert_close(likeness, wanted @ wanted.T)
    torch.testing.assert_close(view.similarity_pairwise(array, array), torch.ones(5))
    assert view.similarity(one, array).shape == (1, 5)


def test_the_view_refuses_what_it_does_not_do() -> None:
    """A prompt that is silently dropped would change what is measured."""
    view = SentenceEncoderView(tiny.tiny_plan_autoencoder())
    for options, message in (
        ({"prompt": "query: "}, "prompt='query: '"),
        ({"precision": "int8"}, "precision='int8'"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(UserError, match=message):
            view.encode(TEXTS, **options)
    assert len(view.encode(TEXTS, precision="float32", prompt=None)) == 5


# ------------------------------------------------------------------------------------------------ ladle embed


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return runs.write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])


def test_embed_writes_rows_or_an_array(run: Run, model_folder: Path, texts: Path, tmp_path: Path) -> None:
    """The same numbers on standard output, in a file and in an array, in the order of the texts."""
    wanted = LatentDiffusion.from_pretrained(model_folder).embed(TEXTS).numpy()
    code, out, _ = run("embed", texts, "--model", model_folder)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["text"] for row in rows] == TEXTS
    np.testing.assert_allclose([row["embedding"] for row in rows], wanted, atol=1e-6)
    assert run("embed", texts, "--model", model_folder, "-o", tmp_path / "a.jsonl.gz", "--batch-size", 2)[0] == 0
    assert [row["text"] for row in read_rows(tmp_path / "a.jsonl.gz")] == TEXTS
    assert run("embed", texts, "--model", model_folder, "-o", tmp_path / "a.npy")[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), wanted, atol=1e-6)
    assert run("embed", texts, "--model", model_folder, "-o", tmp_path / "a.jsonl.gz")[0] == 0  # its own: again


def test_embed_refuses_in_one_line(run: Run, model_folder: Path, texts: Path, tmp_path: Path) -> None:
    """Before a model is loaded; and nothing of the user's is written over."""
    np.save(tmp_path / "mine.npy", np.zeros(3))
    for output, message in (
        ("a.csv", "embeddings are written as .jsonl, .jsonl.gz or .npy"),
        ("mine.npy", "delete it, or give another name"),
        ("texts.jsonl", "the command reads it"),
    ):
        code, out, err = run("embed", texts, "--model", model_folder, "-o", tmp_path / output)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1
