"""How noisy is a latent at time t? A schedule is a decreasing function log_snr(t), which gives alpha and sigma.

    zt = alpha * z0 + sigma * eps,    log_snr = 2 * log(alpha / sigma),    t = 0 is clean and t = 1 is noise.

Beware when reading papers: DPM-Solver's lambda is half our log_snr, and flow matching often runs t backwards.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ladle.config import Config


class Level(NamedTuple):
    """One amount of noise: three tensors of one shape, scalars () for a whole batch or [B], one per sample."""

    log_snr: Tensor
    alpha: Tensor
    sigma: Tensor

    def to(self, device: torch.device | str) -> "Level":
        """The same level on `device`."""
        return Level(*(x.to(device) for x in self))

    def expand(self, like: Tensor) -> "Level":
        """The same level, shaped to broadcast against `like` ([B, L, D], say). Dtype and device are kept. Scalars stay
        scalars: they take no part in dtype promotion, and may be on the CPU while the latents are on another device."""
        return self if self.log_snr.ndim == 0 else Level(*(x.reshape(-1, *[1] * (like.ndim - 1)) for x in self))

    @property
    def scale(self) -> Tensor:
        """sqrt(alpha^2 + sigma^2), the spread of zt: 1 on the variance-preserving path."""
        return (self.alpha.square() + self.sigma.square()).sqrt()


PATHS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    # alpha^2 + sigma^2 = 1 (DDPM, the paper).
    "variance_preserving": lambda log_snr: (log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()),
    # alpha + sigma = 1 (flow matching). Each from its own sigmoid: 1 - alpha would cancel near clean.
    "rectified_flow": lambda log_snr: ((log_snr / 2).sigmoid(), (-log_snr / 2).sigmoid()),
}


@dataclass(frozen=True)
class Schedule:
    """A noise schedule: `log_snr(t)`, non-increasing on [0, 1], and the name in PATHS of the path that splits it.

    `log_snr` keeps the shape of t and computes in t's dtype, float32 at least.
    """

    log_snr: Callable[[Tensor], Tensor]
    path: str

    def level(self, t: Tensor) -> Level:
        """The level at time `t` in [0, 1], of shape () or [B]."""
        return self.level_from_log_snr(self.log_snr(t))

    def between(self, from_time: float, to_time: float) -> tuple[float, float]:
        """The lowest and the highest log-SNR between two times, 1 being noise, rounded as `sampling_levels` rounds
        them. The ends of time are the ends of log-SNR, so that no step is left out there."""
        low, high = self.log_snr(torch.tensor([from_time, to_time], dtype=torch.float64)).float().tolist()
        return (-math.inf if from_time == 1 else low), (math.inf if to_time == 0 else high)

    def level_from_log_snr(self, log_snr: Tensor) -> Level:
        """The level at a given `log_snr`, of shape () or [B], in its dtype."""
        return Level(log_snr, *PATHS[self.path](log_snr))


class ScheduleConfig(Config):
    """The noise schedule."""

    kind: Literal["cosine", "linear", "sigmoid", "sqrt", "flow"] = "cosine"
    """`cosine`: alpha = cos(pi t / 2), the paper's schedule. `linear`: DDPM's beta from 0.1 to 20, with a log-SNR of
    -10 at the noise end. `sigmoid`: alpha^2 falls from sigmoid(3) to sigmoid(-3), stretched to 1 and 0. `sqrt`:
    Diffusion-LM's alpha^2 = 1 - sqrt(t). `flow`: rectified flow, alpha = 1 - t. All but `flow` preserve variance."""
    shift: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Shift d: log-SNR is lowered by 2 log d at every time. d > 1 means more noise, d < 1 means less. It is TEncDM's
    tan-d (arXiv 2402.19097) and the paper's `scale` of 1 / d. Wide latents survive more noise, so they need a larger
    shift."""


LOG_SNR_MAX = 15.0  # log-SNR is infinite at both ends


def build_schedule(config: ScheduleConfig, log_snr_max: float = LOG_SNR_MAX) -> Schedule:
    """The schedule that `config` describes. Log-SNR is clamped to +-`log_snr_max`, after the shift."""
    base, path = _KINDS[config.kind]
    return Schedule(partial(_shifted, base=base, shift=config.shift, log_snr_max=log_snr_max), path)


def _shifted(t: Tensor, base: Callable[[Tensor], Tensor], shift: float, log_snr_max: float) -> Tensor:
    # (Not a function inside `build_schedule`: a model can be pickled.)
    t = t.to(torch.promote_types(t.dtype, torch.float32))  # half precision cannot tell the last levels apart
    return (base(t) - 2 * math.log(shift)).clamp(-log_snr_max, log_snr_max)


def _cosine(t: Tensor) -> Tensor:
    """-2 log tan(pi t / 2), as two sines: tan(pi / 2) is negative in float32, sin((1 - t) pi / 2) ends at 0."""
    return 2 * (torch.sin((1 - t) * (math.pi / 2)).log() - torch.sin(t * (math.pi / 2)).log())


def _linear(t: Tensor) -> Tensor:
    """-log alpha^2 is the integral of beta(t) = 0.1 + 19.9 t (Song et al., arXiv 2011.13456, eq. 32)."""
    return -(0.1 * t + 9.95 * t**2).expm1().log()


def _sigmoid(t: Tensor) -> Tensor:
    """Jabri et al. (arXiv 2212.11972), start -3, end 3, tau 1. Their differences of sigmoids are sinh (a - b) / 2 over
    the cosh of both halves, which cancel: no digits are lost at the ends."""
    return (3 * (1 - t)).sinh().log() - (3 * t).sinh().log()


def _sqrt(t: Tensor) -> Tensor:
    """Diffusion-LM's (Li et al., arXiv 2205.14217) without its offset of 1e-4, which would leave a tenth of the noise
    in what a sampler returns; 1 - sqrt(t) as (1 - t) / (1 + sqrt(t))."""
    return (1 - t).log() - t.sqrt().log1p() - t.log() / 2


def _flow(t: Tensor) -> Tensor:
    """2 log((1 - t) / t)."""
    return 2 * ((1 - t).log() - t.log())


_KINDS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "cosine": (_cosine, "variance_preserving"),
    "linear": (_linear, "variance_preserving"),
    "sigmoid": (_sigmoid, "variance_preserving"),
    "sqrt": (_sqrt, "variance_preserving"),
    "flow": (_flow, "rectified_flow"),
}


def sampling_levels(
    schedule: Schedule,
    num_steps: int,
    grid: str = "time",
    dtype: torch.dtype = torch.float32,
    stop_time: float = 0.0,
    start_time: float = 1.0,
) -> list[Level]:
    """The `num_steps + 1` scalar levels that a sampler visits, from `start_time` (1: noise) to clean (t = 0).

    `grid` is the scale on which levels are evenly spaced: "time", "log_snr", or the quantiles of t whose logit is
    N(0, 1) ("logit_normal": times that a denoiser may be trained at, so most steps are where it learnt most). Levels
    are computed in float64 on the CPU and returned in `dtype`. With `stop_time` the steps end at `stop_time`, and one
    more step goes straight to t = 0. It returns the estimate of z0 made at `stop_time`: the mean over all that
    is still possible, and the decoder makes the choice.
    """
    share = torch.linspace(0, 1, num_steps if stop_time else num_steps + 1, dtype=torch.float64)
    stop, start = (torch.tensor(time, dtype=torch.float64) for time in (stop_time, start_time))
    times = start - (start - stop) * share
    if grid == "logit_normal":
        first, last = (torch.special.ndtr(time.logit()) for time in (start, stop))
        times = torch.special.ndtri(first - (first - last) * share).sigmoid()
    log_snr = schedule.log_snr(times)
    if grid == "log_snr":
        ends = schedule.log_snr(torch.stack([start, stop]))
        log_snr = ends[0] + (ends[1] - ends[0]) * share
    if stop_time:
        log_snr = torch.cat([log_snr, schedule.log_snr(torch.zeros(1, dtype=torch.float64))])
    levels = schedule.level_from_log_snr(log_snr)
    return [Level(*level) for level in zip(*(x.to(dtype) for x in levels), strict=True)]
