"""A model with plan latents on disk: its decoder, what reads its conditions, and its settings come back."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts, count_parameters, list_parts
from ladle.storage.record import model_digest
from model_checks import assert_same_tensors, error_of

WANTED: dict[str, dict[str, Any]] = {
    "both": {}, "labels": {"source": False}, "source": {"labels": ()}, "neither": {"labels": (), "source": False},
}  # fmt: skip
DRAW: dict[str, dict[str, Any]] = {
    "both": {"label": ["good", None, "bad", "good"], "source": ["the old cat", "the red fox ran", None, None]},
    "labels": {"label": ["good", None, "bad", "good"]},
    "source": {"source": ["the old cat", "the red fox ran", None, None]},
    "neither": {},
}


def plan_model(**options: Any) -> LatentDiffusion:
    return LatentDiffusion(tiny.tiny_plan_parts(**options))


@pytest.mark.parametrize("given", WANTED)
def test_a_loaded_plan_model_has_equal_weights_and_writes_equal_texts(given: str, tmp_path: Path) -> None:
    """With each set of conditions: every tensor, every setting, drawn and reconstructed texts."""
    model = plan_model(**WANTED[given])
    model.save_pretrained(tmp_path / "m")
    loaded = LatentDiffusion.from_pretrained(tmp_path / "m")
    assert loaded.parts.diffusion is not None and model.parts.diffusion is not None
    assert_same_tensors(loaded.autoencoder, model.autoencoder)
    assert_same_tensors(loaded.diffusion, model.diffusion)
    assert loaded.autoencoder.config == model.autoencoder.config
    assert loaded.diffusion.condition.config == model.diffusion.condition.config
    assert (loaded.autoencoder.condition is None) == (given == "neither")
    assert (tmp_path / "m" / "decoder_condition").exists() == (given != "neither")
    for options in ({}, {"temperature": 0.0}, {"stop_time": 0.0}, {"candidates": 2}):
        texts = model.generate(4, seed=3, **DRAW[given], **options)
        assert loaded.generate(4, seed=3, **DRAW[given], **options) == texts
        assert len(set(texts)) > 1
    assert loaded.reconstruct(tiny.SENTENCES[:5]) == model.reconstruct(tiny.SENTENCES[:5])


def test_what_is_drawn_depends_on_the_conditions_of_the_decoder(tmp_path: Path) -> None:
    """The folder decoder_condition is read: with other weights in it, the same folder writes other texts."""
    model = plan_model()
    texts = model.generate(4, seed=0, label="good", source="the old cat")
    assert model.autoencoder.condition is not None
    for parameter in model.autoencoder.condition.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "m")
    other = LatentDiffusion.from_pretrained(tmp_path / "m").generate(4, seed=0, label="good", source="the old cat")
    assert other != texts


def test_a_seed_draws_the_same_text_in_any_batch() -> None:
    """Texts of different lengths, conditions and candidates are drawn together; none depends on its company."""
    model = plan_model()
    conditions = DRAW["both"]
    texts = model.generate(seeds=[5, 6, 7, 8], **conditions)
    assert model.generate(seeds=[5, 6, 7, 8], batch_size=1, **conditions) == texts
    assert model.generate(seeds=[5, 6, 7, 8], batch_size=3, **conditions) == texts
    for row, seed in enumerate((5, 6, 7, 8)):
        alone = {name: values[row : row + 1] for name, values in conditions.items()}
        assert model.generate(seeds=[seed], **alone) == texts[row : row + 1]


def test_a_sample_carries_the_level_at_which_its_plan_was_handed_over() -> None:
    """zt alone would be read as a plan without noise. At stop time 0 there is no noise to speak of."""
    model = plan_model()
    early, late = (model.generate(2, seed=0, stop_time=time, return_samples=True) for time in (0.3, 0.0))
    expected = float(model.diffusion.schedule.log_snr(torch.tensor(0.3)))
    assert [round(sample.log_snr or 0.0, 3) for sample in early] == [round(expected, 3)] * 2
    assert [sample.log_snr for sample in late] == [None] * 2
    assert early[0].latents.shape == (4, 8)


def test_an_autoencoder_of_plans_alone_comes_back(tmp_path: Path) -> None:
    """Without a diffusion model, as after the first stage of a training; also in half precision."""
    autoencoder = tiny.tiny_plan_autoencoder()
    save_parts(ModelParts("plan", autoencoder), tmp_path / "m")
    loaded = load_parts(tmp_path / "m")
    assert_same_tensors(loaded.autoencoder, autoencoder)
    save_parts(ModelParts("plan", autoencoder), tmp_path / "half", dtype=torch.float16)
    half = load_parts(tmp_path / "half").autoencoder
    assert torch.equal(half.normaliser.std, autoencoder.normaliser.std)  # [4, 8], never rounded
    ours, theirs = (
        one.backbone.decode_logits(tiny.tokens(one)["input_ids"], *one.expand(one.encode(**tiny.tokens(autoencoder))))
        for one in (autoencoder, half)
    )
    torch.testing.assert_close(ours, theirs, atol=0.5, rtol=0.1)


def test_what_reads_the_conditions_of_an_autoencoder_alone_comes_back(tmp_path: Path) -> None:
    """The first stage of a training ends with a decoder that reads labels, and no diffusion model yet."""
    parts = tiny.tiny_plan_parts()
    parts.diffusion = None
    save_parts(parts, tmp_path / "m")
    loaded = load_parts(tmp_path / "m").autoencoder
    assert_same_tensors(loaded, parts.autoencoder)


def test_a_model_built_on_a_shipped_model_keeps_what_reads_its_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base has no labels; the folder stores what differs, and that alone."""
    monkeypatch.setattr("ladle.storage.names.SHIPPED", tmp_path / "models")
    save_parts(ModelParts("base-en", tiny.tiny_plan_autoencoder(seed=0)), tmp_path / "models" / "base-en")
    model = plan_model()
    save_parts(model.parts, tmp_path / "m", base="base-en")
    assert not (tmp_path / "m" / "backbone").exists()
    loaded = LatentDiffusion.from_pretrained(tmp_path / "m")
    assert_same_tensors(loaded.autoencoder, model.autoencoder)
    assert loaded.generate(3, seed=0, label="good") == model.generate(3, seed=0, label="good")


def test_the_card_and_the_count_of_parameters_hold_every_part(tmp_path: Path) -> None:
    """What is on disk is what is said to be there."""
    parts = tiny.tiny_plan_parts()
    save_parts(parts, tmp_path / "m")
    folders = {path.name for path in (tmp_path / "m").iterdir() if path.is_dir()}
    assert folders == {part.folder for part in list_parts(parts) if part.folder is not None}
    assert parts.diffusion is not None
    whole = sum(p.numel() for module in (parts.autoencoder, parts.diffusion) for p in module.parameters())
    assert count_parameters(parts) == whole


def test_the_digest_knows_the_conditions_of_the_decoder(tmp_path: Path) -> None:
    """Samples record it: another label vector is another model."""
    parts = tiny.tiny_plan_parts()
    save_parts(parts, tmp_path / "a")
    with torch.no_grad():
        parts.autoencoder.condition.label.weight[0, 0] += 1e-3
    save_parts(parts, tmp_path / "b")
    assert model_digest(tmp_path / "a") != model_digest(tmp_path / "b")


def test_a_missing_folder_of_conditions_is_said_in_one_line(tmp_path: Path) -> None:
    """Half a download writes texts without labels, or fails far from the cause; neither may happen."""
    save_parts(tiny.tiny_plan_parts(), tmp_path / "m")
    (tmp_path / "m" / "decoder_condition" / "model.safetensors").unlink()
    assert "decoder_condition" in error_of(tmp_path / "m")


def test_loading_leaves_the_random_generator_alone(tmp_path: Path) -> None:
    """`attach` makes new weights, which must not shift what the caller draws next."""
    save_parts(tiny.tiny_plan_parts(), tmp_path / "m")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_parts(tmp_path / "m")
    assert torch.equal(torch.rand(4), expected)
