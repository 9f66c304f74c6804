"""What a training begins with: nothing, or what of a trained model the recipe has a use for."""

from collections.abc import Callable
from typing import Any

import torch

from ladle.autoencoder.autoencoder import SIZES
from ladle.autoencoder.transfer import cannot_transfer
from ladle.data.splits import Splits
from ladle.diffusion.model import LatentDiffusionModel
from ladle.storage.model_folder import ModelParts, load_parts
from ladle.storage.names import resolve_model
from ladle.training.recipe import Recipe

Log = Callable[[str], None]
# What `start = "auto"` goes by, in texts to train on. Yelp sentences, benchmarks/LOG.md: with 50,000 characters what is
# learnt from nothing repeats them by heart, where the prior does not; a vocabulary of their own was tried with 240,000.
OWN_CHARACTERS = 150_000
PRIOR = "prior-en"


def chosen_start(recipe: Recipe, splits: Splits, log: Log) -> tuple[Recipe, ModelParts | None]:
    """The recipe with a start in place of "auto", and the model that was loaded for it, if any was."""
    size = sum(len(row["text"]) for row in splits.train)
    if size < OWN_CHARACTERS:
        log(f"{size:,} characters are little to learn a language from: starting from '{PRIOR}'")
        return recipe.model_copy(update={"start": PRIOR}), None
    given = load_parts(resolve_model(PRIOR))
    if refusal := cannot_transfer(given.autoencoder, recipe.autoencoder):
        log(f"starting from nothing, not from '{PRIOR}': {refusal}")
        return recipe.model_copy(update={"start": "nothing"}), None
    log(f"{size:,} characters are enough for a vocabulary of their own")
    return recipe.model_copy(update={"start": PRIOR, "own_vocabulary": True}), given


def keep_autoencoder(recipe: Recipe, given: ModelParts, log: Log) -> Recipe:
    """The recipe with the settings of the autoencoder that is kept as it is: its own, but for those that the recipe
    gives and that are about training. `given` gets them too."""
    own = given.autoencoder.config
    asked = recipe.autoencoder.model_dump(exclude_unset=True)
    unread = [name for name in SIZES & asked.keys() if not _within(asked[name], own.model_dump()[name])]
    if unread:
        names = " and ".join(f"autoencoder.{name}" for name in sorted(unread))
        log(f"'{recipe.start}' keeps its own sizes: {names} of the recipe is not read")
    own = own.model_copy(update={name: asked[name] for name in asked.keys() - SIZES})
    given.autoencoder.config = own
    return recipe.model_copy(update={"autoencoder": own})


def usable_prior(recipe: Recipe, given: ModelParts, log: Log) -> LatentDiffusionModel | None:
    """The denoiser to start from, if there is one of the kind that the recipe asks for."""
    wanted, prior = recipe.diffusion, given.diffusion
    if prior is None or (prior.config.denoiser, prior.config.prediction) == (wanted.denoiser, wanted.prediction):
        return prior
    log(f"the denoiser of '{recipe.start}' has other sizes or another prediction: starting without it")
    return None


@torch.no_grad()
def start_from(prior: LatentDiffusionModel, diffusion: LatentDiffusionModel) -> None:
    """Give `diffusion` the tensors of `prior`; those of its length model only if both have the same conditions.
    A source, and having no label, begin by adding nothing, so that training starts from the prior's own estimates;
    labels that it does not know begin apart, or short trainings hardly hear them (benchmarks/LOG.md)."""
    old, new = prior.condition.config, diffusion.condition.config
    same_labels = old.labels == new.labels
    same_conditions = same_labels and old.source == new.source
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
    for name, tensor in diffusion.state_dict().items():
        if name not in shared and name.startswith("condition.label."):
            tensor[-1].zero_()
        if name not in shared and name.startswith("condition.pool."):
            tensor.zero_()
        if name not in shared and ".cross_attention.output." in name:
            tensor.zero_()


def _within(part: Any, whole: Any) -> bool:
    """Whether `whole` has every value of `part`, however deep."""
    if isinstance(part, dict):
        return all(_within(value, whole[key]) for key, value in part.items())
    return bool(part == whole)
