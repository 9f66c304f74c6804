"""Latents with their mask, and the normaliser that gives latents unit scale for diffusion."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Latents:
    """Normalised latent vectors z0 of a batch of texts: values [B, L, D], zero where `mask` [B, L] is False.

    space: the fingerprint of the autoencoder that `LatentDiffusion.encode` made them with; None if they are made by
    hand. `dataclasses.replace(latents, values=...)` keeps it.
    """

    values: Tensor
    mask: Tensor
    space: str | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, index: slice) -> "Latents":
        return Latents(self.values[index], self.mask[index], self.space)

    def to(self, *args, **kwargs) -> "Latents":
        """Move the values (device and dtype) and the mask (device) as `Tensor.to` does."""
        values = self.values.to(*args, **kwargs)
        return Latents(values, self.mask.to(values.device), self.space)


class Normaliser(nn.Module):
    """Shifts and scales each latent channel to mean 0 and variance 1, so that one noise schedule fits all models.

    While the autoencoder trains, mean and variance are running means. Before diffusion they are fitted on every latent
    of the training set (the paper's code fits them on its first batch only).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, latent_dim: int, momentum: float = 0.01):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("std", torch.ones(latent_dim))

    def normalise(self, raw: Tensor) -> Tensor:
        """raw latents [..., D] -> z0 [..., D]."""
        return (raw - self.mean) / self.std

    def denormalise(self, z0: Tensor) -> Tensor:
        """z0 [..., D] -> raw latents [..., D]."""
        return z0 * self.std + self.mean

    def fingerprint(self) -> str:
        """Sixteen hex digits. Two autoencoders have the same only if their latents are the same, or one of them was
        trained on from the other with its latents kept."""
        figures = torch.cat([self.mean, self.std]).float().cpu()
        return hashlib.sha256(figures.numpy().tobytes()).hexdigest()[:16]

    @torch.no_grad()
    def track(self, raw: Tensor, mask: Tensor) -> None:
        """One running update from raw [B, L, D] where mask [B, L] is True."""
        chosen = raw.detach().float()[mask]
        if len(chosen) < 2:
            return  # one latent has no spread: its NaN would stay for ever
        self.mean.lerp_(chosen.mean(0), self.momentum)
        self.std.lerp_(chosen.std(0).clamp_min(1e-4), self.momentum)

    @torch.no_grad()
    def fit(self, batches: Iterable[Latents]) -> None:
        """Refit on normalised latents. Afterwards the same texts have mean 0 and variance 1 in each channel.

        Raises:
            ValueError: fewer than two latents in all.
        """
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for latents in batches:
            chosen = latents.values.double()[latents.mask]
            count += len(chosen)
            total, squares = total + chosen.sum(0), squares + chosen.square().sum(0)
        if count < 2:
            raise ValueError(f"the normaliser needs at least two latents; {count} given")
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(1e-8).sqrt()
        # The batches were normalised by the present figures: compose the two affine maps.
        self.mean.copy_(self.mean + mean.to(self.mean) * self.std)
        self.std.mul_(std.to(self.std))
