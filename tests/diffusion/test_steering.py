"""Steering against posteriors that are known in closed form: a Gaussian prior, and what is asked of it."""

import itertools
import math

import pytest
import torch

from ladle.diffusion.samplers import SAMPLERS
from ladle.diffusion.schedule import PATHS as OWN_PATHS
from ladle.diffusion.schedule import Level, Schedule, ScheduleConfig, build_schedule
from ladle.diffusion.steering import steered, steered_by_estimate
from ladle.errors import UserError

PATHS = [*OWN_PATHS, "variance_exploding"]  # the last by a fixture
pytestmark = pytest.mark.usefixtures("exploding_path")

MEAN, SPREAD = 0.7, 0.8  # z0 ~ N(MEAN, SPREAD^2)
FACTOR, ERROR, GOAL = 1.5, 0.6, -1.2  # y = FACTOR z0 + N(0, ERROR^2) was seen to be GOAL
PRECISION = 1 / SPREAD**2 + FACTOR**2 / ERROR**2
POSTERIOR = (MEAN / SPREAD**2 + FACTOR * GOAL / ERROR**2) / PRECISION, PRECISION**-0.5  # mean and deviation of z0 | y


def denoiser(mean, spread):
    def denoise(zt, level, z0_prev=None):
        """E[z0 | zt] when z0 ~ N(mean, spread^2)."""
        level = level.expand(zt)
        variance = level.alpha**2 * spread**2 + level.sigma**2
        return mean + level.alpha * spread**2 / variance * (zt - level.alpha * mean)

    return denoise


prior, posterior = denoiser(MEAN, SPREAD), denoiser(*POSTERIOR)


def log_likelihood(zt, level):
    """log p(y = GOAL | zt), up to a constant: y | zt has the mean and the spread that z0 | zt still has."""
    level = level.expand(zt)
    rest = SPREAD**2 * level.sigma**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)  # variance of z0 | zt
    return (-((GOAL - FACTOR * prior(zt, level)) ** 2) / 2 / (FACTOR**2 * rest + ERROR**2)).flatten(1).sum(1)


def levels_at(log_snr, path="variance_preserving"):
    schedule = Schedule(lambda t: t, path)
    return [schedule.level_from_log_snr(torch.tensor(x, dtype=torch.float64)) for x in log_snr]


def starts(count, seed=0):
    return torch.randn(count, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal_noise(like, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=generator, dtype=like.dtype)


@pytest.mark.parametrize("path", PATHS)
def test_the_steered_estimate_is_the_posterior_mean(path):
    """At every level, exactly: a factor sigma^2 / alpha mistaken for another is seen at once. Also at a level a row."""
    steering = steered(prior, log_likelihood, 1.0)
    for level in levels_at([-12.0, -3.0, 0.0, 2.0, 9.0], path):
        zt = level.sigma * starts(9)
        torch.testing.assert_close(steering(zt, level), posterior(zt, level), rtol=1e-6, atol=1e-6)
    rows = Level(*(torch.stack(x) for x in zip(*levels_at([-3.0, 0.0, 5.0], path), strict=True)))
    zt = starts(3)
    torch.testing.assert_close(steering(zt, rows), posterior(zt, rows))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("path", PATHS)
def test_every_sampler_reaches_the_exact_posterior(name, path):
    """What control is for: samples have the mean and the spread of those latents of which y is true."""
    levels = levels_at(torch.linspace(-10, 10, 121, dtype=torch.float64).tolist(), path)
    zt = levels[0].sigma * starts(800)
    z0 = SAMPLERS[name](steered(prior, log_likelihood, 1.0), zt, levels, noise=normal_noise(zt))
    assert z0.mean().item() == pytest.approx(POSTERIOR[0], abs=0.03)
    assert z0.std().item() == pytest.approx(POSTERIOR[1], rel=0.06)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_linear_score_of_the_estimate_tilts_a_gaussian_exactly(name):
    """p(z0) exp(c z0) is the same Gaussian with its mean moved by c times its variance; so is each estimate."""
    tilt = torch.tensor([0.5, -1.0], dtype=torch.float64)
    moved = MEAN + tilt * SPREAD**2
    steering = steered_by_estimate(prior, lambda z0_hat: (tilt * z0_hat).flatten(1).sum(1), 1.0)
    levels = levels_at(torch.linspace(-10, 10, 121, dtype=torch.float64).tolist())
    for level in levels[::25]:
        zt = level.sigma * starts(5)
        torch.testing.assert_close(steering(zt, level), denoiser(moved, SPREAD)(zt, level), rtol=1e-6, atol=1e-6)
    zt = levels[0].sigma * starts(800)
    z0 = SAMPLERS[name](steering, zt, levels, noise=normal_noise(zt))
    torch.testing.assert_close(z0.mean((0, 1)), moved, rtol=0, atol=0.06)
    torch.testing.assert_close(z0.std((0, 1)), torch.full_like(moved, SPREAD), rtol=0.06, atol=0)


def high(z0_hat):
    return z0_hat.flatten(1).sum(1)


def by_class(denoise, scale=1.0, **more):
    return steered(denoise, log_likelihood, scale, **more)


def by_function(denoise, scale=1.0, **more):
    return steered_by_estimate(denoise, high, scale, **more)


@pytest.mark.parametrize("wrap", [by_class, by_function])
def test_the_sign_and_the_size_of_the_scale(wrap):
    """0 is the denoiser itself, bit for bit and at no cost; what is added is linear; below 0 it goes the other way."""
    (level,) = levels_at([0.3])
    zt = starts(6)
    assert wrap(prior, 0) is prior
    added = [wrap(prior, scale)(zt, level) - prior(zt, level) for scale in (1.0, 2.5, -2.0)]
    assert added[0].abs().max() > 0.1
    torch.testing.assert_close(added[1], 2.5 * added[0])
    torch.testing.assert_close(added[2], -2.0 * added[0])
    assert (steered_by_estimate(prior, high, 1.0)(zt, level) > prior(zt, level)).all()


def test_it_steers_between_two_levels_only():
    """Both ends count. Outside nothing changes, bit for bit; in a batch of many levels row by row."""
    level = levels_at([-4.0, -2.0, 0.0, 2.0, 4.0])
    zt = starts(5)
    for wrapped in (
        steered(prior, log_likelihood, 1.0, (-2.0, 2.0)),
        steered_by_estimate(prior, high, 1.0, (-2.0, 2.0)),
    ):
        for one, inside in zip(level, (False, True, True, True, False), strict=True):
            assert torch.equal(wrapped(zt, one), prior(zt, one)) != inside
        rows = Level(*(torch.stack(x) for x in zip(*level, strict=True)))
        changed = (wrapped(zt, rows) != prior(zt, rows)).flatten(1).any(1)
        assert changed.tolist() == [False, True, True, True, False]


def test_diffusion_times_are_given_and_their_ends_leave_nothing_out():
    """1 is noise. A bound that was rounded to the other side would lose the first step."""
    schedule = build_schedule(ScheduleConfig(kind="linear"))
    assert schedule.between(1.0, 0.0) == (-math.inf, math.inf)
    low, high = schedule.between(0.8, 0.2)
    assert low == pytest.approx(float(schedule.log_snr(torch.tensor(0.8)))) and low < high


def test_steerings_add_up_in_any_order():
    """Two classifiers, two functions, and one of each, one inside the other: the sum of what each adds."""
    (level,) = levels_at([0.3])
    zt = starts(4)

    def low(z0_hat):
        return -(z0_hat**2).flatten(1).sum(1)

    def added(*wraps):
        denoise = prior
        for wrap in wraps:
            denoise = wrap(denoise)
        with torch.no_grad():
            return denoise(zt, level) - prior(zt, level)

    for pair in itertools.product((by_class, by_function), repeat=2):
        torch.testing.assert_close(added(*pair), added(pair[0]) + added(pair[1]))
    both = steered_by_estimate(by_function(prior), low, 0.1)(zt, level)
    assert not both.requires_grad
    # (the second one sees the estimate that the first one has moved)
    moved = by_function(prior)(zt, level)
    slope = level.sigma**2 / level.alpha * level.alpha * SPREAD**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)
    torch.testing.assert_close(both, moved + 0.1 * slope * -2 * moved)


def test_rows_do_not_meet():
    """A sample must not depend on its batch."""
    (level,) = levels_at([-1.0])
    zt = starts(6)
    for wrapped in (steered(prior, log_likelihood, 2.0), steered_by_estimate(prior, high, 2.0)):
        torch.testing.assert_close(wrapped(zt, level)[2:3], wrapped(zt[2:3], level))


def test_the_last_estimate_is_handed_on():
    """Self-conditioning goes on under control."""

    def echo(zt, level, z0_prev=None):
        return 0.5 * zt + z0_prev

    (level,) = levels_at([0.0])
    zt = starts(2)
    even = steered(echo, lambda zt, level: 0 * high(zt), 1.0), steered_by_estimate(echo, lambda z: 0 * high(z), 1.0)
    for wrapped in even:
        torch.testing.assert_close(wrapped(zt, level, 3 * zt), 3.5 * zt)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda z0_hat: 3.0, "gave a float"),
        (lambda z0_hat: z0_hat.sum(), "shape \\[\\]"),
        (lambda z0_hat: z0_hat[:, 0], "shape \\[4, 2\\]"),
        (lambda z0_hat: z0_hat.detach().flatten(1).sum(1), "without a gradient"),
    ],
)
def test_a_function_that_cannot_steer_is_told_what_it_must_give(function, says):
    (level,) = levels_at([0.0])
    with pytest.raises(UserError, match=says):
        steered_by_estimate(prior, function, 1.0)(starts(4), level)
