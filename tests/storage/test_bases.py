"""A model built on a shipped one stores what differs, and finds its base unchanged or says so."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts
from model_checks import assert_same_tensors, decoded, error_of


@pytest.fixture
def on_base(shipped: Path) -> ModelParts:
    """A generator that was trained on `base-en`: another normaliser, one bias of the decoder adapted."""
    parts = load_parts("base-en")
    parts.name, parts.diffusion = "e2e", tiny.tiny_diffusion(parts.autoencoder)
    with torch.no_grad():
        parts.autoencoder.normaliser.mean += 0.123456
        parts.autoencoder.backbone.model.get_decoder().layers[0].fc1.bias += 0.5
    return parts


def test_on_a_base_only_the_changed_tensors_are_stored(shipped: Path, on_base: ModelParts, tmp_path: Path) -> None:
    """Shipped generators share base-en's autoencoder on disk, and load as if they did not."""
    save_parts(on_base, tmp_path / "e2e", dtype=torch.float16, base="base-en")
    folder = tmp_path / "e2e"
    assert not any((folder / name).exists() for name in ("backbone", "tokenizer", "bottleneck", "parallel_decoder"))
    changes = load_file(folder / "autoencoder_changes.safetensors")
    assert set(changes) == {"normaliser.mean", "backbone.model.model.decoder.layers.0.fc1.bias"}
    assert changes["normaliser.mean"].dtype == torch.float32
    save_parts(on_base, tmp_path / "whole", dtype=torch.float16)
    loaded, whole = load_parts(folder), load_parts(tmp_path / "whole")
    assert_same_tensors(loaded.autoencoder, whole.autoencoder)
    assert loaded.diffusion is not None and whole.diffusion is not None
    assert_same_tensors(loaded.diffusion, whole.diffusion)
    assert all(torch.equal(a, b) for a, b in zip(decoded(loaded).values(), decoded(whole).values(), strict=True))


def test_a_base_in_memory_that_was_never_rounded_counts_as_equal(shipped: Path, tmp_path: Path) -> None:
    """Equal means equal as stored: the autoencoder may have been trained on in float32 before it was shipped."""
    parts = ModelParts("same", tiny.tiny_autoencoder(seed=1))
    save_parts(parts, tmp_path / "same", dtype=torch.float16, base="base-en")
    assert {path.name for path in (tmp_path / "same").iterdir()} == {"README.md", "model.json"}
    loaded, base = load_parts(tmp_path / "same"), load_parts("base-en")
    assert_same_tensors(loaded.autoencoder, base.autoencoder)


def test_parts_that_the_base_has_in_another_size_are_stored(shipped: Path, tmp_path: Path) -> None:
    """Settings may differ from the base's where the backbone stays: another bottleneck, a deeper parallel decoder."""
    base = load_parts("base-en").autoencoder
    parts = ModelParts("other", tiny.tiny_autoencoder("perceiver", seed=2))
    parts.autoencoder.backbone.load_state_dict(base.backbone.state_dict())
    save_parts(parts, tmp_path / "other", base="base-en")
    assert not any(
        name.startswith("backbone.") for name in load_file(tmp_path / "other/autoencoder_changes.safetensors")
    )
    loaded = load_parts(tmp_path / "other")
    assert_same_tensors(loaded.autoencoder, parts.autoencoder)


def test_another_base_than_it_was_built_on_is_refused(shipped: Path, on_base: ModelParts, tmp_path: Path) -> None:
    """A base that changed under a model would make it write nonsense; one with only another card would not."""
    save_parts(on_base, tmp_path / "e2e", base="base-en")
    base = load_parts("base-en")
    base.info, base.sampling = {"summary": "a new card"}, SamplingOptions(num_inference_steps=7)
    save_parts(base, shipped / "base-en", dtype=torch.float16)
    load_parts(tmp_path / "e2e")
    save_parts(ModelParts("base-en", tiny.tiny_autoencoder(seed=2)), shipped / "base-en", dtype=torch.float16)
    message = error_of(tmp_path / "e2e")
    assert "base-en" in message and "digest" in message and "model.json" in message
    shutil.rmtree(shipped / "base-en")
    assert "no shipped model 'base-en'" in error_of(tmp_path / "e2e")


def test_a_damaged_file_of_changes_is_refused(shipped: Path, on_base: ModelParts, tmp_path: Path) -> None:
    """The file of changes is checked as the other parts are."""
    save_parts(on_base, tmp_path / "e2e", base="base-en")
    path = tmp_path / "e2e" / "autoencoder_changes.safetensors"
    whole = path.read_bytes()
    save_file(load_file(path) | {"normaliser.mean": torch.zeros(3)}, path)
    assert "autoencoder_changes.safetensors: tensor 'normaliser.mean' has shape [3]" in error_of(path.parent)
    path.write_bytes(whole[:-9])
    assert "autoencoder_changes.safetensors is cut short" in error_of(path.parent)
    path.unlink()
    assert "autoencoder_changes.safetensors is missing" in error_of(path.parent)


def test_a_base_must_fit_and_be_complete(
    shipped: Path, on_base: ModelParts, pretrained_folder: Path, tmp_path: Path
) -> None:
    """Another backbone or tokenizer, an unknown base, a base on a base: said at once, and nothing written."""
    other = ModelParts("x", tiny.tiny_autoencoder(pretrained=str(pretrained_folder)))
    with pytest.raises(UserError, match="the backbone or tokenizer differs from that of 'base-en'"):
        save_parts(other, tmp_path / "x", base="base-en")
    with pytest.raises(UserError, match=r"no shipped model 'base' \(shipped: base-en\)"):
        save_parts(on_base, tmp_path / "x", base="base")
    save_parts(on_base, shipped / "e2e", base="base-en")
    with pytest.raises(UserError, match="cannot be a base: it is built on 'base-en' itself"):
        save_parts(on_base, tmp_path / "x", base="e2e")
    assert not (tmp_path / "x").exists()
