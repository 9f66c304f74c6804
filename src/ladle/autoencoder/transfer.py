"""Transfer of a trained autoencoder to another vocabulary."""

from typing import Any

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import AutoencoderConfig, TextAutoencoder
from ladle.autoencoder.backbone import PretrainedBackboneConfig
from ladle.errors import UserError

# Tensors with a row for each token: the embeddings, by all names that they go by, and what the parallel decoder adds.
BY_TOKEN = (
    "shared.weight", "embed_tokens.weight", "lm_head.weight", "parallel_decoder.bias", "decoder.embedding.weight",
    "word_embeddings.weight",
)  # fmt: skip


@torch.no_grad()
def transfer(given: TextAutoencoder, own: TextAutoencoder) -> None:
    """Copy the tensors of `given` that fit into `own`, a new autoencoder. Each token of `own` gets the mean embedding
    of the pieces into which `given` cuts that token ("fast vocabulary transfer", arXiv 2402.09977).

    Both tokenizers must come from `train_tokenizer`.

    Raises:
        UserError: `cannot_transfer` has a reason.
    """
    if refusal := cannot_transfer(given, own.config):
        raise UserError(f"own_vocabulary: cannot start from this model: {refusal}; change that setting, or `start`")
    vocabulary = pieces_matrix(given.backbone.tokenizer, own.backbone.tokenizer)
    known = given.state_dict()
    for name, tensor in own.state_dict().items():
        if name.startswith("sentence_encoder."):  # (with a vocabulary of its own, and frozen)
            continue
        old = known.get(name)
        if old is not None and name.endswith(BY_TOKEN):
            tensor.copy_(vocabulary @ old)
        elif old is not None and old.shape == tensor.shape:
            tensor.copy_(old)


def pieces_matrix(given: Any, own: Any) -> Tensor:
    """[own tokens, given tokens]: row t has 1/k at each of the k pieces into which `given` cuts token t."""
    names = own.convert_ids_to_tokens(range(len(own)))
    special, model = set(own.all_special_tokens), given.backend_tokenizer.model
    matrix = torch.zeros(len(own), len(given))
    for row, name in enumerate(names):
        # Byte-level names of tokens are the alphabet of both: a name can be cut without making text of it.
        pieces = [given.convert_tokens_to_ids(name)] if name in special else [p.id for p in model.tokenize(name)]
        for piece in pieces:
            matrix[row, piece] += 1 / len(pieces)
    return matrix


def cannot_transfer(given: TextAutoencoder, wanted: AutoencoderConfig) -> str | None:
    """The reason why an autoencoder with the settings `wanted` cannot start from `given`, or None if it can."""
    if isinstance(wanted.backbone, PretrainedBackboneConfig):
        return f"the vocabulary of '{wanted.backbone.pretrained}' cannot be replaced"
    if given.config.backbone.pretrained:
        return f"the vocabulary of '{given.config.backbone.pretrained}' cannot be replaced"
    if given.backbone.width != wanted.backbone.width:
        return f"its width is {given.backbone.width}, but autoencoder.backbone.width is {wanted.backbone.width}"
    if given.config.bottleneck != wanted.bottleneck:
        return "its bottleneck differs from the settings in autoencoder.bottleneck"
    return None
