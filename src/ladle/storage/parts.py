"""Everything that a model folder holds, in memory."""

from dataclasses import dataclass, field
from typing import Any

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.source_text import SourceEncoder, SourceReader
from ladle.diffusion.model import LatentDiffusionModel
from ladle.evaluation.judge import Judge
from ladle.sampling.options import SamplingOptions


@dataclass
class ModelParts:
    """The parts of a model.

    diffusion: None for an autoencoder alone. info: JSON values for the card and `ladle inspect` (see
    `ladle.storage.card`). judge: tells the labels of texts by their words; None where there are none, or none was
    trained. source_encoder: reads the source texts in place of the backbone's encoder.
    """

    name: str
    autoencoder: TextAutoencoder
    diffusion: LatentDiffusionModel | None = None
    sampling: SamplingOptions = SamplingOptions()
    info: dict[str, Any] = field(default_factory=dict)
    judge: Judge | None = None
    source_encoder: SourceEncoder | None = None

    def reader(self) -> SourceReader:
        """What turns source texts into the denoiser's memory."""
        condition = ConditionConfig() if self.diffusion is None else self.diffusion.condition.config
        return SourceReader(self.autoencoder, condition, self.source_encoder)
