"""Models of Gaussian latents, whose best denoiser and flow map are known exactly."""

from torch import Tensor, nn

import tiny
from ladle.diffusion.model import DiffusionConfig, LatentDiffusionModel

MEAN, SPREAD = 0.7, 0.5  # of the latents


class Exact(nn.Module):
    """A network that predicts what the best denoiser of Gaussian latents does, under no condition."""

    def __init__(self, model: LatentDiffusionModel):
        super().__init__()
        self.schedule = model.schedule

    def forward(self, zt: Tensor, log_snr: Tensor, **more: object) -> Tensor:
        level = self.schedule.level_from_log_snr(log_snr).expand(zt)
        gain = level.alpha * SPREAD**2 / (level.alpha**2 * SPREAD**2 + level.sigma**2)
        return MEAN + gain * (zt - level.alpha * MEAN)


def gaussian(kind: str = "cosine", *, plan: bool = False) -> LatentDiffusionModel:
    """A model whose denoiser is exact, over aligned latents or over plans."""
    autoencoder = tiny.tiny_plan_autoencoder() if plan else tiny.tiny_autoencoder()
    model = tiny.tiny_diffusion(autoencoder, source=False)
    config = DiffusionConfig.parse({"prediction": "x0", "schedule": {"kind": kind}, "denoiser": {"width": 32}})
    model = LatentDiffusionModel(autoencoder, config, model.condition.config, 0).eval()
    model.denoiser = Exact(model)
    return model
