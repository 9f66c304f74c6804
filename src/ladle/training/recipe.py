"""A recipe: everything that one trained model depends on, in one TOML file."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from ladle.autoencoder.autoencoder import AutoencoderConfig, Trained
from ladle.autoencoder.plan_loss import PlanDecodingConfig
from ladle.autoencoder.reconstruction import KLConfig, ReconstructionConfig
from ladle.conditioning.config import SourceConfig
from ladle.config import Config, nearest
from ladle.data.files import read_toml
from ladle.data.splits import OF_OTHER_DATA, DataConfig
from ladle.diffusion.loss import DenoisingConfig
from ladle.diffusion.model import DiffusionConfig
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.training.optimiser import LoopConfig, OptimiserConfig
from ladle.training.stages.joint import JointConfig

EXCLUSIVE = {"training.minutes": "steps", "training.steps": "minutes"}


class StageTraining(Config):
    """Settings that every stage has."""

    share: float | None = Field(None, ge=0, allow_inf_nan=False)
    """The stage's part of the budget, relative to the shares of the other stages. 0 skips the stage. Defaults: see
    "What suits each stage"."""
    optimiser: dict[str, Any] = {}
    """Overrides `training.optimiser` for this stage only, for example `lr = 0.0005`."""

    @field_validator("optimiser")
    @classmethod
    def _known(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in given.keys() - OptimiserConfig.model_fields.keys():
            raise ValueError(f"unknown key '{name}': {nearest(name, list(OptimiserConfig.model_fields))}")
        OptimiserConfig.model_validate(given)
        return given


class AutoencoderTraining(StageTraining, ReconstructionConfig, PlanDecodingConfig):
    """Stage `autoencoder`: text -> latents -> text. Of plan latents it trains the decoder alone."""


class DiffusionTraining(StageTraining, DenoisingConfig):
    """Stage `diffusion`: latents <-> noise."""


class JointTraining(StageTraining, JointConfig):
    """Stage `joint`, instead of the diffusion stage or after it: trains autoencoder and denoiser together. It uses the
    settings of both stages and those here."""


class DecoderTraining(StageTraining):
    """Stage `decoder`: a short fine-tuning in which the decoder learns to read the denoiser's estimates. On small data
    sets the decoder overfits long before the denoiser does, so the weights with the lowest held-out loss are kept."""

    times: tuple[float, float] = (0.4, 0.8)
    """The lowest and the highest diffusion time of the estimates. Stop times of `sampling` should be between them."""
    patience: int = Field(2, ge=1)
    """The stage ends after this number of validations in a row without a lower loss."""

    @field_validator("times")
    @classmethod
    def _rising(cls, times: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= times[0] <= times[1] <= 1:
            raise ValueError("give two diffusion times with 0 <= first <= second <= 1")
        return times


class TrainingPlanConfig(LoopConfig):
    """The budget of all stages together, and the settings that they share."""

    backbone: Trained = "none"
    """The trained part of a pre-trained backbone: `none`, its `decoder`, or `all`. A new backbone is always trained."""
    phrases: int = Field(10, ge=0)
    """Phrases of up to four tokens become part of a model with plan latents if this number of training texts hold them.
    Drafts of them make writing faster, and change no text. 0: the model holds no phrases."""
    optimiser: OptimiserConfig = OptimiserConfig()
    autoencoder: AutoencoderTraining = AutoencoderTraining()
    diffusion: DiffusionTraining = DiffusionTraining()
    joint: JointTraining = JointTraining()
    decoder: DecoderTraining = DecoderTraining()

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.minutes is not None and self.steps is not None:
            raise ValueError("training.minutes and training.steps are both given; give one of them")
        return self


# Sampling defaults of models whose decoder has learnt the denoiser's estimates (benchmarks/LOG.md); others never stop
# early.
SAMPLING = {
    "guidance_scale": 2.5, "conditional": {"stop_time": 0.6}, "unconditional": {"stop_time": 0.6}, "candidates": 4,
    "temperature": 0.8, "top_p": 0.9,
}  # fmt: skip


# Those of models with plan latents: the decoder draws the words, and has learnt every level.
PLAN_SAMPLING = {
    "guidance_scale": 1.5, "conditional": {"stop_time": 0.2}, "unconditional": {"stop_time": 0.2}, "candidates": 1,
    "temperature": 0.95, "top_p": 0.95,
}  # fmt: skip
# With sources the plan is handed over while it is nearly noise: the decoder reads the source itself, and a finer plan
# makes it leave things out. On E2E, t = .9 gave 63.6 BLEU and t = .2 gave 51.7 (greedy, benchmarks/LOG.md).
PLAN_SOURCE_SAMPLING = {"conditional": {"stop_time": 0.9}}


class Recipe(Config):
    """One trained model. Labels and sources are found in the data. Groups of settings may be dicts:

        Recipe(training={"steps": 20}, data={"text": "review", "label": "stars"})

    A mapping that is given to `ladle.train` also gets the sampling defaults of `ladle train`.
    """

    name: str = "model"
    """The model's name."""
    start: str = "auto"
    """The model from which the training starts.
    * `auto`: the model `base-en`. For texts in another language it gets a new vocabulary. If `autoencoder` asks for
    another width or bottleneck, or if the texts are not in Latin letters, the start is `nothing`.
    * `nothing`: random weights.
    * the name of a shipped model, a model folder or a hub id: that model. See `own_vocabulary`.
    * The denoiser of the model is used too if `diffusion.denoiser` and `diffusion.prediction` are the same there.
    * Without a new vocabulary the settings in `autoencoder` have no effect, except `max_tokens` for a model with plan
    latents. Of plan latents the decoder is trained further; of others the autoencoder stage does not run.
    * If `autoencoder.backbone.pretrained` is given, only a start with that backbone has an effect, and `own_vocabulary`
    has none."""
    own_vocabulary: bool = False
    """Whether the autoencoder of `start` gets a new vocabulary from the data and is trained with it. Otherwise that
    autoencoder is not changed."""
    data: DataConfig = DataConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    source: SourceConfig = SourceConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingOptions = SamplingOptions()
    training: TrainingPlanConfig = TrainingPlanConfig()
    card: dict[str, Any] = {}
    """Licence, attribution, language and description for the model card."""
    _given_sampling: dict[str, Any] | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """Whether all settings are the same, wherever they come from: a run's recipe.toml has them all."""
        return isinstance(other, Recipe) and dict(self) == dict(other)

    def plan_sampling(self, with_sources: bool) -> SamplingOptions:
        """The sampling options for plan latents: those that were given, over the defaults of `ladle train`.
        with_sources: whether the data have source texts."""
        if self._given_sampling is None:
            return self.sampling
        usual = merged(PLAN_SAMPLING, PLAN_SOURCE_SAMPLING) if with_sources else PLAN_SAMPLING
        return SamplingOptions.parse(merged(usual, self._given_sampling), "sampling")

    @model_validator(mode="after")
    def _no_setting_is_ignored(self) -> Self:
        kl = "kl" in self.training.autoencoder.model_fields_set and self.training.autoencoder.kl != KLConfig()
        if kl and self.autoencoder.bottleneck.regulariser != "gaussian":
            raise ValueError('training.autoencoder.kl needs autoencoder.bottleneck.regulariser = "gaussian"')
        if self.training.backbone != "none" and self.autoencoder.backbone.pretrained is None:
            raise ValueError(
                "training.backbone needs autoencoder.backbone.pretrained: one from nothing is always trained"
            )
        return self


def load_recipe(path: str | Path | None = None, data: str | None = None, sets: list[str] | None = None) -> Recipe:
    """Read a recipe (the defaults when None), replace its data by `data`, and apply `sets`.

    path: a TOML file. data: a file or folder. sets: "key.key=value" items. Values are TOML; bare words are strings.

    Raises:
        UserError: no such file, not TOML, an unknown key (with the nearest valid one), a value out of range.
    """
    where, values = ("recipe", {}) if path is None else (str(path), read_recipe(path))
    if data is not None:
        # Column names of a public set on the hub say nothing about the user's file.
        given = values.get("data", {})
        if not isinstance(given, dict):
            raise UserError(f"{where}: data is {given!r}; it must be a group of settings, [data]")
        dropped = OF_OTHER_DATA if given.get("id") else ()
        values["data"] = {k: v for k, v in given.items() if k not in dropped} | {"path": data}
        values.setdefault("name", Path(data).name.split(".")[0] or "model")
    for item in sets or []:
        _set(values, item)
    return parse_recipe(values, where)


def read_recipe(path: str | Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a recipe file, unchecked. Its key `extends` names another recipe, relative to this file, whose
    settings apply unless this file changes them. `extending`: the files that extend this one.

    Raises:
        UserError: no such file, not TOML, recipes that extend each other in a circle.
    """
    path = Path(path)
    values = read_toml(path, "recipe", "give a .toml file, or --data FILE alone")
    name = values.pop("extends", None)
    if name is None:
        return values
    if not isinstance(name, str):
        raise UserError(f"{path}: extends is {name!r}; it must be the name of another recipe")
    extending = (*extending, path.resolve())
    other = path.parent / name
    if other.resolve() in extending:
        raise UserError(f"{path}: extends '{name}', which extends this recipe; remove one of the two")
    return merged(read_recipe(other, extending), values)


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Settings of `new` over those of `old`, group by group."""
    both = {k: merged(old[k], v) for k, v in new.items() if isinstance(v, dict) and isinstance(old.get(k), dict)}
    return old | new | both


def parse_recipe(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Make a recipe from nested settings, with the sampling defaults of `ladle train`.

    Raises:
        UserError: as `Recipe.parse`.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} is {values!r:.60}; give load_recipe(PATH), a mapping of settings, or None")
    sampling = values.get("sampling", {})
    if not isinstance(sampling, dict):
        return Recipe.parse(values, where)
    recipe = Recipe.parse({**values, "sampling": merged(SAMPLING, sampling)}, where)
    recipe._given_sampling = sampling
    return recipe


def _set(values: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {item}: give KEY=VALUE, such as training.minutes=60")
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {item}: '{parent}' is a value, not a group of settings")
    if key.strip() in EXCLUSIVE:
        values.pop(EXCLUSIVE[key.strip()], None)  # the budget given last replaces the recipe's
    try:
        values[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[last] = text


def to_toml(values: dict[str, Any], prefix: str = "") -> str:
    """Nested settings as TOML; None (which TOML lacks) is left out."""
    lines = [f"{_toml_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
             if value is not None and not isinstance(value, dict)]  # fmt: skip
    text = "\n".join(lines)
    for key, value in values.items():
        if isinstance(value, dict) and value:
            name = prefix + _toml_key(key)
            text += f"\n\n[{name}]\n" + to_toml(value, f"{name}.")
    return text + ("" if prefix else "\n")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
