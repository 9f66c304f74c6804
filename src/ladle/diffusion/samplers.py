"""How does noise become a latent? By solvers: functions of a denoiser and of the levels to visit.

All solvers use (alpha, sigma, h), where h is half the gain in log_snr of one step (the step in DPM-Solver's lambda).
So they are correct on every path. They share one formula, `_advance`. They differ in the estimate of z0 that they put
into it.

A run starts from zt at levels[0] (`levels[0].sigma * noise` when nothing is known) and returns zt at levels[-1]. With
a schedule clamped at log_snr 15 the last sigma is 5e-4, and that is z0 for every practical purpose.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ladle.diffusion.schedule import Level


class Denoise(Protocol):
    """The waist of the package: the estimate z0_hat of the clean latent, in the shape of `zt`.

    zt: noisy latents, [B, L, D] as a rule; level: how noisy, scalars () or [B]; z0_prev: the last estimate, for
    self-conditioning, None where there is none.
    """

    def __call__(self, zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor: ...


Noise = Callable[[], Tensor]  # a fresh standard normal of zt's shape at every call
Callback = Callable[[int, Tensor, Tensor], None]  # (step from 0, zt at levels[step], z0_hat made from it)


class Sampler(Protocol):
    """The type of every entry of SAMPLERS.

    levels: scalar levels from noise to clean, one more than there are steps. noise: called once per step by the
    stochastic samplers. The deterministic samplers need no noise, and also run from clean to noise (levels reversed).
    The result has zt's shape, dtype and device.
    """

    def __call__(
        self, denoise: Denoise, zt: Tensor, levels: Sequence[Level], *, noise: Noise, callback: Callback | None = None
    ) -> Tensor: ...


class Step(NamedTuple):
    """The numbers of one step from a level to the next: half the gain in log_snr, and the factors of `_advance`.

    spread: None for a deterministic sampler, which draws no noise.
    """

    h: float
    keep: float
    new: float
    spread: float | None


def _steps(levels: Sequence[Level], eta: float) -> list[Step]:
    """One for each pair of neighbours, worked out for all at once and handed over as numbers: on scalars every tensor
    operation of the dozen would take as long as one on the latents."""
    log_snr, alpha, sigma = (torch.stack(values) for values in zip(*levels, strict=True))
    h = log_snr.diff() / 2
    if eta > 0 and bool((h < 0).any()):
        raise ValueError("a stochastic sampler cannot step from clean to noise; give levels of rising log_snr")
    keep = sigma[1:] / sigma[:-1] * torch.exp(-eta * h)
    new = -alpha[1:] * torch.expm1(-(1 + eta) * h)
    spread = sigma[1:] * torch.sqrt(-torch.expm1(-2 * eta * h))
    spreads = spread.tolist() if eta > 0 else [None] * len(h)
    return [Step(*own) for own in zip(h.tolist(), keep.tolist(), new.tolist(), spreads, strict=True)]


def _advance(zt: Tensor, z0_hat: Tensor, step: Step, noise: Noise | None = None) -> Tensor:
    """One step from a level t to the next, s, exact where z0_hat does not change on the way.

        zs = sigma_s / sigma_t e^(-eta h) zt + alpha_s (1 - e^(-(1 + eta) h)) z0_hat + sigma_s sqrt(1 - e^(-2 eta h)) n

    eta = 0 is the probability flow, hence DDIM. eta = 1 is the reverse SDE, and in one step the exact posterior
    q(zs | zt, z0) on any path: with a = alpha_t / alpha_s and b^2 = sigma_t^2 - a^2 sigma_s^2, its mean is
    a sigma_s^2 / sigma_t^2 zt + alpha_s b^2 / sigma_t^2 z0, its variance b^2 sigma_s^2 / sigma_t^2, and
    a sigma_s / sigma_t = e^(-h).
    """
    zs = torch.add(step.keep * zt, z0_hat, alpha=step.new)
    if step.spread is not None:
        assert noise is not None, "a stochastic sampler needs noise"
        zs = torch.add(zs, noise(), alpha=step.spread)
    return zs.to(zt.dtype)


def solve(
    denoise: Denoise,
    zt: Tensor,
    levels: Sequence[Level],
    *,
    noise: Noise | None = None,
    callback: Callback | None = None,
    eta: float = 0.0,
    second_order: Literal["multistep", "heun"] | None = None,
) -> Tensor:
    """Every step with z0_hat of its start. `eta` scales the noise: 0 is deterministic, 1 is the reverse SDE.

    second_order: `multistep` extrapolates z0_hat linearly in log_snr to the middle of the step, from its values at the
    last two levels (DPM-Solver++(2M), arXiv 2211.01095). The first and the last step stay of first order. The first has
    no history. On a grid even in time the last is many times longer than the step before it, and extrapolation over it
    can cost more than all of DDIM's error (tested). One step of lower order does not change the order of the whole.

    `heun` evaluates twice a step: it repeats the step with the mean of z0_hat at both ends. This is DPM-Solver++(2S) at
    r = 1 (arXiv 2211.01095): Heun's method for a z0_hat that varies slowly. Karras et al. average the slope
    d(zt / alpha) / d(sigma / alpha) instead. That is also of order 2, but from log_snr -15 it begins with steps of a
    thousand standard deviations, and with few steps its error is many times larger.
    """
    z0_hat: Tensor | None = None
    h_prev = 0.0
    last = len(levels) - 2
    for number, (step, (level, next_level)) in enumerate(zip(_steps(levels, eta), pairwise(levels), strict=True)):
        z0_prev, z0_hat = z0_hat, denoise(zt, level, z0_hat).to(zt.dtype)
        if callback is not None:
            callback(number, zt, z0_hat)
        estimate = z0_hat
        if second_order == "heun":
            z0_hat = denoise(_advance(zt, estimate, step), next_level, estimate).to(zt.dtype)
            estimate = (estimate + z0_hat) / 2
        # (h_prev is 0 where the schedule clamps.)
        elif second_order and h_prev and z0_prev is not None and number < last:
            estimate = torch.add(z0_hat, z0_hat - z0_prev, alpha=step.h / (2 * h_prev))
        zt, h_prev = _advance(zt, estimate, step, noise), step.h
    return zt


SAMPLERS: dict[str, Sampler] = {
    "ddpm": partial(solve, eta=1.0),  # ancestral: draws from q(zs | zt, z0_hat) (arXiv 2006.11239); the paper's
    "ddim": partial(solve),  # (arXiv 2010.02502); Euler's method on the flow path
    "heun": partial(solve, second_order="heun"),
    "dpmpp_2m": partial(solve, second_order="multistep"),
    "dpmpp_2m_sde": partial(solve, eta=1.0, second_order="multistep"),
}
