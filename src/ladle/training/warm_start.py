"""The start of a training: nothing, or those parts of a trained model that the recipe can use."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.transfer import cannot_transfer
from ladle.data.rows import Row
from ladle.diffusion.model import LatentDiffusionModel
from ladle.storage.model_folder import load_parts
from ladle.storage.names import resolve_model
from ladle.storage.parts import ModelParts
from ladle.training.recipe import Recipe

# `start = "auto"` decides by the characters of the training texts. Yelp sentences, benchmarks/LOG.md: with 50,000
# characters a model from nothing memorises them, and `prior-en` does not; a new vocabulary was tried with 240,000.
OWN_CHARACTERS = 150_000
PRIOR = "prior-en"


@dataclass(frozen=True)
class Start:
    """The model that a training starts from.

    name: as in recipes; "nothing" if there is no model. parts: the model, or None. denoiser: the model's denoiser, if
    the recipe can use it. own_vocabulary: whether the autoencoder gets a new vocabulary from the data. notes: messages
    for the user.
    """

    name: str
    parts: ModelParts | None = None
    denoiser: LatentDiffusionModel | None = None
    own_vocabulary: bool = False
    notes: tuple[str, ...] = ()

    @property
    def keeps_autoencoder(self) -> bool:
        """Whether the model's autoencoder is used without changes."""
        return self.parts is not None and not self.own_vocabulary

    @property
    def autoencoder(self) -> TextAutoencoder:
        """The model's autoencoder. There must be a model."""
        assert self.parts is not None
        return self.parts.autoencoder


def choose_start(recipe: Recipe, rows: Sequence[Row]) -> Start:
    """Load the model that `recipe.start` names. For "auto" the rows decide.

    Raises:
        UserError: no such model, or a damaged folder.
    """
    if recipe.autoencoder.backbone.pretrained or recipe.start == "nothing":
        return Start("nothing")
    name, own_vocabulary, notes = recipe.start, recipe.own_vocabulary, []
    parts = None
    if name == "auto":
        name, size = PRIOR, sum(len(row["text"]) for row in rows)
        own_vocabulary = size >= OWN_CHARACTERS
        parts = load_parts(resolve_model(PRIOR))
        refusal = cannot_transfer(parts.autoencoder, recipe.autoencoder)
        if refusal and (own_vocabulary or "autoencoder" in recipe.model_fields_set):
            return Start("nothing", notes=(f"starting from nothing, not from '{PRIOR}': {refusal}",))
        if own_vocabulary:
            notes.append(f"{size:,} characters are enough for a new vocabulary")
        else:
            notes.append(
                f"{size:,} characters of text are too few to learn a language, so '{PRIOR}' is trained further"
            )
    parts = parts or load_parts(resolve_model(name))
    denoiser = parts.diffusion
    if denoiser is not None:
        wanted, own = recipe.diffusion, denoiser.config
        if (own.denoiser, own.prediction) != (wanted.denoiser, wanted.prediction):
            notes.append(f"the denoiser of '{name}' differs in sizes or prediction: starting without it")
            denoiser = None
    what = "autoencoder and the denoiser" if denoiser is not None else "autoencoder"
    notes.append(f"starting from the {what} of '{name}'")
    return Start(name, parts, denoiser, own_vocabulary, tuple(notes))


@torch.no_grad()
def start_from(prior: LatentDiffusionModel, diffusion: LatentDiffusionModel) -> None:
    """Copy the tensors of `prior` to `diffusion`; those of the length model only if both have the same conditions. A
    source, and the absence of a label, add nothing at the start, so that training starts from the prior's estimates.
    New labels start with different vectors, because short trainings would hardly learn them (benchmarks/LOG.md)."""
    old, new = prior.condition.config, diffusion.condition.config
    same_labels = old.labels == new.labels
    same_conditions = same_labels and (old.source is None) == (new.source is None)
    known, own = prior.state_dict(), diffusion.state_dict()
    shared = {
        name: known[name]
        for name, tensor in own.items()
        if name in known
        and known[name].shape == tensor.shape
        and (same_conditions or not name.startswith("length."))
        and (same_labels or not name.startswith("condition.label."))
    }
    diffusion.load_state_dict(shared, strict=False)
    for name, tensor in own.items():  # (the tensors themselves)
        if name not in shared and name.startswith("condition.label."):
            tensor[-1].zero_()
        elif name not in shared and (name.startswith("condition.pool.") or ".cross_attention.output." in name):
            tensor.zero_()
