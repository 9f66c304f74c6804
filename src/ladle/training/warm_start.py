"""The start of a training: nothing, or those parts of a trained model that the recipe can use."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex
import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.lexicon import LETTERS
from ladle.autoencoder.signs import Unlearnt, unlearnt, used_parts
from ladle.autoencoder.transfer import cannot_transfer
from ladle.conditioning.config import ConditionConfig
from ladle.data.rows import Row
from ladle.diffusion.model import LatentDiffusionModel
from ladle.errors import UserError
from ladle.storage.model_folder import load_parts
from ladle.storage.names import resolve_model
from ladle.storage.parts import ModelParts
from ladle.training.recipe import Recipe

BASE = "base-en"  # the start of `start = "auto"`
# Tokens a character of words by the vocabulary of base-en, above which texts are in another language: English sets have
# 0.20 to 0.29, German 0.41 to 0.43, Turkish 0.6. Of a few words it says nothing.
OTHER_LANGUAGE, LITTLE = 0.36, 200
# Above this share of letters that are not Latin, the texts are in another script.
OTHER_SCRIPT = 0.3
NOT_LATIN = regex.compile(r"[\p{L}--\p{Latin}]", regex.V1)
SCRIPT_ROWS = 2_000
# A start of other latents than plans writes no sign that it has not learnt: above this share a third of the words would
# be wrong.
REFUSED = 0.07
MEASURED_ROWS = 20_000
ATTRIBUTES = "condition.attributes."  # the tables of their values, by number


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
    name = BASE if asked == "auto" else asked
    parts = load_parts(resolve_model(name))
    if pretrained and parts.autoencoder.config.backbone != recipe.autoencoder.backbone:
        return Start("nothing")
    if asked == "auto" and (refusal := _other_settings(parts.autoencoder, recipe)):
        return Start("nothing", notes=(f"starting from nothing, not from '{name}': {refusal}",))
    own_vocabulary, notes = recipe.own_vocabulary and not pretrained, []
    if asked == "auto" or not own_vocabulary:
        lacking, pieces = _measured(parts.autoencoder, recipe, rows)
        missing = lacking.characters if lacking else 0.0
        said = f"'{name}' has never learnt {missing:.1%} of the characters ({lacking.examples})" if lacking else ""
        if asked == "auto" and (script := _other_script(rows)):
            return Start("nothing", notes=(f"{script}, the letters of '{name}': starting from nothing",))
        if asked == "auto" and pieces > OTHER_LANGUAGE:
            own_vocabulary = True
            notes.append(f"these texts are not in the English of '{name}': it gets a new vocabulary")
        # (The decoder of a plan can write any sign, and learns those of the rows.)
        if lacking and not own_vocabulary and not parts.autoencoder.is_plan:
            if missing > REFUSED:
                other = cannot_transfer(parts.autoencoder, recipe.autoencoder)
                remedy = "--from-scratch" if other else "--set own_vocabulary=true or --from-scratch"
                raise UserError(f"start: {said}; give {remedy}")
            notes.append(f"{said}; {lacking.texts:.1%} of the texts hold these signs, which will be lost")
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


def _other_script(rows: Sequence[Row]) -> str | None:
    """A line if many characters of the texts are letters, but no Latin ones; None if few are."""
    text = "".join(row["text"] for row in rows[:: -(-len(rows) // SCRIPT_ROWS)])
    other = Counter(NOT_LATIN.findall(text))
    if other.total() <= OTHER_SCRIPT * len(text):
        return None
    examples = ", ".join(sign for sign, _ in other.most_common(3))
    return f"{other.total() / len(text):.0%} of the characters ({examples} ...) are no Latin letters"


def _other_settings(autoencoder: TextAutoencoder, recipe: Recipe) -> str | None:
    """The reason why a recipe that asks for an autoencoder of its own cannot start from this one; None if it can."""
    if not _given(recipe, "autoencoder") & {"backbone", "bottleneck"}:
        return None
    return cannot_transfer(autoencoder, recipe.autoencoder)


def _given(recipe: Recipe, group: str) -> set[str]:
    """The settings that the recipe itself gives in a group."""
    return set(getattr(recipe, group).model_fields_set) if group in recipe.model_fields_set else set()


def _measured(autoencoder: TextAutoencoder, recipe: Recipe, rows: Sequence[Row]) -> tuple[Unlearnt | None, float]:
    """What the autoencoder has not learnt of texts and sources, as far as they are used (not cut off), and its tokens a
    character of their words. Of many rows only some are looked at."""
    backbone, step = autoencoder.backbone, -(-len(rows) // MEASURED_ROWS)
    texts = list(used_parts(backbone.tokenizer, (row["text"] for row in rows[::step]), backbone.max_tokens))
    words = [" ".join(LETTERS.findall(text)) for text in texts[:500]]
    letters = sum(map(len, words))
    pieces = sum(len(ids) - 1 for ids in backbone.tokenizer(words)["input_ids"]) / letters if letters > LITTLE else 0.0
    if backbone.alphabet is None:
        return None, pieces
    if recipe.source.encoder is None:
        sources = (row["source"] for row in rows[::step] if row.get("source"))
        texts += used_parts(backbone.tokenizer, sources, recipe.source.max_tokens)
    return unlearnt(texts, backbone.alphabet), pieces


def _attributes_as_in(new: ConditionConfig, prior: LatentDiffusionModel) -> dict[str, Tensor]:
    """The tensors of `prior`, with the tables of attributes under the numbers that they have in `new`. Attributes that
    are not there, or have other values there, are left out."""
    old, tensors = prior.condition.config, prior.state_dict()
    tables = {name: tensors.pop(f"{ATTRIBUTES}{i}.weight") for i, name in enumerate(old.attributes)}
    for number, (name, values) in enumerate(new.attributes.items()):
        if old.attributes.get(name) == values:
            tensors[f"{ATTRIBUTES}{number}.weight"] = tables[name]
    return tensors


@torch.no_grad()
def start_from(prior: LatentDiffusionModel, diffusion: LatentDiffusionModel) -> None:
    """Copy the tensors of `prior` to `diffusion`; those of the length model only if both have the same conditions. A
    source, and the absence of a label or an attribute, add nothing at the start, so that training starts from the
    prior's estimates. New labels and values start with different vectors, because short trainings would hardly learn
    them (benchmarks/LOG.md)."""
    old, new = prior.condition.config, diffusion.condition.config
    same_labels = old.labels == new.labels
    same_attributes = old.attributes == new.attributes
    same_conditions = same_labels and same_attributes and (old.source is None) == (new.source is None)
    known, own = _attributes_as_in(new, prior), diffusion.state_dict()
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
        if name not in shared and name.startswith(("condition.label.", ATTRIBUTES)):
            tensor[-1].zero_()
        elif name not in shared and (name.startswith("condition.pool.") or ".cross_attention.output." in name):
            tensor.zero_()
