"""The conditions that a model knows: class labels, a source text, both or neither."""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ladle.config import Config, nearest
from ladle.errors import UserError


class SourceConfig(Config):
    """How the denoiser reads a source text."""

    memory: Literal["states", "latents"] = "states"
    """What the denoiser reads, its memory. `states`: a vector for each token, from a frozen encoder. `latents`: the
    latents of the source, which are fewer and so cheaper to read."""
    encoder: str | None = None
    """Folder or hub id of the model that makes the states. By default it is the backbone's encoder."""
    num_layers: int = Field(1, ge=0)
    """Trained transformer layers between the memory and the denoiser."""
    plain: bool = False
    """Whether the denoiser reads the memory through one linear map only, as in the paper: no norm, positions or layers.
    """
    max_tokens: int = Field(96, ge=1)
    """The largest number of memory vectors. A longer source is cut."""

    @model_validator(mode="after")
    def _encoder_gives_states(self) -> Self:
        if self.encoder is not None and self.memory != "states":
            raise ValueError('encoder needs memory = "states": latents are those of the autoencoder')
        return self


class ConditionConfig(Config):
    """The conditions of one model."""

    labels: tuple[str, ...] = ()
    """Names of the classes."""
    source: SourceConfig | None = None
    """How a source text is read; None if the model takes no source."""

    def label_ids(self, labels: Sequence[str | None]) -> Tensor:
        """Label names, in the spelling of `own_label`, -> [B] ids; -1 for no label.

        Raises:
            UserError: a label that the model was not trained with.
        """
        known = {label: i for i, label in enumerate(self.labels)}
        for label in labels:
            if label is not None and label not in known:
                what = nearest(label, list(self.labels)) if known else "this model has no labels"
                raise UserError(f"unknown label '{label}': {what}")
        return torch.tensor([-1 if label is None else known[label] for label in labels])
