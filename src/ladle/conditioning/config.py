"""Which conditions a model knows: class labels, a source text, both or none."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ladle.config import Config, nearest
from ladle.errors import UserError


class ConditionConfig(Config):
    """labels: names of the classes (empty for none). source: whether a source text is read.

    source_memory: what the denoiser reads of the source: the frozen encoder's `states`, one a token, or the source's
    own `latents` (fewer, so cheaper). source_encoder: folder or hub id of another model than the backbone, whose states
    those are; None: the backbone's. source_layers: trained layers above it. plain_source: nothing but one linear map
    above it, as in the paper (no norm, no positions, no layers, no mean of it beside the label). max_source_tokens:
    what of its memory is read. drop_prob: share of samples that lose each condition in training.
    """

    labels: tuple[str, ...] = ()
    source: bool = False
    source_memory: Literal["states", "latents"] = "states"
    source_encoder: str | None = None
    source_layers: int = Field(1, ge=0)
    plain_source: bool = False
    max_source_tokens: int = Field(96, ge=1)
    num_heads: int = Field(4, ge=1)
    drop_prob: float = Field(0.1, ge=0, le=1)

    def label_ids(self, labels: list[str | None]) -> Tensor:
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
