"""The start of a training: nothing, or those parts of a trained model that the recipe can use."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.signs import Unlearnt, unlearnt, used_parts
from ladle.autoencoder.transfer import cannot_transfer
from ladle.data.rows import Row
from ladle.diffusion.model import LatentDiffusionModel
from ladle.errors import UserError
from ladle.storage.model_folder import load_parts
from ladle.storage.names import resolve_model
from ladle.storage.parts import ModelParts
from ladle.training.recipe import Recipe

# `start = "auto"` decides by the characters of the training texts. Yelp sentences, benchmarks/LOG.md: with 50,000
# characters a model from nothing memorises them, and `prior-en` does not; a new vocabulary was tried with 240,000.
OWN_CHARACTERS = 150_000
PRIOR = "prior-en"
# A start may lack signs of the data. Up to a share RARE of texts with such signs `auto` leaves prior-en its vocabulary,
# because a new one costs fluency where there is little text. Above a share OTHER_SCRIPT of the characters, prior-en
# cannot read the language. Above a share REFUSED, a third of the words would be wrong.
RARE, OTHER_SCRIPT, REFUSED = 0.02, 0.3, 0.07
# Tokens a character by the vocabulary of prior-en: English sets 0.25 to 0.37, German 0.46 to 0.55, Turkish 0.85.
OTHER_LANGUAGE = 0.42
MEASURED_ROWS = 20_000


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
        UserError: no such model, a damaged folder, or a model that has not learnt the signs of the rows and is to keep
            its vocabulary.
    """
    asked, pretrained = recipe.start, recipe.autoencoder.backbone.pretrained
    if asked == "nothing" or (pretrained and asked == "auto"):
        return Start("nothing")
    name = PRIOR if asked == "auto" else asked
    parts = load_parts(resolve_model(name))
    if pretrained and parts.autoencoder.config.backbone != recipe.autoencoder.backbone:
        return Start("nothing")
    own_vocabulary, notes = recipe.own_vocabulary and not pretrained, []
    refusal = cannot_transfer(parts.autoencoder, recipe.autoencoder)
    if asked == "auto" or not own_vocabulary:
        size, lacking, pieces = _measured(parts.autoencoder, recipe, rows)
        missing, holding = (lacking.characters, lacking.texts) if lacking else (0.0, 0.0)
        said = f"'{name}' has never learnt {missing:.1%} of the characters ({lacking.examples})" if lacking else ""
        if asked != "auto" and missing > REFUSED:
            remedy = "--from-scratch" if refusal else "--set own_vocabulary=true or --from-scratch"
            raise UserError(f"start: {said}; give {remedy}")
        if asked == "auto" and missing > OTHER_SCRIPT:
            return Start("nothing", notes=(f"{said}: starting from nothing with an own vocabulary",))
        if asked == "auto":
            own_vocabulary = size >= OWN_CHARACTERS or holding > RARE or pieces > OTHER_LANGUAGE
            if refusal and (own_vocabulary or "autoencoder" in recipe.model_fields_set):
                return Start("nothing", notes=(f"starting from nothing, not from '{PRIOR}': {refusal}",))
            if holding > RARE:
                notes.append(f"{said}: it gets a new vocabulary")
            elif pieces > OTHER_LANGUAGE:
                notes.append(f"these texts are not in the English of '{name}': it gets a new vocabulary")
            elif own_vocabulary:
                notes.append(f"{size:,} characters are enough for a new vocabulary")
            else:
                notes.append(f"{size:,} characters are too few to learn a language, so '{PRIOR}' is trained further")
        if lacking and not own_vocabulary:
            notes.append(f"{said}; {holding:.1%} of the texts hold these signs, which will be lost")
    denoiser = parts.diffusion
    if denoiser is not None:
        wanted, own = recipe.diffusion, denoiser.config
        if parts.autoencoder.is_plan and not {"denoiser", "prediction"} & _given(recipe, "diffusion"):
            wanted = own  # (the default is a denoiser of other latents)
        if (own.denoiser, own.prediction) != (wanted.denoiser, wanted.prediction):
            notes.append(f"the denoiser of '{name}' differs in sizes or prediction: starting without it")
            denoiser = None
    what = "autoencoder and the denoiser" if denoiser is not None else "autoencoder"
    notes.append(f"starting from the {what} of '{name}'")
    return Start(name, parts, denoiser, own_vocabulary, tuple(notes))


def _given(recipe: Recipe, group: str) -> set[str]:
    """The settings that the recipe itself gives in a group."""
    return set(getattr(recipe, group).model_fields_set) if group in recipe.model_fields_set else set()


def _measured(autoencoder: TextAutoencoder, recipe: Recipe, rows: Sequence[Row]) -> tuple[int, Unlearnt | None, float]:
    """The number of characters of the texts that are used (not cut off), what the autoencoder has not learnt of texts
    and sources, and its tokens a character of the texts. Of many rows only some are looked at."""
    backbone, step = autoencoder.backbone, -(-len(rows) // MEASURED_ROWS)
    texts = list(used_parts(backbone.tokenizer, (row["text"] for row in rows[::step]), backbone.max_tokens))
    size, some = step * sum(map(len, texts)), texts[:500]
    pieces = sum(len(ids) - 1 for ids in backbone.tokenizer(some)["input_ids"]) / max(1, sum(map(len, some)))
    if backbone.alphabet is None:
        return size, None, pieces
    if recipe.source.encoder is None:
        sources = (row["source"] for row in rows[::step] if row.get("source"))
        texts += used_parts(backbone.tokenizer, sources, recipe.source.max_tokens)
    return size, unlearnt(texts, backbone.alphabet), pieces


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
