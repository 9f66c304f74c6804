"""Wrappers are judged on a labelled Gaussian mixture, where the right answer of guidance is known."""

import pytest
import torch

from ladle.diffusion.prediction import add_noise
from ladle.diffusion.samplers import SAMPLERS
from ladle.diffusion.schedule import Level, ScheduleConfig, build_schedule, sampling_levels
from ladle.diffusion.wrappers import between, composed_at_once, guided, guided_at_once, inpainted

MEANS = torch.tensor([[-1.5, 0.0], [1.5, 1.0], [0.5, -2.0]])
SHARES = torch.tensor([0.5, 0.3, 0.2])
SPREAD = 0.25
SCHEDULE = build_schedule(ScheduleConfig())


def conditional(label):
    def denoise(zt, level, z0_prev=None):
        """E[z0 | zt, label]."""
        shrink = level.alpha * SPREAD**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)
        return MEANS[label] + shrink * (zt - level.alpha * MEANS[label])

    return denoise


def unconditional(zt, level, z0_prev=None):
    """E[z0 | zt]: the classes' estimates, weighed by the posterior of the class."""
    variance = level.alpha**2 * SPREAD**2 + level.sigma**2
    distance = ((zt[:, None] - level.alpha * MEANS) ** 2).sum(-1)
    posterior = (SHARES.log() - distance / (2 * variance)).softmax(-1)
    estimates = torch.stack([conditional(label)(zt, level) for label in range(3)], dim=1)
    return (posterior[..., None] * estimates).sum(1)


def start(count, seed=0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def noise(like, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=generator)


def nearest_class(z0):
    return torch.cdist(z0, MEANS).argmin(-1)


def never(zt, level, z0_prev=None):
    raise AssertionError("guidance of 1 is off: the unconditional denoiser must not be run")


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_of_one_is_the_conditional_exactly(name):
    """Bit for bit, at no extra cost, and the samples are that class: its mean and its spread."""
    levels, zt = sampling_levels(SCHEDULE, 60), start(8000)
    guided_by_one = SAMPLERS[name](guided(conditional(1), never, 1.0), zt, levels, noise=noise(zt))
    assert torch.equal(guided_by_one, SAMPLERS[name](conditional(1), zt, levels, noise=noise(zt)))
    torch.testing.assert_close(guided_by_one.mean(0), MEANS[1], rtol=0, atol=0.03)
    torch.testing.assert_close(guided_by_one.std(0), torch.full((2,), SPREAD), rtol=0, atol=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_without_a_condition_class_shares_are_right(name):
    """A sampler that drops a mode, or favours one, keeps mean and spread of a single Gaussian."""
    levels, zt = sampling_levels(SCHEDULE, 60), start(8000)
    z0 = SAMPLERS[name](unconditional, zt, levels, noise=noise(zt))
    shares = nearest_class(z0).bincount(minlength=3) / len(z0)
    # four standard errors of a share (.022), and .01 for the bias of 60 steps of first order
    torch.testing.assert_close(shares, SHARES, rtol=0, atol=0.032)
    for label in range(3):
        own = z0[nearest_class(z0) == label]
        torch.testing.assert_close(own.mean(0), MEANS[label], rtol=0, atol=0.06)


def test_guidance_is_the_line_through_both_estimates():
    """0 is the unconditional, 1 the conditional, 3 as far again twice over; z0_prev reaches both denoisers."""
    level, zt = SCHEDULE.level(torch.tensor(0.6)), start(50)
    free, bound = unconditional(zt, level), conditional(2)(zt, level)
    for scale in (0.0, 0.5, 1.0, 3.0):
        z0_hat = guided(conditional(2), unconditional, scale)(zt, level, None)
        torch.testing.assert_close(z0_hat, (1 - scale) * free + scale * bound)
    echo = guided(lambda zt, level, z0_prev: z0_prev, lambda zt, level, z0_prev: 2 * z0_prev, 3.0)
    torch.testing.assert_close(echo(zt, level, zt), 2 * zt + 3 * (zt - 2 * zt))


def test_guidance_in_one_call_is_guidance_in_two():
    """At one level for all rows and at one for each, with a last estimate and without: the same, in one call."""
    calls = []

    def both(zt, level, z0_prev=None):
        calls.append(len(zt))
        levels = [level, level]
        if level.log_snr.ndim:
            parts = (x.chunk(2) for x in (level.log_snr, level.alpha, level.sigma))
            levels = [Level(*half) for half in zip(*parts, strict=True)]
        previous = (None, None) if z0_prev is None else z0_prev.chunk(2)
        halves = zip((conditional(2), conditional(0)), zt.chunk(2), levels, previous, strict=True)
        return torch.cat([echo(half)(*rest) for half, *rest in halves])

    def echo(denoise):
        return lambda zt, level, z0_prev=None: denoise(zt + 0.1 * (zt if z0_prev is None else z0_prev), level)

    zt, last = start(25), start(25, 9)
    for time in (torch.tensor(0.6), torch.linspace(0.1, 0.9, 25)[:, None]):
        level = SCHEDULE.level(time)
        for previous in (None, last):
            apart = guided(echo(conditional(2)), echo(conditional(0)), 2.5)(zt, level, previous)
            torch.testing.assert_close(guided_at_once(both, 2.5)(zt, level, previous), apart)
    assert calls == [50] * 4


def test_guidance_above_one_pushes_away_from_the_other_classes():
    """What it is for: no sample of another class, at the price of spread and place."""
    levels, zt = sampling_levels(SCHEDULE, 60), start(2000)
    z0 = SAMPLERS["dpmpp_2m_sde"](guided(conditional(1), unconditional, 3.0), zt, levels, noise=noise(zt))
    assert (nearest_class(z0) == 1).all()
    others = MEANS[[0, 2]].mean(0)
    assert (z0.mean(0) - others).norm() > (MEANS[1] - others).norm() + 0.05


# A mixture with a class on each axis, drawn apart: (left, middle, right) and (low, high). So its conditions are
# independent given z0, and the estimates under both of them, one or none are known.
AXES = (torch.tensor([-2.0, 0.0, 2.0]), torch.tensor([-1.5, 1.5]))


def by_axis(*wanted):
    """E[z0 | zt, the classes that are wanted], one for each axis or None."""

    def denoise(zt, level, z0_prev=None):
        variance = level.alpha**2 * SPREAD**2 + level.sigma**2
        estimates = []
        for x, means, number in zip(zt.unbind(-1), AXES, wanted, strict=True):
            means = means if number is None else means[number : number + 1]
            posterior = (-((x[:, None] - level.alpha * means) ** 2) / (2 * variance)).softmax(-1)
            shrink = level.alpha * SPREAD**2 / variance
            estimates.append((posterior * (means + shrink * (x[:, None] - level.alpha * means))).sum(-1))
        return torch.stack(estimates, dim=-1)

    return denoise


def stacked(*denoisers, calls=None):
    """One denoiser of all rows once for each of the denoisers."""

    def denoise(zt, level, z0_prev=None):
        if calls is not None:
            calls.append(len(zt))
        count = len(denoisers)
        previous = [None] * count if z0_prev is None else z0_prev.chunk(count)
        return torch.cat([own(x, level, p) for own, x, p in zip(denoisers, zt.chunk(count), previous, strict=True)])

    return denoise


FREE, RIGHT, HIGH = by_axis(None, None), by_axis(2, None), by_axis(None, 1)


def test_independent_conditions_with_weight_one_are_both_conditions_exactly():
    """The closed form of composition: the estimate under both, in one call for all copies of the batch."""
    zt, calls = start(200), []
    for time in (0.1, 0.5, 0.9):
        level = SCHEDULE.level(torch.tensor(time))
        composed = composed_at_once(stacked(FREE, RIGHT, HIGH, calls=calls), [1.0, 1.0])
        torch.testing.assert_close(composed(zt, level), by_axis(2, 1)(zt, level))
    assert calls == [600] * 3


def test_one_condition_alone_is_plain_guidance():
    """The formula is that of guidance, summed over conditions; z0_prev reaches every copy."""
    level, zt = SCHEDULE.level(torch.tensor(0.6)), start(50)
    for scale in (-1.0, 0.0, 0.5, 3.0):
        expected = guided(conditional(2), unconditional, scale)(zt, level)
        torch.testing.assert_close(
            composed_at_once(stacked(unconditional, conditional(2)), [scale])(zt, level), expected
        )
    echo = stacked(lambda zt, level, z0_prev: z0_prev, lambda zt, level, z0_prev: 2 * z0_prev)
    torch.testing.assert_close(composed_at_once(echo, [3.0])(zt, level, zt), zt + 3 * (2 * zt - zt))
    rows = SCHEDULE.level(torch.linspace(0.1, 0.9, 50)[:, None])
    seen = []

    def noting(zt, level, z0_prev=None):
        seen.append(level)
        return zt

    composed_at_once(noting, [1.0, 2.0])(zt, rows)
    torch.testing.assert_close(seen[0].log_snr, torch.cat([rows.log_snr] * 3))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_negative_weight_leads_away_from_its_condition(name):
    """Right and not high. Half are high without it. (Those that are high from the start stay there: then the estimates
    with and without the condition are the same, and nothing leads away.)"""
    levels, zt = sampling_levels(SCHEDULE, 60), start(2000)
    composed = composed_at_once(stacked(FREE, RIGHT, HIGH), [1.0, -1.0])
    z0 = SAMPLERS[name](composed, zt, levels, noise=noise(zt))
    assert (z0[:, 0] - 2).abs().max() < 1.5
    assert (z0[:, 1] < 0).float().mean() > 0.8
    away = SAMPLERS[name](composed_at_once(stacked(FREE, RIGHT), [-1.0]), zt, levels, noise=noise(zt))
    assert (away[:, 0] < 1).float().mean() > 0.85
    shares = (away[:, 1] > 0).float().mean()
    assert shares == pytest.approx(0.5, abs=0.05)


def test_outside_its_interval_another_denoiser_is_asked():
    """Each level by one of the two alone, both ends inside: what is outside costs nothing."""
    asked = []

    def named(what):
        def denoise(zt, level, z0_prev=None):
            asked.append((what, round(float(level.log_snr), 3), z0_prev is None))
            return zt

        return denoise

    levels = sampling_levels(SCHEDULE, 10)
    low, high = (float(levels[i].log_snr) for i in (3, 7))
    denoise = between(named("inside"), named("outside"), low, high)
    SAMPLERS["ddim"](denoise, start(5), levels, noise=noise(start(5)))
    assert [what for what, *_ in asked] == ["outside"] * 3 + ["inside"] * 5 + ["outside"] * 2
    assert [first for *_, first in asked] == [True] + [False] * 9


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("mask_axes", [2, 3])
def test_inpainting_keeps_what_is_known_and_shows_it_at_the_right_noise(name, mask_axes):
    """Known positions end at their values, and on the way hold those values under just the level's noise."""
    known = torch.tensor([2.0, -1.0]).expand(3000, 4, 2).contiguous()
    mask = torch.tensor([True, False, True, False]).expand(3000, 4)
    mask = mask if mask_axes == 2 else mask[..., None].expand(3000, 4, 2)
    levels = sampling_levels(SCHEDULE, 30)
    zt = add_noise(
        torch.zeros(3000, 4, 2), torch.randn(3000, 4, 2, generator=torch.Generator().manual_seed(0)), levels[0]
    )
    seen = []
    z0 = SAMPLERS[name](
        inpainted(conditional(2), known, mask), zt, levels, noise=noise(zt), callback=lambda *news: seen.append(news)
    )
    torch.testing.assert_close(z0[:, ::2], known[:, ::2], rtol=0, atol=5e-3)
    torch.testing.assert_close(z0[:, 1::2].mean((0, 1)), MEANS[2], rtol=0, atol=0.03)
    for step, zt, _ in seen[1:]:
        implied = (zt[:, ::2] - levels[step].alpha * known[:, ::2]) / levels[step].sigma
        assert implied.mean().abs() < 0.05
        assert implied.std().item() == pytest.approx(1, abs=0.05)
