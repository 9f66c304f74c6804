"""Texts -> one vector each, for search, clustering and classifiers; and the same under sentence-transformers' names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.autoencoder.sentence_encoder import MAX_TOKENS, StoredSentenceEncoder
from ladle.checks import check_texts
from ladle.data.stores import length_batches
from ladle.errors import UserError
from ladle.layers import usual_defaults

# Options of SentenceTransformer's `encode` that change nothing if they have these values.
_SAME = {"output_value": "sentence_embedding", "precision": "float32"}


def embedding_dim(autoencoder: TextAutoencoder) -> int:
    """E, the number of channels of an embedding: L * D of a plan, D of other latents."""
    return autoencoder.latent_dim * (autoencoder.max_latents if autoencoder.is_plan else 1)


def reading_limit(autoencoder: TextAutoencoder) -> tuple[Any, int]:
    """The tokenizer of what makes the embeddings, and the number of tokens at which it cuts a text."""
    encoder = autoencoder.sentence_encoder
    if isinstance(encoder, StoredSentenceEncoder):
        return encoder.tokenizer, MAX_TOKENS
    if encoder is not None:
        return encoder.model.tokenizer, int(encoder.model.max_seq_length or MAX_TOKENS)
    return autoencoder.backbone.tokenizer, autoencoder.backbone.max_tokens


def pooled(autoencoder: TextAutoencoder, latents: Latents) -> Tensor:
    """Normalised latents z0 [B, L, D] -> embeddings [B, E], float32, of norm 1.

    A plan is a sentence embedding in L parts of which each channel was standardised, so it is put together again. Of
    other latents the embedding is the mean of those that are there.
    """
    if not autoencoder.is_plan:
        return F.normalize(latents.mean().float(), dim=-1)
    return F.normalize(autoencoder.normaliser.denormalise(latents.values.float()).flatten(1), dim=-1)


@usual_defaults()
@torch.no_grad()
def embed_texts(autoencoder: TextAutoencoder, texts: Sequence[str], batch_size: int = 128) -> Tensor:
    """texts -> embeddings [N, E] on the CPU, float32, of norm 1, in the order of the texts.

    A text that is longer than the model reads is cut. But for rounding, the other texts make no difference to a text.

    Raises UserError: a batch size below 1.
    """
    found = torch.empty(len(texts), embedding_dim(autoencoder))
    for rows in length_batches(texts, batch_size):
        found[torch.tensor(rows)] = pooled(autoencoder, autoencoder.encode_texts(texts[row] for row in rows)).cpu()
    return found


class SentenceEncoderView:
    """A model's embeddings under the names of sentence-transformers: `encode` and `similarity` take and give what
    `SentenceTransformer`'s do, so that a program that wants such an encoder takes this one.

    autoencoder: makes the embeddings (`embed_texts`), where it is.
    """

    similarity_fn_name = "cosine"

    def __init__(self, autoencoder: TextAutoencoder):
        self.autoencoder = autoencoder

    @property
    def max_seq_length(self) -> int:
        """Longer texts are cut at so many tokens."""
        return reading_limit(self.autoencoder)[1]

    @property
    def device(self) -> torch.device:
        """Where the model runs. The embeddings come back to the CPU."""
        return self.autoencoder.device

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        **options: Any,
    ) -> np.ndarray | Tensor | list[Tensor]:
        """texts -> embeddings [N, E], float32; one text -> [E].

        Args:
            show_progress_bar: a bar on standard error. None: no bar.
            convert_to_numpy: an array; otherwise a list of tensors.
            convert_to_tensor: one tensor instead, whatever `convert_to_numpy` says.
            normalize_embeddings: embeddings always have norm 1, so both values give the same.
            options: the others of SentenceTransformer, such as `prompt`, for programs that give their defaults.

        Raises UserError: an item that is not a text, an option that this encoder does not have, a batch size below 1.
        """
        for name, value in options.items():
            if value is not None and value != _SAME.get(name):
                raise UserError(f"this encoder does not take {name}={value!r:.60}; leave {name} out")
        texts = check_texts(sentences, "sentences") if isinstance(sentences, str) or len(sentences) else []
        found = torch.cat(
            [torch.empty(0, self.get_embedding_dimension()), *self._parts(texts, batch_size, bool(show_progress_bar))]
        )
        if isinstance(sentences, str):
            return found[0] if convert_to_tensor or not convert_to_numpy else found[0].numpy()
        if convert_to_tensor:
            return found
        return found.numpy() if convert_to_numpy else list(found)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """The cosine of each pair of rows of [N, E] and [M, E]: [N, M], in [-1, 1]."""
        one, other = (F.normalize(torch.atleast_2d(torch.as_tensor(x)).float(), dim=-1)
                      for x in (embeddings1, embeddings2))  # fmt: skip
        return one @ other.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """The cosine of the i-th rows of [N, E] and [N, E]: [N]."""
        one, other = (torch.as_tensor(x).float() for x in (embeddings1, embeddings2))
        return F.cosine_similarity(one, other, dim=-1)

    def get_embedding_dimension(self) -> int:
        """E. (`get_sentence_embedding_dimension` is the same under the older name.)"""
        return embedding_dim(self.autoencoder)

    get_sentence_embedding_dimension = get_embedding_dimension

    def _parts(self, texts: list[str], batch_size: int, bar: bool) -> list[Tensor]:
        """The embeddings of some batches at a time, so that the bar moves. Neighbours in length go together there."""
        from tqdm import tqdm

        size = max(1, len(texts)) if not bar else 16 * batch_size
        starts = tqdm(range(0, len(texts), size), desc="Batches", disable=not bar)
        return [embed_texts(self.autoencoder, texts[start : start + size], batch_size) for start in starts]
