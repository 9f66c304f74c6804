"""`ladle convert ld4lg`: what the paper's code wrote says the same here.

`fixtures/ld4lg` holds a small random model with three classes and a source that the paper's code itself saved, with
what that code made of fixed inputs (latents, decoder memory, greedy ids, estimates, ten steps of DDIM).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from ladle.cli import main
from ladle.conditioning.encoder import RawCondition
from ladle.diffusion.samplers import SAMPLERS
from ladle.diffusion.schedule import sampling_levels
from ladle.errors import UserError
from ladle.paper.conversion import convert_ld4lg
from ladle.pipeline import LatentDiffusion

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ld4lg"
TEXTS = tiny.SENTENCES[:5]


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FIXTURE / "outputs.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    output = tmp_path_factory.mktemp("ld4lg") / "model"
    given = ["--autoencoder", FIXTURE / "autoencoder", "--backbone", FIXTURE / "bart"]
    labels = ["--label", "a", "--label", "b", "--label", "c"]
    assert main([str(word) for word in ("convert", "ld4lg", FIXTURE, "-o", output, *given, *labels)]) in (0, None)
    return LatentDiffusion.from_pretrained(output)


@torch.no_grad()
def test_a_checkpoint_of_the_papers_code_says_the_same_here(
    model: LatentDiffusion, expected: dict[str, Tensor]
) -> None:
    """Latents and decoded ids, and, with class and source, with a last estimate and without, the denoiser's z0_hat."""
    tokens = model.autoencoder.backbone.tokenize(TEXTS)
    z0 = model.autoencoder.encode(**tokens)
    torch.testing.assert_close(z0.values, expected["z"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.autoencoder.expand(z0)[0], expected["memory"], atol=1e-5, rtol=1e-5)
    theirs = expected["ids"][:, 1:]  # (twelve tokens, after the start token)
    assert torch.equal(model.autoencoder.decode(z0)[:, : theirs.shape[1]], theirs)
    assert len(expected["ids"].unique(dim=0)) >= 3

    diffusion, mask = model.diffusion, torch.ones(5, 6, dtype=torch.bool)
    source = model.autoencoder.backbone.encode(**tokens)
    raw = RawCondition(torch.tensor([0, 1, 2, -1, 1]), source, tokens["attention_mask"])  # their class 3 is none
    denoise = diffusion.denoise(mask, diffusion.condition.encode(raw, 5))
    level = diffusion.schedule.level(expected["t"])
    for last, wanted in ((expected["last"], "x0"), (None, "x0_none")):
        torch.testing.assert_close(denoise(expected["zt"], level, last), expected[wanted], atol=1e-5, rtol=1e-4)
    levels = sampling_levels(diffusion.schedule, 10)
    drawn = SAMPLERS["ddim"](denoise, expected["noise"], levels, noise=lambda: torch.zeros(()))
    torch.testing.assert_close(drawn, expected["sample"], atol=2e-3, rtol=0)


def test_it_is_a_model_like_any_other(model: LatentDiffusion) -> None:
    """Its settings, its labels, a text for each."""
    assert model.labels == ("a", "b", "c") and model.takes_source
    sampling = model.parts.sampling
    assert (sampling.sampler, sampling.num_inference_steps, sampling.guidance_scale) == ("ddim", 10, 2.0)
    assert len(model.generate(label=["a", "c"], source="the cat", num_inference_steps=2)) == 2


def convert(folder: Path, output: Path, **options: Any) -> Path:
    given = {"autoencoder": folder / "autoencoder", "backbone": folder / "bart"} | options
    return convert_ld4lg(folder, output, **given)


def change_args(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        args = json.loads((folder / "args.json").read_text())
        (folder / "args.json").write_text(json.dumps(args | changes))

    return change


def change_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        saved = torch.load(folder / "model.pt", weights_only=True)
        change(saved)
        torch.save(saved, folder / "model.pt")

    return write


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "args.json").unlink(), "args.json is missing"),
        (lambda folder: (folder / "model.pt").write_bytes(b"PK"), "is damaged"),
        (lambda folder: torch.save({"model": Path()}, folder / "model.pt"), "more than tensors"),
        (lambda folder: torch.save([1], folder / "model.pt"), "is not a checkpoint"),
        (change_args(tx_depth=None), "no 'tx_depth'"),
        (change_args(tx_depth=3), "Ladle's networks have no place"),
        (change_args(scale_shift=False), "scale_shift"),
        (change_args(train_schedule="beta_linear"), "known are cosine, sigmoid"),
        (change_args(objective="pred_y"), "known are pred_v"),
        (change_weights(lambda saved: saved["ema"].pop("ema_model.diffusion_model.norm.bias")), "does not fit"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "ld4lg"))
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        convert(folder, tmp_path / "model")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


def test_labels_have_to_be_as_many_as_the_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 labels given; the checkpoint has 3"):
        convert(FIXTURE, tmp_path / "model", labels=["a", "b"])
    assert LatentDiffusion.from_pretrained(convert(FIXTURE, tmp_path / "model")).labels == ("0", "1", "2")
