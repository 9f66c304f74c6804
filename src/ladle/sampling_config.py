"""How a model is sampled when the caller says nothing else: saved in model.json, beside the weights it suits."""

from typing import Literal

from pydantic import Field, field_validator

from ladle.config import Config, nearest


class SamplingConfig(Config):
    """sampler: a name of `ladle.diffusion.samplers.SAMPLERS`. num_inference_steps: calls of the denoiser a sample.

    guidance_scale: 1 is off. decoder: which of the autoencoder's decoders writes the text. grid: whether the steps
    are even in diffusion time or in log-SNR.
    """

    sampler: str = "dpmpp_2m_sde"
    num_inference_steps: int = Field(32, ge=1)
    guidance_scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    decoder: Literal["autoregressive", "parallel"] = "autoregressive"
    grid: Literal["time", "log_snr"] = "time"

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, name: str) -> str:
        from ladle.diffusion.samplers import SAMPLERS  # torch comes with it, so not at import time

        if name not in SAMPLERS:
            raise ValueError(f"unknown sampler, {nearest(name, list(SAMPLERS))}")
        return name
