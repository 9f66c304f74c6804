"""Ways through the prior, against the closed form: latents that are Gaussian have an exact denoiser and flow map."""

import pytest
import torch
from torch import Tensor

import tiny
from gaussian import MEAN, SPREAD, gaussian
from ladle.autoencoder.latents import Latents
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.store import ConditionStore
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.prediction import add_noise
from ladle.editing.way import LED_STEPS, LED_TIMES, all_renoised, from_noise, led, renoised, to_noise
from ladle.layers import lengths_to_mask
from ladle.sampling.draw import draw_latents
from ladle.sampling.options import SamplingOptions
from ladle.seeding import SampleNoise


def made(model: LatentDiffusionModel, lengths: list[int] = [4, 2, 3]) -> Latents:  # noqa: B006
    mask = lengths_to_mask(torch.tensor(lengths), max(lengths))
    values = MEAN + SPREAD * torch.randn(*mask.shape, model.latent_dim)
    return Latents(values * mask[..., None], mask)


NONE = RawCondition()


@pytest.mark.parametrize("kind", ["cosine", "flow"])
def test_the_noise_of_a_text_is_its_place_under_the_gaussian(kind: str) -> None:
    """The flow of a Gaussian keeps how many deviations a point is away: (z0 - mean) / spread is its noise."""
    model = gaussian(kind)
    z0 = made(model)
    noise = to_noise(model, NONE, z0, steps=400)
    expected = (z0.values - MEAN) / SPREAD * z0.mask[..., None]
    torch.testing.assert_close(noise, expected, atol=0.06, rtol=0.02)
    assert not noise[~z0.mask].any()


@pytest.mark.parametrize("kind", ["cosine", "flow"])
@pytest.mark.parametrize("time", [1.0, 0.5])
def test_the_way_back_returns(kind: str, time: float) -> None:
    """From any time. Otherwise ends of a way would not fit its middle."""
    model = gaussian(kind)
    z0 = made(model)
    back = from_noise(model, NONE, to_noise(model, NONE, z0, time, steps=200), z0.mask, time, steps=200)
    torch.testing.assert_close(back.values, z0.values, atol=0.05, rtol=0.02)
    assert torch.equal(back.mask, z0.mask)
    coarse = from_noise(model, NONE, to_noise(model, NONE, z0, time), z0.mask, time)  # (as it is used)
    assert float((coarse.values - z0.values).abs().mean()) < 0.1


def test_neighbours_and_padding_make_no_difference_to_a_text() -> None:
    """Its noise is its own."""
    model = tiny.tiny_diffusion(tiny.tiny_autoencoder(), source=False)
    z0 = made(model)
    whole = to_noise(model, NONE, z0, steps=5)
    alone = to_noise(model, NONE, Latents(z0.values[1:2, :2], z0.mask[1:2, :2]), steps=5)
    torch.testing.assert_close(alone[0], whole[1, :2], atol=2e-4, rtol=1e-3)


def test_time_zero_changes_nothing() -> None:
    """The latents themselves: strength 0 keeps all."""
    model = gaussian()
    z0 = made(model)
    assert renoised(model, NONE, z0, SampleNoise([0, 1, 2]), 0.0, SamplingOptions()) is z0


def test_time_one_is_a_free_draw() -> None:
    """The same that `generate` draws by the same seeds: nothing of the text is left but its length."""
    model = tiny.tiny_diffusion(tiny.tiny_autoencoder(), source=False)
    z0, options = made(model), SamplingOptions(num_inference_steps=8)
    found = renoised(model, NONE, z0, SampleNoise([0, 1, 2]), 1.0, options)
    free = draw_latents(model, NONE, SampleNoise([0, 1, 2]), z0.mask.sum(1), options)
    torch.testing.assert_close(found.values, free.values, atol=0.02, rtol=0.02)


def test_a_gaussian_is_redrawn_from_its_posterior() -> None:
    """Noised to a time and brought back by an exact prior, a point is a draw from p(z0 | zt), averaged over zt.

    Its mean is mean + gain alpha (z0 - mean), its variance that of the posterior and of the noise in its mean.
    """
    model = gaussian()
    time, point, count = 0.5, MEAN + 2 * SPREAD, 1000
    level = model.schedule.level(torch.tensor(time))
    latents = Latents(torch.full((count, 1, model.latent_dim), point), torch.ones(count, 1, dtype=torch.bool))
    options = SamplingOptions(num_inference_steps=400, grid="log_snr")
    found = renoised(model, NONE, latents, SampleNoise([*range(count)]), time, options).values
    alpha, sigma = float(level.alpha), float(level.sigma)
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    assert float(found.mean()) == pytest.approx(MEAN + gain * alpha * (point - MEAN), abs=0.02)
    variance = SPREAD**2 * (1 - gain * alpha) + (gain * sigma) ** 2
    assert float(found.var()) == pytest.approx(variance, rel=0.05)


def test_a_plan_below_its_stop_time_is_handed_over_with_its_noise() -> None:
    """Its decoder reads zt itself. Above, the sampler goes from there down to the stop time."""
    model = gaussian(plan=True)
    z0 = Latents(
        torch.randn(2, model.max_latents, model.latent_dim), torch.ones(2, model.max_latents, dtype=torch.bool)
    )
    options = SamplingOptions(num_inference_steps=20).override(stop_time=0.4)
    below = renoised(model, NONE, z0, SampleNoise([5, 6]), 0.3, options)
    level = model.schedule.level(torch.tensor(0.3))
    drawn = SampleNoise([5, 6]).normal([z0.values.shape[1:]] * 2)
    torch.testing.assert_close(below.values, add_noise(z0.values, drawn, level), atol=1e-5, rtol=1e-4)
    assert float(below.level.log_snr) == pytest.approx(float(level.log_snr), abs=1e-4)
    above = renoised(model, NONE, z0, SampleNoise([5, 6]), 0.8, options)
    assert float(above.level.log_snr) == pytest.approx(float(model.schedule.log_snr(torch.tensor(0.4))), abs=1e-4)


def test_other_latents_below_their_stop_time_go_to_the_end() -> None:
    """Their decoder reads clean latents only, and levels must not run backwards."""
    model = gaussian()
    z0 = made(model)
    low, plain = (
        renoised(model, NONE, z0, SampleNoise([0, 1, 2]), 0.3, SamplingOptions().override(stop_time=stop))
        for stop in (0.6, 0.0)
    )
    assert low.level is None
    torch.testing.assert_close(low.values, plain.values)


def test_a_label_to_avoid_is_no_condition_that_decides_the_stop_time() -> None:
    """Texts that a label only leads away from stop as free ones do. (Levels would run from 0.5 up to 0.9.)"""
    model = tiny.tiny_diffusion(tiny.tiny_plan_autoencoder(), source=False)
    z0 = Latents(
        torch.randn(1, model.max_latents, model.latent_dim), torch.ones(1, model.max_latents, dtype=torch.bool)
    )
    options = SamplingOptions(num_inference_steps=4).override(
        conditional={"stop_time": 0.1}, unconditional={"stop_time": 0.6}, guidance_scales={"label": -1.0}
    )
    found = renoised(model, RawCondition(torch.tensor([0])), z0, SampleNoise([0]), 0.5, options)
    assert float(found.level.log_snr) == pytest.approx(float(model.schedule.log_snr(torch.tensor(0.5))), abs=1e-4)


def test_many_texts_are_renoised_as_each_alone() -> None:
    """In batches of any size, and the streams go on behind it."""
    model = tiny.tiny_diffusion(tiny.tiny_autoencoder(), source=False)
    points = [torch.randn(length, model.latent_dim) for length in (4, 2, 3)]
    options = SamplingOptions(num_inference_steps=3)

    def drawn(batch_size: int) -> tuple[list[Tensor], list[Tensor]]:
        streams = [SampleNoise([seed]) for seed in (0, 1, 2)]
        found, log_snr = all_renoised(model, points, streams, 0.6, options, batch_size=batch_size)
        assert log_snr == [None] * 3
        return found, [stream.uniform() for stream in streams]

    (whole, after), (single, others) = drawn(3), drawn(1)
    for one, other in zip(whole, single, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)
    assert after == others


# ------------------------------------------------------------------------------------------- from label to label


def labelled(monkeypatch: pytest.MonkeyPatch) -> LatentDiffusionModel:
    """Latents of the second label have twice the mean of the first one's."""
    model = gaussian(plan=True)

    def denoise(mask: Tensor, raw: RawCondition) -> object:
        means = MEAN * (1 + raw.label_ids)[:, None, None]

        def exact(zt: Tensor, level: object) -> Tensor:
            return means + gain_of(level) * (zt - level.alpha * means)

        return exact

    monkeypatch.setattr(model, "denoise", denoise)
    monkeypatch.setattr(model.condition, "encode", lambda raw, count: raw)
    return model


def gain_of(level: object) -> Tensor:
    return level.alpha * SPREAD**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)


def stores(model: LatentDiffusionModel, count: int) -> tuple[ConditionStore, ConditionStore]:
    reader = tiny.tiny_plan_parts(source=False).reader()
    return tuple(ConditionStore(reader, [name] * count, [None] * count) for name in tiny.LABELS)


def test_latents_are_led_by_the_difference_of_the_means_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Gaussians of one spread the estimates differ by (1 - gain alpha) times the difference of their means, whatever
    the noise is. Lengths stay."""
    model = labelled(monkeypatch)
    points = [torch.randn(model.max_latents, model.latent_dim) for _ in range(3)]
    found = led(model, points, *stores(model, 3), [SampleNoise([row]) for row in range(3)], 4.0)
    levels = [model.schedule.level(torch.tensor(time)) for time in LED_TIMES]
    step = sum(float(1 - gain_of(level) * level.alpha) for level in levels) / len(levels) * MEAN
    for point, own in zip(points, found, strict=True):
        expected = point
        for _ in range(LED_STEPS):
            expected = expected + 4.0 / LED_STEPS * step
            expected = expected * point.norm() / expected.norm()
        torch.testing.assert_close(own, expected, atol=1e-3, rtol=1e-3)


def test_latents_that_are_led_nowhere_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """By nothing, or to the label that they have."""
    model = labelled(monkeypatch)
    points = [torch.randn(model.max_latents, model.latent_dim) for _ in range(2)]
    old, new = stores(model, 2)
    streams = [SampleNoise([row]) for row in range(2)]
    assert led(model, points, old, new, streams, 0.0) == points
    for own, point in zip(led(model, points, old, old, streams, 4.0), points, strict=True):
        torch.testing.assert_close(own, point, atol=1e-5, rtol=1e-5)


def test_a_text_is_led_whatever_batch_it_is_in() -> None:
    model = tiny.tiny_plan_parts(source=False).diffusion
    points = [torch.randn(model.max_latents, model.latent_dim) for _ in range(3)]
    found = [
        led(model, points, *stores(model, 3), [SampleNoise([row]) for row in range(3)], 2.0, batch_size=size)
        for size in (3, 1)
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
