"""How likely are latents under a condition? By how well the denoiser, given it, undoes noise on them.

So the generator itself says which class a text belongs to (Li et al., arXiv 2303.16203; Clark and Jaini,
arXiv 2303.15233).
"""

from collections.abc import Sequence

from torch import Tensor

from ladle.diffusion.prediction import add_noise
from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Schedule

# Log-SNRs between which a condition makes a difference: below, hardly anything of the latents is left to be told from;
# above, the latents say it all themselves.
LOG_SNR_RANGE = (-7.0, 1.0)
NUM_LEVELS = 8


def log_evidence(
    denoise: Denoise,
    schedule: Schedule,
    z0: Tensor,
    draws: Sequence[Tensor],
    log_snr_range: tuple[float, float] = LOG_SNR_RANGE,
) -> Tensor:
    """log p(z0 | condition) in nats, [B], up to what all conditions of a row share: minus half of the integral of
    SNR * |z0 - z0_hat|^2 over log-SNR (Kingma et al., arXiv 2107.00630, section 5.1), by the midpoint rule.

    It holds for any path: only the log-SNR of zt counts. Compare conditions at the same `draws`, or their noise is
    larger than the difference.

    Args:
        denoise: with the condition; zero outside the mask.
        schedule: its path says how z0 is noised.
        z0: [B, L, D], zero outside the mask.
        draws: standard normal noise like z0, one a level; the levels lie even in `log_snr_range`.
    """
    low, high = log_snr_range
    width = (high - low) / len(draws)
    total = z0.new_zeros(len(z0))
    for i, eps in enumerate(draws):
        level = schedule.level_from_log_snr(z0.new_full((len(z0),), low + (i + 0.5) * width))
        error = (denoise(add_noise(z0, eps, level), level) - z0).square()
        total -= 0.5 * width * level.log_snr.exp() * error.flatten(1).sum(1)
    return total
