"""What the tests of saving and loading compare: tensors, ids, a step of the denoiser, the one line of an error."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from ladle.conditioning.encoder import RawCondition
from ladle.errors import UserError
from ladle.storage.model_folder import load_parts
from ladle.storage.parts import ModelParts


def assert_same_tensors(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def decoded(parts: ModelParts) -> dict[str, Tensor]:
    """Ids of both decoders from the same latents."""
    z0 = tiny.latents(parts.autoencoder)
    names = ["autoregressive"] + ["parallel"] * (parts.autoencoder.parallel_decoder is not None)
    return {name: parts.autoencoder.decode(z0, name) for name in names}


@torch.no_grad()
def taught(parts: ModelParts) -> Tensor:
    """Logits of the autoregressive decoder under the right tokens: a random model's own choices say little."""
    given = tiny.tokens(parts.autoencoder)
    memory, mask = parts.autoencoder.expand(parts.autoencoder.encode(**given))
    return parts.autoencoder.backbone.decode_logits(given["input_ids"], memory, mask)


@torch.no_grad()
def denoised(parts: ModelParts) -> Tensor:
    """One step of the denoiser under a label and a source, with the mean length beside it."""
    autoencoder, diffusion = parts.autoencoder, parts.diffusion
    assert diffusion is not None
    z0, given = tiny.latents(autoencoder), tiny.tokens(autoencoder)
    states = autoencoder.backbone.encode(**given)
    labels = torch.arange(len(z0)) % 3 - 1
    raw = RawCondition(labels, states, given["attention_mask"])
    condition = diffusion.condition.encode(raw, len(z0))
    level = diffusion.schedule.level(torch.full((len(z0),), 0.5))
    z0_hat = diffusion.denoise(z0.mask, condition)(z0.values, level)
    if diffusion.length is None:
        return z0_hat
    return torch.cat([z0_hat.flatten(), diffusion.length(raw, len(z0)).flatten()])


def error_of(folder: Path, **options: Any) -> str:
    """The one line that loading `folder` ends with."""
    with pytest.raises(UserError) as caught:
        load_parts(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
