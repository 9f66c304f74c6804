"""How latents fill their space: spectrum, distance from a Gaussian, holes between them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_POINTS = 2_000  # latents that are compared with a bank of `MAX_BANK`
MAX_BANK = 20_000


@dataclass(frozen=True)
class Spectrum:
    """How latents [N, D] fill their space.

    effective_rank: exp of the entropy of the covariance's eigenvalues, as shares of their sum (Roy and Vetterli 2007);
    D if all directions are used equally. half, most: how many directions hold 50 % and 90 % of the variance.
    mean, std, kurtosis: lowest and highest over channels. A Gaussian's kurtosis is 3.
    """

    channels: int
    effective_rank: float
    half: int
    most: int
    mean: tuple[float, float]
    std: tuple[float, float]
    kurtosis: tuple[float, float]


def channel_spectrum(vectors: Tensor) -> Spectrum:
    """vectors [N, D] -> how they fill their space."""
    vectors = vectors.double()
    mean, std = vectors.mean(0), vectors.std(0, correction=0).clamp_min(1e-12)
    kurtosis = ((vectors - mean) / std).pow(4).mean(0)
    centred = vectors - mean
    shares = torch.linalg.eigvalsh(centred.T @ centred / len(vectors)).clamp_min(0).flip(0)
    shares = shares / shares.sum()
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum()
    summed = shares.cumsum(0)
    by_channel = {"mean": mean, "std": std, "kurtosis": kurtosis}
    return Spectrum(
        channels=vectors.shape[1],
        effective_rank=float(entropy.exp()),
        half=int((summed < 0.5).sum()) + 1,
        most=int((summed < 0.9).sum()) + 1,
        **{name: (float(values.min()), float(values.max())) for name, values in by_channel.items()},
    )


def midpoint_distances(known: Tensor, held_out: Tensor, seed: int = 0) -> dict[str, float]:
    """Median distances per channel (root mean square) to the nearest of the `known` latents [N, D]: from `held_out`
    latents [M, D], from midpoints of two of these, and from Gaussian noise. ratio: midpoints over held-out.

    If midpoints are no further away than real latents, the space has no holes between its texts.
    """
    generator = torch.Generator().manual_seed(seed)

    def some(points: Tensor, count: int) -> Tensor:
        return points[torch.randperm(len(points), generator=generator)[:count]]

    bank, points = some(known, MAX_BANK), some(held_out, MAX_POINTS)
    middle = (points + some(points, len(points))) / 2
    noise = torch.randn(points.shape, generator=generator)

    def distance(of: Tensor) -> float:
        nearest = torch.cat([torch.cdist(part, bank).min(1).values for part in of.split(256)])
        return float(nearest.median()) / math.sqrt(known.shape[1])

    found = {"held_out": distance(points), "midpoints": distance(middle), "noise": distance(noise)}
    return found | {"ratio": found["midpoints"] / max(found["held_out"], 1e-12)}
