"""The default options of sampling. A model saves them in model.json, beside the weights that they suit."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from ladle.config import Config, nearest
from ladle.errors import UserError


class LatentDraw(Config):
    """How latents are drawn for one kind of sample: samples with a condition, or samples without one."""

    noise_scale: float = Field(1.0, ge=0, le=2)
    """Scale of the noise that the stochastic samplers add at each step, 0 to 2. 1 is the noise that the model was
    trained for. Below 1, texts are more typical and less varied. 0 adds no noise."""
    length_temperature: float = Field(1.0, ge=0, le=2)
    """How freely the number of latents is drawn, 0 to 2. 1 draws lengths as often as the model finds them likely. 0
    always takes the likeliest length."""
    stop_time: float = Field(0.0, ge=0, lt=1)
    """Diffusion time at which sampling stops and the estimate of the latents is decoded, from 0 to below 1. 0
    runs to the end. A higher value leaves more of the wording to the decoder."""


class SamplingOptions(Config):
    """All options of how texts are drawn."""

    sampler: str = "dpmpp_2m_sde"
    """Solver that turns noise into latents: ddpm, ddim, heun, dpmpp_2m or dpmpp_2m_sde."""
    num_inference_steps: int = Field(32, ge=1)
    """Steps of the solver for each sample, from 1. More steps take longer and give smaller errors. Plan latents that
    are handed over at a stop time take their share of the steps: a quarter of them at 0.75."""
    grid: Literal["time", "log_snr", "logit_normal"] = "time"
    """Scale on which the steps are equally long: diffusion time, log-SNR, or quantiles of logit-normal times."""
    guidance_scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    """How strongly samples follow the condition, from 0. 1 adds no guidance. 0 ignores the condition."""
    guidance_scales: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}
    """Guidance of single conditions, by the names label, source and those of attributes. Such a condition guides by
    itself, with its own scale. Below 0 it leads away from the condition. The others stay under guidance_scale."""
    guidance_from: float = Field(1.0, ge=0, le=1)
    """Diffusion time from which guidance applies, 0 to 1. 1 guides from the start. Before it the samples follow the
    condition without guidance."""
    guidance_to: float = Field(0.0, ge=0, le=1)
    """Diffusion time to which guidance applies, 0 to 1, at most guidance_from. 0 guides to the end."""
    candidates: int = Field(1, ge=1)
    """How many texts are drawn for each text that is kept, from 1. 1 keeps every text."""
    choose: Literal["sound", "label"] = "sound"
    """Which candidate is kept. sound: the one whose words fit together best; with a source, also the one nearest to
    the source and to the other candidates. label: the first one that matches its label and attributes, which needs
    fewer draws."""
    label_confidence: float = Field(0.5, ge=0, le=1)
    """A candidate is accepted if the classifier gives its label, and each of its attributes, at least this probability,
    0 to 1. 0 accepts every text. It applies if a label or an attribute and several candidates are asked for: with
    choose = label, and with choose = sound if the model has a judge."""
    decoder: Literal["autoregressive", "parallel"] = "autoregressive"
    """The decoder that turns latents into words. The parallel decoder is faster and less fluent."""
    temperature: float = Field(0.0, ge=0, le=2)
    """How freely the decoder draws words, 0 to 2. 0 takes the likeliest word. 1 draws words as often as the decoder
    finds them likely."""
    top_p: float = Field(1.0, gt=0, le=1)
    """The decoder draws only among the likeliest words that together have this probability, from above 0 to 1. 1 draws
    among all words."""
    words: Literal["known", "any"] = "known"
    """Which words the autoregressive decoder writes. known: words (runs of letters) of the training data or the source.
    any: it may also join pieces of words to words that are none. Beams and the parallel decoder do not look."""
    min_words: int | None = Field(None, ge=1)
    """Smallest number of words of a text, from 1. Words are what spaces separate. By default texts end where the
    decoder ends them. The autoregressive decoder keeps both limits; beams and the parallel decoder cannot."""
    max_words: int | None = Field(None, ge=1)
    """Largest number of words of a text, from 1. A text with too many is drawn again, at most 35 times, with the words
    drawn also at temperature 0; then the nearest text is kept."""
    num_beams: int = Field(1, ge=1)
    """Number of beams in the search for the likeliest text, from 1. 1 does not search. More beams need temperature
    0."""
    conditional: LatentDraw = LatentDraw()
    """How latents are drawn for samples that have a label, an attribute or a source."""
    unconditional: LatentDraw = LatentDraw()
    """How latents are drawn for samples without any of these. Their estimates become certain later than those of
    conditioned samples, so other values suit them."""

    @classmethod
    def flat_fields(cls) -> dict[str, FieldInfo]:
        """Every option that takes one value, by its name. The fields of the two `LatentDraw` come once."""
        several = ("conditional", "unconditional", "guidance_scales")
        own = {name: field for name, field in cls.model_fields.items() if name not in several}
        return own | LatentDraw.model_fields

    def override(self, **overrides: Any) -> Self:
        """These options with some values changed.

        Args:
            overrides: values by field name. None changes nothing. A field of `LatentDraw` applies to samples with and
                without a condition. `conditional` and `unconditional` take a dict of such fields, which overrides a
                value that applies to both.

        Raises UserError: an unknown name (with the nearest valid one) or a value out of range.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        names = list(dict.fromkeys([*self.flat_fields(), *type(self).model_fields]))
        for name in given:
            if name not in names:
                raise UserError(f"there is no sampling option '{name}': {nearest(name, names)}")
        both = {name: given.pop(name) for name in LatentDraw.model_fields if name in given}
        LatentDraw.parse(both, "sampling")  # here, else the error would be reported once for each half
        values = self.model_dump()
        for half in ("conditional", "unconditional"):
            own = given.pop(half, {})
            own = own.model_dump() if isinstance(own, LatentDraw) else own
            if not isinstance(own, Mapping):
                raise UserError(f"sampling: {half} is {own!r}; give a dict such as {{'noise_scale': 0.5}}")
            values[half] |= {**both, **own}
        return self.parse(values | given, "sampling")

    def to_the_end(self) -> Self:
        """The same options without early stops and with the likeliest words, for a decoder not adapted to estimates."""
        return self.override(stop_time=0.0, temperature=0.0)

    @model_validator(mode="after")
    def _an_interval(self) -> Self:
        if self.guidance_to > self.guidance_from:
            given = f"{self.guidance_to:g} is above guidance_from = {self.guidance_from:g}"
            raise ValueError(f"guidance_to = {given}; times run from 1 down to 0, so it must not be")
        return self

    @model_validator(mode="after")
    def _beams_or_draws(self) -> Self:
        if self.num_beams > 1 and (self.temperature or self.decoder == "parallel"):
            raise ValueError("num_beams needs temperature = 0 and the autoregressive decoder")
        return self

    @model_validator(mode="after")
    def _words(self) -> Self:
        if self.min_words is None and self.max_words is None:
            return self
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            what = f"min_words is {self.min_words} and max_words is {self.max_words}"
            raise ValueError(f"{what}; min_words must be at most max_words")
        if self.num_beams > 1 or self.decoder == "parallel":
            raise ValueError("min_words and max_words need num_beams = 1 and the autoregressive decoder")
        return self

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, name: str) -> str:
        from ladle.diffusion.samplers import SAMPLERS  # torch comes with it, so not at import time

        if name not in SAMPLERS:
            raise ValueError(f"unknown sampler, {nearest(name, list(SAMPLERS))}")
        return name
