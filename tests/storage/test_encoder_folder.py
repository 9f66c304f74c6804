"""The stored sentence encoder of a plan model on disk: in 8 bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from ladle.autoencoder.sentence_encoder import StoredSentenceEncoder
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.storage.description import describe
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts, count_parameters
from ladle.storage.tensors import from_eight_bits, in_eight_bits
from model_checks import assert_same_tensors, error_of

WEIGHTS_8 = Path("sentence_encoder", "model_int8.safetensors")


def with_encoder(folder: Path, name: str = "plan", **options: Any) -> ModelParts:
    """A tiny plan autoencoder whose plans come from a random BERT, 24 wide, in `folder`."""
    given = str(tiny.bert_folder(folder, **options))
    return ModelParts(name, tiny.tiny_plan_autoencoder(num_latents=3, sentence_encoder=given))


def weights_of(parts: ModelParts) -> dict[str, Tensor]:
    """The tensors of the stored encoder's model."""
    encoder = parts.autoencoder.sentence_encoder
    assert isinstance(encoder, StoredSentenceEncoder)
    found: dict[str, Tensor] = encoder.model.state_dict()
    return found


# ------------------------------------------------------------------------------------------------ 8 bits


def test_matrices_are_stored_in_8_bits_and_come_back_within_half_a_step(tmp_path: Path) -> None:
    """Half a step is absmax / 254 of the row. Vectors are not touched."""
    parts = with_encoder(tmp_path / "bert")
    with torch.no_grad():
        weights_of(parts)["encoder.layer.0.output.dense.weight"][3] = 0.0  # (a row without any scale)
    save_parts(parts, tmp_path / "m", encoder_bits=8)
    written = load_file(tmp_path / "m" / WEIGHTS_8)
    before, after = weights_of(parts), weights_of(load_parts(tmp_path / "m"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if tensor.ndim == 2:
            assert written[name].dtype == torch.int8 and written[f"{name}.scale"].shape == tensor.shape[:1]
            assert (written[f"{name}.scale"] > 0).all()
            half = tensor.abs().amax(1, keepdim=True) / 254
            assert ((after[name] - tensor).abs() <= 1.0001 * half).all(), name
            assert not torch.equal(after[name], tensor)
        else:
            assert torch.equal(after[name], tensor), name
    ours, theirs = (
        one.autoencoder.sentence_encoder.embed(tiny.SENTENCES) for one in (parts, load_parts(tmp_path / "m"))
    )
    assert (ours * theirs).sum(1).min() > 0.99


def test_what_was_read_from_8_bits_is_written_in_the_same_8_bits(tmp_path: Path) -> None:
    """So an encoder that is shipped again keeps its digest."""
    save_parts(with_encoder(tmp_path / "bert"), tmp_path / "m", encoder_bits=8, dtype=torch.float16)
    save_parts(load_parts(tmp_path / "m"), tmp_path / "again", encoder_bits=8, dtype=torch.float16)
    assert (tmp_path / "m" / WEIGHTS_8).read_bytes() == (tmp_path / "again" / WEIGHTS_8).read_bytes()
    first = in_eight_bits({"matrix": torch.randn(20_000, 4)}, torch.float32)  # (so many rows that some would differ)
    again = in_eight_bits(from_eight_bits(first, tmp_path), torch.float32)
    assert all(torch.equal(first[name], again[name]) for name in ("matrix", "matrix.scale"))


def test_a_folder_in_8_bits_is_smaller_and_is_described_rightly(tmp_path: Path) -> None:
    """Also where it takes the place of another one. What a user saves is not in 8 bits."""
    parts = with_encoder(tmp_path / "bert")
    model = LatentDiffusion(parts)
    model.save_pretrained(tmp_path / "m", dtype="float16")
    assert "8 bits" not in describe(str(tmp_path / "m"))
    whole = (tmp_path / "m" / "sentence_encoder" / "model.safetensors").stat().st_size
    save_parts(parts, tmp_path / "m", dtype=torch.float16, encoder_bits=8)
    assert [path.name for path in sorted((tmp_path / "m" / "sentence_encoder").iterdir())] == [
        "config.json", WEIGHTS_8.name,
    ]  # fmt: skip
    assert (tmp_path / "m" / WEIGHTS_8).stat().st_size < 0.8 * whole
    assert "weights in float16 (the sentence encoder's in 8 bits)" in describe(str(tmp_path / "m"))
    loaded = load_parts(tmp_path / "m")
    assert count_parameters(loaded) == count_parameters(parts)
    save_parts(loaded, tmp_path / "float32")
    assert_same_tensors(load_parts(tmp_path / "float32").autoencoder, loaded.autoencoder)


DAMAGE: dict[str, Callable[[dict[str, Tensor], str], Any]] = {
    "the scales of tensor '{}' are missing": lambda t, name: t.pop(f"{name}.scale"),
    "tensor '{}' has shape [{r}, {c}] in 8 bits, which does not go with scales of shape [3] in torch.float32": (
        lambda t, name: t.update({f"{name}.scale": torch.ones(3)})
    ),
    "tensor '{}' has shape [{r}, {c}] in 8 bits, which does not go with scales of shape [{r}] in torch.float16": (
        lambda t, name: t.update({f"{name}.scale": t[f"{name}.scale"].half()})
    ),
    "tensor '{}' has shape [{r}, 2], but the model in model.json needs [{r}, {c}]": (
        lambda t, name: t.update({name: t[name][:, :2].contiguous()})
    ),
    "tensor '{}' is in torch.int16, but the model in model.json needs torch.float32": (
        lambda t, name: t.update({name: t[name].short(), f"{name}.scale": None})
    ),
    "holds a tensor '{}.scale' that the model in model.json does not have": (
        lambda t, name: t.update({name: t[name].float()})
    ),
    "tensor '{}' is missing": lambda t, name: t.update({name: None, f"{name}.scale": None}),
}


@pytest.mark.parametrize("expected", DAMAGE)
def test_damaged_8_bits_are_refused_in_one_line(expected: str, tmp_path: Path) -> None:
    """File and tensor are named."""
    save_parts(with_encoder(tmp_path / "bert"), tmp_path / "m", encoder_bits=8)
    path, name = tmp_path / "m" / WEIGHTS_8, "encoder.layer.0.output.dense.weight"
    tensors: dict[str, Any] = load_file(path)
    rows, columns = tensors[name].shape
    DAMAGE[expected](tensors, name)
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    assert f"{path}: {expected.format(name, r=rows, c=columns)}" in error_of(tmp_path / "m")


def test_weights_that_8_bits_cannot_hold_are_refused(tmp_path: Path) -> None:
    """An infinite weight would make its whole row 0."""
    parts = with_encoder(tmp_path / "bert")
    with torch.no_grad():
        weights_of(parts)["encoder.layer.0.output.dense.weight"][0, 0] = torch.inf
    with pytest.raises(UserError, match=r"'encoder.layer.0.output.dense.weight' are not all finite.*8 bits$"):
        save_parts(parts, tmp_path / "m", encoder_bits=8)
    assert not (tmp_path / "m").exists()
