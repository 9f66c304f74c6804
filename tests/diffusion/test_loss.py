"""Weights are stated in one parameterisation and act in another: each against the formula of its paper."""

import math

import pytest
import torch

from ladle.diffusion.loss import LOSSES, AdaptiveTimes, DenoisingConfig, draw_times, weighted_error, weights
from ladle.diffusion.prediction import PREDICTIONS, add_noise, target
from ladle.diffusion.schedule import PATHS as OWN_PATHS
from ladle.diffusion.schedule import Level, Schedule
from ladle.errors import UserError

PATHS = [*OWN_PATHS, "variance_exploding"]  # the last by a fixture
pytestmark = pytest.mark.usefixtures("exploding_path")
LOG_SNR = torch.tensor([-15.0, -4.0, 0.0, 1.0, 1.7, 6.0, 15.0], dtype=torch.float64)


def level_on(path: str) -> Level:
    return Schedule(lambda t: t, path).level_from_log_snr(LOG_SNR)


def test_min_snr_has_the_weights_of_the_paper() -> None:
    """Hang et al., section 3.4: min(SNR, 5) for x0, over SNR for the noise, over SNR + 1 for v."""
    config, level, snr = DenoisingConfig(weighting="min_snr"), level_on("variance_preserving"), LOG_SNR.exp()
    capped = snr.clamp(max=5)
    for prediction, expected in {"x0": capped, "eps": capped / snr, "v": capped / (snr + 1)}.items():
        torch.testing.assert_close(weights(config, prediction, level), expected)


def test_sigmoid_weighs_the_noise_by_a_sigmoid() -> None:
    """Kingma and Gao, with k = 2; on every path, for the noise is the same there."""
    for path in PATHS:
        found = weights(DenoisingConfig(weighting="sigmoid"), "eps", level_on(path))
        torch.testing.assert_close(found, (2 - LOG_SNR).sigmoid())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weighting", ["min_snr", "sigmoid"])
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_one_wrong_z0_hat_costs_the_same_in_every_prediction(path: str, weighting: str, loss: str) -> None:
    """Weighted so, the parameterisation is no part of the objective."""
    config = DenoisingConfig.parse({"weighting": weighting, "loss": loss}, "objective")
    level = Schedule(lambda t: t, path).level_from_log_snr(torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64))
    z0, eps, wrong = (torch.randn(3, 4, 2, dtype=torch.float64) for _ in range(3))
    zt = add_noise(z0, eps, level)
    alpha, sigma = (x[:, None, None] for x in (level.alpha, level.sigma))
    costs = []
    for prediction in PREDICTIONS:
        output = target(prediction, z0 + wrong, (zt - alpha * (z0 + wrong)) / sigma, level)
        costs.append(weighted_error(config, prediction, output, target(prediction, z0, eps, level), level))
    for cost in costs[1:]:
        torch.testing.assert_close(cost, costs[0])


def test_flat_leaves_the_raw_error_as_it_is() -> None:
    """To the last bit: a model's losses are those of before."""
    output, wanted = torch.randn(7, 4, 3), torch.randn(7, 4, 3)
    level = Schedule(lambda t: t, "variance_preserving").level_from_log_snr(LOG_SNR.float())
    assert torch.equal(weighted_error(DenoisingConfig(), "v", output, wanted, level), (output - wanted).square())


def test_huber_is_half_of_l2_near_and_l1_less_a_half_far() -> None:
    error, zero = torch.tensor([0.4, -0.4, 3.0, -3.0]), torch.zeros(4)
    assert LOSSES["huber"](error, zero).tolist() == pytest.approx([0.08, 0.08, 2.5, 2.5])


def test_logit_normal_times_have_their_distribution() -> None:
    """Their logits are N(0, 1): one time in each of equal shares, whatever the batch."""
    config = DenoisingConfig(times="logit_normal")
    times = draw_times(config, 5000)
    logits = times.double().logit()
    assert logits.mean().item() == pytest.approx(0.0, abs=0.01)
    assert logits.std().item() == pytest.approx(1.0, abs=0.01)
    shares = torch.special.ndtr(draw_times(config, 10).double().logit()).sort().values
    assert shares.diff().tolist() == pytest.approx([0.1] * 9, abs=1e-5)
    assert not torch.equal(times, times.sort().values)


def test_adaptive_times_raise_the_error_evenly() -> None:
    """An error of t^2 wants t = sqrt(u); what is drawn uniformly beside it keeps a fifth of the draws everywhere."""
    u = (torch.arange(1000) + 0.5) / 1000
    times = AdaptiveTimes(num_bins=100, uniform=0.0)
    assert torch.equal(times(u), u)
    for _ in range(50):
        t = torch.rand(5000)
        times.update(t, t.square() * (0.5 + torch.rand(5000)))
    torch.testing.assert_close(times(u), u.sqrt(), atol=0.03, rtol=0)
    mixed = AdaptiveTimes(num_bins=100)
    mixed.error.copy_(times.error)
    found = mixed(u)
    assert (found.diff() >= 0).all() and found[0] >= 0 and found[-1] <= 1
    assert (found < 0.1).float().mean().item() == pytest.approx(0.8 * 0.01 + 0.2 * 0.1, abs=0.01)


def test_an_error_that_falls_again_or_was_not_seen_does_no_harm() -> None:
    times = AdaptiveTimes(num_bins=10)
    times.update(torch.tensor([0.35, 0.35, 0.85]), torch.tensor([1.0, 3.0, 0.5]))
    assert times.error.tolist() == pytest.approx([0, 0, 0, 2, 0, 0, 0, 0, 0.5, 0])
    found = times(torch.linspace(0.001, 0.999, 500))
    assert found.isfinite().all() and (found.diff() >= 0).all()
    assert ((found > 0.3) & (found < 0.4)).float().mean().item() == pytest.approx(0.82, abs=0.01)


def test_a_curriculum_goes_from_large_times_to_small() -> None:
    config = DenoisingConfig(curriculum=0.5)
    lowest = [draw_times(config, 1000, progress=progress).min().item() for progress in (0.0, 0.125, 0.25, 0.5, 1.0)]
    assert lowest == pytest.approx([1.0, 0.75, 0.5, 0.0, 0.0], abs=0.002)


def test_uniform_times_are_uniform() -> None:
    times = draw_times(DenoisingConfig(times="uniform"), 1000).sort().values
    assert 0 <= times[0] < 0.001 and 0.999 <= times[-1] < 1
    assert times.diff().tolist() == pytest.approx([0.001] * 999, abs=1e-6)
    assert math.isclose(times.mean().item(), 0.5, abs_tol=0.001)


def test_wrong_settings_are_refused_in_one_line() -> None:
    for bad in ({"times": "normal"}, {"curriculum": 1.5}, {"drop_prob": -0.1}, {"loss": "l3"}, {"weighting": "snr"}):
        with pytest.raises(UserError):
            DenoisingConfig.parse(bad, "diffusion")
