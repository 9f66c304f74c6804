"""How a model is sampled when the caller says nothing else: saved in model.json, beside the weights it suits."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ladle.config import Config, nearest


class SamplingOptions(Config):
    """sampler: a name of `ladle.diffusion.samplers.SAMPLERS`. num_inference_steps: calls of the denoiser a sample.

    guidance_scale: 1 is off. temperature: scale of the noise that the stochastic samplers add at each step; below 1
    texts are more typical and less varied. length_temperature: the same for the number of latents. stop_time: the
    diffusion time whose estimate of z0 is decoded; 0 goes on to the end (see `sampling_levels`). decoder: which of the
    autoencoder's decoders writes the text. decoder_temperature: how it chooses words: 0 takes the likeliest, 1 draws
    them as they are likely, among those that together have the probability `decoder_top_p`. Latents of an early stop
    leave words open, and to draw those gives back the variety that the early stop costs. num_beams: search for the
    likeliest text instead, so wide. grid: whether the steps are
    even in diffusion time, in log-SNR, or in quantiles of logit-normal times. candidates: how many are drawn for each
    text that is kept (see `LatentDiffusion.generate`). choose: which of them is kept: the one whose words go together
    best (`sound`), or the first that is what its label says (`label`), which costs fewer draws. label_confidence: how
    likely the label must be for that, by `LatentDiffusion.classify`.

    self_condition_scale: how strongly the sampler's own last estimate is followed; 1 is plain self-conditioning.
    max_norm: longer latents of z0_hat are shortened to this, in multiples of data's (sqrt(latent_dim)); None: not.

    What guides a sample makes its estimates certain early, so samples without any condition have a temperature and a
    stop of their own: `free_temperature` (of noise and lengths) and `free_stop_time`.
    """

    sampler: str = "dpmpp_2m_sde"
    num_inference_steps: int = Field(32, ge=1)
    candidates: int = Field(1, ge=1)
    choose: Literal["sound", "label"] = "sound"
    label_confidence: float = Field(0.5, ge=0, le=1)
    guidance_scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    self_condition_scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    max_norm: float | None = Field(None, gt=0, allow_inf_nan=False)
    temperature: float = Field(1.0, ge=0, le=2)
    length_temperature: float = Field(1.0, ge=0, le=2)
    free_temperature: float = Field(1.0, ge=0, le=2)
    decoder: Literal["autoregressive", "parallel"] = "autoregressive"
    decoder_temperature: float = Field(0.0, ge=0, le=2)
    decoder_top_p: float = Field(1.0, gt=0, le=1)
    num_beams: int = Field(1, ge=1)
    grid: Literal["time", "log_snr", "logit_normal"] = "time"
    stop_time: float = Field(0.0, ge=0, lt=1)
    free_stop_time: float = Field(0.0, ge=0, lt=1)

    def to_the_end(self) -> Self:
        """The same without early stops and without words left open: for a decoder that is not adapted to estimates."""
        return self.model_copy(update={"stop_time": 0.0, "free_stop_time": 0.0, "decoder_temperature": 0.0})

    @model_validator(mode="after")
    def _beams_or_draws(self) -> Self:
        if self.num_beams > 1 and (self.decoder_temperature or self.decoder == "parallel"):
            raise ValueError("num_beams needs decoder_temperature = 0 and the autoregressive decoder")
        return self

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, name: str) -> str:
        from ladle.diffusion.samplers import SAMPLERS  # torch comes with it, so not at import time

        if name not in SAMPLERS:
            raise ValueError(f"unknown sampler, {nearest(name, list(SAMPLERS))}")
        return name
