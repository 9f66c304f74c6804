"""How likely are latents under a condition? The better the denoiser removes noise given the condition, the likelier.

So the generator itself tells which class a text belongs to (Li et al., arXiv 2303.16203; Clark and Jaini,
arXiv 2303.15233).
"""

from collections.abc import Sequence

from torch import Tensor

from ladle.diffusion.prediction import add_noise
from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Schedule

# Log-SNRs between which a condition makes a difference. Below them the noisy latents hold almost no information; above
# them the latents hold all of it themselves.
LOG_SNR_RANGE = (-7.0, 1.0)
NUM_LEVELS = 8


def log_evidence(denoise: Denoise, schedule: Schedule, z0: Tensor, draws: Sequence[Tensor]) -> Tensor:
    """log p(z0 | condition) in nats, [B], up to a constant that all conditions of a row share: minus half of the
    integral of SNR * |z0 - z0_hat|^2 over log-SNR (Kingma et al., arXiv 2107.00630, section 5.1), by the midpoint rule.

    This holds for any path, because only the log-SNR of zt counts. Compare conditions with the same `draws`: other
    draws change the value by more than the condition does.

    Args:
        denoise: with the condition; zero outside the mask.
        schedule: its path decides how noise is added to z0.
        z0: [B, L, D], zero outside the mask.
        draws: standard normal noise like z0, one per level. The levels are evenly spaced in LOG_SNR_RANGE.
    """
    low, high = LOG_SNR_RANGE
    width = (high - low) / len(draws)
    total = z0.new_zeros(len(z0))
    for i, eps in enumerate(draws):
        level = schedule.level_from_log_snr(z0.new_full((len(z0),), low + (i + 0.5) * width))
        error = (denoise(add_noise(z0, eps, level), level) - z0).square()
        total -= 0.5 * width * level.log_snr.exp() * error.flatten(1).sum(1)
    return total
