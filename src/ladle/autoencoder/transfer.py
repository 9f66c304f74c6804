"""A trained autoencoder's knowledge in one with another vocabulary."""

from typing import Any

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import AutoencoderConfig, TextAutoencoder
from ladle.autoencoder.backbone import PretrainedBackboneConfig
from ladle.errors import UserError

# Tensors with a row for each token: the embeddings, by all names that they go by, and what the parallel decoder adds.
BY_TOKEN = ("shared.weight", "embed_tokens.weight", "lm_head.weight", "parallel_decoder.bias")


@torch.no_grad()
def transfer(given: TextAutoencoder, own: TextAutoencoder) -> None:
    """Give `own`, a new autoencoder, the tensors of `given` that fit it, and for each of its own tokens the mean of
    the embeddings of the pieces that `given` cuts that token into ("fast vocabulary transfer", arXiv 2402.09977).

    Both need tokenizers made by `train_tokenizer`.

    Raises:
        UserError: `cannot_transfer` has a reason.
    """
    if refusal := cannot_transfer(given, own.config):
        raise UserError(f"own_vocabulary: the model to start from does not fit this one: {refusal}")
    vocabulary = pieces_matrix(given.backbone.tokenizer, own.backbone.tokenizer)
    known = given.state_dict()
    for name, tensor in own.state_dict().items():
        old = known.get(name)
        if old is not None and name.endswith(BY_TOKEN):
            tensor.copy_(vocabulary @ old)
        elif old is not None and old.shape == tensor.shape:
            tensor.copy_(old)


def pieces_matrix(given: Any, own: Any) -> Tensor:
    """[own tokens, given tokens]: row t has 1/k at each of the k pieces that the given tokenizer cuts token t into."""
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
    """Why `given` is no start for an autoencoder of other settings; None where it is."""
    if isinstance(wanted.backbone, PretrainedBackboneConfig):
        return f"'{wanted.backbone.pretrained}' has a tokenizer of its own kind"
    if given.config.backbone.pretrained:
        return f"'{given.config.backbone.pretrained}' has a tokenizer of its own kind"
    if given.backbone.width != wanted.backbone.width:
        return f"it is {given.backbone.width} wide, autoencoder.backbone.width is {wanted.backbone.width}"
    if given.config.bottleneck != wanted.bottleneck:
        return "its bottleneck has other settings than autoencoder.bottleneck"
    return None
