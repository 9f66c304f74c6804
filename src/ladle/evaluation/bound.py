"""How many nats do latents cost under a diffusion model? An upper bound, for any denoiser and any schedule.

Latents mu of a text are noised to a high log-SNR, and what is left is taken as the latent variable: q(z | text) is a
narrow Gaussian, N(alpha mu, sigma^2 I) at l_max. Under the reverse process of the sampler in continuous time
(Kingma et al., arXiv 2107.00630, equations 11 to 18; as the latent term of LSGM, arXiv 2106.05931):

    KL(q(z | text) || p(z)) <= KL(q(z_l_min | text) || N(0, sigma_l_min^2 I))
                               + 1/2 integral over l from l_min to l_max of e^l E |mu - z0_hat(zl, l)|^2

This holds on any path: with y = z / alpha, all paths are y = mu + e^(-l / 2) eps, and a divergence does not change
with the scale. So alpha and sigma stand nowhere in the bound, nor does the schedule but for its ends. A wrong estimate
makes the bound larger. With the loss of a decoder that reads z, the sum bounds -log p(text) (`evaluation.text_bound`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ladle.diffusion.prediction import add_noise
from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Level, Schedule
from ladle.seeding import SampleNoise

NUM_RANGES = 24  # of the first pass, where the caller names no ranges
EVENLY = 0.2  # share of the draws that are even over log-SNR, so that no weight is large
ENOUGH = 8  # texts of a first pass from which it is learnt how the integrand follows the noise


@dataclass(frozen=True)
class Proposal:
    """Where to look at the integrand: a density over log-SNR that is constant within ranges.

    edges: [K + 1], rising. mass: [K], the share of the draws in each range; the shares sum to 1. follows: [K], how much
    of a surplus of noise comes back in the integrand of a range, 0 to 1 (a control variate).
    """

    edges: Tensor
    mass: Tensor
    follows: Tensor

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers in [0, 1) -> log-SNRs, rising with the numbers, the density and `follows` there, all of one shape."""
        cumulative = torch.cat([self.mass.new_zeros(1), self.mass.cumsum(0)])
        u = uniform.to(cumulative) * cumulative[-1]
        place = torch.searchsorted(cumulative[1:-1].contiguous(), u.contiguous(), right=True)
        width = self.edges.diff()
        inside = ((u - cumulative[place]) / self.mass[place]).clamp(0, 1)
        return self.edges[place] + inside * width[place], self.mass[place] / width[place], self.follows[place]


@dataclass(frozen=True)
class Profile:
    """A coarse first pass: the integrand of some texts at one random place in each range of log-SNR.

    edges: [K + 1], rising. values: [N, K], nats for each unit of log-SNR. surplus: [N, K], of the noise.
    """

    edges: Tensor
    values: Tensor
    surplus: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The texts of all parts, which have the same ranges."""
        return cls(parts[0].edges, *(torch.cat([getattr(p, name) for p in parts]) for name in ("values", "surplus")))

    def nats(self) -> Tensor:
        """[K], how many nats a text costs in each range, on average."""
        return self.values.mean(0) * self.edges.diff()

    def proposal(self, l_max: float) -> Proposal:
        """Draws up to `l_max` as often as the integrand is large there (its root mean square, with which the variance
        is least), and a share EVENLY of them evenly."""
        inside = self.edges[self.edges < l_max]
        edges = torch.cat([inside, inside.new_tensor([l_max])])
        width = edges.diff()
        values, surplus = self.values[:, : len(width)], self.surplus[:, : len(width)]
        mass, even = values.square().mean(0).sqrt() * width, width / width.sum()
        follows = (values * surplus).sum(0) / surplus.square().sum(0).clamp_min(1e-12)
        follows = follows.clamp(0, 1) if len(values) >= ENOUGH else torch.zeros_like(follows)
        mass = even if mass.sum() == 0 else EVENLY * even + (1 - EVENLY) * mass / mass.sum()
        return Proposal(edges, mass, follows)


class LatentNats(NamedTuple):
    """The bound of each text's latents.

    nats: [B]. error: [B], the standard error that the random draws leave in it. log_snr: [B, K], where the integrand
    was looked at. parts: [B, K], what was found there: nats = start + the mean of parts. start: [B], the first term.
    """

    nats: Tensor
    error: Tensor
    log_snr: Tensor
    parts: Tensor
    start: Tensor


def ends(schedule: Schedule) -> tuple[float, float]:
    """The log-SNR at which the sampler starts and the one at which it ends: the bounds of l_min and l_max."""
    low, high = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    return low, high


def with_own_estimate(denoise: Denoise) -> Denoise:
    """A denoiser that is shown its own first estimate at the same level, as in its training (arXiv 2208.04202).

    Without an estimate it is a poorer one. A sampler shows it the estimate of the step before, which is not a function
    of zt alone. This one is, so the bound holds for it.
    """

    def denoise_twice(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        return denoise(zt, level, denoise(zt, level, z0_prev))

    return denoise_twice


def start_nats(schedule: Schedule, z0: Tensor, mask: Tensor) -> Tensor:
    """KL(N(alpha z0, sigma^2) || N(0, sigma^2)) at the sampler's start, [B]: e^l_min |z0|^2 / 2. (The sampler starts at
    sigma times noise, on every path.)"""
    low, _ = ends(schedule)
    return torch.tensor(low).exp().to(z0) * (z0 * mask[..., None]).square().flatten(1).sum(1) / 2


def integrand(
    denoise: Denoise, schedule: Schedule, z0: Tensor, mask: Tensor, log_snr: Tensor, noise: SampleNoise
) -> tuple[Tensor, Tensor]:
    """e^l / 2 |z0 - z0_hat(zl, l)|^2 at l = log_snr [B], with one draw of noise a text, and the surplus of this noise,
    (|eps|^2 - E |eps|^2) / 2: [B] each, float64, on the CPU. (Where a denoiser knows no better than zl, both differ
    from their means by the same.)"""
    level = schedule.level_from_log_snr(log_snr.to(z0))
    eps = draw_like(z0, mask, noise)
    error = (denoise(add_noise(z0, eps, level), level) - z0) * mask[..., None]
    value = level.log_snr.exp() / 2 * error.square().flatten(1).sum(1)
    surplus = (eps.square().flatten(1).sum(1) - mask.sum(1) * z0.shape[-1]) / 2
    return value.double().cpu(), surplus.double().cpu()


def draw_like(z0: Tensor, mask: Tensor, noise: SampleNoise) -> Tensor:
    """Standard normal noise like z0 [B, L, D], zero outside the mask. A text's numbers do not depend on its batch."""
    return noise.normal([(int(length), z0.shape[-1]) for length in mask.sum(1)]).to(z0)


@torch.no_grad()
def profile(
    denoise: Denoise, schedule: Schedule, z0: Tensor, mask: Tensor, edges: Tensor, noise: SampleNoise
) -> Profile:
    """The first pass over z0 [B, L, D] with mask [B, L]. edges: [K + 1], rising log-SNRs (float64, on the CPU)."""
    places = edges[:-1] + noise.uniform((len(edges) - 1,)) * edges.diff()  # [B, K]
    found = [integrand(denoise, schedule, z0, mask, own, noise) for own in places.T]
    values, surplus = (torch.stack(own, dim=1) for own in zip(*found, strict=True))
    return Profile(edges, values, surplus)


@torch.no_grad()
def latent_nats(
    denoise: Denoise,
    schedule: Schedule,
    z0: Tensor,
    mask: Tensor,
    l_max: float,
    noise: SampleNoise,
    draws: int = 16,
    proposal: Proposal | None = None,
) -> LatentNats:
    """The bound of the latents z0 [B, L, D] where mask [B, L] is True, noised to log-SNR `l_max`: nats, in float64.

    The integral is a mean over `draws` log-SNRs a text, one from each of `draws` equal shares of the proposal, less
    what comes from a surplus of noise. So the bound has no bias for any number of draws. Its error is estimated from
    neighbouring shares: never too small on average, since neighbours also differ in their means.

    Args:
        denoise: a function of zt and level alone (`with_own_estimate`, if it self-conditions).
        noise: one random stream for each text.
        draws: at least 2.
        proposal: of other texts (`Profile.proposal`); None: from a first pass over these, with NUM_RANGES draws more.

    Raises:
        ValueError: fewer than 2 draws, l_max outside the range of the schedule.
    """
    low, high = ends(schedule)
    if draws < 2 or not low <= l_max <= high:
        raise ValueError(f"draws {draws}, l_max {l_max:g}; give 2 draws or more, and {low:g} <= l_max <= {high:g}")
    start = start_nats(schedule, z0, mask).double().cpu()
    if l_max == low:  # nothing is left of the latents
        none = start.new_zeros(len(z0), draws)
        return LatentNats(start, none[:, 0], none + low, none, start)
    if proposal is None:
        edges = torch.linspace(low, l_max, NUM_RANGES + 1, dtype=torch.float64)
        proposal = profile(denoise, schedule, z0, mask, edges, noise).proposal(l_max)
    uniform = (torch.arange(draws) + noise.uniform((draws,)).double()) / draws
    log_snr, density, follows = proposal.draw(uniform)
    found = [integrand(denoise, schedule, z0, mask, own, noise) for own in log_snr.T]
    values, surplus = (torch.stack(own, dim=1) for own in zip(*found, strict=True))
    parts = (values - follows * surplus) / density
    error = (parts.diff(dim=1).square().sum(1) / (2 * draws * (draws - 1))).sqrt()
    return LatentNats(start + parts.mean(1), error, log_snr, parts, start)
