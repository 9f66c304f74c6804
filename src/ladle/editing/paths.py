"""Points between latents: the straight line, the arc, and weighted means. Functions of tensors alone.

The mean of two vectors is shorter than both: half-way between independent ones by the square root of two. A decoder or
a denoiser has never met such short latents. So means get the mean length here.
"""

import torch
from torch import Tensor

PARALLEL = 1 - 1e-6  # the cosine above which arc and line are the same


def lerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The point at `share` (0 to 1) of the straight line between latents [L, D]. Half-way it is too short."""
    return first + share * (second - first)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The point at `share` (0 to 1) of the arc between latents [L, D], taken as one vector each (Shoemake 1985).

    Direction and length change evenly. At 0 and 1 the result is `first` and `second` themselves.
    """
    if share in (0, 1):
        return second if share else first
    lengths = first.norm(), second.norm()
    cosine = (first * second).sum() / (lengths[0] * lengths[1])
    if not -PARALLEL < cosine < PARALLEL:  # (or NaN: one of them is zero)
        return lerp(first, second, share)
    angle = torch.arccos(cosine)
    part = torch.sin((1 - share) * angle) * first / lengths[0] + torch.sin(share * angle) * second / lengths[1]
    return part / torch.sin(angle) * torch.lerp(lengths[0], lengths[1], share)


def weighted(latents: Tensor, weights: Tensor, *, mend: bool = True) -> Tensor:
    """Latents [N, L, D] with weights [N] that sum to 1 -> their mean [L, D]. Negative weights go away from a text.

    mend: give the mean the mean of their lengths; else it is too short.
    """
    mean = torch.einsum("n,nld->ld", weights, latents)
    if not mend:
        return mean
    length = (weights.abs() / weights.abs().sum() * latents.flatten(1).norm(dim=1)).sum()
    return mean * (length / mean.norm().clamp_min(1e-12))


def stretched(values: Tensor, length: int) -> Tensor:
    """Latents [L, D] of consecutive places -> [length, D], by linear interpolation between neighbours."""
    if len(values) == length:
        return values
    return torch.nn.functional.interpolate(values.T[None], size=length, mode="linear", align_corners=True)[0].T
