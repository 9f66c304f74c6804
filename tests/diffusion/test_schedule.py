"""The schedule is where `alpha` and `alpha squared`, `log_snr` and its half, get mixed up: closed forms pin it down."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.diffusion.schedule import (
    PATHS,
    Level,
    Schedule,
    ScheduleConfig,
    build_schedule,
    sampling_levels,
)
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions

KINDS = ["cosine", "linear", "sigmoid", "sqrt", "flow"]
times = st.floats(0, 1, allow_nan=False)
shifts = st.floats(0.05, 50)


def noise_end(kind: str, shift: float, clamp: float) -> float:
    """log_snr at t = 1: DDPM's betas leave some signal, the others none."""
    return max(-clamp, -math.log(math.expm1(10.05)) - 2 * math.log(shift)) if kind == "linear" else -clamp


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.01, 0.2, 0.5, 0.77, 0.99])
def test_unshifted_schedules_have_their_textbook_alpha_and_sigma(t):
    """alpha = cos(pi t / 2), not its square; the flow's alpha = 1 - t."""
    cosine = build_schedule(ScheduleConfig()).level(scalar(t))
    assert cosine.alpha.item() == pytest.approx(math.cos(math.pi * t / 2), rel=1e-12)
    assert cosine.sigma.item() == pytest.approx(math.sin(math.pi * t / 2), rel=1e-12)
    flow = build_schedule(ScheduleConfig(kind="flow")).level(scalar(t))
    assert flow.alpha.item() == pytest.approx(1 - t, rel=1e-12)
    assert flow.sigma.item() == pytest.approx(t, rel=1e-12)
    sqrt = build_schedule(ScheduleConfig(kind="sqrt")).level(scalar(t))
    assert sqrt.alpha.item() ** 2 == pytest.approx(1 - math.sqrt(t), rel=1e-12)


@pytest.mark.parametrize("t", [0.01, 0.2, 0.5, 0.77, 0.99])
def test_the_sigmoid_schedule_is_the_papers_difference_of_sigmoids(t):
    """As Jabri et al. write it."""
    high, low, here = (1 / (1 + math.exp(-x)) for x in (3, -3, 6 * t - 3))
    level = build_schedule(ScheduleConfig(kind="sigmoid")).level(scalar(t))
    assert level.alpha.item() ** 2 == pytest.approx((high - here) / (high - low), rel=1e-12)


def test_the_linear_schedule_is_the_limit_of_ddpms_thousand_steps():
    """Their alpha_bar is the product of 1 - beta, beta even from 1e-4 to 0.02."""
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    schedule = build_schedule(ScheduleConfig(kind="linear"))
    for step in (100, 500, 900):
        level = schedule.level(scalar(step / 1000))
        assert 2 * math.log(level.alpha) == pytest.approx(math.log(alpha_bar[step - 1]), rel=0.01)


def test_a_shifted_cosine_is_tan_d():
    """TEncDM writes the same shift as alpha^2 = 1 / (1 + d^2 tan^2(pi t / 2))."""
    for d in (3.0, 9.0):
        level = build_schedule(ScheduleConfig(shift=d)).level(scalar(0.3))
        assert level.alpha.item() ** 2 == pytest.approx(1 / (1 + (d * math.tan(math.pi * 0.15)) ** 2), rel=1e-12)


@pytest.mark.parametrize("path", PATHS)
@given(log_snr=st.floats(-15, 15))
@settings(max_examples=40, deadline=None)
def test_alpha_and_sigma_give_log_snr_back_on_every_path(path, log_snr):
    """log_snr = 2 log(alpha / sigma) is the definition that the samplers rest on; no path may lose digits."""
    level = Schedule(lambda t: t, path).level_from_log_snr(scalar(log_snr))
    assert 2 * math.log(level.alpha / level.sigma) == pytest.approx(log_snr, abs=1e-12)
    constraint = {
        "variance_preserving": level.alpha**2 + level.sigma**2,
        "rectified_flow": level.alpha + level.sigma,
    }[path]
    assert constraint.item() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@given(first=times, second=times, shift=shifts)
@settings(max_examples=100, deadline=None)
def test_log_snr_never_rises_with_time(kind, first, second, shift):
    """t = 0 is clean and t = 1 is noise; and between the clamps it falls strictly."""
    schedule = build_schedule(ScheduleConfig(kind=kind, shift=shift))
    early, late = schedule.log_snr(torch.tensor(sorted((first, second)), dtype=torch.float64)).tolist()
    assert early >= late
    if abs(first - second) > 1e-6 and early < 15 and late > -15:
        assert early > late


@pytest.mark.parametrize("kind", KINDS)
@given(t=st.floats(0.02, 0.98), shift=st.floats(0.1, 10))
@settings(max_examples=100, deadline=None)
def test_shift_adds_minus_two_log_d(kind, t, shift):
    """It moves every level by one constant, whatever the schedule's shape."""
    plain = build_schedule(ScheduleConfig(kind=kind)).log_snr(scalar(t))
    shifted = build_schedule(ScheduleConfig(kind=kind, shift=shift)).log_snr(scalar(t))
    assert abs(plain.item()) < 15 > abs(shifted.item()), "the clamp must not take part in this test"
    assert (shifted - plain).item() == pytest.approx(-2 * math.log(shift), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0.1, 1.0, 10.0])
def test_the_ends_of_time_are_finite_in_every_dtype(kind, dtype, shift):
    """tan(pi / 2) is negative in float32: written so, the noise end would be NaN."""
    log_snr = build_schedule(ScheduleConfig(kind=kind, shift=shift), log_snr_max=12).log_snr(
        torch.tensor([0, 1], dtype=dtype)
    )
    assert log_snr[0] == 12
    last = noise_end(kind, shift, 12)
    assert log_snr[1] == (pytest.approx(last, rel=1e-6) if last > -12 else -12)


def test_levels_broadcast_per_sample_and_scalars_stay_scalars():
    """A [B] level must scale whole samples, never the last axis, even where B equals it."""
    zt = torch.ones(3, 3, 3)
    level = build_schedule(ScheduleConfig()).level(torch.tensor([0.2, 0.5, 0.8]))
    scaled = level.expand(zt).alpha * zt
    for row, alpha in zip(scaled, level.alpha, strict=True):
        assert torch.equal(row, alpha * torch.ones(3, 3))
    assert build_schedule(ScheduleConfig()).level(torch.tensor(0.5)).expand(zt).alpha.shape == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", ["time", "log_snr"])
def test_sampling_levels_run_from_noise_to_clean(kind, grid):
    """n steps need n + 1 levels, even in what `grid` names, scalars whose parts belong together."""
    schedule = build_schedule(ScheduleConfig(kind=kind, shift=2.0))
    levels = sampling_levels(schedule, 10, grid)
    assert len(levels) == 11
    first = noise_end(kind, 2.0, 15)
    assert levels[-1].log_snr == 15
    assert levels[0].log_snr == (pytest.approx(first, rel=1e-6) if first > -15 else -15)
    for level in levels:
        assert isinstance(level, Level) and level.log_snr.shape == level.alpha.shape == level.sigma.shape == ()
        assert level.alpha.dtype == torch.float32
        assert 2 * math.log(level.alpha / level.sigma) == pytest.approx(level.log_snr.item(), abs=1e-5)
    log_snr = torch.stack([level.log_snr for level in levels])
    expected = schedule.log_snr(torch.linspace(1, 0, 11)) if grid == "time" else torch.linspace(first, 15, 11)
    torch.testing.assert_close(log_snr, expected)


def test_wrong_settings_are_refused_in_one_line():
    """A user meets these through a recipe or a flag."""
    for bad in ({"shift": 0.0}, {"shift": float("inf")}, {"kind": "tangent"}, {"shfit": 2.0}):
        with pytest.raises(UserError):
            ScheduleConfig.parse(bad)
    for name, value in (("num_inference_steps", 0), ("grid", "logsnr")):
        with pytest.raises(UserError, match=name):
            SamplingOptions().override(**{name: value})


def test_a_logit_normal_grid_has_the_quantiles_of_its_times():
    """Of logits N(0, 1): by the mean and spread of many, and no time under the stop."""
    schedule = build_schedule(ScheduleConfig(kind="flow"), log_snr_max=100.0)

    def times(num_steps, stop_time=0.0):
        levels = sampling_levels(schedule, num_steps, "logit_normal", torch.float64, stop_time)
        return (-torch.stack([level.log_snr for level in levels]) / 2).sigmoid()  # flow: log_snr = -2 logit(t)

    logits = times(4000)[1:-1].logit()
    assert float(logits.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(logits.std()) == pytest.approx(1.0, abs=5e-3)
    stopped = times(400, 0.4)
    assert float(stopped[-2]) == pytest.approx(0.4, abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(200_000, generator=generator, dtype=torch.float64).sigmoid()
    assert float(stopped[200]) == pytest.approx(float(drawn[drawn > 0.4].quantile(0.5)), abs=3e-3)


@pytest.mark.parametrize("grid", ["time", "log_snr", "logit_normal"])
def test_stopping_early_spreads_the_steps_and_ends_with_one_jump(grid):
    """As many steps as asked for; the last level but one is where the estimate is made, the last is clean."""
    schedule = build_schedule(ScheduleConfig(shift=2.0))
    levels = sampling_levels(schedule, 10, grid, torch.float64, stop_time=0.4)
    values = torch.stack([level.log_snr for level in levels])
    assert len(levels) == 11
    assert (values.diff() >= 0).all()
    for value, t in ((values[0], 1.0), (values[-2], 0.4), (values[-1], 0.0)):
        assert float(value) == pytest.approx(float(schedule.log_snr(torch.tensor(t, dtype=torch.float64))))
    assert len(sampling_levels(schedule, 1, grid, stop_time=0.4)) == 2
    for level in sampling_levels(schedule, 4, grid):
        assert level.log_snr.isfinite()
