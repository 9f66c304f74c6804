"""The diffusion model: its loss, its `Denoise` function, and that it learns distributions that are known."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.encoder import RawCondition
from ladle.diffusion.loss import DenoisingConfig, DenoisingLoss, DiffusionBatch
from ladle.diffusion.model import DiffusionConfig, LatentDiffusionModel
from ladle.diffusion.prediction import PREDICTIONS, to_z0
from ladle.diffusion.samplers import SAMPLERS
from ladle.diffusion.schedule import sampling_levels
from ladle.diffusion.wrappers import guided
from ladle.errors import UserError


def build(*, dim: int = 3, max_latents: int = 4, condition: dict[str, Any] | None = None, **settings: Any):
    """A diffusion model over latents of fixed number; `condition` and other settings as in a recipe."""
    torch.manual_seed(0)
    denoiser = {"width": 32, "num_layers": 2, "num_skips": 1, "num_heads": 2}
    return LatentDiffusionModel(
        SimpleNamespace(latent_dim=dim, max_latents=max_latents, fixed_length=True, is_plan=False),
        DiffusionConfig.parse({"denoiser": denoiser, "schedule": {"shift": 1.0}} | settings),  # two channels, not 64
        ConditionConfig.parse(condition or {}),
        source_dim=4,
    )


def denoising(model: LatentDiffusionModel, **objective: Any) -> DenoisingLoss:
    """What `model` is trained by; settings as in a recipe's [training.diffusion]."""
    return DenoisingLoss(model, DenoisingConfig.parse(objective))


def a_batch(z0: Tensor, mask: Tensor | None = None, raw: RawCondition | None = None) -> DiffusionBatch:
    mask = torch.ones(z0.shape[:2], dtype=torch.bool) if mask is None else mask
    raw = raw or RawCondition()
    return DiffusionBatch(z0, mask, raw, mask.sum(1), raw)


class Calls:
    """What the network is called with, through torch's own hook."""

    def __init__(self, model: LatentDiffusionModel) -> None:
        self.calls: list[dict[str, Any]] = []
        model.denoiser.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, module: torch.nn.Module, args: tuple[Tensor, Tensor], kwargs: dict[str, Any]) -> None:
        self.calls.append({"zt": args[0], "log_snr": args[1], "grad": torch.is_grad_enabled(), **kwargs})


# ------------------------------------------------------------------------------------------------ loss


def test_a_new_model_starts_from_v_equal_to_zero() -> None:
    """z0_hat = alpha zt, the best guess that knows nothing; the loss is the mean of v^2, one for unit latents."""
    model = build()
    level = model.schedule.level(torch.tensor(0.4))
    zt, mask = torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool)
    z0_hat = model.denoise(mask, model.condition.encode(RawCondition(), 2))(zt, level)
    torch.testing.assert_close(z0_hat, level.alpha * zt)
    loss, _ = denoising(model)(a_batch(torch.randn(2000, 4, 3)))
    assert loss.item() == pytest.approx(1.0, abs=0.05)


def test_masked_latents_have_no_part_in_the_loss() -> None:
    """Neither as input nor as target, nor in what adaptive times learn from it."""
    z0, mask = torch.randn(6, 4, 3), torch.arange(4)[None] < torch.tensor([1, 2, 3, 4, 4, 1])[:, None]
    losses, errors = [], []
    for values in (z0, z0.masked_fill(~mask[..., None], 40.0)):
        training = denoising(build(), times="adaptive")
        torch.nn.init.normal_(training.model.denoiser.output.weight)
        torch.manual_seed(1)
        losses.append(training(a_batch(values, mask))[0])
        errors.append(training.adaptive_times.error)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(errors[0], errors[1])
    assert errors[0].any()


def test_no_batch_misses_a_noise_level() -> None:
    """Times are U(0, 1) and evenly spread over each batch: the loss varies less."""
    model = build(schedule={"kind": "flow"}, self_condition=False)
    calls, training = Calls(model), denoising(model, times="uniform")
    for _ in range(3):
        training(a_batch(torch.randn(10, 4, 3)))
    assert len(calls.calls) == 3
    times = torch.stack([torch.sigmoid(-call["log_snr"] / 2) for call in calls.calls])
    gaps = times.sort(1).values.diff(dim=1)
    torch.testing.assert_close(gaps, torch.full_like(gaps, 0.1), atol=1e-3, rtol=0)
    assert times[0, 0] != times[1, 0]
    assert not torch.equal(times[0], times[0].sort().values)  # and not in the order of the rows


def test_self_conditioning_is_drawn_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows of a batch see the model's own first estimate, the others nothing; only the former are computed."""
    monkeypatch.setattr("ladle.diffusion.loss.SELF_CONDITION_PROB", 0.3)
    model = build()
    torch.nn.init.normal_(model.denoiser.output.weight)
    calls = Calls(model)
    torch.manual_seed(0)
    denoising(model)(a_batch(torch.randn(1000, 4, 3)))
    first, second = calls.calls
    chosen = second["self_condition_mask"]
    assert chosen.float().mean() == pytest.approx(0.3, abs=0.05)
    assert not first["grad"]
    assert second["grad"]
    torch.testing.assert_close(first["zt"], second["zt"][chosen])
    assert first["self_condition"] is None
    with torch.no_grad():
        output = model.denoiser(first["zt"], first["log_snr"], mask=first["mask"], condition=first["condition"])
    level = model.schedule.level_from_log_snr(first["log_snr"])
    torch.testing.assert_close(second["self_condition"][chosen], to_z0("v", output, first["zt"], level))
    assert not second["self_condition"][~chosen].any()


def test_without_self_conditioning_the_last_estimate_is_not_read() -> None:
    """self_condition = false: what was never seen in training must not be handed over by the sampler."""
    mask = torch.ones(2, 4, dtype=torch.bool)
    for reads, same in ((False, True), (True, False)):
        model = build(self_condition=reads).eval()
        for parameter in model.denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        level = model.schedule.level(torch.tensor(0.5))
        denoise = model.denoise(mask, model.condition.encode(RawCondition(), 2))
        zt = torch.randn(2, 4, 3)
        assert torch.allclose(denoise(zt, level, torch.randn(2, 4, 3)), denoise(zt, level)) is same


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_what_is_trained_is_what_is_read_back(prediction: str) -> None:
    """A network that says its target exactly has no loss, and `denoise` makes z0 of it: here the constant c.

    Only x0's target is constant, so the others are checked through `to_z0` of the raw output.
    """
    model = build(prediction=prediction).eval()
    with torch.no_grad():
        model.denoiser.output.bias.fill_(0.7)
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    level, zt = model.schedule.level(torch.tensor([0.3, 0.6])), torch.randn(2, 4, 3)
    z0_hat = model.denoise(mask, model.condition.encode(RawCondition(), 2))(zt, level)
    torch.testing.assert_close(z0_hat, to_z0(prediction, torch.full_like(zt, 0.7), zt, level) * mask[..., None])
    assert not z0_hat[~mask].any()
    if prediction == "x0":
        assert denoising(model).eval()(a_batch(torch.full((8, 4, 3), 0.7)))[0] < 1e-10


def test_the_l1_loss_is_the_mean_of_absolute_errors() -> None:
    """For standard normal v that is sqrt(2 / pi)."""
    loss, _ = denoising(build(), loss="l1")(a_batch(torch.randn(3000, 4, 3)))
    assert loss.item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)


@pytest.mark.parametrize(
    "options", [{"loss": "huber"}, {"weighting": "min_snr"}, {"weighting": "sigmoid"}, {"times": "logit_normal"}]
)
def test_the_objective_of_the_config_is_the_one_that_is_trained(options: dict[str, Any]) -> None:
    """Each changes the loss of the same batch and noise, and can be learnt from at every level."""
    losses = []
    for config in ({}, options):
        model = build()
        torch.nn.init.normal_(model.denoiser.output.weight, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        loss = denoising(model, **config)(a_batch(torch.randn(500, 4, 3)))[0]
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        losses.append(loss.item())
    assert losses[0] != pytest.approx(losses[1], rel=0.02)


def test_times_adapt_in_training_only() -> None:
    """And the curriculum ends there too: what is held out is measured at uniform times."""
    model = build(schedule={"kind": "flow"}, self_condition=False)
    training = denoising(model, times="adaptive", curriculum=0.5)
    assert training.adaptive_times is not None
    calls = Calls(model)
    batch = a_batch(torch.randn(200, 4, 3))
    training(batch, 0.25)
    seen = training.adaptive_times.error.clone()
    assert seen[-25:].min() > 0.3 and not seen[:24].any()  # z0_hat = alpha zt is wrong by 1 at the noise end
    training.eval()
    training(batch, 0.25)
    assert torch.equal(training.adaptive_times.error, seen)
    trained, held_out = (torch.sigmoid(-call["log_snr"] / 2) for call in calls.calls)
    assert trained.min() >= 0.49 and held_out.min() < 0.01


# ------------------------------------------------------------------------------------------------ learning

MODES = torch.tensor([[1.2, 0.6], [-1.2, -0.6]])
SPREAD = 0.3


def train(model: LatentDiffusionModel, draw: Any, steps: int, drop_prob: float, rows: int = 192) -> None:
    training = denoising(model, drop_prob=drop_prob)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        training(draw(rows))[0].backward()
        optimizer.step()
    model.eval()


@torch.no_grad()
def sample(model: LatentDiffusionModel, raw: RawCondition, rows: int, scale: float = 1.0, sampler: str = "dpmpp_2m"):
    """Points [rows, 2]."""
    torch.manual_seed(5)
    mask = torch.ones(rows, 1, dtype=torch.bool)
    denoise = model.denoise(mask, model.condition.encode(raw, rows))
    if scale != 1:
        denoise = guided(denoise, model.denoise(mask, model.condition.encode(RawCondition(), rows)), scale)
    levels = sampling_levels(model.schedule, 20)
    zt = levels[0].sigma * torch.randn(rows, 1, 2)
    return SAMPLERS[sampler](denoise, zt, levels, noise=lambda: torch.randn(rows, 1, 2))[:, 0]


@pytest.fixture(scope="module")
def toy() -> LatentDiffusionModel:
    """A mixture of two Gaussians in the plane, 70 % and 30 %, each with its label; trained for seconds."""
    model = build(dim=2, max_latents=1, condition={"labels": ["a", "b"]})

    def draw(rows: int) -> DiffusionBatch:
        ids = (torch.rand(rows) < 0.3).long()
        points = MODES[ids] + SPREAD * torch.randn(rows, 2)
        return a_batch(points[:, None], raw=RawCondition(ids))

    train(model, draw, steps=500, drop_prob=0.3)
    return model


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddpm"])
def test_a_mixture_in_the_plane_is_reached_in_mean_and_spread(toy: LatentDiffusionModel, sampler: str) -> None:
    """Noise to data by the whole model: schedule, loss, self-conditioning and sampler have to agree."""
    points = sample(toy, RawCondition(), 1500, sampler=sampler)
    weights = torch.tensor([0.7, 0.3])
    mean = weights @ MODES
    covariance = SPREAD**2 * torch.eye(2) + (MODES - mean).T @ torch.diag(weights) @ (MODES - mean)
    torch.testing.assert_close(points.mean(0), mean, atol=0.15, rtol=0)
    torch.testing.assert_close(points.T.cov(), covariance, atol=0.2, rtol=0)
    nearest = torch.cdist(points, MODES)
    assert (nearest.argmin(1) == 0).float().mean() == pytest.approx(0.7, abs=0.06)
    assert (nearest.min(1).values < 4 * SPREAD).float().mean() > 0.97  # between the modes there is nothing


def test_each_label_has_its_own_mean_and_spread(toy: LatentDiffusionModel) -> None:
    """The same weights, with a label: its mode alone."""
    for label in (0, 1):
        points = sample(toy, RawCondition(torch.full((600,), label)), 600)
        torch.testing.assert_close(points.mean(0), MODES[label], atol=0.12, rtol=0)
        torch.testing.assert_close(points.std(0), torch.full((2,), SPREAD), atol=0.08, rtol=0)


def test_a_batch_may_mix_labels_with_none(toy: LatentDiffusionModel) -> None:
    """Each row follows its own condition, and guidance moves those that have one further from the others."""
    ids = torch.tensor([0, 1, -1]).repeat_interleave(300)
    points = sample(toy, RawCondition(ids), 900)
    torch.testing.assert_close(points[:300].mean(0), MODES[0], atol=0.15, rtol=0)
    torch.testing.assert_close(points[300:600].mean(0), MODES[1], atol=0.15, rtol=0)
    assert (points[600:, 0] > 0).float().mean() == pytest.approx(0.7, abs=0.1)
    strong = sample(toy, RawCondition(ids[:600]), 600, scale=3.0)
    assert (strong[300:, 0] < 0).all()
    assert strong[300:].std(0).mean() < points[300:600].std(0).mean()


def test_samples_follow_their_source() -> None:
    """The source's vector says where on the circle the text's latent is; without one it may be anywhere on it."""
    small = {"width": 32, "num_layers": 2, "num_skips": 0, "num_heads": 2}
    model = build(dim=2, max_latents=1, condition={"source": {"max_tokens": 4}}, denoiser=small)

    def places(rows: int) -> tuple[Tensor, RawCondition]:
        angle = 2 * math.pi * torch.rand(rows, 1, 1)
        place = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return place, RawCondition(None, torch.cat([place, -place], dim=-1), torch.ones(rows, 1, dtype=torch.bool))

    def draw(rows: int) -> DiffusionBatch:
        place, raw = places(rows)
        return a_batch(place + 0.1 * torch.randn(rows, 1, 2), raw=raw)

    train(model, draw, steps=300, drop_prob=0.2)
    place, raw = places(300)
    told = sample(model, raw, 300)
    untold = sample(model, RawCondition(None, raw.source, raw.source_mask & False), 300)
    assert (told - place[:, 0]).norm(dim=-1).mean() < 0.35
    assert (untold - place[:, 0]).norm(dim=-1).mean() > 1
    assert untold.norm(dim=-1).mean() == pytest.approx(1.0, abs=0.2)
    assert untold.mean(0).norm() < 0.25
    torch.testing.assert_close(sample(model, RawCondition(), 300), untold, atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------------------------------------------ wrong use


def test_an_unknown_network_is_refused() -> None:
    """It says what is allowed; and a setting of the one network is none of the other's."""
    with pytest.raises(UserError, match="unknown kind 'compakt' of denoiser: did you mean 'compact'"):
        build(denoiser={"kind": "compakt"})
    with pytest.raises(UserError, match="'denoiser.conditioning' belongs to kind 'compact'; denoiser has kind 'paper'"):
        build(denoiser={"kind": "paper", "conditioning": "adaln"})
