"""Which value of a condition does a text have? What may be asked, and what the model's own denoiser answers
(`ladle.diffusion.classifier`)."""

from collections.abc import Collection, Sequence

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.conditioning.config import LABEL, ConditionConfig
from ladle.conditioning.encoder import RawCondition
from ladle.data.stores import length_batches
from ladle.diffusion.classifier import log_evidence
from ladle.diffusion.model import LatentDiffusionModel
from ladle.errors import UserError
from ladle.seeding import SampleNoise


def check_question(
    model: str, known: ConditionConfig, attribute: str | None, by: str | None, judged: Collection[str]
) -> str:
    """The name of the condition that `LatentDiffusion.classify` is asked for: the attribute, or "label" without one.

    model: its name, for messages. judged: the conditions for which the model has a judge of words. Raises UserError: a
    condition that the model does not know, an unknown way, `words` without a judge.
    """
    if attribute is not None:
        known.check_attribute(attribute)
    elif not known.labels:
        other = f"attribute={next(iter(known.attributes))!r}" if known.attributes else "another model"
        raise UserError(f"'{model}' was trained without labels, so it cannot classify; use {other}")
    name = LABEL if attribute is None else attribute
    if by is not None and not (isinstance(by, str) and by in ("words", "denoiser")):
        raise UserError(f"by is {by!r:.60}; allowed are words, denoiser")
    if by == "words" and name not in judged:
        raise UserError(f"'{model}' has no judge of words; use by=\"denoiser\"")
    return name


@torch.no_grad()
def shares_by_denoising(
    autoencoder: TextAutoencoder,
    diffusion: LatentDiffusionModel,
    name: str,
    texts: Sequence[str],
    seeds: Sequence[int],
    num_levels: int,
    batch_size: int,
) -> torch.Tensor:
    """Probabilities of the values of the condition `name` ("label" or an attribute), with equal prior probabilities:
    [N, number of values], float32, on the CPU.

    Args:
        autoencoder, diffusion: in eval mode, on one device.
        seeds: of the noise, one per text.
        num_levels: noise levels at which the values are compared.
    """
    config = diffusion.condition.config
    count = len(config.values[name])
    found = torch.zeros(len(texts), count, dtype=torch.float32)
    for rows in length_batches(texts, batch_size):
        latents = autoencoder.encode_texts(texts[row] for row in rows)
        z0, mask = latents.values, latents.mask
        shapes = [(int(length), diffusion.latent_dim) for length in mask.sum(1)]
        noise = SampleNoise([seeds[row] for row in rows])
        draws = [noise.normal(shapes).to(z0) for _ in range(num_levels)]
        for number in range(count):
            if name == LABEL:
                raw = RawCondition(torch.full((len(rows),), number, device=z0.device))
            else:
                ids = torch.full((len(rows), len(config.attributes)), -1, device=z0.device)
                ids[:, list(config.attributes).index(name)] = number
                raw = RawCondition(attribute_ids=ids)
            denoise = diffusion.denoise(mask, diffusion.condition.encode(raw, len(rows)))
            found[rows, number] = log_evidence(denoise, diffusion.schedule, z0, draws).cpu()
    return found.softmax(1)
