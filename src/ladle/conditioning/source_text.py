"""What the denoiser reads of a source text: states of the backbone's encoder or of another model's, or latents."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.backbone import PLAIN, explained, padded_tokens
from ladle.conditioning.config import ConditionConfig, SourceConfig
from ladle.errors import UserError


class SourceEncoder(nn.Module):
    """A frozen encoder of source texts that is not the backbone's: BERT, RoBERTa, T5, BART, anything of transformers'
    that gives a state for each token.

    model: an encoder, or an encoder-decoder (of which the encoder alone is run). tokenizer: with a padding token.
    """

    model: Any  # transformers' own types say less than is known here

    def __init__(self, model: nn.Module, tokenizer: Any):
        super().__init__()
        self.model, self.tokenizer = model.requires_grad_(False), tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Load with transformers from a folder or a hub id; only safetensors weights are read.

        Raises:
            UserError: no such model, or none that encodes text.
        """
        from transformers import AutoConfig, AutoTokenizer

        with explained(f"cannot load the source's encoder '{source}'"):
            kind = auto_class(AutoConfig.from_pretrained(source))
            model = kind.from_pretrained(source, use_safetensors=True, **PLAIN)
            tokenizer = AutoTokenizer.from_pretrained(source)
        if tokenizer.pad_token_id is None:
            raise UserError(f"cannot use '{source}' as the source's encoder: its tokenizer has no padding token")
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
    """The class of transformers' that loads an encoder of this config: without its decoder, where there is one such."""
    from transformers import AutoModel, AutoModelForTextEncoding

    return AutoModelForTextEncoding if type(config) in AutoModelForTextEncoding._model_mapping else AutoModel


def learns_sources(autoencoder: TextAutoencoder, config: SourceConfig) -> bool:
    """Whether sources are read by what the autoencoder's training changes: its bottleneck (`latents`), or the encoder
    of a backbone that is not frozen."""
    if config.memory == "latents":
        return True
    model: Any = autoencoder.backbone.model
    return config.encoder is None and any(p.requires_grad for p in model.get_encoder().parameters())


class SourceReader:
    """Source texts -> memory.

    config: the model's conditions. encoder: what gives the states in place of the backbone's encoder.
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
        """What is read of a source, in tokens. Of states as many as the encoder has places for, which may be more than
        a text to be written has."""
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
