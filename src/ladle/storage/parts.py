"""Everything that a model folder holds, in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.sentence_encoder import StoredSentenceEncoder
from ladle.conditioning.config import LABEL, ConditionConfig
from ladle.conditioning.source_text import SourceEncoder, SourceReader
from ladle.diffusion.model import LatentDiffusionModel
from ladle.evaluation.judge import Judge
from ladle.sampling.options import SamplingOptions
from ladle.storage.encoders import shared_encoder

FROZEN = "sentence encoder"


@dataclass
class ModelParts:
    """The parts of a model.

    diffusion: None for an autoencoder alone. info: JSON values for the card and `ladle inspect` (see
    `ladle.storage.card`). judge: recognises labels by words; None if there are no labels or no judge was trained.
    judges: those that recognise values of attributes, by the attribute's name, as far as such judges were trained.
    source_encoder: reads the source texts instead of the backbone's encoder.
    """

    name: str
    autoencoder: TextAutoencoder
    diffusion: LatentDiffusionModel | None = None
    sampling: SamplingOptions = SamplingOptions()
    info: dict[str, Any] = field(default_factory=dict)
    judge: Judge | None = None
    source_encoder: SourceEncoder | None = None
    judges: dict[str, Judge] = field(default_factory=dict)

    @property
    def every_judge(self) -> dict[str, Judge]:
        """The judges of all conditions, by name: "label" and attributes."""
        return ({} if self.judge is None else {LABEL: self.judge}) | self.judges

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Move all parts to a device, in eval mode, their weights in this dtype (None: as they are). Buffers, such as
        the normaliser's, keep theirs."""
        before = next(self.autoencoder.parameters()).device
        parts = (self.autoencoder, self.source_encoder, self.diffusion)
        modules = [module.eval() for module in parts if module is not None]
        try:
            for module in modules:
                module.to(device)
        except BaseException:  # too little memory for all of them: the model stays whole where it was
            for module in modules:
                module.to(before)
            raise
        for parameter in (parameter for module in modules for parameter in module.parameters()):
            parameter.data = parameter.data.to(dtype or parameter.dtype)

    def reader(self) -> SourceReader:
        """The reader that turns source texts into the denoiser's memory."""
        condition = ConditionConfig() if self.diffusion is None else self.diffusion.condition.config
        return SourceReader(self.autoencoder, condition, self.source_encoder)


class Part(NamedTuple):
    """A part as the card and `ladle inspect` list it. folder: its folder; None: the folder of the part before."""

    name: str
    folder: str | None
    what: str
    module: nn.Module | None

    @property
    def num_parameters(self) -> int:
        """Number of parameters; tied parameters count once."""
        return 0 if self.module is None else sum(parameter.numel() for parameter in self.module.parameters())


def list_parts(parts: ModelParts) -> Iterator[Part]:
    """The autoencoder's parts, the reader of sources if it is another model, those of the diffusion model if any. A
    part that the folder of a shipped model holds is among them."""
    autoencoder, diffusion = parts.autoencoder, parts.diffusion
    backbone, config = autoencoder.backbone, autoencoder.config
    bottleneck = config.bottleneck
    number = autoencoder.bottleneck.tokens_per_latent
    shape = f"{number} tokens to a latent" if number else f"{autoencoder.max_latents} latents a text"
    what = f"{type(backbone.model).__name__}, {len(backbone.tokenizer):,} tokens"
    yield Part("backbone", "backbone", what, backbone.model)
    yield Part("tokenizer", "tokenizer", "", None)
    yield Part("bottleneck", "bottleneck", f"{bottleneck.kind}, {shape}", autoencoder.bottleneck)
    if autoencoder.parallel_decoder is not None:
        layers = f"layers: {config.parallel_layers}"
        yield Part("parallel decoder", "parallel_decoder", layers, autoencoder.parallel_decoder)
    if autoencoder.condition is not None:
        reads: Any = autoencoder.condition
        yield Part("decoder condition", "decoder_condition", _given(reads.config), reads)
    if isinstance(sentences := autoencoder.sentence_encoder, StoredSentenceEncoder):
        shared = shared_encoder(parts.name, autoencoder)
        what = f"{type(sentences.model).__name__}, frozen" + (f", of {shared.name}" if shared else "")
        yield Part(FROZEN, "sentence_encoder", what, sentences.model)
    if parts.source_encoder is not None:
        reader = parts.source_encoder.model
        yield Part("source encoder", "source_encoder", type(reader).__name__, reader)
    if diffusion is None:
        return
    network, condition = diffusion.config.denoiser, diffusion.condition.config
    sizes = f"layers: {network.num_layers}, width {network.width}"
    what = f"{network.kind}, {sizes}, {diffusion.config.prediction}-prediction"
    yield Part("denoiser", "denoiser", what, diffusion.denoiser)
    yield Part("condition encoder", "condition", _given(condition), diffusion.condition)
    if diffusion.length is not None:
        yield Part("length model", None, f"1 to {diffusion.max_latents} latents", diffusion.length)


def _given(condition: ConditionConfig) -> str:
    return ", ".join(condition.names)


def count_parameters(parts: ModelParts, *, frozen: bool = True) -> int:
    """Number of parameters of all parts. frozen: with the sentence encoder, which no training changes, and which does
    not write."""
    return sum(part.num_parameters for part in list_parts(parts) if frozen or part.name != FROZEN)
