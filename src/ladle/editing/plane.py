"""Texts as points of a plane: the two directions in which the embeddings of a data set vary most."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ladle.autoencoder.embedding import embed_texts
from ladle.errors import UserError
from ladle.storage.parts import ModelParts


class Plane(NamedTuple):
    """points: [N, 2]. shares: of the variance that each of the two axes holds."""

    points: Tensor
    shares: tuple[float, float]


def plane_of(parts: ModelParts, texts: Sequence[str], batch_size: int = 128) -> Plane:
    """The embeddings of texts (`LatentDiffusion.embed`) on their first two principal components.

    Raises UserError: fewer than three texts that differ.
    """
    if len(set(texts)) < 3:
        raise UserError(f"{len(set(texts))} different texts make no map; give at least 3")
    return principal(embed_texts(parts.autoencoder, texts, batch_size))


def principal(points: Tensor) -> Plane:
    """Points [N, E] on their first two principal components. The largest weight of a component is positive, so that
    the same points always give the same picture."""
    centred = points.double() - points.double().mean(0)
    _, sizes, components = torch.linalg.svd(centred, full_matrices=False)
    first = components[:2]
    signs = first.gather(1, first.abs().argmax(1, keepdim=True)).sign()
    variance = sizes.square() / sizes.square().sum()
    return Plane((centred @ (first * signs).T).float(), (float(variance[0]), float(variance[1])))
