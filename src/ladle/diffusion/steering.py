"""Control without training the denoiser: functions Denoise -> Denoise that add a gradient to its estimate.

`steered` follows a classifier of noised latents, `steered_by_estimate` any function of the estimate z0_hat. Both are
without state, go with every sampler, and can be combined with each other and with guidance (`diffusion.wrappers`).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Level
from ladle.errors import UserError

LogProb = Callable[[Tensor, Level], Tensor]
"""(zt [B, L, D], level) -> log p(y | zt) in nats, [B], with a gradient to zt."""
Score = Callable[[Tensor], Tensor]
"""z0_hat [B, L, D] -> a number for each row, [B], with a gradient. Higher is better."""
Between = tuple[float, float]  # the lowest and the highest log-SNR (`Schedule.between`)
EVERYWHERE: Between = (-math.inf, math.inf)


def steered(denoise: Denoise, log_prob: LogProb, scale: float, between: Between = EVERYWHERE) -> Denoise:
    """Classifier guidance (Dhariwal and Nichol, arXiv 2105.05233), written for z0:

        z0_hat + scale * sigma^2 / alpha * grad_zt log p(y | zt)

    Tweedie's formula gives the mean of z0 from the gradient of the density of zt (the score), on every path:
    E[z0 | zt] = (zt + sigma^2 grad log p(zt)) / alpha. By Bayes' rule log p(zt | y) is log p(zt) + log p(y | zt), up to
    a constant. So the mean given y is the mean without it, plus the term above with scale 1, which is exact. A larger
    scale sharpens p(y | zt) to its power. A negative scale goes away from y. 0 changes nothing.

    Args:
        log_prob: of what is wanted. Its rows must not depend on each other.
        between: log-SNRs between which it steers (both included). Elsewhere `denoise` is alone.
    """
    if scale == 0:
        return denoise

    def denoise_steered(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        z0_hat = denoise(zt, level, z0_prev)
        if not _any_inside(level, between):
            return z0_hat
        with torch.enable_grad():
            given = zt.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_prob(given, level).sum(), given)
        return z0_hat + _gain(level, zt, scale, between) * gradient

    return denoise_steered


def steered_by_estimate(denoise: Denoise, score: Score, scale: float, between: Between = EVERYWHERE) -> Denoise:
    """Steering by any function of the estimate (Chung et al., arXiv 2209.14687; universal guidance, arXiv 2302.07121):

        z0_hat + scale * sigma^2 / alpha * grad_zt score(z0_hat(zt))

    This is `steered` where log p(y | zt) is taken to be the score of the mean of z0. The gradient goes through the
    denoiser, and sigma^2 / alpha times its derivative is the covariance of z0 given zt. So it moves z0_hat along
    directions in which real latents vary, the less the surer the denoiser is. It is exact for Gaussian latents and a
    linear score. Near pure noise a learnt denoiser has no such derivative (base-en: 100 times too large at t = 1, right
    from t = 0.99): leave that end out by `between`.

    Raises UserError, when it is called: the score is not a tensor of shape [B], or has no gradient.
    """
    if scale == 0:
        return denoise

    def denoise_steered(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        if not _any_inside(level, between):
            return denoise(zt, level, z0_prev)
        with torch.enable_grad():
            outer = zt.requires_grad  # of another function that steers too, whose gradient goes through this one
            given = zt if outer else zt.detach().requires_grad_()
            z0_hat = denoise(given, level, z0_prev)
            found = score(z0_hat)
            _check_score(found, len(zt))
            (gradient,) = torch.autograd.grad(found.sum(), given, retain_graph=outer)
        return (z0_hat if outer else z0_hat.detach()) + _gain(level, zt, scale, between) * gradient

    return denoise_steered


def _inside(level: Level, between: Between) -> Tensor:
    return (level.log_snr >= between[0]) & (level.log_snr <= between[1])


def _any_inside(level: Level, between: Between) -> bool:
    return between == EVERYWHERE or bool(_inside(level, between).any())


def _gain(level: Level, like: Tensor, scale: float, between: Between) -> Tensor:
    """scale * sigma^2 / alpha, 0 outside `between`, shaped to broadcast against `like`."""
    level = level.expand(like)
    return scale * level.sigma.square() / level.alpha * _inside(level, between)


def _check_score(found: object, batch: int) -> None:
    what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    if not (isinstance(found, Tensor) and found.shape == (batch,)):
        raise UserError(f"a function that steers gave {what}; it must give one number for each row, shape [{batch}]")
    if not found.requires_grad:
        raise UserError("a function that steers gave numbers without a gradient; use torch's operations on z0_hat only")
