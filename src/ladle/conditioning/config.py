"""The conditions that a model knows: class labels, attributes, a source text, all of them or none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_serializer, model_validator
from torch import Tensor

from ladle.config import Config, nearest
from ladle.errors import UserError

LABEL, SOURCE = "label", "source"  # names of conditions; attributes have the names of their columns


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
    attributes: dict[str, tuple[str, ...]] = {}
    """Further conditions, sorted by name, with the values that each of them may have."""

    @field_validator("attributes")
    @classmethod
    def _sorted(cls, attributes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Tables of values are numbered in this order, so that equal configs have equal tables."""
        return dict(sorted(attributes.items()))

    @model_serializer(mode="wrap")
    def _without_no_attributes(self, dump: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """Else digests of models from before would change."""
        values = dump(self)
        return values if self.attributes else {name: value for name, value in values.items() if name != "attributes"}

    @property
    def gives_vector(self) -> bool:
        """Whether the denoiser reads a vector of the conditions."""
        return bool(self.labels or self.attributes) or (self.source is not None and not self.source.plain)

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The conditions with a list of values: the label, if there are labels, and the attributes."""
        return ({LABEL: self.labels} if self.labels else {}) | self.attributes

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all conditions that the model knows."""
        return (*self.values, *([SOURCE] if self.source is not None else []))

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

    def attribute_ids(self, rows: Sequence[Mapping[str, str]]) -> Tensor:
        """The attributes of B rows, by name, -> [B, A] ids, in the order of `attributes`; -1 for none.

        Raises:
            UserError: an attribute or a value that the model was not trained with.
        """
        numbers = [{value: i for i, value in enumerate(values)} for values in self.attributes.values()]
        for row in rows:
            for name, value in row.items():
                self.check_attribute(name, value)
        ids = [[known.get(row.get(name, ""), -1) for name, known in zip(self.attributes, numbers, strict=True)]
               for row in rows]  # fmt: skip
        return torch.tensor(ids, dtype=torch.long).reshape(len(rows), len(self.attributes))

    def check_attribute(self, name: str, value: str | None = None) -> None:
        """Raises UserError: an attribute that the model was not trained with, or a value that it does not have."""
        if name not in self.attributes:
            what = nearest(name, list(self.attributes)) if self.attributes else "this model has no attributes"
            raise UserError(f"unknown attribute '{name}': {what}")
        if value is not None and value not in self.attributes[name]:
            raise UserError(f"unknown {name} '{value}': {nearest(value, list(self.attributes[name]))}")
