"""Stage `joint`: what its losses reach, what stops it, and a whole run."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from ladle.autoencoder.reconstruction import ReconstructionConfig
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.data.row_portions import in_every_epoch
from ladle.data.rows import Row
from ladle.diffusion.loss import DenoisingConfig, DenoisingLoss
from ladle.errors import LadleError
from ladle.sampling.options import SamplingOptions
from ladle.training.optimiser import TrainingConfig
from ladle.training.stages.joint import JointConfig, JointRows, JointStage, num_directions

SETTINGS = TrainingConfig(steps=1, max_tokens=200)
ROWS = [Row(text=text, label=tiny.LABELS[i % 2], source=text.split()[1]) for i, text in enumerate(tiny.SENTENCES)]


def stage_of(rows: list[Row] = ROWS, **settings: Any) -> JointStage:
    autoencoder = tiny.tiny_autoencoder()
    joint, sampling = JointConfig(**settings), SamplingOptions(num_inference_steps=2)
    diffusion = tiny.tiny_diffusion(autoencoder)
    reader = SourceReader(autoencoder, diffusion.condition.config)
    denoising = DenoisingLoss(diffusion, DenoisingConfig())
    return JointStage(
        reader, denoising, in_every_epoch(rows), rows[:9], SETTINGS, joint, ReconstructionConfig(), sampling
    )


def encoder_gradient(progress: float, **settings: Any) -> Tensor:
    """Of the whole loss, in the map to the latents; the same random numbers every time."""
    stage = stage_of(**settings)
    stage.progress = progress
    stage.module.train()
    torch.manual_seed(0)
    stage.loss(stage.load(stage.batches(0)[0]))[0].backward()
    gradient = stage.module.autoencoder.bottleneck.down.weight.grad
    assert gradient is not None
    return gradient


def test_the_gradient_of_diffusion_reaches_the_encoder_late_and_in_part() -> None:
    """A sigmoid of progress, at half of the scale when the warm-up is over; 0 of warm-up is all of it at once."""
    config = JointConfig(encoder_scale=0.8, encoder_warmup=0.25)
    shares = [config.encoder_share(progress / 20) for progress in range(21)]
    assert shares == sorted(shares)
    assert shares[0] < 1e-4 and shares[5] == pytest.approx(0.4) and shares[-1] == pytest.approx(0.8)
    assert JointConfig(encoder_scale=0.8, encoder_warmup=0).encoder_share(0) == 0.8
    none, half, full = (encoder_gradient(0.5, encoder_scale=scale, encoder_warmup=0) for scale in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half - none, (full - none) / 2, atol=1e-6, rtol=1e-3)
    assert float((full - none).norm()) > 1e-3 * float(none.norm())
    torch.testing.assert_close(encoder_gradient(0.5, diffusion_scale=0.0), none, atol=1e-6, rtol=1e-3)


def test_latents_are_held_where_they_began() -> None:
    """reference_scale: no distance at first; after a change it is part of the loss, and its gradient leads back."""
    stage = stage_of(reference_scale=1.0, encoder_scale=0.0)
    stage.module.eval()
    batch = stage.load(stage.batches(0)[0])
    assert float(stage.loss(batch)[1]["reference_distance"]) == 0
    bias = stage.module.autoencoder.bottleneck.down.bias
    with torch.no_grad():
        bias[0] += 0.5
    found = []
    for scale in (1.0, 51.0):  # all else is alike, by one seed
        stage.module.config = stage.module.config.model_copy(update={"reference_scale": scale})
        torch.manual_seed(0)
        loss, metrics = stage.module.loss(batch)
        found.append((loss, torch.autograd.grad(loss, bias)[0], float(metrics["reference_distance"])))
    (one, slope, distance), (other, steeper, _) = found
    assert distance > 0
    assert float((other - one).detach()) == pytest.approx(50 * distance, rel=1e-3)
    assert float(steeper[0] - slope[0]) > 0  # down is back
    reference = stage.module.reference
    assert reference is not None and not any(p.requires_grad for p in reference.parameters())


def test_conditions_are_those_of_cached_ones() -> None:
    """Labels, sources read by the encoder as it is, rows without either."""
    rows = [Row(text="a", label="good", source="the cat"), Row(text="b c d e f g"), Row(text="c", label="bad")]
    stage = stage_of(rows)
    reader = stage.module.reader
    reader.autoencoder.eval()
    order = torch.tensor([2, 0, 1])
    raw = stage.module.encoded(JointRows(reader, rows).condition(order))
    expected = ConditionStore.of(reader, rows).gather(order)
    assert torch.equal(raw.label_ids, expected.label_ids)
    assert torch.equal(raw.source_mask.any(1), expected.source_mask.any(1))
    torch.testing.assert_close(raw.source[1][raw.source_mask[1]], expected.source[1][expected.source_mask[1]],
                               atol=1e-2, rtol=1e-2)  # fmt: skip
    plain = stage_of([Row(text=row["text"]) for row in ROWS])
    assert plain.module.encoded(plain.train_rows.condition(order)).given_rows(3).sum() == 0


def test_looking_at_it_says_the_same_for_one_seed() -> None:
    """Every row once an epoch; losses of both halves, directions, samples."""
    stage = stage_of()
    assert sorted(row for batch in stage.batches(3) for row in batch) == list(range(len(ROWS)))
    stage.module.eval()
    looks = []
    for _ in range(2):
        torch.manual_seed(0)
        with torch.no_grad():
            looks.append((stage.validate(), stage.sample()))
    assert looks[0] == looks[1]
    assert {"autoregressive_loss", "diffusion_loss", "length_loss", "directions", "spread"} <= looks[0][0].keys()
    assert len(looks[0][1]) == 9


def test_directions_are_counted() -> None:
    """D of an even spread, one of a line, none of a point; in between by their shares."""
    noise = torch.randn(20_000, 8)
    assert num_directions(noise) == pytest.approx(8, abs=0.1)
    assert num_directions(noise[:, :1] * torch.ones(8)) == pytest.approx(1)
    assert num_directions(torch.ones(50, 8)) == 0
    shares = torch.tensor([2.0, 1.0]).sqrt()
    assert num_directions(noise[:, :2] * shares) == pytest.approx(9 / 5, abs=0.05)


@pytest.mark.parametrize("what", ["directions", "accuracy", "spread"])
def test_a_collapsing_training_ends_and_says_so(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents on a line, or all near one point, or a decoder that knows nothing any more: one line, with what to do."""
    for name in ("DIRECTIONS", "ACCURACY", "SPREAD"):
        limit = 0.5 if name.lower() == what else 0.0
        monkeypatch.setattr(f"ladle.training.stages.joint.MIN_{name}", limit)
    stage = stage_of()
    stage.module.eval()
    with torch.no_grad():
        stage.validate()
        down = stage.module.autoencoder.bottleneck.down
        if what == "directions":
            down.weight.copy_(down.weight[:1].expand_as(down.weight) * torch.linspace(-1, 1, len(down.weight))[:, None])
            down.bias.zero_()
        elif what == "spread":
            down.weight.mul_(0.01)
            down.bias.copy_(torch.linspace(-1, 1, len(down.bias)))
        else:
            stage.module.best[0] = 1.0
            stage.module.autoencoder.backbone.model.get_input_embeddings().weight.normal_()
        with pytest.raises(LadleError, match="the latents collapse") as error:
            stage.validate()
        stage.module.config = stage.module.config.model_copy(update={"stop_collapsed": False})
        stage.validate()
    assert "\n" not in str(error.value)
