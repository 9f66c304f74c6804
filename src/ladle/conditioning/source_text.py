"""Makes the denoiser's memory of a source text: states of the backbone's or another encoder, or latents."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.backbone import PLAIN, padded_tokens
from ladle.autoencoder.signs import literal
from ladle.conditioning.config import ConditionConfig, SourceConfig
from ladle.errors import UserError
from ladle.hub import loading


class SourceEncoder(nn.Module):
    """A frozen encoder of source texts other than the backbone's: BERT, RoBERTa, T5, BART, or any transformers model
    with a state for each token.

    model: an encoder, or an encoder-decoder (only its encoder is run). tokenizer: with a padding token.
    """

    model: Any  # transformers' own types say less than is known here

    def __init__(self, model: nn.Module, tokenizer: Any):
        super().__init__()
        self.model, self.tokenizer = model.requires_grad_(False), literal(tokenizer)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Load with transformers from a folder or a hub id; only safetensors weights are read.

        Raises:
            UserError: no such model, or a model that does not encode text.
        """
        from transformers import AutoConfig, AutoTokenizer

        with loading("source encoder", source):
            kind = auto_class(AutoConfig.from_pretrained(source))
            model = kind.from_pretrained(source, use_safetensors=True, **PLAIN)
            tokenizer = AutoTokenizer.from_pretrained(source)
        if tokenizer.pad_token_id is None:
            raise UserError(f"'{source}' cannot encode sources: its tokenizer has no padding token; name another model")
        return cls(model, tokenizer).eval()

    @property
    def width(self) -> int:
        """C, channels of the token states."""
        return int(self.model.config.hidden_size)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids [B, S], attention_mask [B, S] -> token states [B, S, C]."""
        encoder = self.model.get_encoder() if self.model.config.is_encoder_decoder else self.model
        states: Tensor = encoder(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state
        return states


def auto_class(config: Any) -> Any:
    """The transformers class that loads an encoder of this config, without a decoder if such a class exists."""
    from transformers import AutoModel, AutoModelForTextEncoding

    return AutoModelForTextEncoding if type(config) in AutoModelForTextEncoding._model_mapping else AutoModel


def learns_sources(autoencoder: TextAutoencoder, config: SourceConfig) -> bool:
    """Whether the training of the autoencoder changes how sources are read: through its bottleneck (`latents`), or
    through the encoder of a backbone that is not frozen."""
    if config.memory == "latents":
        return True
    model: Any = autoencoder.backbone.model
    return config.encoder is None and any(p.requires_grad for p in model.get_encoder().parameters())


class SourceReader:
    """Source texts -> memory.

    config: the model's conditions. encoder: makes the states, instead of the backbone's encoder.
    """

    def __init__(self, autoencoder: TextAutoencoder, config: ConditionConfig, encoder: SourceEncoder | None = None):
        self.autoencoder, self.config = autoencoder, config
        self.source = config.source or SourceConfig()
        self.encoder = encoder if self.source.memory == "states" else None
        self._states_of = autoencoder.backbone if self.encoder is None else self.encoder
        self.tokenizer: Any = self._states_of.tokenizer

    @property
    def dim(self) -> int:
        """C, channels of the memory."""
        return self._states_of.width if self.source.memory == "states" else self.autoencoder.latent_dim

    @property
    def max_tokens(self) -> int:
        """Length at which a source is cut, in tokens. With `states` it is the number of positions of the encoder, which
        may be more than a written text can have."""
        if self.source.memory == "latents":
            return self.autoencoder.backbone.max_tokens
        places = getattr(self._states_of.model.config, "max_position_embeddings", None) or self.source.max_tokens
        return min(self.source.max_tokens, places, self.tokenizer.model_max_length)

    def tokenize(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """texts -> input_ids [B, S] and attention_mask [B, S] (bool), cut at `max_tokens`, end token kept."""
        return padded_tokens(self.tokenizer, texts, self.max_tokens)

    def to(self, device: torch.device | str) -> Self:
        """Autoencoder and encoder on `device`, in evaluation mode."""
        self.autoencoder.to(device).eval()
        if self.encoder is not None:
            self.encoder.to(device).eval()
        return self

    @torch.no_grad()
    def read(self, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens [B, S] on the model's device -> memory [B, M, C] and its mask [B, M]."""
        if self.source.memory == "latents":
            latents = self.autoencoder.encode(**tokens)
            return latents.values, latents.mask
        return self._states_of.encode(**tokens), tokens["attention_mask"]
