"""Samplers against truths worked out elsewhere: closed forms, orders of convergence, hand-worked steps, diffusers.

Each kind of test catches what the others let pass: a wrong constant in a second-order correction keeps the exact
Gaussian limit; a hidden alpha^2 + sigma^2 = 1 keeps the order on one path; a swapped ratio of step sizes is invisible
on an even grid.
"""

import math
from itertools import pairwise

import pytest
import torch

from ladle.diffusion.samplers import SAMPLERS
from ladle.diffusion.schedule import PATHS as OWN_PATHS
from ladle.diffusion.schedule import Schedule, ScheduleConfig, build_schedule, sampling_levels

PATHS = [*OWN_PATHS, "variance_exploding"]  # the last by a fixture
pytestmark = pytest.mark.usefixtures("exploding_path")

ddim, heun, dpmpp_2m, dpmpp_2m_sde = (SAMPLERS[name] for name in ("ddim", "heun", "dpmpp_2m", "dpmpp_2m_sde"))
DETERMINISTIC = ["ddim", "heun", "dpmpp_2m"]
STOCHASTIC = ["ddpm", "dpmpp_2m_sde"]
ORDERS = {"ddim": 1, "heun": 2, "dpmpp_2m": 2}
MEAN, SPREAD = 0.7, 0.4


def gaussian(zt, level, z0_prev=None):
    """E[z0 | zt] when z0 ~ N(MEAN, SPREAD^2)."""
    variance = level.alpha**2 * SPREAD**2 + level.sigma**2
    return MEAN + level.alpha * SPREAD**2 / variance * (zt - level.alpha * MEAN)


def gaussian_flow(zt, start, end):
    """The exact probability flow of that Gaussian: standardise at one level, de-standardise at the other."""
    deviation = [torch.sqrt(level.alpha**2 * SPREAD**2 + level.sigma**2) for level in (start, end)]
    return end.alpha * MEAN + deviation[1] / deviation[0] * (zt - start.alpha * MEAN)


def crooked(zt, level, z0_prev=None):
    """A denoiser without symmetry: it bends, depends on the level, and on the estimate that it is handed back."""
    level = level.expand(zt)
    previous = 0.0 if z0_prev is None else z0_prev
    return torch.tanh(0.9 * zt / (level.alpha**2 + level.sigma**2).sqrt() + 0.1 * level.log_snr) + 0.3 * previous - 0.1


def levels_at(log_snr, path="variance_preserving"):
    schedule = Schedule(lambda t: t, path)
    return [schedule.level_from_log_snr(torch.tensor(x, dtype=torch.float64)) for x in log_snr]


def starts(count=9):
    return torch.linspace(-2, 2, count, dtype=torch.float64)


def normal_noise(like, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def no_noise():
    raise AssertionError("a deterministic sampler drew noise")


def even(steps, path="variance_preserving", end=10.0):
    return levels_at(torch.linspace(-end, end, steps + 1, dtype=torch.float64).tolist(), path)


# Closed form


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_reach_the_exact_flow_of_a_gaussian(name, path):
    """Right, not merely the same as yesterday: with many steps, the map is the known one, point by point."""
    levels = even(400, path)
    zt = levels[0].sigma * starts()
    reached = SAMPLERS[name](gaussian, zt, levels, noise=no_noise)
    error = (reached - gaussian_flow(zt, levels[0], levels[-1])).abs().max()
    assert error < (2e-2 if name == "ddim" else 5e-4)
    exact_spread = 2 * math.sqrt(levels[-1].alpha ** 2 * SPREAD**2 + levels[-1].sigma ** 2)
    assert reached.max() - levels[-1].alpha * MEAN == pytest.approx(exact_spread, rel=0.03)


@pytest.mark.parametrize("schedule", ["cosine", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_gives_the_mean_and_spread_of_the_data(name, schedule):
    """As users run them: float32, a real schedule, evenly spaced times, pure noise at the start."""
    levels = sampling_levels(build_schedule(ScheduleConfig(kind=schedule)), 400)
    zt = levels[0].sigma * torch.randn(40_000, generator=torch.Generator().manual_seed(1))
    z0 = SAMPLERS[name](gaussian, zt, levels, noise=normal_noise(zt, 2))
    # Five standard errors are .010 in the mean and .007 in the spread; the rest is the bias of 400 steps.
    assert z0.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert z0.std().item() == pytest.approx(SPREAD, abs=0.01)


@pytest.mark.parametrize("path", PATHS)
def test_ddpm_follows_the_posterior_of_bayes_rule(path):
    """Two steps' mean and variance from q(zs | zt, z0) = q(zt | zs) q(zs | z0) / q(zt | z0), by products of normals."""
    levels = levels_at([-3.0, -0.5, 2.5], path)
    alpha, sigma = ([getattr(level, name).item() for level in levels] for name in ("alpha", "sigma"))
    z0, zt = -0.8, 1.3
    mean, variance = zt, 0.0
    for t, s in ((0, 1), (1, 2)):
        ratio = alpha[t] / alpha[s]  # q(zt | zs) = N(ratio zs, noise)
        noise = sigma[t] ** 2 - ratio**2 * sigma[s] ** 2
        posterior = 1 / (1 / sigma[s] ** 2 + ratio**2 / noise)  # precisions of prior and likelihood add up
        mean = posterior * (alpha[s] * z0 / sigma[s] ** 2 + ratio * mean / noise)
        variance = posterior + (posterior * ratio / noise) ** 2 * variance
    start = torch.full((200_000,), zt, dtype=torch.float64)
    drawn = SAMPLERS["ddpm"](
        lambda zt, level, z0_prev: torch.full_like(zt, z0), start, levels, noise=normal_noise(start)
    )
    assert drawn.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / len(start)))
    assert drawn.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / len(start)))


# Order


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_error_falls_with_the_order_of_the_sampler(name, path):
    """The slope of log error on log steps. `alpha` mistaken for its square, or a lost history, never gets there."""
    steps = torch.tensor([80, 160, 320, 640])
    errors = []
    for count in steps.tolist():
        levels = even(count, path, end=8.0)
        zt = levels[0].sigma * starts()
        exact = gaussian_flow(zt, levels[0], levels[-1])
        errors.append((SAMPLERS[name](gaussian, zt, levels, noise=no_noise) - exact).abs().max().log())
    x = steps.double().log()
    slope = -((x - x.mean()) * torch.stack(errors)).sum() / ((x - x.mean()) ** 2).sum()
    assert slope.item() == pytest.approx(ORDERS[name], abs=0.12)


# Path invariance


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_answer_on_every_path(name):
    """zt / sigma is the same on all paths at one log-SNR, so sampling is too; the grid is uneven on purpose."""
    grid = [-9.0, -7.5, -3.0, -2.2, 0.4, 1.1, 4.0, 9.0]

    def scale_free(zt, level, z0_prev=None):
        """`crooked` on the variance-preserving latent of the same content, whichever path zt is on."""
        preserving = levels_at([level.log_snr.item()])[0]
        return crooked(zt * preserving.sigma / level.sigma, preserving, z0_prev)

    ends = {}
    for path in PATHS:
        levels = levels_at(grid, path)
        zt = levels[0].sigma * starts()
        ends[path] = SAMPLERS[name](scale_free, zt, levels, noise=normal_noise(zt)) / levels[-1].alpha
    for path in ("rectified_flow", "variance_exploding"):
        torch.testing.assert_close(ends[path], ends["variance_preserving"], rtol=0, atol=1e-12)


# Oracle: three uneven steps, worked in other coordinates than the samplers' own

GRID = [-4.0, -2.5, 1.5, 2.0]


class Rational:
    """x = zt / alpha over s = sigma / alpha, where the flow reads dx / ds = (x - z0_hat) / s. Python floats only."""

    def __init__(self, path, zt):
        self.levels = levels_at(GRID, path)
        self.s = [(level.sigma / level.alpha).item() for level in self.levels]
        self.x = zt / self.levels[0].alpha.item()
        self.step, self.last = 0, None

    def denoise(self, x, step):
        level = self.levels[step]
        previous = None if self.last is None else torch.tensor(self.last, dtype=torch.float64)
        self.last = crooked(torch.tensor(x, dtype=torch.float64) * level.alpha, level, previous).item()
        return self.last

    def end(self):
        return self.x * self.levels[-1].alpha.item()


def ddim_by_hand(path, zt, noise):
    run = Rational(path, zt)
    for i in range(3):
        slope = (run.x - run.denoise(run.x, i)) / run.s[i]
        run.x += (run.s[i + 1] - run.s[i]) * slope
    return run.end()


def heun_by_hand(path, zt, noise):
    run = Rational(path, zt)
    for i in range(3):
        first = run.denoise(run.x, i)
        euler = first + (run.x - first) * run.s[i + 1] / run.s[i]
        second = run.denoise(euler, i + 1)
        mean = 0.5 * first + 0.5 * second
        run.x = mean + (run.x - mean) * run.s[i + 1] / run.s[i]
    return run.end()


def ddpm_by_hand(path, zt, noise):
    """Karras' ancestral split: down to s_down, then up by fresh noise (k-diffusion's `get_ancestral_step`, eta = 1)."""
    run = Rational(path, zt)
    for i in range(3):
        z0_hat = run.denoise(run.x, i)
        up = math.sqrt(run.s[i + 1] ** 2 * (run.s[i] ** 2 - run.s[i + 1] ** 2) / run.s[i] ** 2)
        down = math.sqrt(run.s[i + 1] ** 2 - up**2)
        run.x = z0_hat + (run.x - z0_hat) * down / run.s[i] + up * noise[i]
    return run.end()


def dpmpp_2m_by_hand(path, zt, noise, eta=0.0):
    """Algorithm 2 of arXiv 2211.01095 with r_i = h_{i-1} / h_i, and its SDE form; first order first and last."""
    run = Rational(path, zt)
    estimates = []
    h = [math.log(run.s[i] / run.s[i + 1]) for i in range(3)]
    for i in range(3):
        estimates.append(run.denoise(run.x, i))
        d = estimates[i]
        if i == 1:
            r = h[0] / h[1]
            d = (1 + 1 / (2 * r)) * estimates[1] - 1 / (2 * r) * estimates[0]
        kept = run.s[i + 1] ** 2 / run.s[i] ** 2 if eta else run.s[i + 1] / run.s[i]
        spread = run.s[i + 1] * math.sqrt(1 - run.s[i + 1] ** 2 / run.s[i] ** 2) if eta else 0.0
        run.x = kept * run.x + (1 - kept) * d + spread * noise[i]
    return run.end()


def dpmpp_2m_sde_by_hand(path, zt, noise):
    return dpmpp_2m_by_hand(path, zt, noise, eta=1.0)


HAND = {
    "ddim": ddim_by_hand,
    "heun": heun_by_hand,
    "ddpm": ddpm_by_hand,
    "dpmpp_2m": dpmpp_2m_by_hand,
    "dpmpp_2m_sde": dpmpp_2m_sde_by_hand,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_three_steps_agree_with_the_same_steps_worked_by_hand(name, path):
    """Uneven steps and a denoiser that reads its last estimate: a swapped ratio or a stale estimate shows."""
    noise = [0.3, -1.1, 0.6]
    draws = iter(noise)
    zt = torch.tensor([0.9], dtype=torch.float64)
    reached = SAMPLERS[name](crooked, zt, levels_at(GRID, path), noise=lambda: torch.full_like(zt, next(draws)))
    assert reached.item() == pytest.approx(HAND[name](path, 0.9, noise), abs=1e-12)


def test_four_steps_of_dpmpp_2m_use_the_last_two_estimates():
    """Three steps hold one step of second order only; in the fourth, a history that never moves on would show."""
    grid = [-4.0, -2.5, 1.5, 2.0, 3.5]
    levels = levels_at(grid)
    constants = [0.5, -0.2, 0.9, 0.4]
    x, s = 0.9 / levels[0].alpha.item(), [math.exp(-value / 2) for value in grid]
    h = [(b - a) / 2 for a, b in pairwise(grid)]
    for i, d in enumerate(constants):
        if i in (1, 2):
            d = d + h[i] / (2 * h[i - 1]) * (d - constants[i - 1])
        x = d + (x - d) * s[i + 1] / s[i]
    values = iter(constants)
    zt = torch.tensor([0.9], dtype=torch.float64)
    reached = dpmpp_2m(lambda zt, level, z0_prev: torch.full_like(zt, next(values)), zt, levels)
    assert reached.item() == pytest.approx(x * levels[-1].alpha.item(), abs=1e-12)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_multistep_agrees_with_diffusers(name):
    """An implementation by other hands, on its own sigmas (float32 inside, hence the tolerance)."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers, to compare with, is not installed")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++" if name == "dpmpp_2m" else "sde-dpmsolver++",
        prediction_type="sample",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        euler_at_final=True,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(12)
    levels = levels_at((-2 * scheduler.sigmas.double().log()).tolist())
    noise, theirs, previous = normal_noise(starts(), seed=3), starts(), None
    for timestep, level in zip(scheduler.timesteps, levels[:-1], strict=True):
        previous = crooked(theirs, level, previous)
        draw = {"variance_noise": noise()} if name == "dpmpp_2m_sde" else {}
        theirs = scheduler.step(previous, timestep, theirs, **draw).prev_sample
    ours = SAMPLERS[name](crooked, starts(), levels, noise=normal_noise(starts(), seed=3))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_first_order_agrees_with_diffusers(name):
    """diffusers' DDIM with its own eta at 0 and at 1, where it is the ancestral sampler."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers, to compare with, is not installed")
    scheduler = diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    alpha_squared = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    levels = levels_at((alpha_squared / (1 - alpha_squared)).log().tolist())
    noise, theirs, previous = normal_noise(starts(), seed=3), starts(), None
    for timestep, level in zip(scheduler.timesteps[:-1], levels[:-1], strict=True):  # to the last timestep, 0
        previous = crooked(theirs, level, previous)
        draw = {"variance_noise": noise()} if name == "ddpm" else {}
        theirs = scheduler.step(previous, timestep, theirs, eta=float(name == "ddpm"), **draw).prev_sample
    ours = SAMPLERS[name](crooked, starts(), levels, noise=normal_noise(starts(), seed=3))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


# The contract


def test_without_noise_the_stochastic_multistep_is_the_deterministic_one():
    """eta is one dial: at 0 no noise is even drawn."""
    levels = even(7)
    calm = dpmpp_2m_sde(crooked, starts(), levels, noise=no_noise, eta=0.0)
    assert torch.equal(calm, dpmpp_2m(crooked, starts(), levels))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_denoiser_is_handed_the_samplers_own_last_estimate(name):
    """Self-conditioning: None first, then exactly the last output; Heun's corrector gets its predictor's."""
    handed, made, visited = [], [], []

    def denoise(zt, level, z0_prev=None):
        handed.append(z0_prev)
        made.append(crooked(zt, level, z0_prev))
        visited.append(level)
        return made[-1]

    levels = even(5)
    SAMPLERS[name](denoise, starts(), levels, noise=normal_noise(starts()))
    assert handed[0] is None
    assert all(previous is output for previous, output in zip(handed[1:], made, strict=False))
    expected = levels[:-1]
    if name == "heun":
        expected = [level for pair in pairwise(levels) for level in pair]
    assert all(seen is level for seen, level in zip(visited, expected, strict=True))


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_sees_every_step_and_changes_nothing(name):
    """Once a step: its number, zt at its level, and the estimate made from that zt."""
    levels = even(4)
    seen = []
    result = SAMPLERS[name](
        gaussian, starts(), levels, noise=normal_noise(starts()), callback=lambda *news: seen.append(news)
    )
    assert torch.equal(result, SAMPLERS[name](gaussian, starts(), levels, noise=normal_noise(starts())))
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[0][1], starts())
    for step, zt, z0_hat in seen:
        assert torch.equal(z0_hat, gaussian(zt, levels[step]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLERS)
def test_latents_keep_their_dtype_and_the_input_is_untouched(name, dtype):
    """Levels and noise are float32 and a network under autocast may answer in another dtype; none may leak."""
    levels = sampling_levels(build_schedule(ScheduleConfig()), 4)
    zt = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = zt.clone()
    noise = normal_noise(zt.float())
    z0 = SAMPLERS[name](lambda zt, level, z0_prev: crooked(zt.float(), level), zt, levels, noise=noise)
    assert z0.dtype == dtype and z0.shape == zt.shape and z0.isfinite().all()
    assert torch.equal(zt, before)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_of_no_length_change_nothing(name):
    """Where a strongly shifted schedule is clamped, neighbouring levels are equal: no 0 / 0, and the same answer."""
    once, twice = levels_at([-6, -2, 1, 6]), levels_at([-6, -6, -6, -2, 1, 6, 6])
    zt = starts()
    quiet = {"noise": lambda: torch.zeros_like(zt)}
    results = [SAMPLERS[name](gaussian, zt, levels, **quiet) for levels in (once, twice)]
    assert results[1].isfinite().all()
    if name in ("ddim", "ddpm", "heun"):  # for multistep, the longer list has other neighbours
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_run_backwards(name):
    """Inversion for editing: from clean to noise and back returns to the start."""
    levels = even(400, end=6.0)
    z0 = gaussian_flow(starts(), levels[0], levels[-1])
    noise = SAMPLERS[name](gaussian, z0, levels[::-1], noise=no_noise)
    torch.testing.assert_close(noise, starts(), rtol=0, atol=3e-2 if name == "ddim" else 1e-3)
    back = SAMPLERS[name](gaussian, noise, levels, noise=no_noise)
    torch.testing.assert_close(back, z0, rtol=0, atol=3e-2 if name == "ddim" else 1e-3)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_refuse_to_run_backwards(name):
    """Their formula has no real value there: NaN without a word would be the alternative."""
    with pytest.raises(ValueError, match="cannot step from clean to noise"):
        SAMPLERS[name](gaussian, starts(), even(4)[::-1], noise=normal_noise(starts()))


def test_multistep_beats_ddim_on_a_grid_even_in_time():
    """The last step is several times longer than the one before: extrapolating over it costs more than it gains."""
    modes, spread = torch.tensor([-1.0, 0.2, 1.3], dtype=torch.float64), 0.15

    def mixture(zt, level, z0_prev=None):
        variance = (level.alpha * spread) ** 2 + level.sigma**2
        away = zt[:, None] - level.alpha * modes
        share = (-(away**2) / (2 * variance)).softmax(-1)
        return (share * (modes + level.alpha * spread**2 / variance * away)).sum(-1)

    schedule = build_schedule(ScheduleConfig())
    zt = torch.linspace(-2.5, 2.5, 200, dtype=torch.float64)
    exact = heun(mixture, zt, sampling_levels(schedule, 1000, "log_snr", torch.float64))
    for steps in (6, 12, 25, 50):
        levels = sampling_levels(schedule, steps, "time", torch.float64)
        errors = [(sampler(mixture, zt, levels) - exact).abs().mean() for sampler in (dpmpp_2m, heun, ddim)]
        assert max(errors[:2]) < 0.75 * errors[2]
