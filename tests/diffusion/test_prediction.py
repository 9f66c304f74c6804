"""A parameterisation is only a change of coordinates: what goes in must come out, on every path, per sample."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.diffusion.model import DiffusionConfig
from ladle.diffusion.prediction import PREDICTIONS, add_noise, output_scale, target, to_z0
from ladle.diffusion.schedule import PATHS as OWN_PATHS
from ladle.diffusion.schedule import Schedule
from ladle.errors import UserError

PATHS = [*OWN_PATHS, "variance_exploding"]  # the last by a fixture
pytestmark = pytest.mark.usefixtures("exploding_path")


def level_at(log_snr, path):
    return Schedule(lambda t: t, path).level_from_log_snr(torch.as_tensor(log_snr, dtype=torch.float64))


def pair(seed=0, shape=(3, 4, 2)):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(log_snr=st.lists(st.floats(-12, 12), min_size=3, max_size=3), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_reading_back_a_perfect_output_gives_z0(path, prediction, log_snr, seed):
    """An inversion that assumes alpha^2 + sigma^2 = 1 fails here on two of the paths."""
    z0, eps = pair(seed)
    level = level_at(log_snr, path)
    zt = add_noise(z0, eps, level)
    z0_hat = to_z0(prediction, target(prediction, z0, eps, level), zt, level)
    torch.testing.assert_close(z0_hat, z0, rtol=0, atol=1e-10)  # eps at log_snr -12 divides by alpha = 2.5e-3


@pytest.mark.parametrize("path", PATHS)
@given(log_snr=st.lists(st.floats(-12, 12), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_noise_and_clean_latent_are_two_views_of_one_estimate(path, log_snr):
    """zt = alpha * z0_hat + sigma * eps_hat has to hold for any estimate, right or wrong."""
    eps_hat, zt = pair(1)
    level = level_at(log_snr, path)
    z0_hat = to_z0("eps", eps_hat, zt, level)
    torch.testing.assert_close(add_noise(z0_hat, eps_hat, level), zt, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_scale_is_how_far_the_output_moves_with_z0_hat(path, prediction):
    """Whatever weighs errors of z0_hat goes by it."""
    level = level_at([-6.0, 0.3, 5.0], path)
    zt, output = pair(3)
    moved = to_z0(prediction, output + 0.01, zt, level) - to_z0(prediction, output, zt, level)
    scale = output_scale(prediction, level)[:, None, None]
    torch.testing.assert_close(moved.abs() * scale, torch.full_like(zt, 0.01))


def test_targets_are_what_their_names_say():
    """A round trip also passes when target and inverse are wrong together; here is each in numbers."""
    z0, eps = torch.tensor([2.0]), torch.tensor([5.0])
    level = Schedule(lambda t: t, "rectified_flow").level_from_log_snr(2 * torch.tensor(3.0).log())  # alpha .75
    expected = {"v": 0.75 * 5 - 0.25 * 2, "x0": 2.0, "eps": 5.0, "flow": 3.0}
    assert set(expected) == set(PREDICTIONS)
    for prediction, value in expected.items():
        assert target(prediction, z0, eps, level).item() == pytest.approx(value, rel=1e-6)
    assert add_noise(z0, eps, level).item() == pytest.approx(0.75 * 2 + 0.25 * 5, rel=1e-6)


def test_flow_target_is_the_velocity_of_the_rectified_path():
    """d zt / dt on zt = (1 - t) z0 + t eps, t towards noise; a sign slip trains a model that runs away from data."""
    z0, eps = pair(2)
    schedule = Schedule(lambda t: 2 * ((1 - t) / t).log(), "rectified_flow")
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    zt = add_noise(z0, eps, schedule.level(t))
    (slope,) = torch.autograd.grad(zt.sum(), t)
    torch.testing.assert_close(slope, target("flow", z0, eps, schedule.level(t)).sum())


def test_an_unknown_prediction_names_the_allowed_ones():
    """It comes from a recipe."""
    with pytest.raises(UserError, match="'v', 'x0', 'eps' or 'flow'"):
        DiffusionConfig.parse({"prediction": "x_0"})
