"""Latents with their mask, and the normaliser that gives latents unit scale for diffusion."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ladle.diffusion.schedule import Level


@dataclass(frozen=True)
class Latents:
    """Normalised latent vectors of a batch of texts: values [B, L, D], zero where `mask` [B, L] is False.

    space: the fingerprint of the autoencoder that `LatentDiffusion.encode` made them with; None if they are made by
    hand. level: of noised latents zt, a scalar or [B], which the decoder of a plan is told; None: these are z0, without
    noise. wording: [B, S] of a plan's texts, one number for each token (`ladle.autoencoder.wording`); None: the decoder
    finds words of its own. `dataclasses.replace(latents, values=...)` keeps all of them.
    """

    values: Tensor
    mask: Tensor
    space: str | None = None
    level: Level | None = None
    wording: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, index: slice) -> "Latents":
        level = self.level
        if level is not None and level.log_snr.ndim:
            level = Level(*(x[index] for x in level))
        wording = None if self.wording is None else self.wording[index]
        return Latents(self.values[index], self.mask[index], self.space, level, wording)

    def rows(self) -> list[Tensor]:
        """The latents of each text, [L, D] with its own L."""
        return [own[there] for own, there in zip(self.values, self.mask, strict=True)]

    def mean(self) -> Tensor:
        """The mean of each text's latents, [B, D]."""
        mask = self.mask[..., None]
        return (self.values * mask).sum(1) / mask.sum(1).clamp_min(1)

    def to(self, *args, **kwargs) -> "Latents":
        """Move the values (device and dtype) and the mask (device) as `Tensor.to` does."""
        values = self.values.to(*args, **kwargs)
        level = None if self.level is None else self.level.to(values.device)
        wording = None if self.wording is None else self.wording.to(values.device)
        return Latents(values, self.mask.to(values.device), self.space, level, wording)


class Normaliser(nn.Module):
    """Shifts and scales each latent channel to mean 0 and variance 1, so that one noise schedule fits all models.

    shape: (D,); (L, D) if each of L latents has channels of its own. All texts then have L latents.

    While the autoencoder trains, mean and variance are running means. Before diffusion they are fitted on every latent
    of the training set (the paper's code fits them on its first batch only).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *shape: int, momentum: float = 0.01):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

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

    def _rows(self, values: Tensor, mask: Tensor) -> Tensor:
        """Latents of [B, L, D] that exist, [N, *shape]."""
        return values[mask] if self.mean.ndim == 1 else values

    @torch.no_grad()
    def track(self, raw: Tensor, mask: Tensor) -> None:
        """One running update from raw [B, L, D] where mask [B, L] is True."""
        chosen = self._rows(raw.detach().float(), mask)
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
            chosen = self._rows(latents.values.double(), latents.mask)
            count += len(chosen)
            total, squares = total + chosen.sum(0), squares + chosen.square().sum(0)
        if count < 2:
            raise ValueError(f"the normaliser needs at least two latents; {count} given")
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(1e-8).sqrt()
        if std.ndim == 2:  # a channel that hardly varies (some sentence encoders have them) is no reason to enlarge it
            std = std.clamp_min(0.1 * float(std.mean()))
        # The batches were normalised by the present figures: compose the two affine maps.
        self.mean.copy_(self.mean + mean.to(self.mean) * self.std)
        self.std.mul_(std.to(self.std))
