"""A tiny autoencoder that has learnt eight sentences by heart, trained once a session, so that its texts differ."""

import copy
from collections.abc import Callable
from functools import cache

import torch

import tiny
from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.encoding import fit_normaliser
from ladle.autoencoder.reconstruction import ReconstructionConfig, reconstruction_loss
from ladle.storage.parts import ModelParts

EIGHT = [
    "a cat.",
    "the old cat sat on a mat.",
    "the red fox ran to the sea.",
    "the shy owl hid in 12 trees.",
    "the big dog ate at noon, a lot.",
    "no.",
    "the wet hen sang for us: the king slept.",
    "the mad bee met the king.",
]
DECODERS = ("autoregressive", "parallel")


def decoded(autoencoder: TextAutoencoder, decoder: str) -> list[str]:
    """The eight sentences through the whole path."""
    return autoencoder.backbone.detokenize(autoencoder.decode(tiny.latents(autoencoder, EIGHT), decoder))


def learn(
    autoencoder: TextAutoencoder, batch: dict[str, torch.Tensor], known: Callable[[], bool], rounds: int
) -> TextAutoencoder:
    """Train on one batch of tokens until `known` says so, at most so many rounds. In evaluation mode afterwards."""
    objective = ReconstructionConfig(token_mask_prob=0.0, latent_noise=0.1)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=5e-3, betas=(0.9, 0.98))
    for _ in range(rounds):
        autoencoder.train()
        for _ in range(40):
            optimizer.zero_grad()
            reconstruction_loss(autoencoder, batch, objective)[0].backward()
            optimizer.step()
        autoencoder.eval()
        if known():
            break
    return autoencoder


@cache
def _learn(kind: str) -> TextAutoencoder:
    autoencoder = tiny.tiny_autoencoder(kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return learn(
            autoencoder,
            tiny.tokens(autoencoder, EIGHT),
            lambda: all(decoded(autoencoder, decoder) == EIGHT for decoder in DECODERS),
            rounds=8,
        )


def memorised(kind: str = "aligned") -> TextAutoencoder:
    """A copy of the trained autoencoder, in evaluation mode, with a fitted normaliser."""
    autoencoder = copy.deepcopy(_learn(kind))
    fit_normaliser(autoencoder, EIGHT)
    return autoencoder


def memorised_parts(kind: str = "aligned", **diffusion: object) -> ModelParts:
    """A whole model over `memorised`: its diffusion model is random, so its texts mix the eight sentences."""
    parts = tiny.tiny_parts(kind)
    autoencoder = memorised(kind)
    return ModelParts(
        parts.name, autoencoder, tiny.tiny_diffusion(autoencoder, **diffusion), parts.sampling, parts.info
    )
