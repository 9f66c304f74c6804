"""What is saved is what is loaded, whole or not at all, in any float type."""

import json
import resource
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from ladle.autoencoder.reconstruction import ReconstructionConfig, reconstruction_loss
from ladle.diffusion.loss import DenoisingConfig, DenoisingLoss
from ladle.errors import LadleError, UserError
from ladle.sampling.options import SamplingOptions
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts
from ladle.storage.record import hash_files, model_digest
from model_checks import assert_same_tensors, decoded, denoised, taught

FIXTURE = Path(__file__).parents[1] / "fixtures" / "model-format-2"


# ------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("kind", ["aligned", "perceiver"])
def test_a_loaded_model_has_equal_weights_and_writes_equal_texts(kind: str, tmp_path: Path) -> None:
    """Saving changes nothing: every tensor, every setting, every decoded id."""
    parts = tiny.tiny_parts(kind)
    save_parts(parts, tmp_path / "m")
    loaded = load_parts(tmp_path / "m")
    assert loaded.diffusion is not None and parts.diffusion is not None
    assert_same_tensors(loaded.autoencoder, parts.autoencoder)
    assert_same_tensors(loaded.diffusion, parts.diffusion)
    assert loaded.autoencoder.config == parts.autoencoder.config
    assert (loaded.diffusion.config, loaded.diffusion.condition.config) == (
        parts.diffusion.config,
        parts.diffusion.condition.config,
    )
    assert (loaded.name, loaded.sampling, loaded.info) == (parts.name, parts.sampling, parts.info)
    ours, theirs = decoded(parts), decoded(loaded)
    assert ours.keys() == theirs.keys() == {"autoregressive", "parallel"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(taught(loaded), taught(parts))
    assert torch.equal(denoised(loaded), denoised(parts))
    assert not any(module.training for module in [*loaded.autoencoder.modules(), *loaded.diffusion.modules()])


def test_a_model_without_the_optional_parts_has_no_folders_for_them(tmp_path: Path) -> None:
    """An autoencoder alone, without a parallel decoder; then a diffusion model without any condition."""
    autoencoder = tiny.tiny_autoencoder("perceiver", parallel=False)
    save_parts(ModelParts("plain", autoencoder), tmp_path / "m")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "README.md", "model.json", "backbone", "tokenizer", "bottleneck",
    }  # fmt: skip
    loaded = load_parts(tmp_path / "m")
    assert loaded.diffusion is None and loaded.autoencoder.parallel_decoder is None
    diffusion = tiny.tiny_diffusion(autoencoder, labels=(), source=False)
    save_parts(ModelParts("plain", autoencoder, diffusion), tmp_path / "m")
    assert not (tmp_path / "m" / "condition").exists()
    loaded = load_parts(tmp_path / "m")
    assert loaded.diffusion is not None and loaded.diffusion.length is None
    assert_same_tensors(loaded.diffusion, diffusion)


def test_a_source_read_as_latents_and_a_shorter_prior_come_back(tmp_path: Path) -> None:
    """What the diffusion model was built with is not always what the autoencoder would suggest."""
    parts = tiny.tiny_parts()
    parts.diffusion = tiny.tiny_diffusion(parts.autoencoder, source_memory="latents", labels=(), max_latents=5)
    save_parts(parts, tmp_path / "m")
    loaded = load_parts(tmp_path / "m").diffusion
    assert loaded is not None and loaded.max_latents == 5
    assert_same_tensors(loaded, parts.diffusion)


def test_what_a_training_learnt_of_its_times_is_no_part_of_the_model(tmp_path: Path) -> None:
    """It is of the objective, and kept with the training: no sampler asks for it, and the digest is of the model."""
    parts = tiny.tiny_parts()
    assert parts.diffusion is not None
    save_parts(parts, tmp_path / "before")
    training = DenoisingLoss(parts.diffusion, DenoisingConfig(times="adaptive"))
    assert training.adaptive_times is not None
    training.adaptive_times.update(torch.rand(100), torch.rand(100))
    assert "adaptive_times.error" in training.state_dict()
    save_parts(parts, tmp_path / "after")
    assert hash_files(tmp_path / "after") == hash_files(tmp_path / "before")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_weights_once_and_the_normaliser_never(dtype: torch.dtype, tmp_path: Path) -> None:
    """Shipped models are stored in half precision, and everything computes in float32."""
    parts = tiny.tiny_parts()
    save_parts(parts, tmp_path / "whole")
    save_parts(parts, tmp_path / "half", dtype=dtype)
    loaded = load_parts(tmp_path / "half")
    assert loaded.diffusion is not None and parts.diffusion is not None
    for ours, theirs in [(parts.autoencoder, loaded.autoencoder), (parts.diffusion, loaded.diffusion)]:
        for name, tensor in theirs.state_dict().items():
            assert tensor.dtype == torch.float32
            exact = ours.state_dict()[name]
            expected = exact if name.startswith("normaliser.") else exact.to(dtype).float()
            assert torch.equal(tensor, expected), name
    sizes = [sum(p.stat().st_size for p in (tmp_path / n).rglob("*.safetensors")) for n in ("whole", "half")]
    assert sizes[1] < 0.56 * sizes[0]  # tied weights are written once in both
    save_parts(loaded, tmp_path / "again", dtype=dtype)
    assert model_digest(tmp_path / "again") == model_digest(tmp_path / "half")


def test_loading_leaves_the_random_generator_alone(model_folder: Path) -> None:
    """A seed set before a model is loaded means the same after it."""
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_parts(model_folder)
    assert torch.equal(torch.rand(4), expected)


def test_the_digest_tells_models_apart_and_nothing_else(tmp_path: Path) -> None:
    """Samples record it: the same weights give the same digest whatever was done with them, other weights another."""
    parts = tiny.tiny_parts()
    save_parts(parts, tmp_path / "a")
    decoded(parts)  # the tokenizer has now cut and padded
    parts.name, parts.info, parts.sampling = "other", {"rows": 1}, SamplingOptions()
    save_parts(parts, tmp_path / "b")
    save_parts(load_parts(tmp_path / "a"), tmp_path / "c")
    digest = model_digest(tmp_path / "a")
    assert len(digest) == 16
    assert digest == model_digest(tmp_path / "b") == model_digest(tmp_path / "c")
    assert parts.diffusion is not None
    with torch.no_grad():
        parts.diffusion.denoiser.output.bias[0] += 1e-3
    save_parts(parts, tmp_path / "d")
    assert model_digest(tmp_path / "d") != digest


def test_pretrained_backbones_are_saved_whole(
    pretrained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BART, T5 and mT5 from folders: trained a step, saved, loaded without the folder they came from or a network."""
    parts = tiny.tiny_parts("perceiver", pretrained=str(pretrained_folder), trained="decoder")
    optimizer = torch.optim.SGD([p for p in parts.autoencoder.parameters() if p.requires_grad], lr=0.01)
    loss, _ = reconstruction_loss(parts.autoencoder.train(), tiny.tokens(parts.autoencoder), ReconstructionConfig())
    loss.backward()
    optimizer.step()
    parts.autoencoder.eval()
    save_parts(parts, tmp_path / "m")
    shutil.rmtree(pretrained_folder)

    def refuse(*_: Any) -> None:
        raise AssertionError("a model folder needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded = load_parts(tmp_path / "m")
    assert type(loaded.autoencoder.backbone.model) is type(parts.autoencoder.backbone.model)
    assert type(loaded.autoencoder.backbone.tokenizer) is type(parts.autoencoder.backbone.tokenizer)
    assert loaded.autoencoder.config.backbone.pretrained == str(pretrained_folder)  # a record, no more
    assert_same_tensors(loaded.autoencoder, parts.autoencoder)
    assert torch.equal(tiny.tokens(loaded.autoencoder)["input_ids"], tiny.tokens(parts.autoencoder)["input_ids"])
    ours, theirs = decoded(parts), decoded(loaded)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(taught(parts), taught(loaded))
    loaded.autoencoder.freeze_backbone("decoder")  # what is trained is no part of a model: each training says it
    trained = [name for name, p in parts.autoencoder.named_parameters() if p.requires_grad]
    assert trained == [name for name, p in loaded.autoencoder.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_backbone_folder_is_one_of_transformers_own(
    pretrained_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """A user can take the encoder-decoder out of a model folder and use it without Ladle."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    parts = ModelParts("m", tiny.tiny_autoencoder(pretrained=str(pretrained_folder)))
    save_parts(parts, tmp_path / "m", dtype=dtype)
    model, report = AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "m" / "backbone", dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    expected = parts.autoencoder.backbone.model.state_dict()
    assert all(torch.equal(t, expected[name].to(dtype).float()) for name, t in model.state_dict().items())
    ids = AutoTokenizer.from_pretrained(tmp_path / "m" / "tokenizer")(tiny.SENTENCES[0])["input_ids"]
    assert ids == parts.autoencoder.backbone.tokenizer(tiny.SENTENCES[0])["input_ids"]


def test_the_first_released_format_still_loads_and_writes_its_sentences() -> None:
    """A model saved in it (tests/fixtures/make_model_format_2.py) goes on meaning the same."""
    expected = json.loads((FIXTURE.parent / "model-format-2.json").read_text())
    parts = load_parts(FIXTURE)
    z0 = tiny.latents(parts.autoencoder, expected["texts"])
    assert torch.allclose(z0.values[:, 0], torch.tensor(expected["first_latents"]), atol=1e-3)
    for decoder in ("autoregressive", "parallel"):
        ids = parts.autoencoder.decode(z0, decoder)
        assert parts.autoencoder.backbone.detokenize(ids) == expected["texts"]
    assert torch.allclose(denoised(parts).mean(), torch.tensor(expected["denoised_mean"]), atol=1e-4)
    assert model_digest(FIXTURE) == expected["digest"]


# ----------------------------------------------------------------------------------------------------- writing


def test_saving_over_a_model_replaces_all_of_it(model_folder: Path) -> None:
    """No file of the earlier model stays behind, and the user's own do."""
    (model_folder / "notes").mkdir()
    parts = ModelParts("new", tiny.tiny_autoencoder(parallel=False, seed=5))
    save_parts(parts, model_folder)
    assert not any((model_folder / name).exists() for name in ("denoiser", "condition", "parallel_decoder"))
    assert (model_folder / "notes").is_dir()
    assert_same_tensors(load_parts(model_folder).autoencoder, parts.autoencoder)


def test_a_folder_that_holds_no_model_is_never_replaced(parts: ModelParts, tmp_path: Path) -> None:
    """`--output` on the folder of somebody's data does not cost the data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("about my reviews")
    with pytest.raises(UserError, match=r"README.md exists, and Ladle did not write it"):
        save_parts(parts, tmp_path / "data")
    with pytest.raises(UserError, match="it is a file"):
        save_parts(parts, tmp_path / "data" / "README.md")
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "README.md"]


def test_a_save_that_fails_leaves_the_earlier_model_and_no_trace(parts: ModelParts, model_folder: Path) -> None:
    """Three failures: information that is no JSON, a weight that float16 cannot hold, a full disk."""
    before = hash_files(model_folder.parent)
    parts.info = {"seen": {1, 2}}
    with pytest.raises(TypeError):
        save_parts(parts, model_folder)
    parts.info = {}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))  # the denoiser's file is larger
    try:
        with pytest.raises(LadleError, match="cannot write .*model: File too large") as caught:
            save_parts(parts, model_folder)
        assert not isinstance(caught.value, UserError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert parts.diffusion is not None
    with torch.no_grad():
        parts.diffusion.denoiser.output.weight[0, 0] = 1e6
    with pytest.raises(UserError, match=r"'denoiser.output.weight' are too large for torch.float16; save as bfloat16"):
        save_parts(parts, model_folder, dtype=torch.float16)
    assert hash_files(model_folder.parent) == before
    with pytest.raises(UserError, match="must be .float32., .float16. or .bfloat16."):
        save_parts(parts, model_folder, dtype=torch.float64)


def test_what_is_saved_may_be_read_by_others(model_folder: Path, tmp_path: Path) -> None:
    """Weights have the rights of any new file: safetensors alone would make them private to their owner."""
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in model_folder.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}
