"""The diffusion model: schedule, denoiser, conditions and length model, and its `Denoise` function."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Tag
from torch import Tensor, nn

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.encoder import Condition, ConditionEncoder
from ladle.config import Config, by_kind
from ladle.diffusion.lengths import LengthModel
from ladle.diffusion.perceptron import DenoisingPerceptron, PerceptronConfig
from ladle.diffusion.prediction import to_z0
from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Level, ScheduleConfig, build_schedule
from ladle.diffusion.transformer import CompactConfig, DenoisingTransformer
from ladle.paper.transformer import PaperTransformer, PaperTransformerConfig

DenoiserConfig = Annotated[
    Annotated[CompactConfig, Tag("compact")]
    | Annotated[PerceptronConfig, Tag("perceptron")]
    | Annotated[PaperTransformerConfig, Tag("paper")],
    by_kind("compact"),
]
# kind -> (its config, D, most latents, reads a memory, reads a vector) -> the network
DENOISERS: dict[str, Callable[[Any, int, int, bool, bool], nn.Module]] = {
    "compact": DenoisingTransformer, "perceptron": DenoisingPerceptron, "paper": PaperTransformer,
}  # fmt: skip
ROWS_AHEAD = 64  # steps times rows that are worked out ahead: more need memory, and save nothing


class DiffusionConfig(Config):
    """The settings of the diffusion model. Its weights fit only the settings that they were trained with."""

    schedule: ScheduleConfig = ScheduleConfig(shift=2.0)  # measured for latents of 64 channels
    prediction: Literal["v", "x0", "eps", "flow"] = "v"
    """What the network predicts. `v`: alpha * noise - sigma * latents. `x0`: the clean latents. `eps`: the noise.
    `flow`: the velocity of rectified flow."""
    self_condition: bool = True
    """Whether the network reads its own last estimate (arXiv 2208.04202)."""
    denoiser: DenoiserConfig = CompactConfig()


class LatentDiffusionModel(nn.Module):
    """Denoiser, condition encoder and length model: p(number of latents, z0 | condition).

    Args:
        autoencoder: gives the latents. If all texts have equally many (Perceiver), there is no length model.
        config, condition: the settings of the model and of its conditions.
        source_dim: C of the source's memory.
        max_latents: largest number of latents of a text; None for that of the autoencoder.
    """

    def __init__(
        self,
        autoencoder: TextAutoencoder,
        config: DiffusionConfig,
        condition: ConditionConfig,
        source_dim: int,
        max_latents: int | None = None,
    ):
        super().__init__()
        network = config.denoiser
        self.config, self.latent_dim = config, autoencoder.latent_dim
        self.max_latents = autoencoder.max_latents if max_latents is None else max_latents
        self.schedule = build_schedule(config.schedule)
        self.hands_over_samples = autoencoder.is_plan  # when sampling stops early; else estimates
        self.condition = ConditionEncoder(condition, network.width, source_dim, network.num_heads)
        self.denoiser = DENOISERS[network.kind](
            network, self.latent_dim, self.max_latents, condition.source is not None, condition.gives_vector
        )
        self.length = None if autoencoder.fixed_length else LengthModel(condition, source_dim, self.max_latents)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def self_conditions(self) -> bool:
        """Whether the network reads its own last estimate."""
        return self.config.self_condition

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    def denoise(self, mask: Tensor, condition: Condition, levels: Sequence[Level] = ()) -> Denoise:
        """The `Denoise` function of a batch: (zt, level, z0_prev=None) -> z0_hat in float32, zero outside `mask`.

        levels: the scalar levels that will be asked for, in this order. What a network can work out ahead for them
        (`DenoisingPerceptron.modulations`) is worked out for many at once.
        """
        whole = bool(mask.all())
        ahead = self._ahead(levels, condition, len(mask))

        def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
            previous = z0_prev if self.config.self_condition else None
            x = zt.to(self.dtype)  # the network's arithmetic; the sampler's is zt's own
            output = self.denoiser(
                x, level.log_snr, mask=mask, condition=condition, self_condition=previous, **ahead(level)
            )
            z0_hat = to_z0(self.config.prediction, output.float(), zt, level)
            return z0_hat if whole else z0_hat * mask[..., None]

        return denoise

    def _ahead(self, levels: Sequence[Level], condition: Condition, batch: int) -> Callable[[Level], dict[str, Tensor]]:
        """What is worked out ahead for the denoiser at a level, as its arguments: nothing for most networks, and for a
        level that is not one of `levels`."""
        network = self.denoiser
        if not (levels and isinstance(network, DenoisingPerceptron)):
            return lambda level: {}
        places = {id(level.log_snr): place for place, level in enumerate(levels)}
        size = max(1, ROWS_AHEAD // batch)
        found: dict[int, Tensor] = {}

        def ahead(level: Level) -> dict[str, Tensor]:
            place = places.get(id(level.log_snr))
            if place is None:
                return {}
            if place not in found:
                found.clear()
                log_snr = torch.stack([one.log_snr for one in levels[place : place + size]])
                found.update(enumerate(network.modulations(log_snr, condition, batch), start=place))
            return {"modulation": found[place]}

        return ahead
