"""Which conditions a model knows: class labels, a source text, both or none."""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ladle.config import Config, nearest
from ladle.errors import UserError


class SourceConfig(Config):
    """What the denoiser reads of a source text."""

    memory: Literal["states", "latents"] = "states"
    """`states`: a vector for each token, by a frozen encoder. `latents`: the source's own latents, which are fewer and
    so cheaper to read."""
    encoder: str | None = None
    """Folder or hub id of the model whose states are read. By default the backbone's encoder is used."""
    num_layers: int = Field(1, ge=0)
    """Trained transformer layers above the memory."""
    plain: bool = False
    """Whether nothing but one linear map stands above the memory, as in the paper: no norm, no positions, no layers."""
    max_tokens: int = Field(96, ge=1)
    """The most vectors of the memory that are read; a longer source is cut."""

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
    """How a source text is read, where the model takes one."""

    def label_ids(self, labels: Sequence[str | None]) -> Tensor:
        """Label names -> [B] ids; -1 where there is no label.

        Raises:
            UserError: a label that the model was not trained with.
        """
        known = {label: i for i, label in enumerate(self.labels)}
        for label in labels:
            if label is not None and label not in known:
                what = nearest(label, list(self.labels)) if known else "this model has no labels"
                raise UserError(f"unknown label '{label}': {what}")
        return torch.tensor([-1 if label is None else known[label] for label in labels])
